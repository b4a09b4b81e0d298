"""Export a run as a plain Hugging Face folder, which transformers can load and use without unspoken.

    config.json, model.safetensors, tokenizer, generation_config.json    weights (LoRA merged) and how the run speaks
    README.md                                                            the model card
    custom_generate/                                                     methods with latents only:
        generate.py              `exporters/hf_generate.py`, which takes the place of `model.generate`
        thoughts.json            markers, number of latents, layers of the projection
        projection.safetensors   where latents are projected
        requirements.txt         checked by transformers

What a method does at inference is derived from its `prompt` and `source`; a method that does more is refused. Greedy
answers are unspoken's, token for token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from unspoken.core.files import check_new, write_folder
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.ways import ways_of
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence, are_learned
from unspoken.core.rows.row import Row
from unspoken.core.tensors import save_tensors
from unspoken.core.text.template import Template, question_ids
from unspoken.errors import ConfigError
from unspoken.exporters.hf_generate import FORMAT, TENSORS, Layer, ThoughtsFile, project
from unspoken.exporters.model_card import card
from unspoken.methods.base import Method
from unspoken.runs.directory import RunDir
from unspoken.runs.saved import own_state
from unspoken.runs.stage import own_latents

GENERATE = Path(__file__).with_name("hf_generate.py")
"""The code copied into the folder."""

REQUIREMENTS = "torch>=2.6\ntransformers>=5.16\nsafetensors>=0.5\n"
"""Requirements of `generate.py`, the same as unspoken's own."""

PROBES = (
    "Ann has 18 figs. She sells full dozens. How many figs has Ann?",
    "  spaces before,  two inside and a line break\nbehind it \n",
    "12,345.67 * (-8) / 9% = $1? \"quoted\" 'so' {question} {{ braces }} {% if %} <tag> & \\n",
    "naïve café, Ω ≈ 3.14, 数学の問題, 🙂",
    "?",
)
"""Questions for which a chat template must give exactly the method's tokens."""


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """What `generate.py` needs to think as a method does.

    Attributes:
        about: `thoughts.json`.
        tensors: `projection.safetensors`; empty if latents are not projected.
    """

    about: ThoughtsFile
    tensors: dict[str, Tensor] = field(default_factory=dict)


def export_hf(path: str | Path, out: str | Path) -> None:
    """Write a Hugging Face folder with what inference needs.

    Args:
        path: a run directory, or a model in the package ("builtin:tiny").
        out: a new folder.

    Raises:
        RunError: `path` is no run, `out` exists and is not empty, or it cannot be written.
        ConfigError: the format cannot represent what the method does at inference.
    """
    source = RunDir(path)
    check_new(out)
    config = source.config()
    method = source.load_method(at_inference=True).at_inference
    method.eval()
    thoughts = thoughts_of(method, own_latents(source.path))
    backbone, tokenizer = method.backbone, method.backbone.tokenizer
    if thoughts is not None:
        family, way = type(backbone.lm).__name__, ways_of(backbone.lm).answering
        if thoughts.about["thoughts"] == "recurrent" and way in ("stepwise", "replayed"):
            raise _refusal(method.config.name, f"a {family} of transformers begins anew in passes of several tokens")
        thoughts.about["padding"] = way == "padded"
    # The base model's own settings (sampling, penalties, chat) are not what this model was trained for.
    backbone.lm.generation_config = generation_config(backbone, config.speaking)
    tokenizer.chat_template = chat_template(method)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only what is in init_kwargs is saved
    text = card(source, thoughts.about if thoughts else None, template_of(method).question, bool(tokenizer.chat_template))

    def write(folder: Path) -> None:
        folder.mkdir()
        backbone.save(folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
        if thoughts is None:
            return
        beside = folder / "custom_generate"
        beside.mkdir()
        shutil.copyfile(GENERATE, beside / "generate.py")
        (beside / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        (beside / "thoughts.json").write_text(json.dumps(thoughts.about, indent=1, ensure_ascii=False), encoding="utf-8")
        if thoughts.tensors:
            save_tensors(beside / "projection.safetensors", thoughts.tensors)

    write_folder(out, write, then="export again")


def thoughts_of(method: Method, latents: int | None = None) -> Thoughts | None:
    """How a method thinks, derived from its prompts and source; None if it has no latents and answers like any model.

    Args:
        latents: default number of latents for `generate`; None = the method's default.

    Raises:
        ConfigError: it does more than `generate.py` can do.
    """
    name, source, template = method.config.name, method.source(), template_of(method)
    source = None if are_learned(source) else source
    question = question_ids(method.backbone, template, PROBES[0])
    trained = method.prompt(PROBES[0], latents)
    if not method.latents_per_group:
        behind = trained.ids[len(question) :]
        for probe in PROBES:
            asked = question_ids(method.backbone, template, probe)
            if method.prompt(probe).ids != (*asked, *behind) or source is not None:
                raise _refusal(name, "its prompt is not the question and fixed tokens, though it has no thoughts")
        _refuse_more(method, ())
        return Thoughts(about=_about(method, "none", trained, before=behind)) if behind or trained.num_eos > 1 else None
    one = method.prompt(PROBES[0], 1)
    before, slot, after = one.ids[len(question) : one.start], one.ids[one.start], one.ids[one.start + 1 :]
    for row in (one, trained, method.prompt(PROBES[0], 0)):
        if row.ids != (*question, *before, *(slot,) * row.latents, *after):
            raise _refusal(name, "its prompt is not: question, tokens, a latent's slot repeated, tokens")
    if method.backbone.parallel is not None:
        raise _refusal(name, "its latents are made in parallel passes (thinking.parallel); one after the other was expected")
    if source is not None and type(source) is not Recurrence:
        raise _refusal(name, f"its latents come from {type(source).__name__}; a hidden state fed back was expected")
    transform = None if source is None else source.transform
    layers, tensors = ([], {}) if transform is None else projection(transform, name, method.backbone.width)
    _refuse_more(method, tuple(transform.state_dict(keep_vars=True).values()) if isinstance(transform, nn.Module) else ())
    kind = "tokens" if source is None else "recurrent"
    return Thoughts(about=_about(method, kind, trained, before, slot, after, layers), tensors=tensors)


def template_of(method: Method) -> Template:
    """The template of a method's prompts.

    Raises:
        ConfigError: the prompts contain more than that.
    """
    if method.template is None:
        raise _refusal(method.config.name, "another model thinks for it; `export --prompt-embeds` writes what serves it")
    return method.template


def _about(
    method: Method,
    thoughts: str,
    trained: Row,
    before: tuple[int, ...],
    slot: int | None = None,
    after: tuple[int, ...] = (),
    layers: list[Layer] | None = None,
) -> ThoughtsFile:
    """`thoughts.json`."""
    tokenizer = method.backbone.tokenizer
    markers = {tokenizer.convert_ids_to_tokens(i): i for i in (*before, slot, *after) if i is not None}
    return {
        "format": FORMAT,
        "thoughts": thoughts,
        "num_latents": trained.latents,
        "before": list(before),
        "slot": slot,
        "after": list(after),
        "ends": trained.num_eos,
        "markers": markers,
        # A tokenizer's own special tokens, such as bos, may be in a prompt; added ones may not.
        "reserved": [text for text, number in markers.items() if number not in tokenizer.all_special_ids],
        "projection": layers or [],
    }


def _refusal(name: str, why: str) -> ConfigError:
    return ConfigError(f"method {name!r} cannot be exported to a Hugging Face folder: {why}; use --format run")


def _refuse_more(method: Method, exported: tuple[Tensor, ...]) -> None:
    """Refuse a method with tensors that the export would not include."""
    known = {id(tensor) for tensor in exported}
    if left := sorted(name for name, tensor in own_state(method, answering=True).items() if id(tensor) not in known):
        raise _refusal(method.config.name, f"it has tensors that the folder has no place for, e.g. {left[0]!r}")


@torch.no_grad()
def projection(module: Callable[[Tensor], Tensor], name: str, width: int) -> tuple[list[Layer], dict[str, Tensor]]:
    """A projection as a list of layers and their tensors, without layers that do nothing at inference.

    Args:
        module: Linear, GELU, LayerNorm, Dropout, Identity, or a Sequential of those; in `eval` mode.
        name: the method's, for messages.
        width: of a state.

    Raises:
        ConfigError: another layer, or a module that does more than its layers.
    """
    layers: list[Layer] = []
    tensors: dict[str, Tensor] = {}
    for layer in _flat(module):
        # Exact types, because a subclass may do something else with the same attributes.
        if type(layer) in (nn.Dropout, nn.Identity):
            continue
        if type(layer) is nn.Linear:
            about: Layer = {"layer": "linear", "tensors": []}
        elif type(layer) is nn.GELU:
            about = {"layer": "gelu", "tensors": [], "approximate": layer.approximate}
        elif type(layer) is nn.LayerNorm:
            about = {"layer": "layer_norm", "tensors": [], "shape": list(layer.normalized_shape), "eps": layer.eps}
        else:
            raise _refusal(
                name,
                f"its projection has a {type(layer).__name__}; Linear, GELU, LayerNorm, Dropout, Identity and Sequential "
                "are known",
            )
        about["tensors"] = [part for part in TENSORS[about["layer"]] if getattr(layer, part) is not None]
        tensors |= {f"{len(layers)}.{part}": getattr(layer, part) for part in about["tensors"]}
        layers.append(about)
    states = torch.randn(16, width, generator=torch.Generator().manual_seed(0)).to(
        next(iter(tensors.values()), torch.empty(0))
    )
    if not torch.allclose(project(layers, tensors, states), module(states), rtol=1e-4, atol=1e-5):
        raise _refusal(name, f"its projection, {type(module).__name__}, does more than its layers one after the other")
    return layers, tensors


def _flat(module: object) -> Iterator[object]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _flat(child)
    else:
        yield module


def generation_config(backbone: Backbone, speaking: SamplingParams) -> GenerationConfig:
    """A run's sampling settings as a generation config of transformers, which has no seed."""
    more: dict[str, Any] = {"do_sample": False}
    if speaking.temperature > 0:
        more = {"do_sample": True, "temperature": speaking.temperature, "top_p": speaking.top_p, "top_k": speaking.top_k}
    return GenerationConfig(
        max_new_tokens=speaking.max_new_tokens,
        eos_token_id=list(backbone.eos_ids),
        pad_token_id=backbone.tokenizer.pad_token_id,
        bos_token_id=getattr(backbone.lm.generation_config, "bos_token_id", None),
        **more,
    )


def chat_template(method: Method) -> str | None:
    """A chat template that gives the method's question tokens for one user message; None if none gives exactly those."""
    backbone, template = method.backbone, template_of(method)
    bare, whole = backbone.encode(PROBES[0]), backbone.encode(PROBES[0], special=True)
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    if not starts:
        return None
    tokens = backbone.tokenizer.convert_ids_to_tokens
    opening = "".join(tokens(list(whole[: starts[0]])))
    closing = "".join(tokens(list(whole[starts[0] + len(bare) :])))
    text = (opening + template.question + closing).split("{question}")
    # Literals stand in quotes: Jinja drops a line break at the end of a template.
    literals = [f"{{{{ {json.dumps(part, ensure_ascii=False)} }}}}" if part else "" for part in text]
    result = (
        "{% if messages | length != 1 or messages[0].role != 'user' or messages[0].content is not string "
        "or not messages[0].content | trim %}"
        "{{ raise_exception('this model takes one question: a single user message with a text') }}{% endif %}"
    ) + "{{ messages[0].content | trim }}".join(literals)
    for question in PROBES:
        got = backbone.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], chat_template=result, add_generation_prompt=True, return_dict=False
        )
        if tuple(got) != question_ids(backbone, template, question.strip()):
            return None
    return result
