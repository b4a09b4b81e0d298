"""Soft thinking (`core/loop/soft.py`) of a model: whether it can, and what ends its thinking."""

from __future__ import annotations

from unspoken.core.loop.soft import SoftPlan, SoftThinking
from unspoken.errors import ConfigError
from unspoken.methods.base import Method


def soft_plan(method: Method, mark: str, soft: SoftThinking | str) -> SoftPlan:
    """How a model thinks softly.

    Args:
        method: what answers.
        mark: the text that ends the thinking it writes; "" = not known (`Model.mark`).
        soft: the settings, or their text.

    Raises:
        ConfigError: settings that are none, a method with latents of its own, or one without a known end of thinking.
    """
    how = SoftThinking.parse(soft) if isinstance(soft, str) else soft
    if not isinstance(how, SoftThinking):
        raise ConfigError(f"soft must be soft thinking, e.g. 'soft' or 'switch,limit=512', got {soft!r:.60}")
    if method.latents_per_group:
        raise ConfigError("soft thinking is for models that write their thinking; this one has latents of its own")
    if how.kind != "chain" and not (mark or how.until or how.limit):
        raise ConfigError("nothing is known to end this model's thinking; add until=TEXT or limit=N to the soft thinking")
    return SoftPlan.of(method.backbone, how, mark)
