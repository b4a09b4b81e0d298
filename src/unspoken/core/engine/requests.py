"""A request and its progress: what `core/engine/scheduler.py` knows of each row being answered.

Shapes: K latents, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from unspoken.core.engine.stopping import StopDecider
from unspoken.core.engine.text_stream import TextStream
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.soft import SoftChain, SoftPlan
from unspoken.core.rows.row import Row

FinishReason = Literal["stop", "length", "error"]
"""Why a request ended: at eos or another stop; at its length limit; by an error."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One row to be answered.

    Attributes:
        row: the prompt, as a method's `prompt` makes it.
        speaking: how to generate after it.
        number: seeds its sampling: a question's number, or (question, set of thoughts, sample).
        expected: token ids that the answer may begin with, fed speculatively. The answer is the same without them.
        chain: number of the set of thoughts it answers from, from 0.
        decider: says when it has thought enough; None = think until its slots are filled.
        edit: changes every latent before it is fed; the key is (the row's name, `chain`).
        keep: keep its latents and the states they were made from.
        stops: texts that end the answer, which is cut before the first of them.
        stop_token_ids: tokens that end it, besides eos.
        logprobs: report each chosen token's log-probability and those of this many likeliest tokens; None = none.
        incremental: decode its text while it is generated, for streaming.
        soft: it thinks softly while it speaks; nothing is then fed speculatively.
    """

    row: Row
    speaking: SamplingParams
    number: int | tuple[int, ...] = 0
    expected: tuple[int, ...] = ()
    chain: int = 0
    decider: StopDecider | None = None
    edit: Edit | None = None
    keep: bool = False
    stops: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    incremental: bool = False
    soft: SoftPlan | None = None


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities (natural) at a chosen token, before temperature, top-k and top-p.

    Attributes:
        logprob: of the chosen token.
        top: (token id, logprob) of the likeliest, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, logits_V: Tensor, token: int, top: int) -> TokenLogprobs:
        """Those of a chosen token, with the `top` likeliest."""
        logprobs_V = logits_V.float().log_softmax(dim=-1)
        best = logprobs_V.topk(min(top, len(logprobs_V)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return cls(logprob=float(logprobs_V[token]), top=tuple(pairs))


@dataclass(kw_only=True, eq=False)
class ActiveRequest:
    """A request being answered, in its slot."""

    request: Request
    place: int  # among all requests
    slot: int
    stream: np.random.Generator
    end: int  # one after its last latent; `row.start` if it makes none
    cursor: int = 0  # next position to feed
    skipped: int = 0  # latent slots skipped because it stopped thinking early
    eos_left: int = 1  # eos tokens still to come
    speculated: tuple[int, ...] = ()  # ids fed behind the known text, forgotten where another token is chosen
    probing_stop: bool = False  # the rest of the prompt is fed that way, for the stop decider to see
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # one per token, if requested
    text: TextStream | None = None  # the text so far, if streamed
    stop_reason: int | str | None = None  # the stop token or text that ended it, if it was not eos
    error: Exception | None = None  # the error it failed with
    passes: int = 0
    positions: int = 0
    latents: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    latent_D: Tensor | None = None  # the latent made for this pass
    state_at: int = 0  # row of the last pass's states with the state before its next latent
    vectors_KD: Tensor | None = None  # precomputed thoughts
    soft: SoftChain | None = None
    mixture_D: Tensor | None = None  # fed instead of the last token

    @property
    def row(self) -> Row:
        """Its prompt."""
        return self.request.row

    @property
    def given(self) -> int:
        """Length of its prompt."""
        return len(self.row.ids) - self.skipped

    @property
    def known(self) -> int:
        """Positions known so far."""
        return self.given + len(self.tokens)

    @property
    def thinking(self) -> bool:
        """Whether it feeds a latent next."""
        return self.row.start <= self.cursor < self.end

    @property
    def over(self) -> bool:
        """Whether its answer is complete."""
        return self.finish_reason is not None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None if it has not."""
        if self.error is not None:
            return "error"
        if self.eos_left == 0 or self.stop_reason is not None:
            return "stop"
        return "length" if len(self.tokens) >= self.request.speaking.max_new_tokens else None

    @property
    def spoken(self) -> Sequence[int]:
        """Its tokens without the one that ended it."""
        ended = self.eos_left == 0 or isinstance(self.stop_reason, int)
        return self.tokens[:-1] if ended else self.tokens

    @property
    def thought(self) -> int:
        """Number of latents fed so far."""
        return min(max(self.cursor - self.row.start, 0), self.row.latents - self.skipped)

    @property
    def latents_made(self) -> int:
        """Number of latents of a finished answer, mixtures included."""
        return self.row.latents - self.skipped + self.soft_steps

    @property
    def soft_steps(self) -> int:
        """How many mixtures it has thought in."""
        return 0 if self.soft is None else self.soft.soft

    def say(self, token: int, eos: bool) -> None:
        """Take the next token; it may end the answer."""
        self.tokens.append(token)
        self.eos_left -= eos
        if token in self.request.stop_token_ids and self.eos_left:
            self.stop_reason = token
        elif self.text is not None and self.eos_left:
            self.stop_reason = self.text.add(token)

    def ids(self, take: int) -> Sequence[int]:
        """The tokens at its next positions; a placeholder where a latent is fed."""
        if self.tokens and take == 1:
            return (self.tokens[-1],)
        ids = self.row.ids
        known = (
            ids[self.cursor :] if not self.skipped else (*ids[: self.end], *ids[self.end + self.skipped :])[self.cursor :]
        )
        return (ids[self.cursor], *self.speculated) if self.probing_stop else (*known, *self.tokens, *self.speculated)[:take]

    def position_ids(self, take: int) -> list[int]:
        """The position ids of its next positions, larger after a gap."""
        at, size = self.row.position_gap
        return [p + size * (p + self.skipped * (p >= self.end) >= at) for p in range(self.cursor, self.cursor + take)]


def common_prefix(rows: Sequence[Row], first: Sequence[int] | None = None) -> int:
    """How many leading tokens all rows share, before any latent or gap, leaving each row at least one token to read.

    Args:
        first: tokens that they must also begin with; None = only compare the rows.
    """
    limit = min(min(row.start, len(row.ids), *row.position_gap[: row.position_gap[1] > 0]) for row in rows) - 1
    first = rows[0].ids if first is None else first
    limit = max(min(limit, len(first)), 0)
    for row in rows:
        limit = next((i for i in range(limit) if row.ids[i] != first[i]), limit)
    return limit
