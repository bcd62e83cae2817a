#!/usr/bin/env python
"""Losses that the fixture set has not, with their gradients, by the references' own code.

  make_losses.py --out tests/data/losses

`clip_kappa0.5`: `laion_clap` 1.1.7 `ClipLoss(weight_loss_kappa=0.5)`. In a run of one process it stops with an error (`all_audio_features` is
not set), so it runs as one of two processes whose gathering gives what it was given.
`siglip`: `transformers` 4.57.6 `SiglipModel.forward(return_loss=True)`, its towers replaced by the embeddings.
"""
import argparse, json, math, os
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

import clapref as C

SEED, N, D = 3, 8, 32


class Given(nn.Module):
    """A tower that gives these embeddings."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, **_):
        return SimpleNamespace(pooler_output=self.embeddings)


def inputs():
    fill = lambda name: torch.from_numpy(C.unit_fill(name, N * D, SEED).reshape(N, D).copy())
    normal = lambda name: torch.nn.functional.normalize(fill(name), dim=-1).clone().requires_grad_()
    return normal("loss.a"), normal("loss.t")


def kappa(scale):
    L = C.laion()
    audio, text = inputs()
    scale = torch.tensor(math.log(scale)).exp().clone().requires_grad_()
    module = __import__(L.ClipLoss.__module__, fromlist=["gather_features"])
    gather, module.gather_features = module.gather_features, lambda **given: (given["audio_features"], given["text_features"])
    try:
        loss = L.ClipLoss(world_size=2, weight_loss_kappa=0.5)(audio, text, scale)
    finally:
        module.gather_features = gather
    loss.backward()
    return {"loss": loss.reshape(1), "audio": audio.grad, "text": text.grad, "scale": scale.grad.reshape(1)}


def siglip(log_scale, bias):
    small = dict(hidden_size=D, intermediate_size=D, num_hidden_layers=1, num_attention_heads=1)
    model = SiglipModel(SiglipConfig.from_text_vision_configs(
        SiglipTextConfig(**small, vocab_size=8), SiglipVisionConfig(**small, image_size=8, patch_size=8)))
    audio, text = inputs()
    model.vision_model, model.text_model = Given(audio), Given(text)
    with torch.no_grad():
        model.logit_scale.fill_(log_scale)
        model.logit_bias.fill_(bias)
    loss = model(input_ids=torch.zeros(N, 1, dtype=torch.long), pixel_values=torch.zeros(N, 3, 8, 8), return_loss=True).loss
    loss.backward()
    # The model normalises what its towers give: of a unit vector only the part of the gradient across it comes through.
    return {"loss": loss.reshape(1), "audio": audio.grad, "text": text.grad,
            "log_scale": model.logit_scale.grad.reshape(1), "bias": model.logit_bias.grad.reshape(1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    audio, text = inputs()
    tensors = {"in/audio": audio.detach(), "in/text": text.detach()}
    config = {"scale": 12.0, "log_scale": 2.3, "bias": -4.0}
    for name, parts in (("kappa0.5", kappa(config["scale"])), ("siglip", siglip(config["log_scale"], config["bias"]))):
        tensors[f"out/{name}/loss"] = parts.pop("loss").detach()
        tensors.update({f"grad/{name}/{part}": grad.detach().contiguous() for part, grad in parts.items()})
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, os.path.join(out, "more_losses.safetensors"))
    manifest = {"more_losses": {"seed": SEED, "config": config}}
    with open(os.path.join(out, "manifest.json"), "w") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
