"""The towers and training steps of `transformers` and `laion_clap` on PyTorch, and ONNX Runtime's, for `cargo xtask bench --python`.

  echo "htsat-tiny mel 8" | bench_models.py --threads 2      the seconds of one run; a line for each further run

The cases are those of xtask/src/bench/case.rs; `onnx` before one runs it in ONNX Runtime. Weights are random: what is computed is held to
the reference by the parity tests. PyTorch has its best settings found: its memory kept (stopwatch.py), no gradients in inference, a fused
Adam in training, and for bfloat16 the faster of `torch.autocast` and a model of that type.
"""
import stopwatch
import pathlib, platform, sys, tempfile
import numpy, torch, transformers
import clapref as C

torch.set_num_threads(stopwatch.threads())
torch.manual_seed(0)
CONTEXT = 77
LAION = {"htsat-tiny": "HTSAT-tiny", "htsat-base": "HTSAT-base", "pann-14": "PANN-14", "pann-10": "PANN-10", "pann-6": "PANN-6"}


def waves(batch):
    return torch.from_numpy(numpy.stack([C.synth_f32(480_000, seed) for seed in range(batch)]))


def tokens(batch, length):
    """Ids and mask of texts of 9 to 31 tokens padded to `length` or, for `own`, to the longest; `full` is 77 tokens each."""
    lengths = [9 + (5 * i) % 23 for i in range(batch)]
    width = CONTEXT if length == "full" else max(lengths) if length == "own" else int(length)
    if length == "full":
        lengths = [CONTEXT] * batch
    ids, mask = C.token_ids(batch, width, 30_000, 0, [min(tokens, width) for tokens in lengths])
    return torch.from_numpy(ids), torch.from_numpy(mask)


def mel(tower, batch):
    fused = tower == "htsat-tiny-fused"
    if tower not in ("htsat-tiny", "htsat-tiny-fused"):
        sys.exit(f"{tower} from mel is no case of this script: only htsat-tiny and htsat-tiny-fused are")
    model = transformers.ClapAudioModelWithProjection(C.hf_clap_config(fused).audio_config).eval()
    return model, torch.randn(batch, 4 if fused else 1, 1001, 64) * 20 - 30


def audio_from_mel(tower, batch, half):
    model, xs = mel(tower, batch)
    longer = torch.ones(batch, 1, dtype=torch.bool)

    def run(xs=xs):
        return model(input_features=xs, is_longer=longer).audio_embeds
    if not half:
        return run

    def cast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return run()
    cast()
    with_cast = min(stopwatch.seconds(cast) for _ in range(3))
    narrow, weights = xs.bfloat16(), {name: weight.clone() for name, weight in model.state_dict().items()}
    model.bfloat16()
    run(narrow)
    without = min(stopwatch.seconds(lambda: run(narrow)) for _ in range(3))
    print(f"bfloat16: autocast {with_cast:.3f} s, a model of bfloat16 {without:.3f} s", file=sys.stderr)
    if without < with_cast:
        return lambda: run(narrow)
    model.float().load_state_dict(weights)
    return cast


def audio_from_waves(tower, batch):
    model, _ = C.laion_model(LAION[tower], "transformer")
    branch, xs = model.audio_branch, waves(batch)
    # LAION's smaller PANNs take no dictionary.
    xs = xs if tower in ("pann-10", "pann-6") else {"waveform": xs}
    return lambda: model.audio_projection(branch(xs, mixup_lambda=None, device="cpu")["embedding"])


def text_model(tower):
    if tower == "bert":
        model = transformers.BertModel(transformers.BertConfig(**C.BERT_BASE))
    else:
        model = transformers.RobertaModel(transformers.RobertaConfig(**C.ROBERTA_BASE))
    head = torch.nn.Sequential(torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.head = model, head

        def forward(self, input_ids, attention_mask):
            return self.head(self.model(input_ids=input_ids, attention_mask=attention_mask)["pooler_output"])
    return Text().eval()


def text(tower, length, batch):
    model, (ids, mask) = text_model(tower), tokens(batch, length)
    return lambda: model(ids, mask)


def training(audio, text_tower, batch, half):
    L = C.laion()
    model, _ = C.laion_model(LAION[audio], text_tower)
    model.train()
    loss = L.ClipLoss(mlp_loss=False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    sound = {"waveform": waves(batch), "longer": torch.zeros(batch, 1, dtype=torch.bool)}
    ids, mask = tokens(batch, CONTEXT)
    words = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}

    def step():
        with torch.enable_grad():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                a, t, _, _, scale, _ = model(sound, words, device="cpu")
                value = loss(a, t, scale)
            value.backward()
            optimizer.step()
    return step


def onnx(case):
    """The same model in ONNX Runtime, exported into a folder that goes with the process."""
    import onnxruntime
    if len(case) == 3 and case[1] == "mel":
        model, xs = mel(case[0], int(case[2]))

        class Audio(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, input_features):
                return self.model(input_features=input_features).audio_embeds
        module, inputs = Audio().eval(), {"input_features": xs}
    else:
        ids, mask = tokens(int(case[2]), case[1])
        module, inputs = text_model(case[0]), {"input_ids": ids, "attention_mask": mask}
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.onnx")
        # transformers' masks are traced with Python values; the case's own inputs make them right.
        torch.onnx.export(module, tuple(inputs.values()), path, input_names=list(inputs), output_names=["embeds"],
                          opset_version=17, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = stopwatch.threads(), 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {name: value.numpy() for name, value in inputs.items()}
    with torch.no_grad():
        expected = module(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    difference = abs(session.run(None, inputs)[0] - expected).max()
    if not difference < 1e-3:
        sys.exit(f"ONNX Runtime's result of {' '.join(case)} is off by {difference}")
    return lambda: session.run(None, inputs)


def make(line):
    case = line.split()
    half = case[-1] == "bf16"
    words = case[:-1] if half else case
    if words[0] == "train":
        return training(words[1], words[2], int(words[3]), half)
    if half and words[1] != "mel":
        sys.exit(f"{line}: only mel and train are cases in bf16")
    if words[0] == "onnx":
        run = onnx(words[1:])
    elif words[1] == "mel":
        run = audio_from_mel(words[0], int(words[2]), half)
    elif words[1] == "wave":
        run = audio_from_waves(words[0], int(words[2]))
    else:
        run = text(words[0], words[1], int(words[2]))
    return run


def versions():
    import onnxruntime
    return (f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, laion_clap 1.1.7, "
            f"onnxruntime {onnxruntime.__version__}")


# Training turns gradients on for itself.
with torch.no_grad():
    stopwatch.serve(make, versions())
