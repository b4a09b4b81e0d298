"""Run lm-evaluation-harness on our models: the model class `unspoken`, by instance or by name.

    simple_evaluate(model=UnspokenLM(model), tasks=["gsm8k"], num_fewshot=0)
    unspoken lm-eval --model unspoken --model_args path=RUN --tasks gsm8k_latent

Supports only `generate_until`: a likelihood would need latents between context and continuation, and there is no agreed way
to score a continuation that the model did not think about. The harness cannot find model classes in other packages, so
`unspoken lm-eval` registers this one and then starts the harness's command line.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unspoken.core.checks import number_of
from unspoken.errors import ConfigError
from unspoken.runs.directory import load
from unspoken.runs.model import Model

try:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
except ImportError:
    raise ConfigError(
        "lm-evaluation-harness is not installed; pip install 'unspoken[lm-eval]' (about 400 MB with what it needs)"
    ) from None

TASKS = Path(__file__).resolve().parents[1] / "assets" / "lm-eval"
"""Our task files, for `--include_path`."""

_WRAPPED = re.compile(r"(?s)Question:\s*(?P<question>.*?)\s*Answer:\s*")
_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


def question_of(context: str) -> str:
    """The question in what a task puts to a model: "Question: ...\\nAnswer:" or the question alone.

    Raises:
        ConfigError: the prompt has worked examples, which a fine-tuned latent model has never seen.
    """
    if context.count("Question:") > 1 and context.rstrip().endswith("Answer:"):
        raise ConfigError(
            f"the context holds {context.count('Question:') - 1} worked examples, which a model trained on single questions "
            "does not know; run the task with --num_fewshot 0"
        )
    match = _WRAPPED.fullmatch(context.strip())
    return match["question"] if match else context.strip()


@register_model("unspoken")
class UnspokenLM(LM):
    """A run, or a loaded model, with the harness's interface.

    Args:
        model: a loaded model; or give `path`.
        path: a run directory.
        latents: number of latents; None = as trained.
        batch_size: questions per batch ("auto" = 32).
        device: None = a GPU if there is one.
        max_batch_size: not used; passed by the harness.

    Raises:
        ConfigError: neither model nor path, or both; a batch size that is not a number.
        RunError: the run cannot be loaded.
    """

    def __init__(
        self,
        model: Model | None = None,
        *,
        path: str | None = None,
        latents: int | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if (model is None) == (path is None):
            raise ConfigError("UnspokenLM needs a model or the path of a run: UnspokenLM(model), or --model_args path=RUN")
        size = 32 if batch_size is None or str(batch_size).startswith("auto") else batch_size
        if not number_of(str(size)):
            raise ConfigError(f"batch_size must be a number above 0, or auto, got {batch_size!r}")
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness's default
        self.model = load(str(path), device=device, explain=False) if model is None else model
        self.latents, self.batch_size = latents, int(size)

    @property
    def tokenizer_name(self) -> str:
        """The run's path, which the harness uses in names of caches."""
        return str(self.model.path or "unspoken").replace("/", "__")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each context, up to the task's stop words.

        Raises:
            ConfigError: worked examples in the context, or an unsupported generation option.
        """
        said = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(place)
        for places in groups.values():
            options = dict(requests[places[0]].args[1])
            answers = self.model.sample(
                [question_of(requests[place].args[0]) for place in places], numbers=places, latents=self.latents,
                names=[f"request {place}" for place in places], batch_size=self.batch_size, **_speaking(options),
            )  # fmt: skip
            cut = 0
            for place, (answer,) in zip(places, answers, strict=True):
                said[place] = _cut(answer.text, options.get("until"))
                cut += not answer.finished and said[place] == answer.text  # an answer that a stop word ends is finished
            if cut:
                logging.getLogger(__name__).warning(
                    "%s of %s answers reached the limit of tokens without ending; raise max_gen_toks", cut, len(places)
                )
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not available."""
        raise ConfigError(
            "a task asks for likelihoods, which a model that thinks in latents before it speaks does not have; choose tasks "
            "of output_type generate_until, e.g. gsm8k_latent"
        )

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Not available."""
        raise ConfigError("a task asks for the likelihood of a text; choose tasks of output_type generate_until")


def _speaking(options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's generation options as fields of `SamplingParams`. Greedy unless the task samples, as in the harness."""
    if odd := sorted(set(options) - set(_KNOWN)):
        raise ConfigError(f"a task sets the generation option {odd[0]!r}; known: {', '.join(_KNOWN)}")
    temperature = float(options.get("temperature") or 0.0)
    if not options.get("do_sample", temperature > 0):
        temperature = 0.0
    elif not temperature:
        temperature = 1.0
    rest = {"top_p": options.get("top_p"), "top_k": options.get("top_k"), "max_new_tokens": options.get("max_gen_toks")}
    return {"temperature": temperature, **{name: value for name, value in rest.items() if value is not None}}


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """Text up to the first stop word."""
    words = [until] if isinstance(until, str) else list(until or ())
    ends = [at for word in words if word and (at := text.find(word)) >= 0]
    return text[: min(ends)] if ends else text


def main(arguments: Sequence[str]) -> None:
    """The harness's own command line, with our model class and, by default, our task files."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    words = list(arguments)
    named = any(word.split("=")[0] == "--include_path" for word in words)
    if not named and any(word.split("=")[0] in ("--tasks", "-t") for word in words):
        words += ["--include_path", str(TASKS)]
    sys.argv = ["lm_eval", *words]
    cli_evaluate()
