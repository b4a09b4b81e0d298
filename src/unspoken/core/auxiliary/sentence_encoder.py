"""Sentence embeddings of texts and latents, by some of the base model's own layers or any sentence encoder.

    text     base model below the first layer (frozen)  ->  copies of some layers, final norm  ->  mean  ->  head
    latents  the same way: they are read as input embeddings, behind what the tokenizer puts before a text

Another sentence encoder (`kind="model"`) has its own tokenizer; latents enter it through a linear layer. Shapes: N texts, B
rows, K latents, T positions, D width of the base, H width inside the encoder, E width of an embedding.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from unspoken.core.config import config_class
from unspoken.core.embeddings import input_table, text_config
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.hf import layer_list
from unspoken.core.lm.pretrained import check_finite, check_place, first_line, load_tokenizer
from unspoken.errors import BackboneError, ConfigError, DataError

LAYERS = 5
"""Default number of base model layers in an encoder (models/semcot.py: 16 to 20 of 32)."""


@config_class
class EncoderConfig:
    """Settings of the encoder that turns reasoning into one vector."""

    kind: Literal["layers", "model"] = "layers"  # layers of the base model, or a sentence encoder of one's own
    first: int | None = None  # "layers": the first one, from 0; None = the one in the middle
    last: int | None = None  # "layers": the last one, included; None = the fifth from `first` on, or the base's last
    path: str | None = None  # "model": hub id or folder; its states are averaged, as sentence-transformers does
    width: int | None = 768  # E, behind a linear layer; None = the mean of the states itself
    attention: Literal["causal", "bidirectional"] = "causal"  # "layers": as the base was trained, or as released
    # "layers": how latents enter the first layer: through the layers below it, like text, or directly (released)
    latents: Literal["embeddings", "states"] = "embeddings"

    def __post_init__(self) -> None:
        if (self.kind == "model") != (self.path is not None):
            raise ConfigError("an encoder of kind 'model' needs 'path', and only that kind takes one")
        if self.kind == "model" and (self.first, self.last) != (None, None):
            raise ConfigError("an encoder of kind 'model' has no 'first' and 'last'; they are layers of the base model")
        if self.width is not None and self.width < 1:
            raise ConfigError(f"encoder.width must be at least 1, or null for none, got {self.width}")

    def range(self, depth: int) -> tuple[int, int]:
        """First and last layer for a base model with this many.

        Raises:
            ConfigError: it has no such layers.
        """
        first = depth // 2 if self.first is None else self.first
        last = min(first + LAYERS, depth) - 1 if self.last is None else self.last
        if not 0 <= first <= last < depth:
            raise ConfigError(
                f"encoder layers must satisfy 0 <= first <= last < {depth}, the base model's number, got {first} and {last}"
            )
        return first, last


class SentenceEncoder(nn.Module):
    """Turns reasoning, as text or as latents, into one vector.

    Args:
        config: its settings.
        backbone: the base model, used but not owned: layers below the first copied one run in it.

    Raises:
        ConfigError: the base model has no such layers, or its attention cannot be made bidirectional.
        BackboneError: the family's layers cannot be run on their own, or there is no usable model at the path.
    """

    def __init__(self, config: EncoderConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self._base: Backbone
        object.__setattr__(self, "_base", backbone)  # used, not owned: its parameters are not this module's
        self.body: Any
        if config.kind == "layers":
            self.first, last = config.range(len(layer_list(backbone.lm)))
            if config.attention == "bidirectional" and backbone.lm.config._attn_implementation not in ("sdpa", "eager"):
                raise ConfigError("encoder.attention=bidirectional needs backbone.attention=sdpa or eager")
            self.body = _slice(backbone, self.first, last)
            self.bridge: nn.Module = nn.Identity()
            self.prefix = backbone.encode("", special=True)
        else:
            self.body, self.tokenizer = _sentence_model(str(config.path))
            self.bridge = nn.Linear(backbone.width, input_table(self.body).weight.shape[1])
        hidden = int(text_config(self.body).hidden_size)
        self.head = nn.Identity() if config.width is None else nn.Linear(hidden, config.width)

    def train(self, mode: bool = True) -> SentenceEncoder:
        """Dropout stays off, because embeddings of texts are targets."""
        super().train(mode)
        self.body.eval()
        return self

    @property
    def context(self) -> int | None:
        """The most tokens of a text."""
        if self.config.kind == "layers":
            return self._base.context
        return getattr(text_config(self.body), "max_position_embeddings", None)

    def encode(self, text: str, name: str = "") -> tuple[int, ...]:
        """Token ids of a text in the encoder's own vocabulary, including its tokenizer's special tokens.

        Raises:
            DataError: it is too long.
        """
        if self.config.kind == "layers":
            ids = self._base.encode(text, special=True)
        else:
            ids = tuple(self.tokenizer(text)["input_ids"])
        if self.context is not None and len(ids) > self.context:
            raise DataError(
                f"{name or 'a text'}: its reasoning is too long for the encoder: {len(ids)} tokens, the most is "
                f"{self.context}; shorten it, or drop the row"
            )
        return ids

    def pooled(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Token ids of N texts -> mean states [N, H] before the head, with gradient into the encoder's own layers."""
        mask_NT = _mask([len(ids) for ids in texts])
        ids_NT = np.zeros(mask_NT.shape, dtype=np.int64)
        for row, ids in zip(ids_NT, texts, strict=True):
            row[: len(ids)] = ids
            row[len(ids) :] = ids[0] if ids else 0  # padding repeats a real token, because NaN would show through a mask
        device = self._base.device
        ids, mask = torch.from_numpy(ids_NT).to(device), torch.from_numpy(mask_NT).to(device)
        if self.config.kind == "model":
            return self._mean(mask, input_ids=ids)
        with torch.no_grad():
            states = self._base.below(self.first, self._base.embed(ids), positions_BT=_positions(mask), mask=mask.long())
        return self._mean(mask, inputs_embeds=states)

    def embed(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Token ids of N texts -> embeddings [N, E]."""
        return self.project(self.pooled(texts))

    def project(self, pooled_NH: Tensor) -> Tensor:
        """Apply the head in its own precision."""
        weight = next(self.head.parameters(), pooled_NH)
        return self.head(pooled_NH.to(weight.dtype))

    def embed_latents(self, latents_BKD: Tensor, counts_B: np.ndarray) -> Tensor:
        """Latents -> embeddings [B, E], with gradient into the latents.

        Args:
            latents_BKD: vectors of the base model's input space.
            counts_B: how many of them are real, at least 1.
        """
        counted = torch.from_numpy(_mask(counts_B.tolist())).to(latents_BKD.device)
        latents_BKD = latents_BKD[:, : counted.shape[1]]
        if self.config.kind == "model":
            fed = self.bridge(latents_BKD.to(next(self.bridge.parameters()).dtype))
            return self.project(self._mean(counted, inputs_embeds=fed.to(self.body.dtype)))
        states = latents_BKD.to(self.body.dtype)
        mask = counted
        if self.config.latents == "embeddings":
            before = torch.tensor(self.prefix, dtype=torch.long, device=states.device)
            before = self._base.embed(before)[None].expand(len(states), -1, -1)
            states = torch.cat([before.to(states.dtype), states], dim=1)
            mask = torch.cat([counted.new_ones(len(states), len(self.prefix)), counted], dim=1)
            states = self._base.below(self.first, states, positions_BT=_positions(mask), mask=mask.long())
        return self.project(self._mean(mask, inputs_embeds=states))

    def _mean(self, mask_NT: Tensor, **fed: Tensor) -> Tensor:
        """The body's last states, averaged over real positions, in fp32: [N, H]."""
        seen: Tensor = mask_NT.long()
        if self.config.kind == "layers":
            fed["position_ids"] = _positions(mask_NT)
            if self.config.attention == "bidirectional":
                # Every position attends to every real one; padding does too, and is left out of the average.
                seen = mask_NT[:, None, None, :].expand(-1, 1, mask_NT.shape[1], -1)
                if self.body.config._attn_implementation == "eager":  # adds its mask
                    floor = torch.finfo(self.body.dtype).min
                    seen = torch.zeros(seen.shape, dtype=self.body.dtype, device=seen.device).masked_fill(~seen, floor)
            states = fed.pop("inputs_embeds").to(self.body.dtype)
            states_NTH = _through(self.body, states, attention_mask=seen, **fed).float()
        else:
            states_NTH = self.body(attention_mask=seen, **fed).last_hidden_state.float()
        return (states_NTH * mask_NT[:, :, None]).sum(dim=1) / mask_NT.sum(dim=1, keepdim=True)

    @contextlib.contextmanager
    def constant(self) -> Iterator[None]:
        """Context manager: the encoder gets no gradients, except for the latents' input layer."""
        bridge = {id(p) for p in self.bridge.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad and id(p) not in bridge]
        try:
            for p in trained:
                p.requires_grad_(False)
            yield
        finally:
            for p in trained:
                p.requires_grad_(True)


def _mask(lengths: Sequence[int]) -> np.ndarray:
    """[N, T], true where a row has a position."""
    return np.arange(max(lengths, default=0))[None, :] < np.asarray(lengths)[:, None]


def _positions(mask_NT: Tensor) -> Tensor:
    """The place of each column in its row."""
    return torch.arange(mask_NT.shape[1], device=mask_NT.device).expand(len(mask_NT), -1)


def _slice(backbone: Backbone, first: int, last: int) -> PreTrainedModel:
    """A model of the base's family made of copies of some of its layers and its final norm.

    Raises:
        BackboneError: it does not give the base model's states.
    """
    lm: Any = backbone.plain()
    config = copy.deepcopy(lm.config)
    text = config.get_text_config()
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = last - first + 1, 1, None
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[first : last + 1]
    body: Any = AutoModel.from_config(
        config, trust_remote_code=False, dtype=lm.dtype, attn_implementation=lm.config._attn_implementation
    )
    theirs = lm.base_model.state_dict()
    layers = layer_list(body)
    for mine, source in zip(layers, layer_list(lm)[first : last + 1], strict=True):
        mine.load_state_dict(source.state_dict())
    inside = {id(t) for t in layers.state_dict(keep_vars=True).values()}
    with torch.no_grad():
        for name, tensor in body.state_dict(keep_vars=True).items():
            if id(tensor) not in inside and name in theirs and theirs[name].shape == tensor.shape:  # not the table of words
                tensor.copy_(theirs[name])
    body.to(backbone.device).eval()
    _check_slice(backbone, body, first)
    return body


def _through(body: PreTrainedModel, states_NTH: Tensor, **fed: Tensor) -> Tensor:
    """The last states of a body whose first layer is given states directly.

    Whatever a family does to embeddings before its first layer (add positions, scale, normalise) is skipped.
    """

    def enter(
        _: nn.Module, given: tuple[object, ...], named: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        if given:
            return (states_NTH, *given[1:]), named
        return given, {**named, "hidden_states": states_NTH}

    handle = layer_list(body)[0].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        return body(inputs_embeds=states_NTH, use_cache=False, **fed).last_hidden_state
    finally:
        handle.remove()


def _check_slice(backbone: Backbone, body: PreTrainedModel, first: int) -> None:
    """Compare the output of each copied layer with the base model's; freeze parameters that are skipped (tables)."""
    training, made = backbone.lm.training, []
    backbone.lm.eval()
    ids = torch.arange(1, 5, device=backbone.device)[None] % backbone.vocabulary
    positions = torch.arange(4, device=backbone.device)[None]
    hooks = [
        layer.register_forward_hook(lambda _, given, out: made.append(out[0] if isinstance(out, tuple) else out))
        for layer in layer_list(body)
    ]
    try:
        with torch.no_grad():
            want = backbone.states(backbone.embed(ids), positions_BT=positions)
            entered = backbone.below(first, backbone.embed(ids), positions_BT=positions)
        with torch.enable_grad():
            end = _through(body, entered.detach(), position_ids=positions)
            layers = {id(p) for p in layer_list(body).parameters()}
            around = [p for p in body.parameters() if id(p) not in layers]
            gradients = torch.autograd.grad(end.sum(), around, allow_unused=True) if around else ()
    finally:
        backbone.lm.train(training)
        for hook in hooks:
            hook.remove()
    for p, gradient in zip(around, gradients, strict=True):
        p.requires_grad_(gradient is not None)
    # The base model's last states are after its final norm, as ours are.
    got = [*made[:-1], end] if first + len(made) == len(want) - 1 else made
    pairs = zip(got, want[first + 1 :], strict=False)
    if not all(torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-3) for a, b in pairs):
        raise BackboneError(
            f"{type(backbone.lm).__name__}: its layers, run by themselves, do not give its own states, so they make no "
            "encoder; take a sentence encoder instead (encoder.kind=model, encoder.path=...)"
        )


def _sentence_model(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sentence encoder and its tokenizer.

    Raises:
        BackboneError: there is no usable model at the path.
    """
    try:
        check_place(path)
        tokenizer = load_tokenizer(path, path)
        loaded: Any = AutoModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False)
    except BackboneError:
        raise
    except Exception as error:  # transformers, tokenizers and hub each raise their own kinds
        first = first_line(error)
        raise BackboneError(
            f"cannot load a sentence encoder from {path}: {first}; give a Hugging Face folder or a hub id"
        ) from error
    model, found = loaded
    # The pooler is not used, so its weights may be missing.
    if missing := sorted(key for key in found["missing_keys"] if not key.startswith("pooler.")):
        raise BackboneError(f"{path} lacks {len(missing)} of the encoder's weights (first: {missing[0]!r}); it is truncated")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    check_finite(model, path)
    return model, tokenizer
