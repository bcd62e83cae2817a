"""Our towers and training steps against `transformers` and `laion_clap` on PyTorch, in turns on the same cores.

  bench_models.py                              the table, as Markdown
  bench_models.py --write docs/benchmarks.md   the same into that file, between its marks
  bench_models.py --only pann,train            cases whose names hold one of these

Ours runs as `examples/model_stopwatch.rs`, which is built first. A figure is the median of --rounds rounds; in each round theirs and ours
run once, one after the other. Weights are random: what is computed is held to the reference by the parity tests. PyTorch runs without
gradients, with glibc's allocator told to keep its memory (its buffers are mapped anew otherwise, which costs up to a third) and, in training, with
its fused Adam: its best settings found.
"""
import argparse, os, pathlib, platform, statistics, subprocess, sys, time
KEEP = dict(MALLOC_MMAP_THRESHOLD_="68719476736", MALLOC_TRIM_THRESHOLD_="68719476736", MALLOC_TOP_PAD_="268435456", HF_HUB_OFFLINE="1")
if any(os.environ.get(key) != value for key, value in KEEP.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy, torch, transformers
import clapref as C

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARKS = "<!-- models: begin -->", "<!-- models: end -->"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--only", default="")
parser.add_argument("--write", type=pathlib.Path)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)


class Stopwatch:
    """examples/model_stopwatch.rs: one line in, one line out."""

    def __init__(self):
        build = ["cargo", "build", "--release", "--quiet", "-p", "clap-train", "--example", "model_stopwatch"]
        subprocess.run(build, cwd=ROOT, check=True)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.program = target / "release" / "examples" / "model_stopwatch"
        self.process = None

    def start(self):
        """A new process, so that memory is that of one case."""
        if self.process:
            self.process.stdin.close()
            self.process.wait()
        env = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
        self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"the stopwatch stopped at: {line}"
        return float(answer)


def waves(batch):
    return torch.from_numpy(numpy.stack([C.synth_f32(480_000, seed) for seed in range(batch)]))


def tokens(batch, length):
    """Texts of 9 to 31 tokens; length 0 pads to the longest."""
    lengths = [9 + (5 * i) % 23 for i in range(batch)]
    ids, mask = C.token_ids(batch, length or max(lengths), 30_000, 0, lengths)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def transformers_audio(batch, fused=False):
    model = transformers.ClapAudioModelWithProjection(C.hf_clap_config(fused).audio_config).eval()
    xs = torch.randn(batch, 4 if fused else 1, 1001, 64) * 20 - 30
    longer = torch.ones(batch, 1, dtype=torch.bool)
    return lambda: model(input_features=xs, is_longer=longer).audio_embeds


def laion_audio(name, batch):
    model, _ = C.laion_model(name, "transformer")
    branch, xs = model.audio_branch, waves(batch)
    xs = xs if name in ("PANN-10", "PANN-6") else {"waveform": xs}
    return lambda: model.audio_projection(branch(xs, mixup_lambda=None, device="cpu")["embedding"])


def text(batch, length):
    model = transformers.RobertaModel(transformers.RobertaConfig(**C.ROBERTA_BASE)).eval()
    head = torch.nn.Sequential(torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    ids, mask = tokens(batch, length)
    return lambda: head(model(input_ids=ids, attention_mask=mask)["pooler_output"])


def training(audio, text_model, batch):
    L = C.laion()
    model, _ = C.laion_model(audio, text_model)
    model.train()
    loss = L.ClipLoss(mlp_loss=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)
    sound = {"waveform": waves(batch), "longer": torch.zeros(batch, 1, dtype=torch.bool)}
    ids, mask = tokens(batch, 77)
    words = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}

    def step():
        with torch.enable_grad():
            optimizer.zero_grad()
            a, t, _, _, scale, _ = model(sound, words, device="cpu")
            loss(a, t, scale).backward()
            optimizer.step()
    return step


# What, our case, theirs, and the ratio that we want at least.
CASES = [
    ("HTS-AT tiny from mel, 1 clip", "htsat-tiny mel 1", lambda: transformers_audio(1), 1.4),
    ("HTS-AT tiny from mel, 8 clips", "htsat-tiny mel 8", lambda: transformers_audio(8), 1.4),
    ("HTS-AT tiny fused from mel, 8 clips", "htsat-tiny-fused mel 8", lambda: transformers_audio(8, True), 1.4),
    ("PANN-14 from waveform, 1 clip", "pann-14 wave 1", lambda: laion_audio("PANN-14", 1), None),
    ("PANN-14 from waveform, 8 clips", "pann-14 wave 8", lambda: laion_audio("PANN-14", 8), 1.0),
    ("PANN-10 from waveform, 8 clips", "pann-10 wave 8", lambda: laion_audio("PANN-10", 8), None),
    ("PANN-6 from waveform, 8 clips", "pann-6 wave 8", lambda: laion_audio("PANN-6", 8), None),
    ("RoBERTa, 16 texts padded to 77", "roberta 77 16", lambda: text(16, 77), 1.0),
    ("RoBERTa, 16 texts padded to their longest, theirs to 77", "roberta 0 16", lambda: text(16, 77), 3.0),
    ("training step HTS-AT tiny + RoBERTa, 8 pairs", "train htsat-tiny roberta 8", lambda: training("HTSAT-tiny", "roberta", 8), 1.0),
    ("training step PANN-14 + BERT, 8 pairs", "train pann-14 bert 8", lambda: training("PANN-14", "bert", 8), 1.0),
]


def cell(times):
    low, middle, high = min(times), statistics.median(times), max(times)
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def output(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def machine():
    cpu = dict(map(str.strip, line.split(":", 1)) for line in output("lscpu").splitlines() if ":" in line)
    changes = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no", "--", "crates") else ""
    return (
        f"{cpu.get('Model name', platform.processor())} (family {cpu.get('CPU family')}, model {cpu.get('Model')}), {os.cpu_count()} cores, "
        f"{args.threads} threads; {output('rustc', '--version')}, release profile, no `target-cpu`;\nPython {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, laion_clap 1.1.7. Commit {output('git', 'rev-parse', '--short', 'HEAD')}"
        f"{changes}, {time.strftime('%Y-%m-%d')}, load average before the run {os.getloadavg()[0]:.1f}.\nMedians of n = {args.rounds} rounds, in "
        "brackets the least and the greatest; ratios are of medians, theirs to ours.")


def show(line):
    print(line, flush=True)
    report.append(line)


report = []
show(machine() + "\n")
show("| what | ours, s | PyTorch, s | ratio | goal | our peak memory, GB |")
show("|---|---|---|---|---|---|")
watch = Stopwatch()
for what, case, theirs, goal in CASES:
    if args.only and not any(part in f"{what} {case}" for part in args.only.split(",")):
        continue
    with torch.no_grad():
        run = theirs()
        run()
        watch.start()
        times = [], []
        for _ in range(args.rounds):
            times[0].append(watch.ask(case))
            start = time.perf_counter()
            run()
            times[1].append(time.perf_counter() - start)
    ratio = statistics.median(times[1]) / statistics.median(times[0])
    verdict = "" if goal is None else f"≥ {goal:g}: " + ("yes" if ratio >= goal else "**missed**")
    show(f"| {what} | {cell(times[0])} | {cell(times[1])} | {ratio:.2f} | {verdict} | {watch.ask('memory') / 1e9:.2f} |")
    del run
if args.write:
    text = args.write.read_text()
    before, rest = text.split(MARKS[0])
    args.write.write_text(before + "\n".join([MARKS[0], "", *report, "", MARKS[1]]) + rest.split(MARKS[1])[1])
