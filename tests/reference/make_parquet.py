"""Writes the Parquet files that clap-data reads in its tests (crates/clap-data/tests/files/parquet).

    python make_parquet.py --out DIR

`data/` is what `datasets` writes: sounds embedded as {bytes, path}, captions, a list of captions and classes, in the parts of two
splits. `variants.parquet` is pyarrow's own: plain bytes, no index of pages, zstd, classes as a list.
Made with datasets 5.2.0 and pyarrow 26.0.1, which requirements.txt does not hold: no other script needs them.
"""

import argparse
import io
import json
import math
import struct
import wave
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = ["rain", "dog", "church bells"]


def sound(samples: int) -> bytes:
    """16-bit mono WAV at 8 kHz, of so many samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", round(9000 * math.sin(0.3 * i))) for i in range(samples)))
    return out.getvalue()


def split(rows: range) -> datasets.Dataset:
    """Row `r` has `100 + r` samples; row 2 has no path, class `r % 3`, and `r % 2 + 1` captions."""
    columns = {
        "audio": [{"bytes": sound(100 + r), "path": None if r == 2 else f"clip_{r}.wav"} for r in rows],
        "caption": [f"caption {r}" for r in rows],
        "captions": [[f"caption {r}, {n}" for n in range(r % 2 + 1)] for r in rows],
        "label": [r % 3 for r in rows],
        "fold": [r // 2 for r in rows],
    }
    features = datasets.Features(
        {
            "audio": datasets.Audio(sampling_rate=8000),
            "caption": datasets.Value("string"),
            "captions": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=CLASSES),
            "fold": datasets.Value("int32"),
        }
    )
    # Cast rather than encoded: the latter needs torchcodec, and the sounds are encoded already.
    return datasets.Dataset.from_dict(columns).cast(features)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    (out / "data").mkdir(parents=True, exist_ok=True)
    parts = {"train-00000-of-00002": range(0, 4), "train-00001-of-00002": range(4, 6), "test-00000-of-00001": range(6, 8)}
    for name, rows in parts.items():
        split(rows).to_parquet(out / "data" / f"{name}.parquet", batch_size=3)

    features = {"labels": {"feature": {"names": CLASSES, "_type": "ClassLabel"}, "_type": "List"}}
    schema = pa.schema(
        [("wav", pa.binary()), ("title", pa.large_string()), ("labels", pa.list_(pa.int64())), ("when", pa.timestamp("s"))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {"wav": sound(200), "title": "a", "labels": [0, 2], "when": 0},
        {"wav": None, "title": "b", "labels": [1], "when": 0},
        {"wav": sound(202), "title": "c", "labels": [-1], "when": None},
        {"wav": sound(203), "title": None, "labels": None, "when": 0},
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, out / "variants.parquet", compression="zstd", row_group_size=3)


if __name__ == "__main__":
    main()
