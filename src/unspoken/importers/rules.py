"""Account for every tensor of a checkpoint: each key is mapped, dropped with a reason, or named in an error.

A layout is a table of rules; the first that matches a key decides.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unspoken.errors import CheckpointError

SHOWN = 12
"""Number of names that an error lists before it only counts the rest."""


@dataclass(frozen=True, kw_only=True)
class KeyRule:
    """A rule for keys. Exactly one of `target` and `reason` is set.

    Attributes:
        pattern: a key of the file; at most one *, which matches one or more characters.
        target: our name for it, with * if the pattern has one; None = dropped.
        reason: why it is dropped.
        same_as: a target; the key is dropped only if its tensor equals that target's, and is an error otherwise.
    """

    pattern: str
    target: str | None = None
    reason: str | None = None
    same_as: str | None = None

    def __post_init__(self) -> None:
        assert (self.target is None) != (self.reason is None), "a rule maps a key or drops it"
        assert self.pattern.count("*") <= 1
        assert self.target is None or self.target.count("*") == self.pattern.count("*")
        assert self.same_as is None or self.reason is not None

    def fits(self, key: str) -> bool:
        """Whether the rule matches a key."""
        return _star(self.pattern, key) is not None

    def target_of(self, key: str) -> str | None:
        """Our name for a matching key; None if it is dropped."""
        star = _star(self.pattern, key)
        assert star is not None
        return None if self.target is None else self.target.replace("*", star)

    def key_of(self, target: str) -> str | None:
        """The key that this rule would map to a target, or None."""
        star = None if self.target is None else _star(self.target, target)
        return None if star is None else self.pattern.replace("*", star)


def _star(pattern: str, text: str) -> str | None:
    """What a pattern's * matches in a text ("" without *); None if the text does not match."""
    head, star, tail = pattern.partition("*")
    if not star:
        return "" if text == pattern else None
    fits = len(text) > len(head) + len(tail) and text.startswith(head) and text.endswith(tail)
    return text[len(head) : len(text) - len(tail)] if fits else None


@dataclass(kw_only=True)
class Mapped:
    """A checkpoint under our names.

    Attributes:
        rules: the table that was applied.
        seen: all keys of the file.
        tensors: target -> tensor.
        keys: target -> the key or keys it was made from.
        dropped: key -> reason.
        unknown: keys that no rule matches.
    """

    rules: tuple[KeyRule, ...]
    seen: frozenset[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def name(self, target: str) -> str:
        """The key under which the file has, or should have, a target.

        Several rules may lead to one target (a weight with LoRA and one without). Layers are alike, so the rule that
        matched another layer's key is used, else the last and most general one.
        """
        if target in self.keys:
            return self.keys[target][0]
        possible = [key for rule in self.rules if (key := rule.key_of(target)) is not None]
        forms = {any_number(key) for key in self.seen}
        return next((key for key in possible if any_number(key) in forms), possible[-1] if possible else target)


def any_number(key: str) -> str:
    """A name that all layers share."""
    return re.sub(r"\d+", "0", key)


def rename(rules: Sequence[KeyRule], tensors: Mapping[str, Tensor]) -> Mapped:
    """Apply a table to a checkpoint. Keys without a rule are collected in `unknown`, which `require` reports.

    Raises:
        CheckpointError: two keys map to the same target, or a tensor that should repeat another differs from it.
    """
    mapped = Mapped(rules=tuple(rules), seen=frozenset(tensors))
    repeats: list[tuple[str, str]] = []
    for key, tensor in tensors.items():
        rule = next((rule for rule in rules if rule.fits(key)), None)
        if rule is None:
            mapped.unknown.append(key)
        elif (target := rule.target_of(key)) is None:
            mapped.dropped[key] = str(rule.reason)
            if rule.same_as is not None:
                repeats.append((key, rule.same_as))
        elif target in mapped.tensors:
            raise CheckpointError(
                f"{mapped.keys[target][0]} and {key} are two names of one tensor; the file is a mixture of checkpoints: "
                "take another copy"
            )
        else:
            mapped.tensors[target] = tensor
            mapped.keys[target] = (key,)
    for key, target in repeats:
        if target in mapped.tensors and not _equal(tensors[key], mapped.tensors[target]):
            raise CheckpointError(
                f"{key} should repeat {mapped.name(target)}, but differs from it; which of the two counts cannot be known: "
                "check --base, or take another copy of the file"
            )
    return mapped


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.dtype), b)


def require(mapped: Mapped, wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that a checkpoint has every wanted target, in its shape, of finite numbers, and nothing else.

    Args:
        mapped: what `rename` made of it.
        wanted: target -> shape.
        where: the beginning of the message.

    Raises:
        CheckpointError: lists missing keys (with the nearest unknown one), unknown keys, wrong shapes and wrong numbers.
    """
    strange = [key for target in mapped.tensors if target not in wanted for key in mapped.keys[target]]
    unknown = sorted({*mapped.unknown, *strange})
    missing = [mapped.name(target) for target in wanted if target not in mapped.tensors]
    wrong = [
        f"{mapped.name(target)} is {list(tensor.shape)}, expected {list(wanted[target])}"
        for target, tensor in mapped.tensors.items()
        if target in wanted and tuple(tensor.shape) != tuple(wanted[target])
    ]
    faults = []
    if missing:
        named = [_beside(key, unknown) for key in missing[:SHOWN]] + missing[SHOWN:]
        faults.append(f"{len(missing)} missing: {listed(named)}")
    if unknown:
        faults.append(f"{len(unknown)} unknown: {listed(unknown)}")
    if wrong:
        faults.append(f"{len(wrong)} of another shape: {listed(wrong)}")
    if whole := [mapped.name(name) for name, tensor in mapped.tensors.items() if not tensor.is_floating_point()]:
        faults.append(f"{len(whole)} of whole numbers, perhaps quantized: {listed(whole)}")
    if not faults and (odd := [mapped.name(name) for name, tensor in mapped.tensors.items() if not tensor.isfinite().all()]):
        raise CheckpointError(
            f"{where}: nan or inf in {listed(odd)}; the file is damaged, or training had diverged: take another copy"
        )
    if faults:
        raise CheckpointError(
            f"{where}: {'; '.join(faults)}; expected each tensor of the model and no other; check --base (and "
            "--assistant), or take another copy of the file"
        )


def _beside(key: str, unknown: Sequence[str]) -> str:
    """A missing key, with the unknown one that it may have been renamed to."""
    near = difflib.get_close_matches(key, unknown, n=1, cutoff=0.75)
    return f"{key} (did you mean {near[0]}?)" if near else key


def listed(names: Iterable[str]) -> str:
    """Names in one line; a long list is cut and counted."""
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
