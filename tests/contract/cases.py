"""Every method configuration that the contract is held against, on tiny random backbones."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from support import backbones

from unspoken.core.config import build
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.runs.config import RunConfig
from unspoken.runs.start import build_method

FAMILIES = ("gpt2", "llama", "qwen3")

EXAMPLES = (
    Example(id="two", question="Ann has 3 pens and buys 4 more. She doubles them. How many pens?",
            steps=("<<3+4=7>>", "<<7*2=14>>"), answer="14"),
    Example(id="one", question="Bob has 9 figs. He eats 2. How many?", steps=("<<9-2=7>>",), answer="7"),
    Example(id="four", question="Eve walks 2 km in the morning and 3 km at noon each day. After 7 days, how many pens?",
            steps=("<<2+3=5>>", "<<5*7=35>>", "<<35+8=43>>", "<<43*1=43>>"), answer="43"),
    Example(id="none", question="How many?", steps=(), answer="1"),
    Example(id="three", question="A box holds 6 pens. Ann buys 5 boxes. 4 are left. How many then?",
            steps=("<<6*5=30>>", "she then buys 4", "<<30+4=34>>"), answer="-1,234.5"),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method's settings, LoRA on top of them or not, and what of the base model they train."""

    method: dict[str, Any] = field(hash=False)
    lora: bool = False
    frozen: bool = False  # none of the base model's own weights train
    rows: bool = False  # only the rows of new tokens train


def _coconut(**more: Any) -> dict[str, Any]:
    return {"name": "coconut", "first_stage": 0, **more}


def _codi(**more: Any) -> dict[str, Any]:
    return {"name": "codi", "latents": 4, **more}


def _lotus(**more: Any) -> dict[str, Any]:
    return {"name": "lotus", "latents_per_step": 3, "max_stage": 3, **more}


def _pause(**more: Any) -> dict[str, Any]:
    return {"name": "pause", "marker_init": "pens", **more}


def _weighted(**more: Any) -> dict[str, Any]:
    return {"name": "step_weighted", **more}


def _sim_cot(**more: Any) -> dict[str, Any]:
    return {"name": "sim_cot", "inner": _coconut(), "max_step_tokens": 6, **more}


LORA = {"lora": {"r": 4, "alpha": 8.0}}
"""An assistant of another family, with adapters that train."""

TEACHER = "teacher"
"""Stands for a model of the base model's family, with its tokenizer."""

ANOTHER = "another"
"""Stands for an assistant of another family than the base model's."""


def _softcot(**more: Any) -> dict[str, Any]:
    texts = {"assistant": "{latents} words for: {question}", "opening": "Words: ", "hint": "({slots})\n"}
    return {"name": "softcot", "assistant": ANOTHER, "latents": 4, "texts": texts, **more}


def _softcot_pp(**more: Any) -> dict[str, Any]:
    return {"name": "softcot_pp", "softcot": _softcot(), "chains": 3, **more}


def _generator(**more: Any) -> dict[str, Any]:
    texts = {"assistant": "Q: {question}", "base": "{question}{thoughts}\n", "answer": "= {answer}"}
    return {"name": "semcot_generator", "assistant": ANOTHER, "latents": 4, "texts": texts, **more}


def _semcot(**more: Any) -> dict[str, Any]:
    return {"name": "semcot", "inner": _generator(), "encoder": {"width": 20}, "condensed": "rule", **more}


CASES = {
    "cot": Case({"name": "cot"}),
    "no-cot": Case({"name": "cot", "steps": False}),
    "coconut": Case(_coconut()),
    "coconut progressive": Case(_coconut(curriculum="progressive", latents_per_step=1)),
    "coconut at once": Case(_coconut(curriculum="none", pad_to_max=False)),
    "coconut pause": Case(_coconut(thoughts="pause")),
    "coconut unfed": Case(_coconut(thoughts="unfed")),
    "coconut mixing": Case(_coconut(mixing="proportional", latents_per_step=3)),
    "coconut lora": Case(_coconut(), lora=True),
    "lotus": Case(_lotus()),
    "distill lotus": Case({"name": "distill", "inner": _lotus(), "teacher": TEACHER}),
    "sim_cot lotus lora": Case(_sim_cot(inner=_lotus(supervise="each", injection="replace")), lora=True),
    "sim_cot": Case(_sim_cot()),
    "sim_cot layers": Case(_sim_cot(decoder={"kind": "layers", "layers": 1, "embeddings": "own"}, surplus="spread")),
    "sim_cot token": Case(_sim_cot(normalisation="token", missing="visible", weight=0.5)),
    "sim_cot lora": Case(_sim_cot(), lora=True),
    "sim_cot states": Case(_sim_cot(inner=_coconut(thoughts="unfed"), reads="states")),
    "codi": Case(_codi()),
    "codi bare": Case(_codi(projection=False, distance="l2", scale="none", include_last_step=True)),
    "codi iterations": Case(_codi(iterations=2, projection=False, compare_embeddings=False)),
    "mux codi": Case({"name": "mux", "inner": _codi()}),
    "codi lora": Case(_codi(projection_norm=False, projection_width=20, distance="l1"), lora=True),
    "icot_si": Case({"name": "icot_si", "remove_all_beyond": 4, "smoothing": 0.5}),
    "icot_si right": Case(
        {
            "name": "icot_si",
            "remove_all_beyond": 9,
            "remove_from": 6,
            "side": "right",
            "keep_position": True,
            "pretrain_epochs": 1,
        }
    ),
    "icot_si lora": Case({"name": "icot_si", "remove_all_beyond": 2, "keep_position": True, "smoothing": None}, lora=True),
    "pause": Case(_pause()),
    "pause steps": Case(_pause(pauses=2, steps=True)),
    "pause rows": Case(_pause(pauses=3, trains="pauses"), rows=True),
    "pause lora": Case(_pause(), lora=True),
    "sim_cot pause": Case(_sim_cot(inner=_pause(pauses=4))),
    "sim_cot codi": Case(_sim_cot(inner=_codi(latents_per_step=2))),
    "step_weighted": Case(_weighted()),
    "step_weighted window": Case(_weighted(mode="window", multiplier=3.0, segmenter="steps")),
    "step_weighted lora": Case(_weighted(multiplier=1.5, track=False), lora=True),
    "step_weighted coconut": Case(_weighted(inner=_coconut(latents_per_step=1))),
    "step_weighted codi": Case(_weighted(inner=_codi(), mode="window")),
    "step_weighted icot_si": Case(_weighted(inner={"name": "icot_si", "remove_all_beyond": 4, "smoothing": None})),
    "step_weighted pause": Case(_weighted(inner=_pause(pauses=2, steps=True))),
    "sim_cot step_weighted codi": Case(_sim_cot(inner=_weighted(inner=_codi(latents_per_step=2)))),
    "sim_cot step_weighted": Case(_sim_cot(inner=_weighted(inner=_coconut(curriculum="progressive")))),
    "sim_cot codi lora": Case(_sim_cot(inner=_codi(latents=2, trailing=True), normalisation="group"), lora=True),
    "softcot": Case(_softcot(), frozen=True),
    "softcot trained": Case(_softcot(base_trains=True, steps=False, texts={"base": "{thoughts}\n{question}\n"})),
    "softcot first": Case(_softcot(texts={"base": "{thoughts}{question}\n"}), frozen=True),
    "softcot lora": Case(_softcot(assistant=LORA), lora=True),
    "softcot_pp": Case(_softcot_pp(), frozen=True),
    "softcot_pp first": Case(_softcot_pp(softcot=_softcot(texts={"base": "{thoughts}{question}\n"})), frozen=True),
    "softcot_pp lora": Case(_softcot_pp(softcot=_softcot(assistant=LORA), contrast_weight=1.0), lora=True),
    "sim_cot softcot_pp": Case(_sim_cot(inner=_softcot_pp(chains=2)), frozen=True),
    "sim_cot softcot": Case(_sim_cot(inner=_softcot(latents_per_step=2)), frozen=True),
    "semcot_generator": Case(_generator(), frozen=True),
    "semcot_generator lora": Case(_generator(assistant=LORA, warmup={"epochs": 0}), lora=True),
    "semcot": Case(_semcot(), frozen=True),
    "semcot released": Case(
        _semcot(encoder={"first": 0, "width": 12, "attention": "bidirectional", "latents": "states"}, temperature=1.0),
        frozen=True,
    ),
    "semcot bare": Case(
        _semcot(
            inner=_generator(latents=2, warmup={"epochs": 0}),
            encoder={"width": None, "first": 0, "last": 0},
            encoder_warmup={"epochs": 0},
            encoder_training={"epochs": 0},
        ),
        frozen=True,
    ),
    "semcot lora": Case(_semcot(inner=_generator(assistant=LORA)), lora=True),
    "sim_cot semcot": Case(_sim_cot(inner=_semcot(inner=_generator(latents_per_step=2))), frozen=True),
}
"""A method joins the contract with a line here."""

MORE_CELLS = {"step_weighted": ("nanochat",), "sim_cot step_weighted": ("nanochat",)}
"""Cells beside the matrix: a method on the family that it was written for."""

EVERYWHERE = ("coconut lora", "pause rows", "sim_cot layers", "semcot released")
"""Configurations that touch what families have of their own: names of layers, tied heads, heads of attention."""


def families_of(name: str) -> tuple[str, ...]:
    """The families on which a case is tried: all for the first case of a method, one, in turns, for further settings.

    What a setting does is the method's own, and what a family does meets each method; half of the cells lose nothing.
    """
    first = next(case for case in CASES if case.split()[0] == name.split()[0])
    number = sum(name.encode())  # stays when other cases join
    chosen = FAMILIES if name == first or name in EVERYWHERE else (FAMILIES[number % len(FAMILIES)],)
    return (*chosen, *MORE_CELLS.get(name, ()))


def settings(name: str, family: str = "llama") -> dict[str, Any]:
    """A case's method settings on a family of backbones."""

    def filled(data: dict[str, Any]) -> dict[str, Any]:
        return {key: _assistant(family, value) if key == "assistant" and isinstance(value, (str, dict))
                else backbones.settings(family) if value == TEACHER
                else filled(value) if isinstance(value, dict) and key != "texts" else value
                for key, value in data.items()}  # fmt: skip

    return filled(CASES[name].method)


def _assistant(family: str, more: object) -> dict[str, Any]:
    """A random model of another family, with another width and tokenizer."""
    other = {"gpt2": "qwen3", "llama": "gpt2", "qwen3": "llama", "nanochat": "gpt2"}[family]
    width = "n_embd" if other == "gpt2" else "hidden_size"
    arch = {**backbones.ARCHS[other], width: 24, "initializer_range": 0.2}
    return {"arch": arch, "tokenizer": "builtin:tiny-tokenizer", **(more if isinstance(more, dict) else {})}


def make(name: str, family: str, seed: int = 0) -> Any:
    """A case's method on a fresh random backbone, built as training builds it."""
    return built(settings(name, family), family, CASES[name].lora, seed)


def built(method: dict[str, Any], family: str, lora: bool = False, seed: int = 0) -> Any:
    """A method of some settings, LoRA or not, through `build_method`, which is how a run begins."""
    more = {"lora": {"r": 4, "alpha": 8.0}} if lora else {}
    config = {
        "backbone": {**backbones.settings(family), **more},
        "method": method,
        "task": "tiny",
        "train": {"steps": 1},
    }
    torch.manual_seed(seed)
    made: Any = build_method(build(RunConfig, config))
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        # New rows start alike. Apart, no two tokens have equal logits, and greedy choices are not left to rounding.
        for weight in {id(w): w for w in tables(made)}.values():
            weight[OLD_WORDS:].add_(torch.randn_like(weight[OLD_WORDS:]) * 0.2)
        for key, value in made.named_parameters():
            if "trainable_tokens_delta" in key:  # rows that train alone are kept apart from their table
                value.add_(torch.randn_like(value) * 0.2)
            if "lora_B" in key:  # starts at 0, and lora_A would get no gradient
                value.normal_(std=0.1)
    return made.eval()


OLD_WORDS = len(backbones.tokenizer())
"""Words before a method adds its own."""


def tables(method: Any) -> list[torch.Tensor]:
    """Input embedding and head of the base model."""
    lm = method.backbone.lm
    return [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]


def recurrent(method: Any) -> bool:
    """Whether latents are made one after the other; those of a prompt, and pause tokens, are there before."""
    source = method.source()
    return source is not None and not isinstance(source, PrecomputedThoughts)


@functools.cache
def shared(name: str, family: str) -> Any:
    """The case's method, for tests that leave it as they found it."""
    return make(name, family)


def training_rows(method: Any) -> list[Row]:
    """Every example at every stage, short and long rows in turns."""
    stages = [phase.stage for phase in method.curriculum().phases]
    return [method.layout(example, stage, Random(f"{i}/{example.id}"))
            for i, stage in enumerate(stages) for example in EXAMPLES]  # fmt: skip


def prompts(method: Any) -> list[Row]:
    """Every question, with numbers of latents from 0 to 13 where the method takes them."""
    latents = (0, 13, 1, 6, 2) if method.latents_per_group else (0,)
    asked = [(example, n) for n in latents for example in EXAMPLES]
    return [method.prompt(e.question, n, e.id) for e, n in asked[:: 3 if len(latents) > 1 else 1]]  # every n, every e
