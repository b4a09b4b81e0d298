"""What the rows of a batch generate, and whether they fit the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.trace import Answer
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.protocol import CausalLM
from unspoken.errors import DataError


@dataclass(kw_only=True)
class Speech:
    """What the rows of a batch have generated.

    Attributes:
        tokens: per row, the chosen token ids, eos included where it was reached.
        finished_B: whether the last eos was reached.
        passes_B: passes in which the row fed something: the latency it would have alone.
        positions_B: positions forwarded per row; those shared by copies of a row count for the first copy.
    """

    tokens: list[list[int]]
    finished_B: np.ndarray
    passes_B: np.ndarray
    positions_B: np.ndarray

    @classmethod
    def silent(cls, rows: int) -> Speech:
        """Nothing generated yet."""
        zeros = np.zeros(rows, dtype=np.int64)
        return cls(tokens=[[] for _ in range(rows)], finished_B=zeros.astype(bool), passes_B=zeros, positions_B=zeros.copy())

    def copied(self, copies: int) -> Speech:
        """The same for `copies` copies of every row, before anything is generated."""
        return Speech(
            tokens=[[] for _ in range(copies * len(self.tokens))],
            finished_B=np.tile(self.finished_B, copies),
            passes_B=np.tile(self.passes_B, copies),
            positions_B=np.concatenate([self.positions_B, np.zeros((copies - 1) * len(self.tokens), dtype=np.int64)]),
        )

    def answer(
        self,
        b: int,
        backbone: Backbone,
        *,
        latents: int,
        seconds: float,
        thoughts: tuple[str, ...] | None,
        chain: int,
        sample: int,
        assistant_positions: int,
        soft: int = 0,
    ) -> Answer:
        """The answer of row b, decoded.

        Args:
            backbone: the model that generated it.
            latents: those before its first token.
            seconds, thoughts, chain, sample, assistant_positions, soft: see `Answer`.
        """
        tokens = tuple(self.tokens[b])
        spoken = tokens[:-1] if self.finished_B[b] else tokens
        return Answer(
            text=backbone.decode(spoken),
            tokens=tokens,
            finished=bool(self.finished_B[b]),
            passes=int(self.passes_B[b]),
            positions=int(self.positions_B[b]),
            passed=sum(token in backbone.eos_ids for token in spoken),
            latents=latents + soft,
            soft=soft,
            seconds=seconds,
            thoughts=thoughts,
            chain=chain,
            sample=sample,
            assistant_positions=assistant_positions,
        )


def check_context(backbone: CausalLM, batch: Batch, spoken: int) -> None:
    """Refuse rows that do not fit into the context, by name, before anything runs.

    Raises:
        DataError: a row with `spoken` more tokens is longer than the model's context.
    """
    if backbone.context is None:
        return
    lengths_B = batch.lengths_B + batch.gap_B
    if batch.branch is not None:
        lengths_B = np.maximum(lengths_B, batch.branch.lengths_B + batch.branch.gap_B)
    longest = int(lengths_B.argmax())
    length = int(lengths_B[longest])
    # The last spoken token is never fed.
    if length + max(spoken - 1, 0) > backbone.context:
        name = (batch.names[longest] if batch.names else "") or f"row {longest}"
        more = f" + {spoken} answer tokens" if spoken else ""
        raise DataError(
            f"{name} is too long: {length} positions{more}, the model's context is {backbone.context}; "
            "shorten the question, speak fewer tokens (max_new_tokens), or use a model with a longer context"
        )


def columns_of(batch: Batch, speaking: SamplingParams | None) -> int:
    """The most columns that all passes of a batch can have together, including passes in which only some rows feed."""
    behind_B = batch.lengths_B - batch.starts_B - batch.latents_B
    texts = len(np.unique(batch.latents_B)) if speaking is not None else 1  # rows with fewer latents read on earlier
    columns = int(batch.starts_B.max() + batch.latents_B.max() + texts * max(behind_B.max(), 0))
    if batch.branch is not None:
        columns += int((batch.branch.lengths_B - batch.shared_B).max())
    return columns + (speaking.max_new_tokens if speaking is not None else 0)
