"""What the token ids of a large corpus cost in memory, as Python objects and in files: a figure of docs/speed/training.md.

    python -m benchmarks.encodings --texts 400000

Each way runs in a process of its own; texts are steps and questions such as GSM8K-Aug's, in the tokens of `builtin:tiny`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def texts(count: int) -> list[str]:
    """One question of about 50 words, then five steps, and so on; all different."""
    rng, made = random.Random(0), []
    words = (
        "Ann",
        "has",
        "buys",
        "then",
        "packs",
        "of",
        "each",
        "day",
        "more",
        "pens",
        "boxes",
        "for",
        "gives",
        "how",
        "many",
    )
    for i in range(count):
        if i % 6:
            made.append(f"<<{i}*{rng.randrange(99)}={rng.randrange(9999)}>>")
        else:
            said = (rng.choice(words) if rng.random() < 0.8 else str(rng.randrange(99)) for _ in range(50))
            made.append(f"{i} " + " ".join(said))
    return made


def resident() -> int:
    """Bytes that this process holds by itself: pages of a mapped file are the system's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much memory a process holds")


def measure(way: str, count: int, folder: str) -> None:
    """One way: seconds and bytes for the first reading and for the second."""
    from unspoken.core.fast.token_store import Encodings
    from unspoken.core.lm.backbone import BackboneConfig
    from unspoken.core.lm.loading import load_backbone

    backbone = load_backbone(BackboneConfig(path="builtin:tiny"))
    corpus = texts(count)
    backbone.encode(corpus[0])
    if way != "objects":
        backbone.encodings = Encodings(folder, backbone.tokenizer)
    before, took = resident(), []
    for _ in range(2):
        began = time.perf_counter()
        for text in corpus:
            backbone.encode(text)
        if backbone.encodings is not None:
            backbone.encodings.flush()
        took.append(time.perf_counter() - began)
    print(json.dumps({"way": way, "us_per_text": [round(t / count * 1e6, 1) for t in took],
                      "bytes_per_text": round((resident() - before) / count)}))  # fmt: skip


def main() -> None:
    """Measure all three ways: objects, files that are written, files that are there."""
    options = argparse.ArgumentParser()
    options.add_argument("--texts", type=int, default=400_000)
    options.add_argument("--way")
    options.add_argument("--folder")
    given = options.parse_args()
    if given.way:
        measure(given.way, given.texts, given.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        for way in ("objects", "files, written", "files, there"):
            command = [sys.executable, __file__, "--texts", str(given.texts), "--way", way, "--folder", folder]
            subprocess.run(command, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})


if __name__ == "__main__":
    main()
