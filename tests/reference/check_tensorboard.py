"""Does TensorBoard read a run's event files as the numbers of its log?

    python tests/reference/check_tensorboard.py runs/NAME [--serve]

Every scalar of the run's `tensorboard/` has to have the steps and values (as f32) that `metrics.jsonl` has, each step once, also
where the run was stopped and went on. TensorBoard's own `EventAccumulator` reads the files; with `--serve` the real server does,
too, and is asked over HTTP. Needs `pip install tensorboard` (checked with 2.21.0).
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEP = ["loss", "logit_scale", "lr", "grad_norm", "epoch", "seconds", "data_wait", "clips_per_second"]


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def logged(run):
    """Tag -> [(step, value)], from metrics.jsonl."""
    scalars = {}

    def add(tag, step, value):
        if value is not None:
            scalars.setdefault(tag, []).append((step, f32(value)))

    for line in (run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            for name in STEP:
                add(f"train/{name}", event["step"], event[name])
            memory = event.get("memory")
            add("train/memory_gb", event["step"], None if memory is None else memory / 1e9)
        elif event["event"] == "eval":
            for name, value in {**event["metrics"], "selected": event["selected"], "seconds": event["seconds"]}.items():
                add(f"valid/{name}", event["step"], value)
    return scalars


def accumulated(run):
    """The same, as TensorBoard's Python reader has it; and the configuration."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    # Values of the old form, as PyTorch's writer makes them, are scalars; the text is a tensor.
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    (config,) = events.Tensors("config")
    return found, config.tensor_proto.string_val[0].decode()


def served(run, tags):
    """The same, as a server hands it out."""
    port = 16006
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port), "--samples_per_plugin", "scalars=1000000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = f"http://localhost:{port}/data/plugin"

    def ask(path):
        with urllib.request.urlopen(f"{root}/{path}") as answer:
            return json.load(answer)

    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                if ask("scalars/tags"):
                    break
            except OSError:
                pass
        time.sleep(2)
        ((name, present),) = ask("scalars/tags").items()
        assert set(present) == set(tags), set(present) ^ set(tags)
        query = lambda tag: urllib.parse.urlencode({"run": name, "tag": tag})
        found = {tag: [(step, f32(value)) for _, step, value in ask(f"scalars/scalars?{query(tag)}")] for tag in tags}
        return found, ask(f"text/text?{query('config')}")[0]["text"]
    finally:
        server.terminate()
        server.wait()


def compare(who, found, want):
    assert set(found) == set(want), f"{who}: tags {set(found) ^ set(want)}"
    for tag in want:
        assert found[tag] == want[tag], f"{who}: {tag}: {found[tag][:5]} … for {want[tag][:5]} …"
    print(f"{who}: {len(want)} scalars, {sum(map(len, want.values()))} values, all as in metrics.jsonl")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    want = logged(args.run)
    found, config = accumulated(args.run)
    compare("EventAccumulator", found, want)
    text = (args.run / "config.toml").read_text()
    assert config == "".join(f"    {line}\n" for line in text.splitlines()), "another configuration"
    files = len(list((args.run / "tensorboard").iterdir()))
    print(f"{files} event files; the configuration is config.toml's")
    if args.serve:
        found, html = served(args.run, list(want))
        compare("server", found, want)
        assert "<pre><code>" in html and "batch_size" in html, html[:200]
        print("server: the configuration is a block of code")


if __name__ == "__main__":
    main()
