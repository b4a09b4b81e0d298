"""Marker tokens of latent methods: add them, initialise their rows, refuse text that contains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from unspoken.core.embeddings import input_table, output_head
from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.row import Row, RowFields, unlabelled
from unspoken.errors import ConfigError, DataError

BOT, EOT, LATENT = "<|start-latent|>", "<|end-latent|>", "<|latent|>"
"""Coconut's names, in the order in which its released code adds them (facebookresearch/coconut 27273cb, run.py)."""


@dataclass(frozen=True, kw_only=True)
class Markers:
    """Token ids: begin of thoughts, end of thoughts, and the placeholder in a latent's slot."""

    bot: int
    eot: int
    latent: int

    @property
    def ids(self) -> tuple[int, int, int]:
        """All three, in the order in which they were added."""
        return (self.bot, self.eot, self.latent)

    def prompt(self, question: tuple[int, ...], latents: int, **fields: Unpack[RowFields]) -> Row:
        """question | bot | latents | eot, with further fields of the row."""
        ids = (*question, self.bot, *((self.latent,) * latents), self.eot)
        return unlabelled(ids, start=len(question) + 1, latents=latents, **fields)


def add_tokens(backbone: Backbone, names: tuple[str, ...], like: str) -> tuple[int, ...]:
    """Add tokens to tokenizer and model; existing ones are left as they are.

    Args:
        backbone: its embedding is enlarged in place if needed, and never shrunk (some families have spare rows).
        names: the tokens' texts. They become ordinary, not "special", tokens, as in the released code.
        like: new rows of embedding and head start as the mean of the rows of this text's tokens. `Backbone.adapt` changes
            those of an untied head that will not train.

    Returns:
        The ids, in the order of `names`.

    Raises:
        ConfigError: `like` is empty.
    """
    tokenizer, lm = backbone.tokenizer, backbone.lm
    known = tokenizer.get_vocab()
    fresh = [name for name in names if name not in known]
    source = backbone.encode(like)
    if not source:
        raise ConfigError(f"new tokens cannot start from the text {like!r}: it has no tokens; give a word, such as '<<'")
    if fresh:
        tokenizer.add_tokens(fresh)
        backbone.forget_encoded()
        if len(tokenizer) > backbone.vocabulary:
            lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embedding = input_table(lm).weight
        head = output_head(lm)
        rows = tokenizer.convert_tokens_to_ids(fresh)
        with torch.no_grad():
            for weight in (embedding, head.weight):
                weight[rows] = weight[list(source)].mean(dim=0)
            bias = getattr(head, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias[rows] = bias[list(source)].mean()
    return tuple(tokenizer.convert_tokens_to_ids(list(names)))


def add_markers(backbone: Backbone, like: str = "<<") -> Markers:
    """The three markers of latent methods, added if missing.

    Args:
        like: text whose rows the markers start from; the released code takes "<<".
    """
    bot, eot, latent = add_tokens(backbone, (BOT, EOT, LATENT), like)
    return Markers(bot=bot, eot=eot, latent=latent)


def refuse_markers(ids: tuple[int, ...], markers: Markers, name: str) -> tuple[int, ...]:
    """Returns `ids` if they contain no marker.

    Raises:
        DataError: a question or step contains a marker, which could open or close the model's thoughts.
    """
    return refuse_tokens(ids, {markers.bot: BOT, markers.eot: EOT, markers.latent: LATENT}, name)


def refuse_tokens(ids: tuple[int, ...], reserved: Mapping[int, str], name: str) -> tuple[int, ...]:
    """The same for any tokens, given as id -> text."""
    if found := set(ids) & set(reserved):
        text = reserved[min(found)]
        raise DataError(f"{name or 'text'} contains the marker {text!r}, which is reserved for thoughts; remove it")
    return ids
