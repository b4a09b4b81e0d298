"""`generate` of an exported latent model: think in latents, then speak. Stands alone: no part of unspoken is imported.

`unspoken export --format hf` copies this file to `custom_generate/generate.py`; transformers uses the function as
`model.generate` when the folder is loaded with `trust_remote_code=True`. Next to it are `thoughts.json` (marker tokens,
number of latents, layers of the projection) and, if latents are projected, `projection.safetensors`.

    row:  question (the caller's) | before | latents | after | answer

A latent is the last hidden state (after the final norm) of the position before it, projected if there is a projection; or,
if `thoughts` is "tokens", a fixed token's embedding. If it is "none", there are no latents: `before` is appended to the
question, and each answer ends at its last eos (`ends`) instead of its first. Shapes: B rows, P columns of the prompt, W
columns of a pass, S columns so far, D width, K latents, V words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, Protocol, TypedDict, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging
from transformers.utils.hub import cached_file

FORMAT = 2
"""Version of `thoughts.json` that this file reads."""

TENSORS = {"linear": ("weight", "bias"), "gelu": (), "layer_norm": ("weight", "bias")}
"""Layers a projection may have, and the tensors of each."""

_SETTINGS = ("do_sample", "temperature", "top_p", "top_k", "eos_token_id", "pad_token_id")
_LENGTHS = ("max_new_tokens", "max_length")
_WITHOUT_EFFECT = ("bos_token_id", "use_cache", "disable_compile", "tokenizer", "transformers_version", "_from_model_config")
_OFF_AT_ONE = ("num_beams", "num_beam_groups", "num_return_sequences", "typical_p")


class Linear(TypedDict):
    """A layer of a projection: weight, and bias where it has one."""

    layer: Literal["linear"]
    tensors: list[str]


class Gelu(TypedDict):
    """The same, without tensors."""

    layer: Literal["gelu"]
    tensors: list[str]
    approximate: str


class LayerNorm(TypedDict):
    """The same, over dimensions of a shape."""

    layer: Literal["layer_norm"]
    tensors: list[str]
    shape: list[int]
    eps: float


Layer = Linear | Gelu | LayerNorm


class ThoughtsFile(TypedDict):
    """What `thoughts.json` holds."""

    format: int
    thoughts: str
    num_latents: int
    before: list[int]
    slot: int | None
    after: list[int]
    ends: int
    markers: dict[str, int]
    reserved: list[str]
    projection: list[Layer]
    padding: NotRequired[bool]


class _Speaking(TypedDict):
    """How to choose tokens, and when to end."""

    do_sample: bool
    temperature: float
    top_p: float
    top_k: int
    eos_token_id: list[int]
    pad_token_id: int
    max_new_tokens: int


class _Model(Protocol):
    """A causal LM of transformers, as far as it is asked here."""

    __call__: Callable[..., Any]
    base_model: Callable[..., Any]
    config: Any
    generation_config: Any
    name_or_path: str

    def get_input_embeddings(self) -> nn.Embedding: ...
    def get_output_embeddings(self) -> nn.Linear: ...
    def _supports_logits_to_keep(self) -> bool: ...


@torch.no_grad()
def generate(
    inputs: Tensor | None = None,
    *,
    model: _Model,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    num_latents: int | None = None,
    return_latents: bool = False,
    generation_config: GenerationConfig | None = None,
    streamer: BaseStreamer | None = None,
    stopping_criteria: Sequence[StoppingCriteria] | None = None,
    **settings: object,
) -> Any:
    """Think about questions and answer them.

    Args:
        inputs, input_ids: the questions [B, P] as written by the tokenizer's chat template; either name. The markers around
            the latents are added here.
        model: filled in by transformers.
        attention_mask: [B, P], 0 for padding, which is on the left. Optional without padding.
        num_latents: number of latents; None = as many as at the end of training.
        return_latents: also return the latents as they were fed.
        generation_config: overrides the model's settings.
        streamer: receives the prompt, then every token as it is chosen.
        stopping_criteria: transformers' stopping criteria, applied to prompt and answer.
        settings: max_new_tokens (or max_length, which counts the prompt but not the latents), do_sample; if sampling,
            temperature, top_p and top_k (0 = all); eos_token_id, pad_token_id. Sampling uses torch's generator.

    Returns:
        [B, P + longest answer]: prompt and answer, eos included, padded on the right, without the latents. With
        `return_latents`, a pair of that and the latents [B, K, D].

    Raises:
        ValueError: an unusable argument, or an incomplete export.
    """
    thinking = _thinking(model)
    ids_BP, mask_BP = _prompt(model, inputs, input_ids, attention_mask, thinking.reserved)
    if not thinking.padding and not bool(mask_BP.all()):
        raise ValueError("padding would change the answers of this model; give questions of one length, or one at a time")
    latents = _number(num_latents, thinking)
    say = _say(model, generation_config, settings, ids_BP.shape[1])
    _check_context(model, mask_BP, latents + len(thinking.before) + len(thinking.after), say["max_new_tokens"])

    run = _Run(model)
    embed = model.get_input_embeddings()
    before_BW, slot_BK, after_BW = (
        ids_BP.new_tensor(ids).expand(len(ids_BP), -1)
        for ids in (thinking.before, [thinking.slot] * latents, thinking.after)
    )
    if thinking.recurrent and latents:
        head_BW = torch.cat([ids_BP, before_BW], dim=1)
        state_BD = run.states(embed(head_BW), _behind(mask_BP, head_BW))
        thoughts = []
        for number in range(latents):
            thoughts.append(thinking.next(state_BD))
            if number < latents - 1:
                state_BD = run.states(thoughts[-1][:, None].to(embed.weight.dtype))
        latents_BKD = torch.stack(thoughts, dim=1)
        # The last latent and what follows it go in one pass.
        after_BWD = embed(after_BW)
        logits_BV = run.logits(torch.cat([latents_BKD[:, -1:].to(after_BWD), after_BWD], dim=1))
    else:
        head_BW = torch.cat([ids_BP, before_BW, slot_BK, after_BW], dim=1)
        latents_BKD = embed(slot_BK)
        logits_BV = run.logits(embed(head_BW), _behind(mask_BP, head_BW))

    sequences = ids_BP
    ends = ids_BP.new_tensor(say["eos_token_id"])
    criteria = StoppingCriteriaList(stopping_criteria or [])
    done_B = torch.zeros(len(ids_BP), dtype=torch.bool, device=ids_BP.device)
    seen_B = torch.zeros_like(done_B, dtype=torch.long)  # eos
    if streamer is not None:
        streamer.put(ids_BP.cpu())
    for left in reversed(range(say["max_new_tokens"])):
        token_B = torch.where(done_B, say["pad_token_id"], _choose(logits_BV, say).to(ids_BP.device))
        sequences = torch.cat([sequences, token_B[:, None]], dim=1)
        if streamer is not None:
            streamer.put(token_B.cpu())
        seen_B = seen_B + torch.isin(token_B, ends)
        done_B = done_B | (seen_B >= thinking.ends)
        if criteria:
            done_B = done_B | criteria(sequences, None).to(done_B.device)  # pyright: ignore[reportArgumentType] -- criteria that ask for scores have none to get
        if done_B.all() or not left:
            break
        logits_BV = run.logits(embed(token_B[:, None]))
    if streamer is not None:
        streamer.end()
    return (sequences, latents_BKD) if return_latents else sequences


class _Thinking:
    """The settings next to this file, checked against the model."""

    def __init__(self, model: _Model) -> None:
        about = _read(model)
        self.where = model.name_or_path
        self.recurrent = about["thoughts"] == "recurrent"
        self.latents = about["num_latents"]
        self.before, self.slot, self.after = about["before"], about["slot"], about["after"]
        self.ends = about["ends"]
        self.padding = about.get("padding", True)  # False: the layers keep a state, which padding would change
        self.reserved: dict[int, str] = {about["markers"][text]: text for text in about["reserved"]}
        self.layers = about["projection"]
        self.tensors = self._projection(model) if self.layers else {}
        _check_markers(model, about["markers"])

    def _projection(self, model: _Model) -> dict[str, Tensor]:
        """The projection's tensors; all of them, and no others."""
        tensors = load_file(_file(model, "projection.safetensors"))
        names = {f"{n}.{name}" for n, layer in enumerate(self.layers) for name in layer["tensors"]}
        if names != set(tensors):
            raise ValueError(
                f"projection.safetensors of {self.where} does not fit thoughts.json beside it: expected {sorted(names)}, "
                f"got {sorted(tensors)}; take both from the same export"
            )
        return tensors

    def next(self, state_BD: Tensor) -> Tensor:
        """The latents that follow states."""
        return project(self.layers, self.tensors, state_BD)


class _Run:
    """One batch being forwarded: the cache, and masks and positions of every pass.

    Padding is only on the left of a row, so a row's positions count its real columns.
    """

    def __init__(self, model: _Model) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.keep = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        self.mask_BS: Tensor | None = None
        self.length_B: Tensor | None = None

    def _pass(self, embeds_BWD: Tensor, mask_BW: Tensor | None) -> dict[str, Any]:
        if mask_BW is None:
            mask_BW = torch.ones(embeds_BWD.shape[:2], dtype=torch.long, device=embeds_BWD.device)
        length_B = mask_BW.new_zeros(len(mask_BW)) if self.length_B is None else self.length_B
        positions_BW = (length_B[:, None] + mask_BW.cumsum(dim=1) - 1).clamp(min=0)
        self.length_B = length_B + mask_BW.sum(dim=1)
        self.mask_BS = mask_BW if self.mask_BS is None else torch.cat([self.mask_BS, mask_BW], dim=1)
        return {
            "inputs_embeds": embeds_BWD,
            "attention_mask": None if self.mask_BS.all() else self.mask_BS,
            "position_ids": positions_BW,
            "past_key_values": self.cache,
            "use_cache": True,
        }

    def states(self, embeds_BWD: Tensor, mask_BW: Tensor | None = None) -> Tensor:
        """Feed columns; the states [B, D] after the final norm at the last one. The head is not run."""
        hidden_BWD = self.model.base_model(**self._pass(embeds_BWD, mask_BW)).last_hidden_state
        return hidden_BWD[:, -1].to(embeds_BWD.device)

    def logits(self, embeds_BWD: Tensor, mask_BW: Tensor | None = None) -> Tensor:
        """Feed columns; the model's own logits [B, V] at the last one."""
        return self.model(**self._pass(embeds_BWD, mask_BW), **self.keep).logits[:, -1]


def project(layers: Sequence[Layer], tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """A projection, from the description of its layers; each layer works in the type of its weights."""
    for n, layer in enumerate(layers):
        weight, bias = (tensors.get(f"{n}.{name}") for name in ("weight", "bias"))
        x = x if weight is None else x.to(weight.dtype)
        if layer["layer"] == "gelu":
            x = F.gelu(x, approximate=layer["approximate"])
        elif layer["layer"] == "layer_norm":
            x = F.layer_norm(x, layer["shape"], weight, bias, layer["eps"])
        else:
            assert weight is not None
            x = F.linear(x, weight, bias)
    return x


def _thinking(model: _Model) -> _Thinking:
    """The thoughts' settings, read once per model; on the device that the model is on now."""
    thinking = getattr(model, "_unspoken_thinking", None)
    if thinking is None or thinking.where != model.name_or_path:
        thinking = vars(model)["_unspoken_thinking"] = _Thinking(model)
    device = model.get_input_embeddings().weight.device
    thinking.tensors = {name: tensor.to(device) for name, tensor in thinking.tensors.items()}
    return thinking


def _revision() -> str:
    """The commit this file was loaded from, where the model comes from the hub: transformers keeps it in such a folder."""
    return os.path.basename(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _file(model: _Model, name: str) -> str:
    """A file next to this one. (Not found by `__file__`, because transformers runs a copy.)"""
    where = model.name_or_path
    revision = _revision()
    from_hub = len(revision) == 40  # a commit; copies of local folders lie in folders of 16 digits
    if not from_hub and not os.path.isdir(where):
        raise ValueError(
            f"the folder {where!r} that this model was loaded from is not there, and generate needs its "
            f"custom_generate/{name}; if the working directory has changed, load the model from an absolute path"
        )
    try:
        found = cached_file(where, f"custom_generate/{name}", revision=revision if from_hub else None)
    except OSError as error:
        raise ValueError(
            f"{where} has no custom_generate/{name}, without which this model cannot think; copy the exported folder whole, "
            "or export the run again"
        ) from error
    assert found is not None
    return found


def _read(model: _Model) -> ThoughtsFile:
    """`thoughts.json`."""
    path = _file(model, "thoughts.json")
    try:
        with open(path, encoding="utf-8") as file:
            about = json.load(file)
        got = about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken ({error}); export the run again") from error
    if got != FORMAT:
        raise ValueError(f"{path} has format {got!r}, expected {FORMAT}; it and generate.py come from different exports")
    return about


def _check_markers(model: _Model, markers: dict[str, int]) -> None:
    """Check that model and tokenizer have the marker tokens, which a checkpoint of the base model lacks."""
    if not markers:
        return
    where, last = model.name_or_path, max(markers, key=markers.__getitem__)
    for part, table in (("input embedding", model.get_input_embeddings()), ("head", model.get_output_embeddings())):
        rows = table.weight.shape[0]
        if markers[last] >= rows:
            raise ValueError(
                f"the {part} of {where} lacks rows: it has {rows}, and the marker token {last!r} is number {markers[last]}; "
                "these are the base model's weights, restore the exported ones"
            )
    revision = _revision()
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision if len(revision) == 40 else None)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} has no tokenizer that can be read; copy the exported folder whole") from error
    for text, number in markers.items():
        if (got := tokenizer.convert_tokens_to_ids(text)) != number:
            raise ValueError(
                f"the tokenizer of {where} lacks the marker token {text!r}: expected number {number}, got {got}; "
                "it was replaced by another model's, restore the exported one"
            )


def _prompt(
    model: _Model, inputs: Tensor | None, input_ids: Tensor | None, mask: Tensor | None, reserved: dict[int, str]
) -> tuple[Tensor, Tensor]:
    """The questions and their mask, on the model's device."""
    if (inputs is None) == (input_ids is None):
        raise ValueError("generate needs the questions once, as input_ids [rows, columns]; the chat template makes them")
    ids = inputs if inputs is not None else input_ids
    if not isinstance(ids, Tensor) or ids.ndim != 2 or 0 in ids.shape or ids.is_floating_point():
        got = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"input_ids must be whole numbers [rows, columns], at least one of each, got {got}")
    ids_BP = ids.to(model.get_input_embeddings().weight.device)
    if mask is None:
        pad = model.generation_config.pad_token_id
        if len(ids_BP) > 1 and bool((ids_BP[:, 0] == pad).any()):
            raise ValueError("input_ids begin with the padding token in some row; pass the tokenizer's attention_mask too")
        mask = torch.ones_like(ids_BP)
    if mask.shape != ids_BP.shape:
        raise ValueError(f"attention_mask must be as large as input_ids {tuple(ids_BP.shape)}, got {tuple(mask.shape)}")
    mask_BP = (mask != 0).long().to(ids_BP.device)
    if not bool(mask_BP[:, -1].all()) or bool((mask_BP.diff(dim=1) < 0).any()):
        raise ValueError("questions must be padded on the left, got padding behind a token; set padding_side='left'")
    for number, text in reserved.items():
        if (rows := ((ids_BP == number) & (mask_BP > 0)).any(dim=1)).any():
            raise ValueError(
                f"row {int(rows.nonzero()[0])} contains the marker {text!r}, which is reserved for thoughts; pass the "
                "question alone, generate adds the markers"
            )
    return ids_BP, mask_BP


def _behind(mask_BP: Tensor, head_BW: Tensor) -> Tensor:
    """The mask of a prompt and what is appended to it."""
    return F.pad(mask_BP, (0, head_BW.shape[1] - mask_BP.shape[1]), value=1)


def _number(given: object, thinking: _Thinking) -> int:
    """How many latents to think."""
    trained = thinking.latents
    if given is None:
        return trained
    if thinking.slot is None and given != 0:
        raise ValueError(f"this model thinks without latents: num_latents must be 0 or None, got {given!r}")
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"num_latents must be a whole number, 0 or more, or None (as trained: {trained}), got {given!r}")
    return given


def _say(model: _Model, config: GenerationConfig | None, given: Mapping[str, object], prompt: int) -> _Speaking:
    """Sampling settings: from the call, else from the given config, else from the model's."""
    own = model.generation_config
    sources: list[Mapping[str, Any]] = [given, config.to_dict() if config is not None else {}, own.to_dict()]
    for source in sources:
        _refuse_unknown(source)
    say: dict[str, Any] = {
        name: next((source[name] for source in sources if source.get(name) is not None), None) for name in _SETTINGS
    }
    lengths = next((source for source in sources if any(source.get(name) is not None for name in _LENGTHS)), {})
    most = lengths.get("max_new_tokens")
    if most is None and lengths.get("max_length") is not None:
        most = lengths["max_length"] - prompt
    if most is None or isinstance(most, bool) or most < 1:
        raise ValueError(f"the answer must have room for at least 1 token, got {most}; give max_new_tokens")
    eos = say["eos_token_id"]
    eos = [eos] if isinstance(eos, int) else list(eos or [])
    say |= {"max_new_tokens": int(most), "eos_token_id": eos}
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "pad_token_id": next(iter(eos), 0)}
    say |= {name: value for name, value in defaults.items() if say[name] is None}
    if not say["do_sample"]:
        if any(given.get(name) is not None for name in ("temperature", "top_p", "top_k")):
            logging.get_logger(__name__).warning_once("temperature, top_p and top_k have no effect without do_sample=True")
    elif not say["temperature"] > 0 or not 0 < say["top_p"] <= 1 or say["top_k"] < 0:
        got = {name: say[name] for name in ("temperature", "top_p", "top_k")}
        raise ValueError(f"sampling needs temperature > 0, top_p in (0, 1] and top_k 0 or more, got {got}")
    return cast("_Speaking", say)


def _refuse_unknown(settings: Mapping[str, object]) -> None:
    """Refuse options that would be ignored, unless they have no effect."""
    for name, value in settings.items():
        if name in (*_SETTINGS, *_LENGTHS, *_WITHOUT_EFFECT) or value is None or value is False:
            continue
        off = (0, 1) if name in _OFF_AT_ONE or name.endswith("penalty") else (0,)
        if isinstance(value, (int, float)) and value is not True and value in off:
            continue
        known = ", ".join((*_LENGTHS, *_SETTINGS))
        raise ValueError(f"this model's generate does not take {name}={value!r:.60}; it takes num_latents, {known}")


def _check_context(model: _Model, mask_BP: Tensor, thoughts: int, most: int) -> None:
    """Refuse rows that do not fit. The last token of an answer is never fed."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = int(mask_BP.sum(dim=1).max()) + thoughts
    if context is not None and length + most - 1 > context:
        raise ValueError(
            f"too long: {length} positions of question and thoughts + {most} answer tokens, the model's context is "
            f"{context}; shorten the question or max_new_tokens"
        )


def _choose(logits_BV: Tensor, say: _Speaking) -> Tensor:
    """The next token of every row."""
    if not say["do_sample"]:
        return logits_BV.argmax(dim=-1)
    ordered_BV, order_BV = (logits_BV.float() / say["temperature"]).sort(dim=-1, descending=True, stable=True)
    if say["top_k"]:
        ordered_BV[:, say["top_k"] :] = -torch.inf
    p_BV = ordered_BV.softmax(dim=-1)
    p_BV = p_BV.masked_fill(p_BV.cumsum(dim=-1) - p_BV >= say["top_p"], 0.0) if say["top_p"] < 1 else p_BV
    return order_BV.gather(1, torch.multinomial(p_BV, 1)).squeeze(1)
