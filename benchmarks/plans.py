"""What trainings of 3 and 8 billion parameters take on cards of 80 GB: the table of docs/scale.md.

    UNSPOKEN_DATA=DATA python -m benchmarks.plans --tokenizer runs/models/smollm2-135m-instruct > plans.md

`unspoken train RECIPE --plan` says the same where the models are at hand. Here the sizes are those that Meta publishes and
another tokenizer stands in for theirs, so that nothing has to be fetched; DATA holds gsm8k_aug (docs/tasks.md). Takes five
minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from unspoken.recipes import recipe
from unspoken.training.memory import USABLE, needs_of

CARD = 80e9
LLAMA_3B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
    "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
LAYERS = "method.decoder.kind=layers"
PLANS = (
    ("gsm8k/sim_cot_codi_llama8b", LLAMA_8B, "none", 8, ()),
    ("gsm8k/sim_cot_codi_llama8b", LLAMA_8B, "zero2", 8, ()),
    ("gsm8k/sim_cot_codi_llama8b", LLAMA_8B, "zero3", 8, ()),
    ("gsm8k/sim_cot_codi_llama8b", LLAMA_8B, "none", 1, (LAYERS,)),
    ("gsm8k/sim_cot_codi_llama3b", LLAMA_3B, "zero2", 8, ()),
    ("gsm8k/sim_cot_codi_llama3b", LLAMA_3B, "none", 1, (LAYERS,)),
)
"""Recipe, sizes, sharding, cards, further overrides."""


def main() -> None:
    """Prints the table, a row at a time."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokenizer", required=True, help="a folder with a tokenizer")
    tokenizer = options.parse_args().tokenizer
    print("| recipe | cards | parameters | optimizer | passes | GB on each card |")
    print("|---|---|---:|---:|---:|---:|")
    for name, sizes, sharding, cards, overrides in PLANS:
        config = recipe(name, overrides)
        config = replace(config, backbone=replace(config.backbone, path=None, arch=sizes, tokenizer=tokenizer))
        needs = needs_of(config, cards, gpu=True)
        parts = " | ".join(f"{held / 1e9:.1f}" for held in needs.bytes(sharding).values())
        total = needs.total(sharding)
        fits = "" if total <= USABLE * CARD else ", does not fit"
        words = ", ".join((f"`{sharding}`", *(f"`{override}`" for override in overrides)))
        print(f"| `{name}`, {words} | {cards} x 80 | {parts} | {total / 1e9:.1f}{fits} |", flush=True)


if __name__ == "__main__":
    main()
