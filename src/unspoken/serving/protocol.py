"""What may be asked: the fields of OpenAI's completions and chat completions that are offered here, and our own.

A field that changes answers and is not offered is refused, unless it has the value with which it changes nothing; so is one
that nobody knows. Fields that only describe the request are taken and forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, WithJsonSchema

from unspoken.core.checks import shown
from unspoken.core.config import build, config_class
from unspoken.errors import ConfigError
from unspoken.serving.errors import ApiError

LONGEST = 1 << 20
"""Bytes of a request: a question, not a book."""

MOST_CHOICES = 1024
"""Answers that one request may ask for."""

MOST_LOGPROBS = 20
"""Likeliest tokens that are told beside a chosen one."""

Text = Annotated[str, Field(strict=True, max_length=LONGEST)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=1 << 20)]
Some = Annotated[int, Field(strict=True, ge=1, le=MOST_CHOICES)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
TopK = Annotated[int, Field(strict=True, ge=-1, lt=1 << 31)]
TokenId = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 62)]
Positive = Annotated[float, Field(strict=True, ge=0, le=1e3, allow_inf_nan=False)]
TopP = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Logprobs = Annotated[int, Field(strict=True, ge=0, le=MOST_LOGPROBS)]
StopText = Annotated[str, Field(strict=True, min_length=1, max_length=1000)]

_STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Prompt = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "string"}, _STRINGS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
]
Messages = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {"anyOf": [{"type": "string"}, {"type": "array"}]}},
            },
        }
    ),
]


@config_class
class StreamOptions:
    """How a stream ends."""

    include_usage: Flag = False
    continuous_usage_stats: Flag = False


@config_class
class Xargs:
    """Where a client of vLLM's plugin says how many latents."""

    latents: Count | None = None


@config_class
class Asked:
    """What both kinds of request have in common.

    Attributes:
        max_tokens, temperature, top_p, top_k: as the run says where they are left out.
        seed: of drawn answers; left out, every request draws anew.
        n: answers per prompt (and set of thoughts); `samples` is another name for it.
        ignore_eos: speak on to `max_tokens`.
        latents: how many to think; left out, as trained.
        chains: from how many of the model's sets of thoughts to answer.
        show_thoughts: decode the latents into words; left out, where the model can.
        stop_thinking: a rule, e.g. "confidence:0.9", that ends thinking early.
        soft_thinking: think in mixtures of tokens, e.g. "soft" or "switch,limit=512"; left out, as the server was told.
    """

    model: Text | None = None
    max_tokens: Tokens | None = None
    temperature: Positive | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    n: Some | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: Flag = False
    stream: Flag = False
    stream_options: StreamOptions | None = None
    latents: Count | None = None
    chains: Some = 1
    samples: Some | None = None
    show_thoughts: Flag | None = None
    stop_thinking: Text | None = None
    soft_thinking: Text | None = None
    vllm_xargs: Xargs | None = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for streams; set stream to true, or leave them out", "stream_options")
        if self.n is not None and self.samples is not None and self.n != self.samples:
            raise ApiError(400, f"samples is another name for n, got n={self.n} and samples={self.samples}", "samples")
        if self.stop_thinking is not None and not re.fullmatch(r"[a-z_]+:[0-9.eE+-]+", self.stop_thinking):
            said = shown(self.stop_thinking)
            raise ApiError(400, f"stop_thinking is RULE:NUMBER, e.g. confidence:0.9; got {said}", "stop_thinking")

    @property
    def answers(self) -> int:
        """Per prompt and set of thoughts."""
        return self.n or self.samples or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def usage_at_end(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Asked):
    """`POST /v1/completions`."""

    prompt: Prompt
    logprobs: Logprobs | None = None


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Asked):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: Tokens | None = None
    logprobs: Flag = False
    top_logprobs: Logprobs | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", "top_logprobs")


FORGOTTEN = frozenset(
    [
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "verbosity", "request_id", "priority", "cache_salt", "skip_special_tokens", "spaces_between_special_tokens",
        "parallel_tool_calls", "include_reasoning", "add_generation_prompt",
    ]
)  # fmt: skip
"""Fields that change no answer here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "echo": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "chat_template_kwargs": ({},),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
}
"""Fields that are not offered, and the values with which they change nothing."""

_WHY = {
    "echo": "the prompt holds latents, which have no text",
    "tools": "these models answer in plain text",
    "functions": "these models answer in plain text",
    "response_format": "answers are plain text",
}

R = TypeVar("R")


def parse(kind: type[R], body: object) -> R:
    """A request from JSON that was read.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    if not isinstance(body, Mapping):
        raise ApiError(400, f"a request is a JSON object, got {shown(body, 80)}")
    given = {name: value for name, value in body.items() if value is not None and name not in FORGOTTEN}
    for name, neutral in NEUTRAL.items():
        if name in given and (value := given.pop(name)) not in neutral:
            why = f": {_WHY[name]}" if name in _WHY else ""
            raise ApiError(400, f"{name} is not offered here{why}; leave it out, got {shown(value)}", name, "unsupported")
    try:
        return build(kind, given)
    except ConfigError as error:
        named = re.search(r"field '([^'.]+)", str(error))
        raise ApiError(400, str(error), named[1] if named else None) from None


def schema(kind: type) -> dict[str, Any]:
    """The JSON schema of a request, for the OpenAPI document."""
    return TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")


def prompts_of(asked: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a request, as texts or token ids.

    Raises:
        ApiError: 400, it has none, or what is no prompt.
    """
    prompt = asked.prompt
    single = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(_is_id(part) for part in prompt))
    prompts = [prompt] if single else prompt
    if not isinstance(prompts, list) or not prompts:
        said = "an empty list" if prompts == [] else shown(prompt, 80)
        raise ApiError(400, f"prompt must be a text, a list of texts, token ids, or lists of them; got {said}", "prompt")
    for one in prompts:
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(_is_id(part) for part in one)):
            raise ApiError(400, f"a prompt must be a text or a list of token ids, got {shown(one, 80)}", "prompt")
    return prompts


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def question_of(asked: ChatRequest) -> str:
    """The question of a chat: its one message, from the user.

    Raises:
        ApiError: 400, it is no chat, or has turns that a model of single questions cannot read.
    """
    messages = asked.messages
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, f"messages must be a list with the user's message, got {shown(messages, 80)}", "messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, f"a message is an object with a role and content, got {shown(message, 80)}", "messages")
        if message["role"] != "user":
            raise ApiError(
                400,
                f"this model was trained on single questions: it reads one user message, and none of role "
                f"{shown(message['role'])}; put what it must know into the question",
                "messages",
                "single_turn",
            )
    if len(messages) > 1:
        raise ApiError(
            400,
            f"this model was trained on single questions: send one user message, got {len(messages)}",
            "messages",
            "single_turn",
        )
    return _content(messages[0].get("content"))


def _content(content: object) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise ApiError(400, f"content must be a text or a list of text parts, got {shown(content, 80)}", "messages")
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, f"this model reads text only; got a part {shown(part, 80)}", "messages")
    return "\n".join(part["text"] for part in parts)
