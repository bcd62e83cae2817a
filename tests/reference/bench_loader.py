"""PyTorch's DataLoader with torchaudio beside our loader, for `cargo xtask bench --loader --python`; and the shards that both read.

  bench_loader.py --make target/bench-loader             8 shards of 64 clips of 10 s, once as 44.1 kHz stereo and once as 48 kHz mono FLAC
  echo "loader stereo-44100 2" | bench_loader.py --threads 1    the seconds of one pass with two workers; a line for each further pass

A pass is what training does to a clip: tar -> FLAC (libsndfile; torchaudio reads through torchcodec, which is no faster) -> mean of the
channels -> torchaudio's resampling to 48 kHz -> LAION's get_mel -> batches of 32. Workers stay from pass to pass, each has one thread
and takes every second shard.
"""
import stopwatch
import io, json, pathlib, platform, sys, tarfile
import numpy, soundfile, torch, torchaudio

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "bench-loader"
SETS = {"stereo-44100": (44_100, 2), "mono-48000": (48_000, 1)}
SHARDS, CLIPS, SECONDS, RATE = 8, 64, 10, 48_000


def recordings():
    """Of the embedded corpus, with their rates."""
    for shard in sorted((ROOT / "datasets" / "sounds-mini" / "train").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if not member.name.endswith(".json"):
                    yield soundfile.read(io.BytesIO(archive.extractfile(member).read()), dtype="float32", always_2d=True)


def make(folder):
    """Recordings joined to ten seconds each, with a little noise, as 16-bit FLAC of the level that `flac` defaults to."""
    folder, sounds = pathlib.Path(folder), list(recordings())
    noise = numpy.random.default_rng(0)
    for name, (rate, channels) in SETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        at = 0
        for shard in range(SHARDS):
            with tarfile.open(folder / name / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
                for clip in range(CLIPS):
                    parts, length = [], 0
                    while length < SECONDS * rate:
                        sound, own = sounds[at % len(sounds)]
                        sound = torchaudio.functional.resample(torch.from_numpy(sound.mean(1)), own, rate).numpy()
                        parts.append(sound)
                        length, at = length + len(sound), at + 1
                    wave = numpy.concatenate(parts)[: SECONDS * rate]
                    wave = numpy.stack([numpy.roll(wave, 37 * c) * (1 - 0.2 * c) for c in range(channels)], 1)
                    wave = numpy.clip(wave + noise.normal(0, 1e-3, wave.shape), -1, 1)
                    flac = io.BytesIO()
                    soundfile.write(flac, wave, rate, subtype="PCM_16", format="FLAC", compression_level=5 / 8)
                    words = json.dumps({"text": f"clip {clip} of shard {shard}", "tag": [], "original_data": {}}).encode()
                    for extension, data in (("flac", flac.getvalue()), ("json", words)):
                        member = tarfile.TarInfo(f"{shard}_{clip}.{extension}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
        (folder / name / "sizes.json").write_text(json.dumps({f"{s}.tar": CLIPS for s in range(SHARDS)}) + "\n")


class Shards(torch.utils.data.IterableDataset):
    def __init__(self, folder):
        self.shards = sorted(folder.glob("*.tar"))
        # LAION's get_mel (training/data.py of laion_clap 1.1.7).
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=RATE, n_fft=1024, win_length=1024, hop_length=480, center=True, pad_mode="reflect", power=2.0,
            norm=None, n_mels=64, f_min=50, f_max=14_000)
        self.decibels = torchaudio.transforms.AmplitudeToDB(top_db=None)
        self.resamplers = {}

    def pairs(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for shard in self.shards[first::step]:
            with tarfile.open(shard, "r|") as archive:
                sound = None
                for member in archive:
                    data = archive.extractfile(member).read()
                    if member.name.endswith(".json"):
                        yield sound, json.loads(data)
                    else:
                        sound = data

    def __iter__(self):
        for sound, words in self.pairs():
            wave, rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
            wave = torch.from_numpy(wave).mean(1)
            if rate != RATE:
                if rate not in self.resamplers:
                    self.resamplers[rate] = torchaudio.transforms.Resample(rate, RATE)
                wave = self.resamplers[rate](wave)
            wave = wave[: SECONDS * RATE]
            yield self.decibels(self.mel(wave)).T, words["text"]


def case(line):
    words = line.split()
    name, workers = words[-2], int(words[-1])
    loader = torch.utils.data.DataLoader(
        Shards(FOLDER / name), batch_size=32, num_workers=workers, persistent_workers=workers > 0,
        prefetch_factor=2 if workers > 0 else None)

    def run():
        clips = sum(len(mels) for mels, _ in loader)
        assert clips == SHARDS * CLIPS, clips
    return run


def versions():
    return (f"Python {platform.python_version()}, torch {torch.__version__}, torchaudio {torchaudio.__version__}, "
            f"soundfile {soundfile.__version__} ({soundfile.__libsndfile_version__})")


if __name__ == "__main__":
    if "--make" in sys.argv:
        make(sys.argv[sys.argv.index("--make") + 1])
    else:
        torch.set_num_threads(stopwatch.threads())
        stopwatch.serve(case, versions())
