"""The training run of `cargo xtask bench --curve DIR --python PATH` on `laion_clap`'s own modules, a step for each line of standard input.

  printf 'open DIR 210\\nstep 0\\nstep 1\\nsave\\n' | train_curve.py --threads 2

DIR is what the command exports: `start/` (sizes, front end), `start.pt` (the initial weights in LAION's layout, loaded strictly by
`laion_clap`), `ours/config.toml` (the optimiser's settings), `batches/NNN.safetensors` (log-mels, token ids and mask of each step).

  open DIR TOTAL   makes the model; TOTAL are the steps that the cosine is stretched over
  step N           answers with the loss, the learning rate and the seconds of forward, loss, backward, Adam and clamp
  save             writes DIR/theirs.safetensors, weights under LAION's names, and answers with how many were trained

CLAP, its ClipLoss and its cosine_lr are laion_clap's, Adam is PyTorch's in its fused form. Dropout, drop path, SpecAugment and mixup are off,
batch norm is in training mode. The log-mels are given, so torchlibrosa's front end, which has no parameters that are trained, is taken out.
"""
import stopwatch
import math, os, platform, sys, time, tomllib
import safetensors.torch, torch
import clapref as C

torch.set_num_threads(stopwatch.threads())


class Run:
    def __init__(self, folder, total):
        L = C.laion()
        self.folder = folder
        self.model, _ = C.laion_from_folder(os.path.join(folder, "start"))
        from clap_module import factory
        self.model.load_state_dict(factory.load_state_dict(os.path.join(folder, "start.pt")), strict=True)
        C.remove_stochastic(self.model)
        branch = self.model.audio_branch
        branch.spectrogram_extractor = branch.logmel_extractor = torch.nn.Identity()
        self.model.train()
        with open(os.path.join(folder, "ours", "config.toml"), "rb") as file:
            config = tomllib.load(file)
        optim = config["optim"]
        assert optim["optimizer"] == "adam" and optim["weight_decay"] == 0 and "grad_clip_norm" not in optim, optim
        # The front end's matrices and the tagging head are there as well, without a gradient.
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=optim["lr"], betas=tuple(optim["betas"]), eps=optim["eps"], fused=True)
        self.scheduler = L.sched.cosine_lr(self.optimizer, optim["lr"], config["schedule"]["warmup"], total)
        self.loss = L.ClipLoss(mlp_loss=False)

    def step(self, number):
        batch = safetensors.torch.load_file(os.path.join(self.folder, "batches", f"{number:03}.safetensors"))
        sound = {"waveform": batch["input_features"]}
        words = {key: batch[key] for key in ("input_ids", "attention_mask")}
        words["token_type_ids"] = torch.zeros_like(words["input_ids"])  # BERT's branch asks for them
        start = time.perf_counter()
        rate = self.scheduler(number)
        self.optimizer.zero_grad()
        audio, text, _, _, scale, _ = self.model(sound, words, device="cpu")
        loss = self.loss(audio, text, scale)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale_a.clamp_(0, math.log(100))
        loss = loss.item()
        return loss, float(rate), time.perf_counter() - start

    def trained(self):
        return sum(state["exp_avg"].numel() for state in self.optimizer.state.values())

    def save(self):
        # Counters and masks are no weights; copies, because one tensor may not be stored twice.
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items() if value.is_floating_point()}
        safetensors.torch.save_file(weights, os.path.join(self.folder, "theirs.safetensors"))


run = None
for line in map(str.split, sys.stdin):
    if line == ["versions"]:
        answer = f"Python {platform.python_version()}, torch {torch.__version__}, laion_clap 1.1.7"
    elif line[:1] == ["open"]:
        run = Run(" ".join(line[1:-1]), int(line[-1]))
        answer = "open"
    elif line[:1] == ["step"]:
        answer = " ".join(map(repr, run.step(int(line[1]))))
    elif line == ["save"]:
        run.save()
        answer = run.trained()
    else:
        sys.exit(f"`{' '.join(line)}` is no line of this script")
    print(answer, flush=True)
