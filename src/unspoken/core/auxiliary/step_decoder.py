"""A decoder that writes the step a thought group stands for. It sees the group's latents and nothing else.

It is a `CausalLM` like the backbone, so the same loop trains it and generates with it, all groups of a batch in one call.
Shapes: M thought groups, C latents per group, D width of the latents, T positions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from unspoken.core.config import config_class
from unspoken.core.embeddings import input_table, output_head, text_config
from unspoken.core.fast import packing
from unspoken.core.fast.activation_checkpointing import recomputing
from unspoken.core.lm.backbone import SHARD, Backbone, BackboneConfig, head_logits
from unspoken.core.lm.hf import layer_list
from unspoken.core.lm.loading import load_backbone
from unspoken.core.lm.ways import columns_limit, new_cache, ways_of
from unspoken.core.loop.loop import Loop, unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.trace import Cost, Trace
from unspoken.core.losses import cross_entropy_sum
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.protocol import PassOptions
from unspoken.core.rows.row import unlabelled
from unspoken.errors import ConfigError


@config_class
class StepDecoderConfig:
    """Settings of the model that explains the latents."""

    kind: Literal["copy", "layers", "model"] = "copy"  # a full copy of the base, its first layers, or another LM
    layers: int = 1  # for "layers": how many
    path: str | None = None  # for "model": hub id or folder; its tokenizer must be the base model's
    embeddings: Literal["base", "own"] = "base"  # whose table embeds the step's tokens; the released code takes the base's
    first_position: int = 1  # position id of the first latent; the released Coconut half counts from 1, the CODI half from 0
    dropout: bool = False  # the decoder's own, in training; off in the released Coconut half, on in the CODI half

    def __post_init__(self) -> None:
        if (self.kind == "model") != (self.path is not None):
            raise ConfigError("a step decoder of kind 'model' needs 'path', and only that kind takes one")
        if self.layers < 1:
            raise ConfigError(f"a step decoder needs at least 1 layer, got {self.layers}")


def _first_layers(backbone: Backbone, layers: int) -> nn.Module:
    """A causal LM of the base's family with the base's first layers, embeddings, final norm and head.

    Raises:
        ConfigError: the base has fewer layers.
    """
    depth = text_config(backbone.lm).num_hidden_layers
    if layers > depth:
        raise ConfigError(f"decoder.layers is {layers}, the base model has {depth}; use at most as many")
    config = copy.deepcopy(backbone.lm.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]
    lm = AutoModelForCausalLM.from_config(config, dtype=backbone.lm.dtype, trust_remote_code=False)
    state = backbone.plain().state_dict()
    lm.load_state_dict({key: value for key, value in state.items() if key in lm.state_dict()}, strict=False)
    lm.tie_weights()
    return lm


class StepDecoder(nn.Module):
    """The auxiliary decoder of SIM-CoT.

    Args:
        config: which model.
        backbone: the base model; its embedding table is used, but not owned, if the config says so.

    Raises:
        ConfigError: another LM with a vocabulary that differs from the base's.
    """

    def __init__(self, config: StepDecoderConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.spent = Cost()  # by the last call of `read`
        self.checkpointing = False  # see `Backbone`
        self.agree: Callable[[int], int] | None = None  # see `CausalLM`
        self.parallel: int | None = None  # it thinks nothing
        self.lm: Any
        self._base: Backbone
        object.__setattr__(self, "_base", backbone)  # used, not owned: its parameters are not this module's
        if config.kind == "copy":
            self.lm = copy.deepcopy(backbone.plain())
        elif config.kind == "layers":
            self.lm = _first_layers(backbone, config.layers)
        else:
            other = load_backbone(BackboneConfig(path=config.path), fits=False)
            check_vocabulary(backbone, other, f"step decoder {config.path!r}")
            self.lm = other.lm
        self.lm.requires_grad_(True)
        ways_of(self.lm)
        packing.takes_packing(self.lm)
        table = input_table(self.lm).weight
        if config.embeddings == "base" and output_head(self.lm).weight is not table:
            table.requires_grad_(False)  # an untied table that nothing looks up would only drift by weight decay
        width = input_table(self.lm).weight.shape[1]
        self.project = nn.Identity() if width == backbone.width else nn.Linear(backbone.width, width)

    def train(self, mode: bool = True) -> StepDecoder:
        """Keep the decoder's dropout off, unless the config says otherwise."""
        super().train(mode)
        self.lm.train(mode and self.config.dropout)
        return self

    @property
    def named(self) -> None:
        """None: it trains, so it is always saved."""
        return

    def save(self, folder: Path) -> None:
        """Write it, with the base model's tokenizer, as an ordinary Hugging Face folder."""
        self.lm.save_pretrained(folder, max_shard_size=SHARD)
        self._base.tokenizer.save_pretrained(folder)

    def restore(self, folder: Path) -> None:
        """It has no adapters."""

    @property
    def device(self) -> torch.device:
        """Its device."""
        return input_table(self.lm).weight.device

    @property
    def context(self) -> int | None:
        """The most positions it takes."""
        most = getattr(text_config(self.lm), "max_position_embeddings", None)
        return None if most is None else most - self.config.first_position

    @property
    def window(self) -> int | None:
        """See `Backbone.window`."""
        return columns_limit(self.lm)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The token ids that end a step."""
        return (self._base.tokenizer.eos_token_id,)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids -> the decoder's input embeddings; the base's embeddings are projected like the latents."""
        if self.config.embeddings == "own":
            return input_table(self.lm)(ids)
        return self._enter(self._base.embed(ids))

    def _enter(self, vectors: Tensor) -> Tensor:
        """Vectors of the base model's input space -> the decoder's, in the decoder's own type."""
        kind = input_table(self.lm).weight.dtype
        weight = next(self.project.parameters(), None)
        return self.project(vectors.to(kind if weight is None else weight.dtype)).to(kind)

    def new_cache(self, columns: int = 0, branched: bool = False) -> Any:
        """See `Backbone.new_cache`."""
        return new_cache(self.lm, columns, branched, checkpointing=self.checkpointing)

    def logits(self, hidden: Tensor) -> Tensor:
        """States -> logits."""
        return head_logits(self.lm, hidden)

    def step(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> Tensor:
        """One pass; see `Backbone.step`."""
        return self.states(embeds_BTD, **how)[-1]

    def states(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> tuple[Tensor, ...]:
        """The last layer's states only."""
        cache, place = how.get("cache"), how["positions_BT"] + self.config.first_position
        with recomputing(layer_list(self.lm) if self.checkpointing and cache is not None else None, cache):
            mask, real = how.get("mask"), how.get("real")
            out = packing.forward(self.lm, embeds_BTD, positions_BT=place, mask=mask, cache=cache, real=real)
        return (out.last_hidden_state,)

    def _fed(self, latents_MCD: Tensor, ids_MT: Tensor) -> Tensor:
        """Input embeddings: the latents (projected), then tokens."""
        latents = self._enter(latents_MCD)
        return torch.cat([latents, self.embed(ids_MT[:, latents.shape[1] :]).to(latents.dtype)], dim=1)

    def loss(self, latents_MCD: Tensor, targets: Sequence[tuple[int, ...]], weights_M: Tensor) -> Tensor:
        """Weighted sum of the cross-entropy of each group's step.

        Args:
            latents_MCD: the groups' latents, as they were fed to the base model.
            targets: each group's step as token ids, eos included; not empty.
            weights_M: a factor for all tokens of a group.

        Returns:
            A scalar with gradient into decoder, latents and (shared) embeddings.
        """
        trace, batch = self.read(latents_MCD, targets)
        rows_N, places_N, labels_N = batch.label_places()
        index_N = torch.from_numpy(rows_N).to(self.device)
        return cross_entropy_sum(
            trace.hidden_at(rows_N, places_N),
            torch.from_numpy(labels_N).to(self.device),
            self.logits,
            weights_M[index_N],
        )

    def read(self, latents_MCD: Tensor, targets: Sequence[tuple[int, ...]]) -> tuple[Trace, Batch]:
        """Forward each group followed by its step: the hidden states, and the rows with the step as labels."""
        C = latents_MCD.shape[1]
        rows = [unlabelled((0,) * C, name="step target").followed_by(step) for step in targets]
        batch = collate(rows).to(self.device)
        batch.lengths_B -= 1  # nothing follows the last token, so its state is not needed
        trace = unroll(self, batch, None, self._fed(latents_MCD, batch.ids_BT))
        self.spent = trace.cost
        return trace, batch

    @torch.inference_mode()
    def speak(self, latents_MCD: Tensor, max_tokens: int, batch_size: int = 256) -> list[list[int]]:
        """The step each group stands for as token ids, decoded greedily in batches; eos included if it was reached."""
        C = latents_MCD.shape[1]
        said: list[list[int]] = []
        for part in latents_MCD.split(batch_size):
            batch = collate([unlabelled((0,) * C) for _ in part]).to(self.device)
            fed = self._enter(part)
            speech = Loop(self, batch, None, embeds_BTD=fed, speaking=SamplingParams(max_new_tokens=max_tokens)).run()[1]
            said.extend(speech.tokens)
        return said

    def explain(self, latents_MCD: Tensor, max_tokens: int) -> list[str]:
        """The step each group stands for, as text."""
        return [self._base.decode(tokens).strip() for tokens in self.speak(latents_MCD, max_tokens)]


def check_vocabulary(base: Backbone, other: Backbone, what: str) -> None:
    """Check that another model has the base's tokens, as far as it has them, since it reads or writes the same ids.

    Args:
        what: the other model, for the message.

    Raises:
        ConfigError: it has another tokenizer.
    """
    mine, theirs = base.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if differ := [token for token, number in theirs.items() if mine.get(token) != number]:
        raise ConfigError(
            f"{what} has another tokenizer than the base model: {len(differ)} of {len(theirs)} tokens "
            f"differ (first: {differ[0]!r}); take a model of the same family"
        )
