#!/usr/bin/env python
"""Small files of torch.save, in both of its formats and several pickle protocols, and what they hold.

  make_torch_files.py --out crates/clap-encoders/tests/files/torch

Each case writes CASE.FORMAT-pPROTOCOL.pt (FORMAT is `zip` or `legacy`) and CASE.safetensors with the values of the state dict that
a reader should find: contiguous, `bool` as uint8 and `int8` as int64, without those whose type has no such counterpart.
"""
import argparse, collections, os
import numpy as np, torch
from safetensors.torch import save_file

BOTH = [("zip", 2), ("legacy", 2)]

def floats(*size):
    """Multiples of 1/8, whole in every float type."""
    count = int(np.prod(size))
    return ((torch.arange(count) * 37 % 101 - 50).float() / 8).reshape(size)

def plain():
    state = collections.OrderedDict(weight=floats(3, 4), bias=floats(4).half(), steps=torch.tensor(7))
    return state, state, [("zip", 2), ("zip", 3), ("zip", 4), ("zip", 5), ("legacy", 2), ("legacy", 4)]

def training():
    """As LAION's trainer saves: the schedule leaves a numpy scalar in the optimizer, which torch.load(weights_only=True) refuses."""
    state = collections.OrderedDict({"module.weight": floats(2, 3), "module.logit_scale": torch.tensor(2.65926)})
    moments = {0: {"step": 3, "exp_avg": floats(5, 3), "exp_avg_sq": floats(5, 3)}, 1: {"exp_avg": floats(7)}}
    groups = [{"lr": np.float64(1e-4), "betas": (0.9, 0.99), "params": [0, 1]}]
    whole = {"epoch": 3, "name": "clap", "args": argparse.Namespace(lr=1e-4, seed=2**70, tags={"a"}, frozen=frozenset([1])),
             "mean": np.arange(3.0), "optimizer": {"state": moments, "param_groups": groups}, "state_dict": state}
    return whole, state, [("zip", 2), ("zip", 4), ("legacy", 2)]

def panns():
    """As the PANNs trainer saves: a model's own state dict, which carries `_metadata`, under `model`."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), torch.nn.BatchNorm2d(2))
    return {"iteration": 600000, "model": model.state_dict(), "sampler": {"seed": 1234}}, model.state_dict(), [("legacy", 2)]

def views():
    base = floats(4, 6)
    tagged = torch.nn.Parameter(floats(2))
    tagged.note = "a parameter with an attribute"
    attributed = floats(3)
    attributed.note = "a tensor with an attribute"
    state = {"base": base, "transposed": base.t(), "column": base[:, 2], "corner": base[1:3, 2:5], "every_other": base[::2, ::3],
             "expanded": floats(3)[:, None].expand(3, 2), "permuted": floats(2, 3, 2).permute(2, 0, 1), "scalar": torch.tensor(0.5),
             "element": base[2, 3], "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(floats(2, 2)), "tagged": tagged,
             "attributed": attributed}
    return state, state, BOTH

def dtypes():
    values = floats(6)
    state = {str(t).removeprefix("torch."): values.to(t) for t in [torch.float64, torch.float32, torch.float16, torch.bfloat16]}
    for t in [torch.int64, torch.int32, torch.int16, torch.int8]:
        state[str(t).removeprefix("torch.")] = (torch.arange(6) * 25 - 70).to(t)
    state["uint8"] = torch.arange(6, dtype=torch.uint8) * 50
    state["uint32"] = torch.tensor([0, 1, 2**32 - 1], dtype=torch.uint32)
    state["bool"] = torch.tensor([True, False, True])
    expected = dict(state)
    state["complex64"] = torch.tensor([1 + 2j])
    state["float8_e5m2"] = values.to(torch.float8_e5m2)
    state["quantized"] = torch.quantize_per_tensor(values, 0.1, 10, torch.quint8)
    state["sparse"] = floats(2, 2).to_sparse()
    state["negated"] = torch.conj(torch.tensor([1 + 2j])).imag
    return state, expected, BOTH

def found(tensor):
    tensor = tensor.detach().clone().contiguous()
    return {torch.bool: tensor.to(torch.uint8), torch.int8: tensor.to(torch.int64)}.get(tensor.dtype, tensor)

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    for case in [plain, training, panns, views, dtypes]:
        whole, expected, kinds = case()
        save_file({name: found(tensor) for name, tensor in expected.items()}, f"{out}/{case.__name__}.safetensors")
        for kind, protocol in kinds:
            path = f"{out}/{case.__name__}.{kind}-p{protocol}.pt"
            torch.save(whole, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")

if __name__ == "__main__":
    main()
