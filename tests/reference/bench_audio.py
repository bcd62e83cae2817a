"""Our front end against torchaudio, torchlibrosa, transformers, librosa and soxr, in turns on the same cores.

  bench_audio.py                              the tables, as Markdown
  bench_audio.py --write docs/benchmarks.md   the same into that file, between its marks
  bench_audio.py --only mel,quality           some of: mel, share, resample, files, folder, quality

Ours runs as `examples/stopwatch.rs`, which is built first. A figure is the median of --rounds rounds; in each round theirs
and ours run one after the other, as often as fills 10 ms, and both results are compared before anything is timed. Sounds are
recordings of datasets/sounds-mini.
"""
import argparse, io, os, pathlib, platform, statistics, subprocess, sys, tarfile, tempfile, time, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import librosa, numpy, soundfile, soxr, torch, torchaudio, transformers
from threadpoolctl import threadpool_limits
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARKS = "<!-- audio: begin -->", "<!-- audio: end -->"
RATE, FILL = 48_000, 0.01
MEL = dict(n_fft=1024, hop_length=480, n_mels=64)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=21)
parser.add_argument("--only", default="mel,share,resample,files,folder,quality")
parser.add_argument("--write", type=pathlib.Path)
args = parser.parse_args()
folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-audio-"))


class Stopwatch:
    """examples/stopwatch.rs: one line in, one line out."""

    def __init__(self):
        build = ["cargo", "build", "--release", "--quiet", "-p", "clap-audio", "--example", "stopwatch"]
        subprocess.run(build, cwd=ROOT, check=True)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        program = target / "release" / "examples" / "stopwatch"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"the stopwatch stopped at: {line}"
        return float(answer)

    def result(self, case):
        out = folder / "result.f32"
        self.ask(f"write {out} {case}")
        return numpy.fromfile(out, "<f4")


def run(work, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def race(case, works, threads=1):
    """Seconds per run of ours and of each of `works`, a list of `--rounds` each."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads), torch.no_grad():
        ours = lambda repeats: watch.ask(f"time {repeats} {case}")
        runners = [ours] + [lambda repeats, work=work: run(work, repeats) for work in works]
        repeats = [max(1, round(FILL / min(runner(1), runner(1)))) for runner in runners]
        times = [[] for _ in runners]
        for _ in range(args.rounds):
            for runner, count, found in zip(runners, repeats, times):
                found.append(runner(count))
    return times


def cell(times, scale=1e3):
    low, middle, high = (scale * value for value in (min(times), statistics.median(times), max(times)))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def ratio(theirs, ours):
    """Of medians."""
    return statistics.median(theirs) / statistics.median(ours)


def table(title, header, rows):
    lines = ["", f"### {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    print("\n".join(lines), flush=True)
    report.extend(lines)


def note(text):
    print("\n" + text, flush=True)
    report.extend(["", text])


def verdict(value, goal):
    return "" if goal is None else f"≥ {goal:g}: " + ("yes" if value >= goal else "**missed**")


def close(what, ours, theirs):
    """Whether it is the same thing that is timed: within 5e-3 dB down to 60 dB below the loudest bin of a frame. Parity proper,
    to 1e-3 dB, is tests/parity/mel.rs; on these recordings, of 100 dB within a frame, both sides show the limits of `f32`."""
    ours, theirs = ours.reshape(-1, 64), numpy.asarray(theirs).reshape(-1, 64)
    error = numpy.abs(ours - theirs)[theirs > theirs.max(1, keepdims=True) - 60].max()
    assert error <= 5e-3, f"{what}: ours differs from theirs by {error} dB"


def recordings(count):
    """The encoded sounds of the embedded corpus, in the order of its shards."""
    found = []
    for shard in sorted((ROOT / "datasets/sounds-mini").glob("*/*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".ogg"):
                    found.append((member.name, tar.extractfile(member).read()))
                    if len(found) == count:
                        return found
    return found


def real_sound(seconds, rate):
    """`seconds` of recordings of the corpus end to end, mono, read as if they had the rate `rate`."""
    samples, found = [], 0
    for _, data in recordings(10_000):
        sound = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].mean(1)
        samples.append(sound)
        found += len(sound)
        if found >= seconds * rate:
            break
    return numpy.resize(numpy.concatenate(samples), int(seconds * rate)).astype("f4")


def stored(name, samples):
    path = folder / name
    samples.astype("<f4").tofile(path)
    return path


def decibel(power):
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)


def librosa_mel(wave, scale="slaney"):
    kind = dict(htk=False, norm="slaney") if scale == "slaney" else dict(htk=True, norm=None)
    power = librosa.feature.melspectrogram(y=wave, sr=RATE, pad_mode="reflect", fmin=50, fmax=14_000, **MEL, **kind)
    return decibel(power).T


def mel():
    spectrum = torchaudio.transforms.MelSpectrogram(RATE, pad_mode="reflect", f_min=50, f_max=14_000, **MEL)
    to_db = torchaudio.transforms.AmplitudeToDB(top_db=None)
    stft = Spectrogram(n_fft=1024, hop_length=480, window="hann", pad_mode="reflect", freeze_parameters=True)
    filters = LogmelFilterBank(sr=RATE, n_fft=1024, n_mels=64, fmin=50, fmax=14_000, top_db=None, freeze_parameters=True)
    settings = dict(frequency_min=50, frequency_max=14_000)
    hf = {name: transformers.ClapFeatureExtractor(truncation=name, **settings) for name in ("rand_trunc", "fusion")}
    rows = []
    for batch in (1, 16):
        waves = real_sound(10 * batch, RATE).reshape(batch, -1)
        path, xs, clips = stored(f"mel{batch}.f32", waves), torch.from_numpy(waves), list(waves)
        extract = lambda name: hf[name](clips, sampling_rate=RATE, return_tensors="np")["input_features"]
        peers = [
            ("torchaudio", "mel htk", 3, lambda: to_db(spectrum(xs)).transpose(1, 2)),
            ("torchlibrosa", "mel slaney", 10, lambda: filters(stft(xs))),
            ("librosa", "mel slaney", None, lambda: [librosa_mel(clip) for clip in clips]),
            ("transformers, unfused", "features rand_trunc", 10, lambda: extract("rand_trunc")),
            ("transformers, fused", "features fusion", 10, lambda: extract("fusion")),
        ]
        for name, case, goal, work in peers:
            with torch.no_grad():
                theirs = numpy.asarray(work())
            close(name, watch.result(f"{case} 1 {batch} {path}"), theirs)
            for threads in (1, 2):
                ours, theirs = race(f"{case} {threads} {batch} {path}", [work], threads)
                value = ratio(theirs, ours)
                rows.append((name, batch, threads, cell(ours), cell(theirs), f"{value:.1f}", verdict(value, goal)))
    header = ["against", "clips", "threads", "ours, ms", "theirs, ms", "ratio", "goal"]
    table("Log-mel of 10 s at 48 kHz", header, rows)


def share():
    path = stored("share.f32", real_sound(10, RATE))
    cases = [f"mel slaney 1 1 {path}", "rustfft 1001", "realfft 1001"]
    times = [[], [], []]
    for case in cases:
        watch.ask(f"time 1 {case}")
    for _ in range(args.rounds):
        for case, found in zip(cases, times):
            found.append(watch.ask(f"time 50 {case}"))
    shares = [f"{100 * statistics.median(found) / statistics.median(times[0]):.0f} %" for found in times]
    names = [
        "whole log-mel, 1001 frames",
        "its 1001 complex transforms of 512 alone (rustfft, in place)",
        "1001 real transforms of 1024 by realfft, not used here",
    ]
    table("The transforms' share, one thread", ["what", "ms", "of the whole"], zip(names, map(cell, times), shares))


PAIRS = [(source, 48_000) for source in (44_100, 96_000, 22_050, 16_000, 8_000)] + [(48_000, 44_100), (32_000, 48_000)]


def resample():
    rows = []
    for source, target in PAIRS:
        wave = real_sound(10, source)
        case = f"resample {source} {target} {stored(f'{source}-{target}.f32', wave)}"
        work = lambda: soxr.resample(wave, source, target, quality="HQ")
        theirs = work()
        # soxr meets the ends of its stages, and the two transition bands differ: see tests/parity/resample.rs.
        ours = watch.result(case)[1000 : len(theirs) - 1000]
        error = numpy.sqrt(numpy.mean((ours - theirs[1000:-1000][: len(ours)]) ** 2) / numpy.mean(theirs**2))
        assert error < 1e-3, f"{source} to {target}: ours differs from soxr's by {error}"
        ours, theirs = race(case, [work])
        value = ratio(theirs, ours)
        rows.append((f"{source} → {target}", cell(ours), cell(theirs), f"{value:.2f}", verdict(value, 1)))
    table("Resampling of 10 s, one thread, against soxr HQ", ["Hz", "ours, ms", "soxr, ms", "ratio", "goal"], rows)


def files():
    left = real_sound(20, 44_100)
    stereo = numpy.stack([left[:441_000], left[441_000:]], 1)
    rows = []
    for kind, goal in (("flac", 3), ("wav", None), ("ogg", None), ("mp3", None)):
        path = folder / f"clip.{kind}"
        soundfile.write(path, stereo, 44_100)
        whole = lambda: librosa_mel(librosa.load(path, sr=RATE)[0])
        bare = lambda: soundfile.read(path, dtype="float32")
        theirs, ours = whole(), watch.result(f"load slaney {path}").reshape(-1, 64)
        # Decoders and resamplers differ by rounding; loud frames show whether it is the same sound.
        loud = theirs > -60
        frames = min(len(ours), len(theirs))
        error = numpy.median(numpy.abs(ours[:frames] - theirs[:frames])[loud[:frames]])
        assert error < 0.05, f"{path.name}: ours differs from librosa's by {error} dB"
        ours, theirs = race(f"load slaney {path}", [whole])
        value = ratio(theirs, ours)
        decoded, libsndfile = race(f"decode {path}", [bare])
        row = (cell(ours), cell(theirs), f"{value:.1f}", verdict(value, goal), cell(decoded), cell(libsndfile))
        rows.append((kind.upper(), *row))
    header = ["file", "ours, ms", "librosa, ms", "ratio", "goal", "decoding alone, ours", "libsndfile"]
    table("A stereo file of 10 s at 44.1 kHz to log-mel, one thread", header, rows)


def folder_of_files():
    clips = folder / "clips"
    clips.mkdir()
    seconds = 0
    for name, data in recordings(1000):
        (clips / name).write_bytes(data)
        seconds += soundfile.info(clips / name).duration
    count = len(list(clips.iterdir()))
    cases = [f"folder {threads} {clips}" for threads in (1, 2)]
    first, second = watch.result(cases[0]), watch.result(cases[1])
    assert (first == second).all() and len(first) == count, "the same numbers whatever the threads"
    times = [[], []]
    for _ in range(max(7, args.rounds // 2)):
        for case, found in zip(cases, times):
            found.append(watch.ask(f"time 1 {case}"))
    rates = [[count / value for value in found] for found in times]
    value = ratio(times[0], times[1])
    rows = [(threads, cell(found, 1), cell(rate, 1)) for threads, found, rate in zip((1, 2), times, rates)]
    rows[0] += ("",)
    rows[1] += (f"{value:.2f} ({verdict(value, 1.9)})",)
    title = f"A folder of {count} Ogg Vorbis files, {seconds / count:.2f} s on average, to features"
    table(title, ["threads", "s", "clips per second", "speed-up"], rows)


TONE = 0.5
"""Seconds of a tone, and its amplitude."""


def tones(frequencies, rate):
    """One tone after the other."""
    n = numpy.arange(int(TONE * rate))
    return numpy.concatenate([0.5 * numpy.sin(2 * numpy.pi * f / rate * n) for f in frequencies]).astype("f4")


def middle(output, index, rate):
    """The inner part of a tone's stretch, and where that begins within it."""
    start = round((index + 0.2) * TONE * rate)
    return output[start : start + round(0.6 * TONE * rate)].astype("f8"), start - index * TONE * rate


def level(signal):
    """In dB of a tone's power."""
    return 10 * numpy.log10(numpy.mean(signal**2) / (TONE**2 / 2))


def loudest(output, count, rate):
    return max(level(middle(output, index, rate)[0]) for index in range(count))


def measured(output, frequencies, rate):
    """The gain of each tone in dB, and the level of all else."""
    gains, rests = [], []
    for index, frequency in enumerate(frequencies):
        part, start = middle(output, index, rate)
        angle = 2 * numpy.pi * frequency * (numpy.arange(len(part)) + start) / rate
        basis = numpy.stack([numpy.sin(angle), numpy.cos(angle)], 1)
        parts = numpy.linalg.lstsq(basis, part, rcond=None)[0]
        gains.append(20 * numpy.log10(numpy.hypot(*parts) / TONE))
        rests.append(level(part - basis @ parts))
    return numpy.array(gains), numpy.array(rests)


def quality():
    rows = []
    for source, target in PAIRS[:6]:
        nyquist = min(source, target) / 2
        inside = nyquist * numpy.linspace(0.02, 0.9, 89)
        beyond = nyquist * numpy.linspace(0.9, 0.9995, 60)
        if source > target:
            beyond = numpy.linspace(nyquist * 1.0005, source / 2 * 0.999, 60)
        inputs = [tones(frequencies, source) for frequencies in (inside, beyond)]
        paths = [stored(f"{part}-{source}-{target}.f32", wave) for part, wave in zip(("inside", "beyond"), inputs)]
        outputs = [
            [watch.result(f"resample {source} {target} {path}") for path in paths],
            [soxr.resample(wave, source, target, quality="HQ") for wave in inputs],
        ]
        found = []
        for first, second in outputs:
            gains, rests = measured(first, inside, target)
            # For a lower rate all that is left of a tone is an alias; for a higher one, all but the tone.
            left = loudest(second, len(beyond), target) if source > target else measured(second, beyond, target)[1].max()
            found.append((numpy.abs(gains).max(), -left, rests.max()))
        ours, theirs = found
        good = "yes" if ours[0] < 0.01 and ours[1] > 100 else "**missed**"
        cells = [f"{value:{form}}" for form, pair in zip((".5f", ".0f", ".0f"), zip(ours, theirs)) for value in pair]
        rows.append((f"{source} → {target}", *cells, good))
    header = ["Hz", "ripple, dB", "soxr", "rejection, dB", "soxr", "noise, dB", "soxr", "< 0.01, > 100"]
    table("The resampler's quality beside soxr HQ", header, rows)
    note(
        "Ripple: the largest deviation of 89 tones up to 0.9 of the lower Nyquist frequency from their level. Rejection: for a lower\n"
        "rate, 60 tones from 1.0005 of its Nyquist frequency on, the loudest that is left; for a higher rate, 60 tones from 0.9 to\n"
        "0.9995 of the input's, the loudest remainder once the tone is taken out. Noise: the remainder of the 89 tones, which is\n"
        "images and rounding to `f32`."
    )


def output(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def machine():
    lines = [line.split(":", 1) for line in output("lscpu").splitlines() if ":" in line]
    cpu = {key.strip(): value.strip() for key, value in lines}
    wanted = ("avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq")
    flags = " ".join(flag for flag in wanted if flag in cpu.get("Flags", "").split())
    changes = " with changes" if output("git", "status", "--porcelain", "--untracked-files=no", "--", "crates") else ""
    packages = dict(torch=torch, torchaudio=torchaudio, transformers=transformers, librosa=librosa, soxr=soxr, numpy=numpy)
    versions = ", ".join(f"{name} {module.__version__}" for name, module in packages.items())
    note(
        f"{cpu.get('Model name', platform.processor())} (family {cpu.get('CPU family')}, model {cpu.get('Model')}), "
        f"{os.cpu_count()} cores, "
        f"L2 {cpu.get('L2 cache')}, L3 {cpu.get('L3 cache')}; {flags}.\n{output('rustc', '--version')}, release profile, no `target-cpu`; "
        f"Python {platform.python_version()}, {versions}.\nCommit {output('git', 'rev-parse', '--short', 'HEAD')}{changes}, "
        f"{time.strftime('%Y-%m-%d')}, load average before the run {os.getloadavg()[0]:.1f}, priority {os.nice(0)}. "
        f"Medians of n = {args.rounds} rounds, in brackets the least and the greatest;\nratios are of medians, theirs to ours."
    )


report = []
watch = Stopwatch()
machine()
parts = dict(mel=mel, share=share, resample=resample, files=files, folder=folder_of_files, quality=quality)
for name in args.only.split(","):
    parts[name]()
if args.write:
    text = args.write.read_text()
    before, rest = text.split(MARKS[0])
    args.write.write_text(before + "\n".join([MARKS[0], *report, "", MARKS[1]]) + rest.split(MARKS[1])[1])
