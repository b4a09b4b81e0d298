"""A run as the server holds it: its model, what it is called, and how questions to it become requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unspoken.core.config import build
from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Iterated
from unspoken.core.rows.row import Row
from unspoken.errors import ConfigError, UnspokenError
from unspoken.runs.baseline import load_any
from unspoken.runs.model import Model
from unspoken.runs.soft import soft_plan
from unspoken.serving.errors import ApiError
from unspoken.serving.protocol import MOST_CHOICES, Asked

_EFFORT = {"none": 0.0, "minimal": 0.0, "low": 1 / 3, "medium": 2 / 3, "high": 1.0, "xhigh": 1.0}
"""What share of a run's latents an effort stands for."""


@dataclass(kw_only=True, eq=False)
class ServedModel:
    """A model under a name.

    Attributes:
        name: what requests call it.
        slots: how many answers at a time.
        max_waiting: how many more may wait.
        soft: how it thinks softly where a request does not say (`SoftThinking.parse`); None = it does not.
        created: when it was loaded, seconds since 1970.
    """

    name: str
    model: Model
    slots: int = 32
    max_waiting: int | None = None
    soft: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        backbone = self.model.method.backbone
        with_loop = "; its answers come from `unspoken ask`, `eval` and unspoken.load(run).answer"
        if isinstance(self.model.source, Iterated) or backbone.parallel is not None:
            raise ConfigError(f"{self.name}: latents that are made in parallel passes cannot be served yet{with_loop}")
        if not supports_kv_slots(backbone, 1):
            kind = type(backbone.lm).__name__
            more = f"{with_loop}, or from `unspoken export --format hf`"
            raise ConfigError(f"{self.name}: {kind} has attention of its own kind and cannot be served yet{more}")
        if self.soft is not None:
            soft_plan(self.model.method, self.model.mark, self.soft)
        backbone.remembered = 0  # no question comes twice, and none is kept
        self.model.method.eval()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        thinking: bool = False,
        texts: str | None = None,
        **more: Any,
    ) -> ServedModel:
        """A run's model, or a plain one; see `load_any` for what is raised, and the attributes for `more`."""
        model = load_any(path, device=device, dtype=dtype, thinking=thinking, texts=texts)
        return cls(name=name or Path(str(path)).resolve().name.removeprefix("builtin:"), model=model, **more)

    def new_scheduler(self) -> Scheduler:
        """One for its requests."""
        return Scheduler(
            self.model.method.backbone,
            self.model.source,
            slots=self.slots,
            max_waiting=self.max_waiting,
            isolate=True,
        )

    @cached_property
    def context(self) -> int | None:
        """The most positions of prompt, latents and answer; None = the model does not say. Kept: to ask transformers' config
        takes as long as to tokenize a question."""
        backbone = self.model.method.backbone
        return min((n for n in (backbone.context, backbone.window) if n is not None), default=None)

    @property
    def latents(self) -> int:
        """How many it thinks unless told otherwise."""
        return self.model.rows(["?"], None, None)[0].latents

    def text_of(self, prompt: str | list[int], name: str) -> str:
        """A prompt as text; token ids are spelt, since the method lays its prompts out itself.

        Raises:
            ApiError: an id that the model does not have.
        """
        if isinstance(prompt, str):
            return prompt
        backbone = self.model.method.backbone
        if (worst := max(prompt)) >= backbone.vocabulary:
            raise ApiError(400, f"{name} holds the token id {worst}; the model has {backbone.vocabulary}", "prompt")
        return backbone.decode(prompt)

    def requests(
        self,
        questions: Sequence[str],
        asked: Asked,
        *,
        seed: int,
        max_tokens: int | None = None,
        effort: str | None = None,
        logprobs: int | None = None,
        edit: Edit | None = None,
        keep: bool = False,
    ) -> list[Request]:
        """The requests of a call: per question, all answers from the first set of thoughts, then all from the next.

        Args:
            seed: of drawn answers, where the call gives none.
            max_tokens: where the call calls it otherwise.
            effort: what it is asked to think, in words.

        Raises:
            ApiError: 400, with the field that is wrong.
            UnspokenError: a question that is none, or a number of latents that cannot be.
        """
        speaking = self._speaking(asked, seed, max_tokens)
        if asked.chains > 1 and asked.chains > (most := self.model.chains):
            raise ApiError(400, f"chains must be in 1..{most}, the sets of thoughts this model has", "chains")
        if asked.answers > 1 and speaking.temperature == 0:
            raise ApiError(400, f"{asked.answers} answers at temperature 0 would all be the same; set temperature", "n")
        if len(questions) * asked.chains * asked.answers > MOST_CHOICES:
            raise ApiError(400, f"a request may ask for {MOST_CHOICES} answers altogether; ask several times", "n")
        rows = self._rows(questions, self._latents(asked, effort), asked.ignore_eos)
        decider = None
        if asked.stop_thinking is not None:
            try:
                decider = self.model.stop_decider(asked.stop_thinking)
            except UnspokenError as error:
                raise ApiError(400, str(error), "stop_thinking") from None
        plan = None
        if (soft := self.soft if asked.soft_thinking is None else asked.soft_thinking) is not None:
            try:
                plan = soft_plan(self.model.method, self.model.mark, soft)
            except UnspokenError as error:
                raise ApiError(400, str(error), "soft_thinking") from None
        longest = max((self._columns(row) for row in rows), default=0) + speaking.max_new_tokens - 1
        if self.context is not None and longest > self.context:
            raise ApiError(
                400,
                f"prompt, latents and max_tokens are {longest} positions at most, the model takes {self.context}; "
                "shorten the prompt, or set max_tokens lower",
                "max_tokens" if max(map(self._columns, rows)) <= self.context else "prompt",
                "context_length_exceeded",
            )
        return [
            Request(
                row=row,
                speaking=speaking,
                number=(question, chain, answer),
                chain=chain,
                decider=decider,
                edit=edit,
                keep=keep or (self.model.explains and asked.show_thoughts is not False),
                stops=asked.stops,
                stop_token_ids=frozenset(asked.stop_token_ids or ()),
                logprobs=logprobs,
                incremental=asked.stream,
                soft=plan,
            )
            for question, row in enumerate(rows)
            for chain in range(asked.chains)
            for answer in range(asked.answers)
        ]

    def _speaking(self, asked: Asked, seed: int, max_tokens: int | None) -> SamplingParams:
        """How to speak: as the run does, but for what the call says."""
        own = self.model.speaking
        temperature = own.temperature if asked.temperature is None else asked.temperature
        said = {
            "max_new_tokens": max_tokens or asked.max_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_k": None if asked.top_k is None else max(asked.top_k, 0),
            "seed": seed if asked.seed is None and temperature else asked.seed,
        }
        return build(SamplingParams, {**vars(own), **{name: value for name, value in said.items() if value is not None}})

    def _latents(self, asked: Asked, effort: str | None) -> int | None:
        if asked.latents is not None:
            return asked.latents
        if asked.vllm_xargs is not None and asked.vllm_xargs.latents is not None:
            return asked.vllm_xargs.latents
        size = self.model.method.latents_per_group
        if effort is None or not size:
            return None
        return round(_EFFORT[effort] * self.latents / size) * size

    def _rows(self, questions: Sequence[str], latents: int | None, ignore_eos: bool) -> list[Row]:
        names = ["the prompt"] if len(questions) == 1 else [f"prompt {i}" for i in range(len(questions))]
        rows = self.model.rows(questions, latents, names)
        return [replace(row, num_eos=1 << 30) for row in rows] if ignore_eos else rows

    @staticmethod
    def _columns(row: Row) -> int:
        return len(row.ids) + row.position_gap[1]
