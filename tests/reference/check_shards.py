"""Are shards of `cargo xtask dataset pack` what Python's readers make of LAION's own?

    check_shards.py SHARDS [--source FOLDER] [--no-laion]

SHARDS is a folder with `sizes.json`; FOLDER is the audiofolder it was packed from, of 16-bit mono WAV or FLAC files at the
rate of the shards. Four readers, each of which has to agree bit for bit:

1. `webdataset` finds as many pairs in each shard as `sizes.json` promises, each with a sound, a text and a list of labels;
2. libFLAC (by `soundfile`) decodes the sounds to the samples whose MD5 the encoder put into the header before encoding;
3. those samples are the source's, clip by clip in the order of its `metadata.csv`;
4. `laion_clap.training.data.get_wds_dataset` hands out the same samples after LAION's own int16 round trip, and the texts.

Prints what was compared; the exit code is 1 at the first difference.
"""
import argparse, csv, hashlib, io, json, os, sys, types
import numpy as np
import soundfile as sf


def fail(text):
    print("DIFFERENT:", text)
    sys.exit(1)


def streaminfo(data):
    """Rate, channels, bits, samples and MD5 of a FLAC file's first block (RFC 9639, 8.2)."""
    if data[:4] != b"fLaC" or data[4] & 0x7F != 0:
        return None
    block = data[8:42]
    packed = int.from_bytes(block[10:18], "big")
    return packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1, block[18:34]


def pairs(shard):
    import webdataset as wds
    reader = wds.WebDataset(shard, shardshuffle=False, empty_check=False)
    for sample in reader:
        yield sample


def by_webdataset(folder, sizes):
    """Every pair: key, description and int16 samples."""
    found = []
    for name, promised in sizes.items():
        held = 0
        for sample in pairs(os.path.join(folder, name)):
            held += 1
            key, description = sample["__key__"], json.loads(sample["json"])
            if not isinstance(description["text"], (str, list)) or not isinstance(description["tag"], list):
                fail(f"{name}/{key}: text or tag is of another type")
            if not isinstance(description["original_data"], dict):
                fail(f"{name}/{key}: original_data is no object")
            if "flac" not in sample:
                fail(f"{name}/{key}: no FLAC, but {sorted(sample)}")
            rate, channels, bits, count, md5 = streaminfo(sample["flac"])
            samples, sr = sf.read(io.BytesIO(sample["flac"]), dtype="int16")
            if (sr, samples.ndim, bits, len(samples)) != (rate, 1, 16, count) or channels != 1:
                fail(f"{name}/{key}: {sr} Hz, {channels} channels, {bits} bits, {len(samples)} of {count} samples")
            if md5 != bytes(16) and hashlib.md5(samples.astype("<i2").tobytes()).digest() != md5:
                fail(f"{name}/{key}: the decoded samples are not those that were encoded")
            found.append((key, description, samples, rate))
        if held != promised:
            fail(f"{name}: sizes.json promises {promised}, webdataset finds {held}")
    return found


def against_source(found, folder):
    with open(os.path.join(folder, "metadata.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(found):
        fail(f"{len(rows)} rows in the source, {len(found)} pairs in the shards")
    for row, (key, description, samples, rate) in zip(rows, found):
        theirs, sr = sf.read(os.path.join(folder, row["file_name"]), dtype="int16")
        if sr != rate or not np.array_equal(theirs, samples):
            fail(f"{key}: not the samples of {row['file_name']}")
        if "text" in row and description["text"] != row["text"]:
            fail(f"{key}: not the text of {row['file_name']}")


def by_laion(folder, sizes, found):
    """The waveforms and texts of laion_clap's own pipeline, in evaluation's order."""
    import clapref, torch, torchaudio
    L = clapref.laion()
    # torchaudio 2.11 loads by torchcodec, which is not installed; up to 2.8 it loaded by soundfile, as here.
    def load(path):
        samples, sr = sf.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), sr
    torchaudio.load = load
    L.data.tokenizer = lambda text, **_: {"length": torch.tensor(len(text))}
    max_len = 480000
    args = types.SimpleNamespace(
        remotedata=False, val_data=[os.path.join(folder, name) for name in sizes], train_data=None, val_num_samples=0,
        parallel_eval=False, batch_size=8, world_size=1, workers=1, horovod=False, prefetch_factor=None, seed=0,
        tmodel="roberta", class_index_dict=None, data_filling="pad", data_truncating="rand_trunc",
        text_augment_selection=None)
    config = {"audio_cfg": dict(sample_rate=48000, audio_length=1024, clip_samples=max_len, mel_bins=64, window_size=1024,
                                hop_size=480, fmin=50, fmax=14000, class_num=527, model_type="HTSAT", model_name="tiny")}
    info = L.data.get_wds_dataset(args, config, is_train=False, max_len=max_len)
    place = 0
    for batch in info.dataloader:
        for waveform, text, name in zip(batch["waveform"], batch["raw_text"], batch["audio_name"]):
            key, description, samples, _ = found[place]
            place += 1
            if os.path.splitext(name)[0] != key:
                fail(f"laion_clap has {name} where {key} should be")
            meant = torch.from_numpy(samples.astype("float32") / 32768.0)
            meant = L.data.int16_to_float32_torch(L.data.float32_to_int16_torch(meant))
            if len(meant) > max_len:
                continue  # cropped at random
            if not torch.equal(waveform[:len(meant)], meant) or waveform[len(meant):].any():
                fail(f"{key}: another waveform in laion_clap")
            if text not in (description["text"], *description["text"]):
                fail(f"{key}: another text in laion_clap")
    if place != len(found):
        fail(f"laion_clap hands out {place} clips of {len(found)}")
    if info.dataloader.num_samples != len(found):
        fail(f"laion_clap counts {info.dataloader.num_samples} clips by sizes.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--source")
    parser.add_argument("--no-laion", action="store_true")
    options = parser.parse_args()
    with open(os.path.join(options.shards, "sizes.json"), encoding="utf-8") as file:
        sizes = json.load(file)
    found = by_webdataset(options.shards, sizes)
    samples = sum(len(clip[2]) for clip in found)
    print(f"webdataset, soundfile: {len(found)} pairs in {len(sizes)} shards, {samples} samples as they were encoded")
    if options.source:
        against_source(found, options.source)
        print(f"source: {len(found)} clips with the same samples and texts")
    if not options.no_laion:
        by_laion(options.shards, sizes, found)
        print(f"laion_clap: {len(found)} clips with the same samples and texts")


if __name__ == "__main__":
    main()
