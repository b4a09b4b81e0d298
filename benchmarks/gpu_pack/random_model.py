"""A model folder with random weights: the shape and the tokenizer of another, for rehearsals.

python -m benchmarks.gpu_pack.random_model SHAPE OUT [--tiny]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

TINY = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16,
}  # fmt: skip


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=Path, help="folder with config.json and the tokenizer's files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="two narrow layers")
    asked = parser.parse_args()
    config = AutoConfig.from_pretrained(asked.shape, **(TINY if asked.tiny else {}))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(asked.out)
    for file in asked.shape.glob("*"):
        if file.name != "config.json":
            shutil.copy2(file, asked.out / file.name)


if __name__ == "__main__":
    main()
