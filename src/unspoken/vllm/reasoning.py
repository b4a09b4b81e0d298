"""The reasoning parser (`vllm serve --reasoning-parser unspoken`): latents count as reasoning, and structured output begins
with the answer.

There is no text to show for a latent: what a chat answers in `reasoning` stays empty. Words near a latent are among the
log-probabilities of its slot, where they are asked for.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning.abs_reasoning_parsers import ReasoningParser

from unspoken.exporters.vllm_format import KEY, latent_config

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.tokenizers import TokenizerLike


class LatentReasoningParser(ReasoningParser):
    """Made by vLLM, in some places with a tokenizer alone: so how to think is read from the tokenizer's own settings."""

    def __init__(self, tokenizer: TokenizerLike, *args: object, **kwargs: object) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        settings = getattr(tokenizer, "init_kwargs", {})
        latent = latent_config(settings.get(KEY), str(getattr(tokenizer, "name_or_path", "the tokenizer")))
        self.slot = latent["slot"]
        self.markers = {*latent["before"], latent["slot"], *latent["after"]}
        self.texts = list(latent["markers"])
        self.last = latent["after"][-1] if latent["after"] else None

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Whether prompt and answer so far contain what stands behind the latents."""
        if self.last is None:
            return bool(input_ids) and input_ids[-1] not in self.markers
        return self.last in input_ids

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        """The same for the tokens that are new."""
        return self.is_reasoning_end(list(delta_ids))

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """The answer's tokens."""
        return [token for token in input_ids if token not in self.markers]

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """The number of latents."""
        return sum(token == self.slot for token in token_ids)

    def extract_reasoning(
        self, model_output: str, request: ChatCompletionRequest | ResponsesRequest
    ) -> tuple[str | None, str | None]:
        """No reasoning, and the answer."""
        return None, self._answer(model_output)

    def _answer(self, text: str) -> str:
        """A text without markers, which are in it if special tokens are to be shown."""
        for marker in self.texts:
            text = text.replace(marker, "")
        return text

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """The same for what is new; None while the model thinks."""
        content = self._answer(delta_text)
        return DeltaMessage(content=content) if content else None
