"""Figures over problems: geometry of latents, what can be read from them, attention, forward chaining.

docs/guides/inspector.md explains each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unspoken.core.loop.trace import Answer
from unspoken.core.text.example import Example
from unspoken.evaluation.records import same_step
from unspoken.evaluation.statistics import mean, rate
from unspoken.inspector.arithmetic import Chain, chain, same
from unspoken.inspector.attention import AttentionShares
from unspoken.inspector.gather import ObservedProblem, at_rest, stands_for
from unspoken.inspector.stability import geometry, recovered, said_in, vocabulary_centre
from unspoken.inspector.words import spelled, words_of
from unspoken.runs.model import Model
from unspoken.tasks.scoring.answers import normalise


def _carried_out(seen: ObservedProblem) -> Chain | None:
    """Carry out the decoded steps of the groups that stand for a step."""
    if seen.decoded is None:
        return None
    return chain([said for said, stands in zip(seen.decoded, seen.expected, strict=True) if stands is not None])


def chaining(seen: ObservedProblem) -> dict[str, Any] | None:
    """Forward chaining of one problem, in plain values."""
    done = _carried_out(seen)
    if done is None:
        return None
    value = done.value
    text = None if value is None else str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"
    ends = chain([stands for stands in seen.expected if stands is not None]).value
    said = None if seen.extracted is None else normalise(seen.extracted)
    told: dict[str, Any] = {
        "equations": done.equations,
        "holds": done.holds,
        "linked": done.linked,
        "value": text,
        "is_the_steps": None if ends is None else value == ends,
        "is_the_said_answer": None,
        "is_the_true_answer": None,
    }
    if seen.covers_last:  # otherwise the chain ends before the answer
        told["is_the_said_answer"] = same(value, said)
        told["is_the_true_answer"] = same(value, normalise(seen.example.answer))
    return told


def _pieces(model: Model) -> Callable[[str], frozenset[str]]:
    """A function from a number to its tokens' texts, without white space."""
    backbone = model.method.backbone

    def of(number: str) -> frozenset[str]:
        return frozenset(text for token in backbone.encode(number) if (text := spelled(backbone, token).strip()))

    return of


def figures(model: Model, seen: Sequence[ObservedProblem]) -> dict[str, Any]:
    """Figures over some problems; see docs/guides/inspector.md."""
    told = {
        "accuracy": _rate([one.correct for one in seen]),
        **_lie(model, [one.latents_KD[: one.fed] for one in seen]),
        **_read(model, seen),
    }
    shares = [one.attention_shares for one in seen if one.attention_shares is not None]
    if shares:
        most = max(len(share.latents) for share in shares)
        told["attention"] = {
            "latents": mean(sum(share.latents) for share in shares),
            "by_latent": [mean(s.latents[k] for s in shares if k < len(s.latents)) for k in range(most)],
            "by_layer": _by_layer(shares, most),
            "before": mean(share.before for share in shares),
            "rest": mean(share.rest for share in shares),
            "a_latent": mean(mean(share.latents) for share in shares if share.latents),
            "a_question_position": mean(share.before / share.positions for share in shares if share.positions),
        }
    chains = [told_ for one in seen if (told_ := chaining(one)) is not None]
    if chains:
        behind = sum(max(told_["equations"] - 1, 0) for told_ in chains)
        told["chaining"] = {
            "holds": _share(sum(t["holds"] for t in chains), sum(t["equations"] for t in chains)),
            "linked": _share(sum(t["linked"] for t in chains), behind),
            "is_the_steps": _rate([t["is_the_steps"] for t in chains if t["is_the_steps"] is not None]),
            "is_the_said_answer": _rate([t["is_the_said_answer"] for t in chains if t["is_the_said_answer"] is not None]),
            "is_the_true_answer": _rate([t["is_the_true_answer"] for t in chains if t["is_the_true_answer"] is not None]),
        }
    return told


def _by_layer(shares: Sequence[AttentionShares], latents: int) -> list[list[float]]:
    """The mean share of the answer's attention on each latent, [layers][latents]."""
    rows = zip(*(share.layers for share in shares), strict=True)
    return [[mean(row[k] for row in layer if k < len(row)) for k in range(latents)] for layer in rows]


def _lie(model: Model, rows: Sequence[Tensor]) -> dict[str, Any]:
    """Geometry of the latents, and their mean similarity by number."""
    lies = geometry(rows, vocabulary_centre(model.method.backbone))
    most = max(map(len, rows), default=0)
    whole = [torch.nn.functional.normalize(row, dim=-1) for row in rows if len(row) == most]
    similar = torch.stack([row @ row.T for row in whole]).mean(dim=0).tolist() if whole and most else []
    return {"geometry": None if lies is None else dataclasses.asdict(lies), "similarity": similar}


def _read(model: Model, seen: Sequence[ObservedProblem]) -> dict[str, Any]:
    """How much of the true steps is recovered by nearest words and decoded steps."""
    c = model.method.latents_per_group
    steps = [one.example.steps for one in seen]
    expected = [one.expected for one in seen]
    words = [[frozenset(word.text.strip() for word in latent) for latent in one.words.read] for one in seen]
    groups = [
        [frozenset().union(*places[g * c : (g + 1) * c]) for g in range(len(stands))]
        for places, stands in zip(words, expected, strict=True)
    ]
    told: dict[str, Any] = {"words": recovered(steps, expected, words, groups, _pieces(model)), "steps": None}
    if all(one.decoded is not None for one in seen):
        said = [[said_in(step) for step in one.decoded or ()] for one in seen]
        told["steps"] = recovered(steps, expected, said, said, lambda number: {number})
        matches = [
            same_step(decoded, stands)
            for one in seen
            for decoded, stands in zip(one.decoded or (), one.expected, strict=True)
            if stands is not None
        ]
        told["steps"]["equal"] = _share(sum(matches), len(matches))
    return {"recovery": told}


def _rate(hits: Sequence[bool]) -> dict[str, Any]:
    one = rate(hits)
    return {"found": one.correct, "n": one.n, "value": one.value if one.n else None,
            "interval": list(one.interval) if one.n else None}  # fmt: skip


def _share(found: int, n: int) -> dict[str, Any]:
    """A share without interval, because steps of one problem are not independent."""
    return {"found": found, "n": n, "value": found / n if n else None}


@torch.inference_mode()
def thought_of(model: Model, examples: Sequence[Example], latents: int) -> list[ObservedProblem]:
    """What is seen of some problems that are thought about, but not answered. Latents are on the host."""
    with at_rest(model.method):
        return _thought_of(model, examples, latents) if examples else []


def _thought_of(model: Model, examples: Sequence[Example], latents: int) -> list[ObservedProblem]:
    method = model.method
    trace = model.think([example.question for example in examples], latents=latents)
    words = words_of(method.backbone, trace)
    thoughts = model.explain(trace) if model.explains else None
    seen = []
    for b, example in enumerate(examples):
        n = int(trace.counts_B[b])
        expected, whole = stands_for(model, example, n // method.latents_per_group)
        silent = Answer(text="", tokens=(), finished=False, latents=n, passes=0, positions=0, seconds=0.0)
        seen.append(
            ObservedProblem(
                example=example, answer=silent, correct=False, extracted=None, latents_KD=trace.latents_BKD[b, :n].cpu(),
                words=words[b], fed=min(latents, n), decoded=None if thoughts is None else thoughts[b], expected=expected,
                covers_last=whole, attention_shares=None,
            )
        )  # fmt: skip
    return seen


def stability_row(model: Model, seen: Sequence[ObservedProblem]) -> dict[str, Any] | None:
    """The stability figures of some problems (`thought_of`), as logged by the monitor. None without latents."""
    lies = geometry([one.latents_KD[: one.fed] for one in seen], vocabulary_centre(model.method.backbone))
    if lies is None:
        return None
    read = _read(model, seen)["recovery"]
    told = {"words": _values(read["words"]["anywhere"])}
    if read["steps"] is not None:
        told["steps"] = _values(read["steps"]["anywhere"])
    return {**dataclasses.asdict(lies), "recovery": told}


def _values(kinds: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {kind: told["value"] for kind, told in kinds.items()}
