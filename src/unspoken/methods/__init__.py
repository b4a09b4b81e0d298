"""The methods: one file and one line of this table each. A method is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unspoken.core.checks import latents_asked
from unspoken.core.config import lookup, named

if TYPE_CHECKING:
    from unspoken.core.lm.backbone import Backbone
    from unspoken.methods.base import Method, MethodConfig

METHODS = {
    "cot": "unspoken.methods.cot:Cot",
    "coconut": "unspoken.methods.coconut:Coconut",
    "codi": "unspoken.methods.codi:Codi",
    "distill": "unspoken.methods.distill:Distill",
    "lotus": "unspoken.methods.lotus:Lotus",
    "mux": "unspoken.methods.mux:Mux",
    "icot_si": "unspoken.methods.icot_si:IcotSi",
    "pause": "unspoken.methods.pause:Pause",
    "sim_cot": "unspoken.methods.sim_cot:SimCot",
    "softcot": "unspoken.methods.softcot:SoftCot",
    "softcot_pp": "unspoken.methods.softcot_pp:SoftCotPp",
    "step_weighted": "unspoken.methods.step_weighted:StepWeighted",
    "semcot": "unspoken.methods.semcot:SemCot",
    "semcot_generator": "unspoken.methods.semcot_generator:SemCotGenerator",
}


def method_config(data: str | Mapping[str, object] | MethodConfig) -> Any:
    """`{"name": "coconut", ...}`, a name, or a method's config -> a checked config.

    Raises:
        ConfigError: unknown method (with a did-you-mean) or wrong field.
    """
    return named(METHODS, "method", data)


def make_method(data: str | Mapping[str, object] | MethodConfig, backbone: Backbone) -> Method:
    """Build a method on a base model. The method owns the backbone from then on, and adds its tokens to it.

    Raises:
        ConfigError: unknown method, wrong field, or more latents than the base model has positions.
    """
    config = method_config(data)
    method = lookup(METHODS, config.name, "method")
    latents_asked(method.most_latents(config), backbone.context)
    made = method(config, backbone)
    made.parts()  # they are needed when it is first saved; a mistake in them is met now
    return made


__all__ = ["METHODS", "make_method", "method_config"]
