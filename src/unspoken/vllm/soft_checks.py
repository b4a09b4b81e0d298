"""Soft thinking inside vLLM: what an engine and a request may say, checked in vLLM's front process."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config

from unspoken.core.loop.soft import SoftThinking
from unspoken.core.text.thinking import CLOSE
from unspoken.errors import ConfigError
from unspoken.exporters.vllm_format import SOFT_USUAL
from unspoken.vllm.checks import own_cache, refusals, watch_requests

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.inputs import EngineInput
    from vllm.pooling_params import PoolingParams

SOFT = "soft_thinking"
"""What a request says in `SamplingParams.extra_args` (`vllm_xargs` over HTTP): soft thinking as text, or "" for none."""


class SoftModelConfig(VerifyAndUpdateConfig):
    """Called by vLLM with the settings of an engine that is to serve one of the `UnspokenSoft...` classes."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse settings under which soft thinking would be wrong; have every request checked.

        Raises:
            ValueError: says which setting, and what to do.
        """
        model = vllm_config.model_config
        if refused := refusals(vllm_config):
            raise ValueError(f"{model.model} is to think softly, which needs another setting: " + "; ".join(refused))
        mark, usual = mark_of(model), getattr(model.hf_config, SOFT_USUAL, None)
        try:
            soft_thinking({}, usual, mark)
        except VLLMValidationError as error:
            raise ValueError(f"{SOFT_USUAL} in --hf-overrides: {error}") from error
        structured = vllm_config.structured_outputs_config
        apart = bool(structured.reasoning_parser) and not structured.enable_in_reasoning

        def check(inputs: EngineInput, params: SamplingParams | PoolingParams) -> None:
            check_soft_request(inputs, params, usual, mark, apart)

        watch_requests(check)


def mark_of(model: ModelConfig) -> str:
    """The text that ends a model's thinking, if its tokenizer has one token for it; else ""."""
    tokenizer = cached_tokenizer_from_config(model)
    if tokenizer is None:
        raise ValueError("soft thinking reads its own text, which needs a tokenizer: leave --skip-tokenizer-init out")
    return CLOSE if len(tokenizer.encode(CLOSE, add_special_tokens=False)) == 1 else ""


def soft_thinking(given: Mapping[str, object], usual: str | None, mark: str) -> SoftThinking | None:
    """How a request thinks softly; None = it does not.

    Args:
        given: its `extra_args`.
        usual: what holds where it says nothing.
        mark: see `mark_of`.

    Raises:
        VLLMValidationError: no such settings, or nothing would end the thinking.
    """
    text = given.get(SOFT, usual)
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise VLLMValidationError(
            f'{SOFT} must be a text such as "soft" or "switch,limit=512", got {text!r:.60}', parameter=SOFT
        )
    try:
        how = SoftThinking.parse(text)
    except ConfigError as error:
        raise VLLMValidationError(f"{SOFT}: {error}", parameter=SOFT) from error
    if how.kind != "chain" and not (mark or how.until or how.limit):
        raise VLLMValidationError(
            f"{SOFT}: nothing is known to end this model's thinking; add until=TEXT or limit=N", parameter=SOFT
        )
    return how


def check_soft_request(
    inputs: EngineInput, params: SamplingParams | PoolingParams, usual: str | None, mark: str, apart: bool
) -> None:
    """Refuse a request that the workers could not serve; one that thinks softly gets a cache of its own, since its token ids
    do not say what was fed.

    Args:
        inputs: the prompt as vLLM has prepared it.
        params: what it asks for.
        usual, mark: see `soft_thinking`.
        apart: structured output begins behind the thoughts, where a reasoning parser says.

    Raises:
        VLLMValidationError: says which field, and what was expected.
    """
    if not isinstance(params, SamplingParams) or soft_thinking(params.extra_args or {}, usual, mark) is None:
        return
    if params.max_tokens == 1 and (params.logprobs or 0) > 1:
        raise VLLMValidationError(
            "one token with several log-probabilities is what beam search asks for, and beams cannot think softly; if this "
            "is no beam search, ask for more tokens",
            parameter="max_tokens",
        )
    if params.structured_outputs is not None and not apart:
        raise VLLMValidationError(
            "structured output would begin inside the thoughts, whose words no grammar allows: start the server with a "
            "--reasoning-parser for this model, and not to use it while reasoning",
            parameter="structured_outputs",
        )
    if getattr(params, "thinking_token_budget", None) is not None:
        raise VLLMValidationError(
            f'{SOFT} has a limit of its own: "{SOFT}": "soft,limit=N" instead of thinking_token_budget',
            parameter="thinking_token_budget",
        )
    own_cache(inputs)
