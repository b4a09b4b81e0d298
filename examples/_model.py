"""The model that the examples ask: a run directory given on the command line, or an untrained one that shows the mechanics.

python examples/zero.py runs/sim        # a run of a latent method, e.g. of `unspoken train tiny/sim_cot --out runs/sim`
python examples/zero.py                 # Coconut on the start model inside the package, not trained: answers mean nothing
"""

from __future__ import annotations

import sys

import unspoken
from unspoken.methods import make_method

QUESTIONS = [  # of the kind that `tiny` asks
    "Max has 4 eggs. He doubles his eggs. He buys 4. He sells full elevens. He triples his eggs. How many eggs has Max?",
    "Tom has 13 cards. He donates 5. He doubles his cards. He sells full elevens. He gets 1. How many cards has Tom?",
    "Sam has 19 cups. He sells full tens. He doubles his cups. He wins 4. He sells full dozens. How many cups has Sam?",
]


def model_from_command_line() -> unspoken.Model:
    """See above."""
    if len(sys.argv) > 1:
        return unspoken.load(sys.argv[1])
    print("no run given: an untrained Coconut, whose answers mean nothing", file=sys.stderr)
    start = unspoken.load("builtin:tiny")
    method = make_method({"name": "coconut", "latents_per_step": 1, "max_stage": 4}, start.method.backbone)
    return unspoken.Model(method, unspoken.build(type(start.speaking), {"max_new_tokens": 8}))


def show(done) -> None:
    """Answers before and after."""
    for i, (before, after) in enumerate(zip(done.plain, done.answers, strict=True)):
        mark = "  <- changed" if i in done.changed else ""
        print(f"question {i}: {before.text!r} -> {after.text!r}{mark}")
        if after.thoughts:  # a model with a step decoder says what its thoughts stand for
            print("   thoughts before:", " | ".join(before.thoughts or ()))
            print("   thoughts after: ", " | ".join(after.thoughts))
