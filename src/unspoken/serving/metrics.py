"""What the server counts, for Prometheus: the names that vLLM gives, with our prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from unspoken.core.engine.scheduler import Scheduler

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_COLUMNS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

K = TypeVar("K")

REASONS = ("stop", "length", "abort", "error")
"""How answers end: as the API says it, cancelled by whoever asked or by the server, or by a failure."""


class Metrics:
    """Counters and clocks of all served models, in a registry of their own.

    Args:
        names: of the models.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.registry = CollectorRegistry()

        def new(kind: Callable[..., K], name: str, text: str, labels: tuple[str, ...] = (), **more: object) -> K:
            return kind(f"unspoken:{name}", text, ("model_name", *labels), registry=self.registry, **more)

        seconds: Any = {"buckets": _SECONDS}
        self._running = new(Gauge, "num_requests_running", "Answers that have a slot.")
        self._waiting = new(Gauge, "num_requests_waiting", "Answers that wait for a slot.")
        self._slots = new(Gauge, "slots_usage", "Share of the slots that are taken.")
        self._prompt = new(Counter, "prompt_tokens", "Prompt tokens of finished answers.")
        self._tokens = new(Counter, "generation_tokens", "Tokens spoken by finished answers.")
        self._latents = new(Counter, "latents", "Latents thought for finished answers.")
        self._passes = new(Counter, "forward_passes", "Forward passes of the model.")
        self._ended = new(Counter, "request_success", "Answers that ended, by how.", ("finished_reason",))
        self._refused = new(Counter, "requests_refused", "Calls refused because too many waited.")
        self._first = new(Histogram, "time_to_first_token_seconds", "From the call to the first token.", **seconds)
        self._between = new(Histogram, "inter_token_latency_seconds", "From token to token.", **seconds)
        self._whole = new(Histogram, "e2e_request_latency_seconds", "From the call to the end.", **seconds)
        self._queue = new(Histogram, "request_queue_time_seconds", "From the call to a slot.", **seconds)
        self._thinking = new(Histogram, "thinking_seconds", "From a slot to the last latent.", **seconds)
        self._pass_seconds = new(Histogram, "pass_seconds", "Time of a forward pass.", **seconds)
        self._columns = new(Histogram, "iteration_tokens_total", "Positions fed in a pass.", buckets=_COLUMNS)
        for name in names:  # there from the start, as zeros
            for metric in vars(self).values():
                if metric is not self.registry and metric is not self._ended:
                    metric.labels(name)
            for reason in REASONS:
                self._ended.labels(name, reason)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def state(self, name: str, scheduler: Scheduler) -> None:
        """How full it is right now."""
        self._running.labels(name).set(len(scheduler.running))
        self._waiting.labels(name).set(len(scheduler.waiting))
        self._slots.labels(name).set(len(scheduler.running) / scheduler.slots.rows)

    def passed(self, name: str, columns: int, seconds: float) -> None:
        """A forward pass was made."""
        self._passes.labels(name).inc()
        self._pass_seconds.labels(name).observe(seconds)
        self._columns.labels(name).observe(columns)

    def admitted(self, name: str, seconds: float) -> None:
        """An answer got its slot."""
        self._queue.labels(name).observe(seconds)

    def thought(self, name: str, seconds: float) -> None:
        """An answer has made its last latent."""
        self._thinking.labels(name).observe(seconds)

    def spoke_first(self, name: str, seconds: float) -> None:
        """An answer has its first token."""
        self._first.labels(name).observe(seconds)

    def spoke(self, name: str, seconds: float, tokens: int) -> None:
        """An answer has further tokens, so long after the one before."""
        for _ in range(tokens):
            self._between.labels(name).observe(seconds)

    def finished(self, name: str, reason: str, *, seconds: float, prompt: int, tokens: int, latents: int) -> None:
        """An answer is whole."""
        self.ended(name, reason)
        self._whole.labels(name).observe(seconds)
        self._prompt.labels(name).inc(prompt)
        self._tokens.labels(name).inc(tokens)
        self._latents.labels(name).inc(latents)

    def ended(self, name: str, reason: str) -> None:
        """An answer has ended in some way."""
        self._ended.labels(name, reason).inc()

    def refused(self, name: str) -> None:
        """A call was told to come back."""
        self._refused.labels(name).inc()
