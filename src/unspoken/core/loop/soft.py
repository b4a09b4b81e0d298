"""Soft thinking: a language model that thinks in mixtures of its vocabulary's embeddings, without any training.

Instead of the embedding of one chosen token, a row is fed the mean of all tokens' embeddings, weighted by the probability
of each (Soft Thinking, arXiv 2505.15778). Two rules watch the entropy of the next token: a cold stop ends the thinking where
the model has been certain for long; a switch (SwiReasoning, arXiv 2510.05069) goes on in chosen tokens where the entropy
falls, and back to mixtures where it rises. Thinking ends where the model writes its mark (`</think>`), or is made to; the
answer is written in tokens, as always.

While a row is soft, its most likely tokens are noted as its text. That is how its end is seen, and what may be read of it.

Shapes: N rows that choose a token now, V words, k words that take part in a mixture, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from unspoken.core.checks import shown
from unspoken.core.config import build, config_class
from unspoken.core.loop.sampling import likely
from unspoken.core.text.thinking import CLOSE, OPEN
from unspoken.errors import ConfigError, did_you_mean


class Embeds(Protocol):
    """A model, or what stands for its vocabulary: token ids [...] -> input embeddings [..., D]."""

    def embed(self, ids: Tensor) -> Tensor: ...


class Words(Embeds, Protocol):
    """What a plan asks of a model."""

    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    def encode(self, text: str) -> tuple[int, ...]: ...
    def decode(self, ids: list[int]) -> str: ...


Kind = Literal["soft", "switch", "chain"]
Feed = Literal["mixture", "token"]

AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "soft": {"temperature": 0.6, "top_k": 15, "top_p": 0.95, "entropy": 0.1},
    "switch": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "entropy": 0.0},
}
"""Per kind, the values of settings that are left out: those of the papers' code."""

CHUNK = 8192
"""Words at a time in a mixture of the whole vocabulary."""


@config_class
class SoftThinking:
    """How a model thinks softly; `parse` reads it from text.

    Attributes:
        kind: soft: mixtures until the thinking ends. switch: mixtures and chosen tokens in turn, by the trend of the
            entropy. chain: ordinary thinking in tokens, for a comparison with the same `limit`.
        feed: token: a control, fed the most likely token's embedding where a mixture would be.
        temperature, top_k, top_p: of the probabilities that are mixed; top_k 0 = all tokens. The entropy is that of all
            tokens at this temperature. None = as published for the kind.
        entropy, steps: the cold stop: so many steps in a row with an entropy (in nats) below the first end the thinking;
            an entropy of 0 = never.
        limit: thinking tokens, soft or not, after which the thinking is ended; None = `max_new_tokens` alone limits it.
        until: the text that ends thinking; None = the model's own: `</think>`, or what comes before its answers.
        window: switch: chosen tokens before it may become soft again.
        switches: switch: after so many changes from soft to tokens the thinking is ended; None = any number.
        open_share, close_share: switch: how much of the embedding of `<think>` is mixed in where it becomes soft again,
            and of `</think>` where it goes on in tokens. Both fall to 0 towards `max_new_tokens`.
    """

    kind: Kind = "soft"
    feed: Feed = "mixture"
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    entropy: float | None = None
    steps: int = 256
    limit: int | None = None
    until: str | None = None
    window: int = 512
    switches: int | None = None
    open_share: float = 0.0
    close_share: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"unknown kind of soft thinking {self.kind!r:.60}; {did_you_mean(str(self.kind), get_args(Kind))}"
            )
        if self.feed not in get_args(Feed):
            raise ConfigError(f"soft thinking feeds a mixture or a token, got feed={self.feed!r:.60}")
        for name, usual in AS_PUBLISHED["switch" if self.kind == "switch" else "soft"].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
        least = {"temperature": 1e-3, "top_k": 0, "entropy": 0, "steps": 1, "limit": 1, "window": 1, "switches": 1,
                 "open_share": 0, "close_share": 0, "top_p": 0}  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise ConfigError(f"soft thinking needs {name} of {low:g} or more, got {shown(value)}")
        for name in ("top_p", "open_share", "close_share"):
            if getattr(self, name) > 1 or (name == "top_p" and not self.top_p):
                raise ConfigError(
                    f"soft thinking needs {name} of at most 1 (top_p: more than 0), got {shown(getattr(self, name))}"
                )
        if self.until is not None and not self.until.strip():
            raise ConfigError("the text that ends soft thinking (until) is empty; leave it out for the model's own")

    @classmethod
    def parse(cls, text: str) -> SoftThinking:
        """From "KIND,name=value,...", e.g. "soft" or "switch,window=64,limit=512". What follows "until=" is text to the end.

        Raises:
            ConfigError: an unknown kind or setting, or a value that is none.
        """
        text, marked, until = text.partition(",until=")
        kind, *parts = (part.strip() for part in text.split(","))
        fields = {field.name for field in dataclasses.fields(cls(kind=kind))}  # pyright: ignore[reportArgumentType]
        given: dict[str, Any] = {"kind": kind, **({"until": until} if marked else {})}
        for part in parts:
            name, sign, value = part.partition("=")
            if not sign or name not in fields or name in given:
                known = [name for name in fields if name not in ("kind", "until")]
                raise ConfigError(
                    f"soft thinking is written KIND,name=value,... with each of these once: {', '.join(known)}, and last "
                    f"until; e.g. switch,window=64; got {part!r:.60}"
                )
            given[name] = value.strip() if name == "feed" else _number(name, value.strip())
        return build(cls, given)

    @property
    def mixed(self) -> tuple[float, float, int]:
        """Temperature, top_p and top_k of what is mixed."""
        assert self.temperature is not None
        assert self.top_p is not None
        assert self.top_k is not None
        return self.temperature, self.top_p, self.top_k

    @property
    def spelt(self) -> str:
        """As text that `parse` reads: the kind, and what is not as published."""
        usual = SoftThinking(kind=self.kind)
        names = [f.name for f in dataclasses.fields(self) if f.name != "until"] + ["until"]
        changed = [name for name in names if getattr(self, name) != getattr(usual, name)]
        return ",".join([self.kind, *(f"{name}={getattr(self, name)}" for name in changed)])


def _number(name: str, text: str) -> float | int:
    whole = name in ("top_k", "steps", "limit", "window", "switches")
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ConfigError(
            f"soft thinking needs {'a whole ' if whole else 'a '}number for {name}, got {text!r:.60}"
        ) from None


class ColdStop:
    """The rule that ends thinking where the model is certain: `steps` steps in a row with an entropy below a threshold.

    Args:
        entropy: the threshold, in nats; 0 = never.
        steps: how many in a row.
    """

    def __init__(self, entropy: float, steps: int) -> None:
        self.entropy, self.steps, self.cold = entropy, steps, 0

    def ends(self, entropy: float) -> bool:
        """Whether the thinking ends at a step with this entropy."""
        self.cold = self.cold + 1 if entropy < self.entropy else 0
        return self.cold >= self.steps


class Switch:
    """The rule that changes between mixtures and chosen tokens by the trend of the entropy. It begins with mixtures.

    The reference is the entropy at the last change. A step below it, while soft, goes on in tokens; a step above it, after
    at least `window` tokens, becomes soft again.

    Args:
        window: tokens before it may become soft again.
        switches: changes from soft to tokens after which it is over; None = never.

    Attributes:
        soft: whether it is in mixtures now.
        turned: whether the last step changed that.
    """

    def __init__(self, window: int, switches: int | None) -> None:
        self.window, self.switches = window, switches
        self.soft, self.turned = True, False
        self._reference: float | None = None
        self._stayed = self._changes = 0

    def step(self, entropy: float) -> None:
        """Take the entropy of the next step."""
        self.turned = False
        if self._reference is None:
            self._reference = entropy
            return
        self._stayed += 1
        if self.soft:
            self.turned = entropy < self._reference
            self._changes += self.turned
        else:
            self.turned = self._stayed >= self.window and entropy > self._reference
        if self.turned:
            self.soft, self._reference, self._stayed = not self.soft, entropy, 0

    @property
    def may_turn(self) -> bool:
        """Whether the next step may change it."""
        return self.soft or self._stayed + 1 >= self.window

    @property
    def over(self) -> bool:
        """Whether it has changed as often as it may."""
        return self.switches is not None and self._changes >= self.switches


@dataclass(frozen=True, kw_only=True)
class SoftPlan:
    """Soft thinking of a certain model.

    Attributes:
        how: the settings.
        until: the text that ends thinking; "" = none is known, and the row just goes on in tokens.
        end: the tokens of that text, fed where the thinking is made to end.
        opened, closed: ids of `<think>` and `</think>`, where these are single tokens.
        decode: token ids -> text.
        eos: tokens that are never mixed into others where they are the likeliest.
    """

    how: SoftThinking
    until: str
    end: tuple[int, ...]
    decode: Callable[[list[int]], str]
    opened: int | None = None
    closed: int | None = None
    eos: frozenset[int] = frozenset()

    @classmethod
    def of(cls, backbone: Words, how: SoftThinking, mark: str) -> SoftPlan:
        """The plan for a model.

        Args:
            mark: the text that ends its thinking, where the settings do not say.
        """
        until = mark if how.until is None else how.until
        single = {text: ids[0] if len(ids := backbone.encode(text)) == 1 else None for text in (OPEN, CLOSE)}
        # A mark of words, such as that of an answer, begins a line.
        end = backbone.encode(until if until == CLOSE else f"\n{until}") if until else ()
        return cls(
            how=how, until=until, end=end, opened=single[OPEN], closed=single[CLOSE], decode=backbone.decode,
            eos=frozenset(backbone.eos_ids),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a row feeds next.

    Attributes:
        token: that is noted in its text, and whose embedding is fed unless it is soft.
        soft: a mixture is fed.
        blend: (token id, its share) that is mixed into what is fed.
    """

    token: int
    soft: bool = False
    blend: tuple[int, float] | None = None


class SoftChain:
    """The thinking of one row, step by step.

    Args:
        plan: how it thinks.
        most: `max_new_tokens`.

    Attributes:
        over: the thinking has ended; from now on the row chooses tokens as usual.
        soft: mixtures fed so far.
    """

    def __init__(self, plan: SoftPlan, most: int) -> None:
        how = plan.how
        self.plan, self.over, self.soft = plan, False, 0
        self._most = most
        self._cold, self._switch = ColdStop(how.entropy or 0.0, how.steps), Switch(how.window, how.switches)
        self._tokens: list[int] = []
        self._ending: list[int] = []  # of the mark that ends it, still to be fed

    def step(self, entropy: float, likeliest: int, chosen: int) -> Step:
        """The next step.

        Args:
            entropy: of the next token, in nats.
            likeliest: the most likely token.
            chosen: the token that ordinary decoding would choose.
        """
        if self._ending:
            return self._end()
        how = self.plan.how
        self._switch.step(entropy)
        ends = how.limit is not None and len(self._tokens) >= how.limit
        if how.kind != "chain":
            ends |= self._cold.ends(entropy) or (how.kind == "switch" and self._switch.over)
        if ends:
            self._ending = list(self.plan.end)
            return self._end() if self._ending else self._finish(chosen)
        soft = how.kind == "soft" or (how.kind == "switch" and self._switch.soft)
        token = likeliest if soft else chosen
        self._tokens.append(token)
        if self._written():
            return self._finish(token)
        blend = self._blend()
        fed = how.feed == "mixture" and (soft or blend is not None) and token not in self.plan.eos
        self.soft += fed
        return Step(token=token, soft=fed, blend=blend)

    @property
    def may_mix(self) -> bool:
        """Whether the next step may feed a mixture."""
        how = self.plan.how
        may = how.kind == "soft" or (how.kind == "switch" and self._switch.may_turn)
        return may and how.feed == "mixture" and not self._ending

    def _end(self) -> Step:
        token = self._ending.pop(0)
        self.over = not self._ending
        return Step(token=token)

    def _finish(self, token: int) -> Step:
        self.over = True
        return Step(token=token)

    def _written(self) -> bool:
        """Whether the mark that ends thinking has been written."""
        if len(self.plan.end) == 1 and self._tokens[-1] == self.plan.end[0]:
            return True
        window = len(self.plan.until.encode())  # a token has at least one byte of the text
        return bool(window) and self.plan.until in self.plan.decode(self._tokens[-window:])

    def _blend(self) -> tuple[int, float] | None:
        """The mark mixed in where a switch has just turned; its first step in tokens is then still a mixture."""
        how = self.plan.how
        if how.kind != "switch" or not self._switch.turned:
            return None
        mark, share = (self.plan.opened, how.open_share) if self._switch.soft else (self.plan.closed, how.close_share)
        share *= max(1 - (len(self._tokens) - 1) / self._most, 0.0)
        return None if mark is None or not share else (mark, share)


def feed_back(
    backbone: Embeds, chains: Mapping[int, SoftChain], logits_NV: Tensor, chosen_N: Sequence[int]
) -> list[tuple[int, Tensor | None]]:
    """What rows feed next: per row a token, and the vector [D] fed instead of its embedding, if any.

    Args:
        backbone: the model.
        chains: the rows that may think softly, by their place among the N; one whose thinking is over chooses as usual.
        logits_NV: of all rows.
        chosen_N: what ordinary decoding would choose.
    """
    fed: list[tuple[int, Tensor | None]] = [(token, None) for token in chosen_N]
    places = [n for n, chain in chains.items() if not chain.over]
    if not places:
        return fed
    mine_nV = logits_NV.index_select(0, torch.tensor(places, device=logits_NV.device)).float()
    heat_n1 = torch.tensor([[chains[n].plan.how.temperature] for n in places], device=mine_nV.device)
    entropy_n, best_n = entropies(mine_nV / heat_n1).tolist(), mine_nV.argmax(dim=-1).tolist()
    # Made before any chain steps on: whatever fails here may be done again.
    mixed = _mixtures(backbone, [chains[n] for n in places], mine_nV)
    for at, n in enumerate(places):
        step = chains[n].step(entropy_n[at], best_n[at], chosen_N[n])
        vector_D = mixed[at] if step.soft else None
        if vector_D is not None and step.blend is not None:
            mark, share = step.blend
            mark_D = backbone.embed(torch.tensor(mark, device=vector_D.device))
            vector_D = ((1 - share) * vector_D.float() + share * mark_D.float()).to(vector_D.dtype)
        fed[n] = (step.token, vector_D)
    return fed


def _mixtures(backbone: Embeds, chains: Sequence[SoftChain], logits_nV: Tensor) -> dict[int, Tensor]:
    """The mixtures [D] of the chains that may be fed one, by place; chains with the same settings are mixed together."""
    kinds: dict[tuple[float, float, int], list[int]] = {}
    for at, chain in enumerate(chains):
        if chain.may_mix:
            kinds.setdefault(chain.plan.how.mixed, []).append(at)
    found: dict[int, Tensor] = {}
    for (temperature, top_p, top_k), places in kinds.items():
        rows_nV = logits_nV.index_select(0, torch.tensor(places, device=logits_nV.device))
        mixed_nD = mixtures(backbone, rows_nV, temperature=temperature, top_p=top_p, top_k=top_k)
        found |= zip(places, mixed_nD, strict=True)
    return found


def entropies(logits_NV: Tensor) -> Tensor:
    """The entropy [N] of each row's distribution, in nats."""
    logp_NV = logits_NV.float().log_softmax(dim=-1)
    return -(logp_NV.exp() * logp_NV).nan_to_num(0.0).sum(dim=-1)  # an impossible token adds nothing


def mixtures(backbone: Embeds, logits_NV: Tensor, *, temperature: float, top_p: float, top_k: int) -> Tensor:
    """The embeddings of the vocabulary weighted by its probabilities [N, D], in the precision of the embeddings.

    Args:
        logits_NV: of the next token.
        temperature, top_p, top_k: which tokens take part; what is left of their probabilities is scaled to sum to 1.
    """
    p_NV, order_NV = likely(logits_NV.float() / temperature, top_p, top_k)
    p_NV = p_NV / p_NV.sum(dim=-1, keepdim=True)
    if top_k:
        tokens_NkD = backbone.embed(order_NV[:, :top_k])
        return (p_NV[:, :top_k, None] * tokens_NkD.float()).sum(dim=1).to(tokens_NkD.dtype)
    by_id_NV = torch.zeros_like(p_NV).scatter_(1, order_NV, p_NV)
    words = torch.arange(by_id_NV.shape[1], device=p_NV.device)
    parts = [(part, backbone.embed(part)) for part in words.split(CHUNK)]
    total_ND = sum(by_id_NV.index_select(1, part) @ tokens_vD.float() for part, tokens_vD in parts)
    assert isinstance(total_ND, Tensor)
    return total_ND.to(parts[0][1].dtype)
