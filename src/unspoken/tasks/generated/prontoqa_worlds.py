"""A generator of ProntoQA problems: a small made-up ontology, and a statement about one individual to prove or refute.

    Each yumpus is a lorpus. Gorpuses are shumpuses. Every lorpus is floral. Dumpuses are not floral. ... Stella is a
    zumpus. Stella is a brimpus. True or false: Stella is not floral.
    steps  Stella is a zumpus. Zumpuses are gorpuses.  ...  Stella is a lorpus. Every lorpus is floral.  Stella is floral.

The rows that Coconut trained on are 5-hop problems of the generator of Saparov and He (2023); they are not at hand
everywhere. This makes rows of the same form. What the 1,000 published validation and test rows all have:

    chain        5 concepts, each under the next; the individual is of the first; the last has the asked property
    beside it    each of the 4 first has one more concept above it, the last has two; all but one of these 6 have a property
    properties   each concept of the chain has one; 11 different families of properties in a problem
    distractors  the individual is also of a concept outside, which has a property and one concept above it; and one more
                 concept has the opposite of the asked property
    text         23 rules in random order, the two facts about the individual in random order, the question
    wording      half "Gorpuses are ...", a quarter "Each gorpus is ...", a quarter "Every gorpus is ..."
    steps        the proof in pairs of sentences, and the conclusion: 6

Shares were measured on those rows: negated are 26 % of the properties along the chain, 31 % of those beside it, 46 % of
the asked ones; half the questions are true. `tests/tasks/generated/test_prontoqa.py` holds generated rows against the files.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from unspoken.tasks.generated.generated import Problem, words

NAMES = words("Alex Fae Max Polly Rex Sally Sam Stella Wren")
CONCEPTS = words(
    "brimpus dumpus gorpus grimpus impus jompus lempus lorpus numpus rompus shumpus sterpus tumpus vumpus wumpus yumpus "
    "zumpus"
)
PROPERTIES = tuple(
    words(family)
    for family in (
        "blue red brown orange",
        "small large",
        "metallic wooden luminous liquid",
        "transparent opaque",
        "nervous happy feisty shy",
        "bright dull",
        "sweet sour spicy bitter",
        "floral fruity earthy",
        "hot cold temperate",
        "kind mean angry amenable aggressive",
        "melodic muffled discordant loud",
        "slow moderate fast",
        "windy sunny overcast rainy snowy",
    )
)
"""Families of properties: in a problem, nothing has two properties of one family."""

HOPS = 5
_PLURAL, _EACH = 0.5, 0.25
_NEGATED_CHAIN, _NEGATED_BESIDE, _NEGATED_ASKED = 0.26, 0.31, 0.46


def problems(seed: str) -> Iterator[Problem]:
    """An endless stream of rows with the fields of the published files: question, steps, answer. The same for the same
    seed."""
    rng = random.Random(f"prontoqa/{seed}")
    while True:
        yield _problem(rng)


def _problem(rng: random.Random) -> Problem:
    name, drawn = rng.choice(NAMES), rng.sample(CONCEPTS, HOPS + 6 + 3)
    chain, beside, (other, above_other, opposite) = drawn[:HOPS], drawn[HOPS : HOPS + 6], drawn[HOPS + 6 :]
    families = rng.sample(PROPERTIES, 11)
    adjectives = [rng.choice(family) for family in families]
    rules: list[str] = []

    def rule(concept: str, rest: str, negated: bool = False) -> str:
        """A rule about a concept, in one of three wordings; kept among the rules."""
        form, no = rng.random(), "not " if negated else ""
        plural = f"{rest}es" if rest in CONCEPTS else rest
        if form < _PLURAL:
            text = f"{concept.capitalize()}es are {no}{plural}."
        else:
            text = f"{'Each' if form < _PLURAL + _EACH else 'Every'} {concept} is {no}{_with_article(rest)}."
        rules.append(text)
        return text

    above = [rule(concept, parent) for concept, parent in pairwise(chain)]
    for concept, parent in zip([*chain, chain[-1]], beside, strict=True):
        rule(concept, parent)
    rule(other, above_other)
    asked, negated = adjectives[0], rng.random() < _NEGATED_ASKED
    above.append(rule(chain[-1], asked, negated))
    rule(opposite, asked, not negated)
    for concept, adjective in zip(chain[:-1], adjectives[1:HOPS], strict=True):
        rule(concept, adjective, rng.random() < _NEGATED_CHAIN)
    for concept, adjective in zip([*beside[:-1], other], adjectives[HOPS:], strict=True):
        rule(concept, adjective, rng.random() < _NEGATED_BESIDE)
    rng.shuffle(rules)
    facts = [f"{name} is {_with_article(concept)}." for concept in (chain[0], other)]
    rng.shuffle(facts)
    truth = rng.random() < 0.5
    said = negated if truth else not negated
    return {
        "question": f"{' '.join([*rules, *facts])} True or false: {name} is {'not ' if said else ''}{asked}.",
        "steps": [
            *(f"{name} is {_with_article(concept)}. {text}" for concept, text in zip(chain, above, strict=True)),
            f"{name} is {'not ' if negated else ''}{asked}.",
        ],
        "answer": str(truth),
    }


def _with_article(word: str) -> str:
    """Add an article to a concept; properties have none."""
    if word not in CONCEPTS:
        return word
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
