"""What a latent model refuses inside vLLM, in words and before anything starts: settings of the engine, and requests.

Both are checked in vLLM's front process: a request that is refused there is an error 400, whereas an error in a worker would
end the engine for everybody.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams

from unspoken.exporters.vllm_format import KEY, LatentConfig, latent_config

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.inputs import EngineInput
    from vllm.pooling_params import PoolingParams

LATENTS, NOISE, NOISE_SEED, STOP = "latents", "latent_noise", "latent_noise_seed", "stop_thinking"
"""What a request may say in `SamplingParams.extra_args` (`vllm_xargs` over HTTP)."""

MOST_NOISE = 10.0
"""Standard deviation, as a multiple of a latent's own size, above which a request is certainly wrong."""


class LatentModelConfig(VerifyAndUpdateConfig):
    """Called by vLLM with the settings of an engine that is to serve one of the classes in `unspoken/vllm/models.py`."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse settings under which latents would be wrong; have every request checked.

        Raises:
            ValueError: says which setting, and what to do.
        """
        model = vllm_config.model_config
        latent = latent_config(getattr(model.hf_config, KEY, None), model.model)
        if refused := refusals(vllm_config):
            raise ValueError(f"{model.model} thinks in latents, which needs another setting: " + "; ".join(refused))
        structured = vllm_config.structured_outputs_config
        apart = structured.reasoning_parser == "unspoken" and not structured.enable_in_reasoning

        def check(inputs: EngineInput, params: SamplingParams | PoolingParams) -> None:
            check_request(latent, inputs, params, apart)

        watch_requests(check)


def refusals(vllm_config: VllmConfig) -> list[str]:
    """The settings under which latents would be wrong, each with what to do about it."""
    parallel = vllm_config.parallel_config
    wrong: list[tuple[Any, str]] = [
        (
            not vllm_config.use_v2_model_runner,
            "the model runner is V1, which has no place for them: set VLLM_USE_V2_MODEL_RUNNER=1; it needs Triton, on a CPU "
            "also TRITON_INTERPRET=1 and what deploy/vllm-cpu of unspoken's repository puts into the environment",
        ),
        (
            parallel.pipeline_parallel_size > 1,
            "pipeline parallelism (the state is on the last rank, the embedding on the first): use --tensor-parallel-size",
        ),
        (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1
            or getattr(parallel, "decode_context_parallel_size", 1) > 1,
            "context parallelism: leave it out",
        ),
        (getattr(parallel, "use_ubatching", False), "micro-batches (--enable-dbo): leave them out"),
        (getattr(parallel, "enable_batch_sharded_sampling", False), "--enable-batch-sharded-sampling: leave it out"),
        (vllm_config.speculative_config is not None, "speculative decoding (a draft knows no latents): leave it out"),
        (
            getattr(vllm_config, "kv_transfer_config", None) is not None,
            "a transfer of KV (prefill and decode apart, offloading): the state behind a latent stays behind; leave it out",
        ),
        (
            getattr(vllm_config.cache_config, "kv_sharing_fast_prefill", False),
            "--kv-sharing-fast-prefill: leave it out",
        ),
        (getattr(vllm_config, "lora_config", None) is not None, "adapters (--enable-lora): export the run merged, as it is"),
        (
            vllm_config.scheduler_config.policy != "fcfs",
            f"the scheduling policy {vllm_config.scheduler_config.policy!r} (a request may wait so long that its "
            "latents are given up): use fcfs",
        ),
    ]
    return [words for refused, words in wrong if refused]


def watch_requests(check: Callable[[EngineInput, SamplingParams | PoolingParams], None]) -> None:
    """Have every request checked, after what vLLM's platform checks itself."""
    platform: Any = current_platform
    before: Callable[..., None] = getattr(platform, "_unspoken_before", None) or platform.validate_request

    def validate_request(processed_inputs: EngineInput, params: SamplingParams | PoolingParams) -> None:
        before(processed_inputs, params)
        check(processed_inputs, params)

    platform._unspoken_before = before
    platform.validate_request = validate_request


def check_request(
    latent: LatentConfig, inputs: EngineInput, params: SamplingParams | PoolingParams, apart: bool = True
) -> None:
    """Refuse a request that the workers could not serve; give one with noise a cache of its own.

    Args:
        latent: how the model thinks.
        inputs: the prompt as vLLM has prepared it.
        params: its `SamplingParams`; what else there may be (embeddings, beams) is not for this model.
        apart: structured output begins behind the thoughts, where our reasoning parser says.

    Raises:
        VLLMValidationError: says which field, and what was expected.
    """
    if not isinstance(params, SamplingParams):
        raise VLLMValidationError("this model thinks and answers; it serves no embeddings, scores or beams")
    ids = inputs.get("prompt_token_ids") or ()
    reserved = {latent["markers"][text]: text for text in latent["reserved"]}
    opening = len(latent["before"]) if tuple(ids[-len(latent["before"]) :]) == tuple(latent["before"]) else 0
    if found := set(ids[: len(ids) - opening]) & set(reserved):
        raise VLLMValidationError(
            f"the prompt contains the marker {reserved[min(found)]!r}, which is reserved for thoughts; remove it. "
            "Earlier turns are not for this model: ask one question",
            parameter="prompt",
        )
    if params.max_tokens == 1 and (params.logprobs or 0) > 1:
        raise VLLMValidationError(
            "one token with several log-probabilities is what beam search asks for, which is not for this model: its first "
            "tokens stand for latents. If this is no beam search, ask for more tokens",
            parameter="max_tokens",
        )
    if params.structured_outputs is not None and not (apart and latent["after"]):
        raise VLLMValidationError(
            "structured output would begin inside the thoughts, whose placeholders no grammar allows: "
            + (
                "start the server with --reasoning-parser unspoken, and not to use it while reasoning"
                if latent["after"]
                else "nothing marks the end of this model's thoughts"
            ),
            parameter="structured_outputs",
        )
    given = params.extra_args or {}
    number(given, LATENTS, latent["latents"], whole=True, least=0, most=latent["most"])
    stop_rule(given)
    if number(given, NOISE, 0.0, whole=False, least=0, most=MOST_NOISE):
        number(given, NOISE_SEED, 0, whole=True, least=0, most=(1 << 63) - 1)
        own_cache(inputs)
        # Drawn here, since every worker must draw the same noise.
        seed = params.seed if params.seed is not None else uuid.uuid4().int >> 65
        params.extra_args = {**given, NOISE_SEED: given.get(NOISE_SEED, seed)}


def own_cache(inputs: EngineInput) -> None:
    """Let a request share no KV with any other, for its token ids do not say what it is fed."""
    inputs["cache_salt"] = f"{inputs.get('cache_salt') or ''}{uuid.uuid4().hex}"


def stop_rule(given: Mapping[str, object]) -> float | None:
    """The relative change of a latent at which thoughts end early, from "convergence:CHANGE"; None = think them all.

    Raises:
        VLLMValidationError: it is no rule, or one that cannot be followed here.
    """
    text = given.get(STOP)
    if text is None:
        return None
    rule, _, limit = text.partition(":") if isinstance(text, str) else (None, "", "")
    if rule in ("confidence", "head", "fixed"):
        raise VLLMValidationError(
            f"{STOP}: rule {rule!r} is not for vLLM: "
            + {
                "confidence": "it tries the answer behind every latent and takes it back",
                "head": "its trained head is no part of the folder",
                "fixed": f"say {LATENTS}, the number itself",
            }[rule]
            + "; use convergence, or `unspoken serve`" * (rule != "fixed"),
            parameter=STOP,
        )
    try:
        change = float(limit)
    except ValueError:
        change = math.nan
    if rule != "convergence" or not math.isfinite(change) or change < 0:
        raise VLLMValidationError(
            f'{STOP} must be "convergence:CHANGE" with a relative change of 0 or more, e.g. "convergence:0.1"; '
            f"got {text!r:.80}",
            parameter=STOP,
        )
    return change


def number(given: Mapping[str, object], name: str, usual: float, *, whole: bool, least: float, most: float) -> float:
    """A number that a request may say; `usual` if it does not.

    Raises:
        VLLMValidationError: it is none, or out of range.
    """
    value = given.get(name, usual)
    if value is None:
        return usual
    if isinstance(value, float) and whole and value.is_integer():  # JSON has one kind of number
        value = int(value)
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise VLLMValidationError(f"{name} must be {kind} from {least} to {most}, got {value!r}", parameter=name)
    return value
