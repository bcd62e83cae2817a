"""Retrieval of a large split in PyTorch, for `cargo xtask bench --retrieval DIR --python PATH`: blocks of the similarity matrix, since the whole
of it (what laion_clap sorts) would be 200 GB.

  make DIR CLIPS CAPTIONS WIDTH   writes DIR/embeds.safetensors: unit rows, captions near their clips
  run DIR                         answers with seconds and the metrics as JSON

A rank is the number of greater scores, by one pass over blocks of clips and one over blocks of captions.
"""
import stopwatch
import json, os, platform, sys, time
import numpy, safetensors.torch, torch

torch.set_num_threads(stopwatch.threads())
SCORES = 1 << 26  # of a block: 256 MB


def make(folder, clips, captions, width):
    rng = numpy.random.default_rng(0)
    audio = rng.standard_normal((clips, width), dtype=numpy.float32)
    text = numpy.empty((captions, width), dtype=numpy.float32)
    owner = numpy.arange(captions) * clips // captions
    for first in range(0, captions, 50_000):
        part = slice(first, min(first + 50_000, captions))
        text[part] = audio[owner[part]] + 6 * rng.standard_normal((part.stop - first, width), dtype=numpy.float32)
    for rows in (audio, text):
        rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    safetensors.torch.save_file({"audio": torch.from_numpy(audio), "text": torch.from_numpy(text)}, os.path.join(folder, "embeds.safetensors"))
    return owner


def ranks(queries, candidates, owner_of_query):
    """The rank of one right answer of each query, from 0."""
    found = []
    step = max(SCORES // len(candidates), 1)
    buffer = torch.empty(step, len(candidates))  # a fresh one for each block would leave a heap of holes
    for first in range(0, len(queries), step):
        part = queries[first:first + step]
        scores = torch.matmul(part, candidates.T, out=buffer[:len(part)])
        right = scores.gather(1, owner_of_query[first:first + step, None])
        found.append((scores > right).sum(1))
    return torch.cat(found)


def run(folder):
    embeds = safetensors.torch.load_file(os.path.join(folder, "embeds.safetensors"))
    audio, text = embeds["audio"], embeds["text"]
    clips, captions = len(audio), len(text)
    owner = torch.arange(captions) * clips // captions
    start = time.perf_counter()
    of_caption = ranks(text, audio, owner)
    # A clip's right answers are consecutive; each has a rank of its own.
    counts = torch.bincount(owner, minlength=clips)
    first = torch.cumsum(counts, 0) - counts
    of_clip = [[] for _ in range(clips)]
    step = max(SCORES // captions, 1)
    buffer = torch.empty(step, captions)
    for begin in range(0, clips, step):
        part = audio[begin:begin + step]
        scores = torch.matmul(part, text.T, out=buffer[:len(part)])
        for row in range(len(scores)):
            own = scores[row, first[begin + row]:first[begin + row] + counts[begin + row]]
            of_clip[begin + row] = [int((scores[row] > score).sum()) for score in own]
    seconds = time.perf_counter() - start
    metrics = {}
    best = numpy.array([min(own) for own in of_clip])
    precision = [sum((n + 1) / (r + 1) for n, r in enumerate(sorted(r for r in own if r < 10))) / min(len(own), 10) for own in of_clip]
    for name, found, average in (("audio_to_text", best, numpy.mean(precision)),
                                 ("text_to_audio", of_caption.numpy(), numpy.where(of_caption < 10, 1 / (of_caption + 1), 0).mean())):
        for k in (1, 5, 10):
            metrics[f"{name}_R@{k}"] = float((found < k).mean())
        metrics[f"{name}_mAP@10"] = float(average)
        metrics[f"{name}_mean_rank"] = float(found.mean() + 1)
    return seconds, metrics


for line in map(str.split, sys.stdin):
    if line == ["versions"]:
        answer = f"Python {platform.python_version()}, torch {torch.__version__}"
    elif line == ["memory"]:
        answer = stopwatch.peak_memory()
    elif line[:1] == ["make"]:
        make(" ".join(line[1:-3]), *map(int, line[-3:]))
        answer = "made"
    elif line[:1] == ["run"]:
        answer = json.dumps(run(" ".join(line[1:])))
    else:
        sys.exit(f"`{' '.join(line)}` is no line of this script")
    print(answer, flush=True)
