"""The model that the examples ask: a run directory given on the command line, or an untrained one that shows the mechanics.

python examples/zero.py runs/sim        # a run of a latent method, e.g. of `unspoken train tiny/sim_cot --out runs/sim`
python examples/zero.py                 # Coconut on the start model inside the package, not trained: answers mean nothing
"""

from __future__ import annotations

import sys

import unspoken
from unspoken.methods import make_method

QUESTIONS = [
    "Ann has 7 figs. She finds 5. She doubles her figs. She gives 4 away. How many figs has Ann?",
    "Bob has 3 pens. He buys 8. He loses 2. He triples his pens. How many pens has Bob?",
    "Eve has 9 keys. She gives 6 away. She finds 4. She doubles her keys. How many keys has Eve?",
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
