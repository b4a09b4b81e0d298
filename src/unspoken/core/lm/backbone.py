"""A Hugging Face causal LM behind a few calls: embed, step, logits, cache, freeze, adapt. Only this file runs the model.

On construction, `Backbone` checks that body + head give the model's logits, and how rows can share a pass
(`core/lm/ways.py`). Shapes: B rows, T positions of this pass, S positions forwarded so far, D width, V words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from unspoken.core.checks import readable
from unspoken.core.config import config_class
from unspoken.core.embeddings import input_table, output_head, text_config
from unspoken.core.fast import packing
from unspoken.core.fast.activation_checkpointing import recomputing
from unspoken.core.fast.cpu_linear import look_again
from unspoken.core.fast.switch import settings
from unspoken.core.fast.token_store import Encodings
from unspoken.core.fast.unhooked import without_hooks
from unspoken.core.fast.unpadded import PassCache
from unspoken.core.lm.adapters import LoraSettings, keep, merged, tied_targets
from unspoken.core.lm.hf import layer_list, part_from_copies
from unspoken.core.lm.prefix_cache import PrefixCache
from unspoken.core.lm.ways import columns_limit, new_cache, ways_of
from unspoken.core.precision import is_low
from unspoken.core.rows.protocol import PassOptions
from unspoken.errors import BackboneError, ConfigError

if TYPE_CHECKING:
    from peft import PeftModel


@config_class
class BackboneConfig:
    """Which causal LM to start from. Exactly one of `path` and `arch` is set."""

    path: str | None = None  # hub id, folder, run directory, or "builtin:tiny"
    arch: dict[str, Any] | None = None  # a transformers config ({"model_type": "llama", ...}) for random weights
    tokenizer: str | None = None  # hub id or folder; None = the one beside `path`
    lora: LoraSettings | None = None  # None = every weight trains
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of parameters that do not train; those that train are kept in float32
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"  # eager where a family has no sdpa

    def __post_init__(self) -> None:
        if (self.path is None) == (self.arch is None):
            raise ConfigError("a backbone needs exactly one of 'path' (pretrained weights) and 'arch' (random weights)")
        if self.arch is not None and self.tokenizer is None:
            raise ConfigError("a backbone with 'arch' needs 'tokenizer' (a hub id or folder)")


SHARD = "5GB"
"""The most that a file of saved weights holds."""


def head_logits(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """States [..., D] -> logits [..., V] of a causal LM, including the scaling that some families apply."""
    logits = output_head(lm)(hidden)
    config = text_config(lm)
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere multiplies
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:  # Granite divides
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2 and later
        logits = torch.tanh(logits / cap) * cap
    return logits


class Backbone(nn.Module):
    """The base model as unspoken sees it.

    Args:
        lm: a causal LM of transformers.
        tokenizer: its tokenizer; without a pad token, eos is used.

    Attributes:
        parallel: number of parallel passes for all latents (`core/loop/parallel.py`); None = one pass per latent.
        prefixes: cache of what comes before the slots of prompts, if the model is frozen; None = no cache
            (`FastConfig.prefix_gb`).

    Making one turns cuDNN's attention off for the whole process: it builds a plan for every new shape, and the passes of
    latents have new shapes all the time. A third of an SFT-CoT update at 135M parameters on an H200 went into plans, and
    more of a latent method's (`docs/speed/gpu.md`).

    Raises:
        BackboneError: the model's logits are not head(body(embeddings)), or it has no eos token.
    """

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.lm: Any = lm
        self._peft: PeftModel | None
        object.__setattr__(self, "_peft", None)  # the LoRA wrapper, kept off the module tree: names stay the model's own
        self.tokenizer: Any = tokenizer  # its class says of most answers that they may be lists
        self.checkpointing = False  # in training, recompute activations instead of keeping them
        self.agree: Callable[[int], int] | None = None  # see `CausalLM`
        self._encoded: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._encoded_size = 0
        self.remembered = 1 << 30  # bytes of cached encodings; 0 = no cache
        self.encodings: Encodings | None = None  # holds a large corpus instead
        self._bounds: dict[str, np.ndarray] = {}
        self.parallel: int | None = None
        self.prefixes = PrefixCache(lm, gigabytes) if (gigabytes := settings().prefix_gb) else None
        if tokenizer.eos_token_id is None:
            raise BackboneError("the tokenizer has no eos token; set tokenizer.eos_token so that answers can end")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.lm.config.use_cache = True
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)  # it plans every new shape anew: docs/speed/gpu.md
        with without_hooks(self.lm):
            self._check()
            packing.takes_packing(self.lm)

    @property
    def body(self) -> nn.Module:
        """The model without its head; returns the states after the final norm."""
        return self.lm.base_model

    @property
    def width(self) -> int:
        """D, the width of an input embedding."""
        return int(input_table(self.lm).weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """V, rows of the input embedding."""
        return int(input_table(self.lm).weight.shape[0])

    @property
    def context(self) -> int | None:
        """The most positions the model takes; None if its config does not say."""
        return getattr(text_config(self.lm), "max_position_embeddings", None)

    @property
    def window(self) -> int | None:
        """The number of columns up to which a batch may be padded (a sliding window, or a switch of rotary angles); None =
        any."""
        return columns_limit(self.lm)

    @property
    def device(self) -> torch.device:
        """The device of the input embedding."""
        return input_table(self.lm).weight.device

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token id that ends an answer: the tokenizer's eos and those of the generation config."""
        more = getattr(self.lm.generation_config, "eos_token_id", None)
        ids = [self.tokenizer.eos_token_id, *([more] if isinstance(more, int) else more or [])]
        return tuple(dict.fromkeys(ids))

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of a text; `special` adds the tokenizer's own tokens around a prompt (bos).

        Cached: curricula encode the same problems in every epoch, and a tokenizer call takes 50 us.

        Raises:
            DataError: the text has no UTF-8 form.
        """
        key = (text, special)
        if (known := self._encoded.get(key)) is not None:
            return known
        ids = None if self.encodings is None else self.encodings.find(text, special)
        if ids is None:
            ids = tuple(self.tokenizer(readable(text, f"the text {text!a:.60}"), add_special_tokens=special)["input_ids"])
            if self.encodings is not None:
                self.encodings.put(text, special, ids)
        self._remember(key, ids)
        return ids

    def _remember(self, key: tuple[str, bool], ids: tuple[int, ...]) -> None:
        """Cache an encoding; the cache is emptied when it would exceed `remembered` bytes."""
        most = self.remembered if self.encodings is None else min(self.remembered, 1 << 24)
        size = 200 + len(key[0]) + 8 * len(ids)  # about what Python takes for them
        if size > most // 64:  # one long text is not worth many short ones
            return
        if self._encoded_size + size > most:
            self._encoded.clear()
            self._encoded_size = 0
        self._encoded[key] = ids
        self._encoded_size += size

    def character_ends(self, text: str) -> list[int]:
        """For each token of `encode(text)`, the number of characters of the text up to its end."""
        return self.character_bounds(text)[:, 1].tolist()

    def character_bounds(self, text: str) -> np.ndarray:
        """For each token of `encode(text)`, the characters it stands for: int32 [tokens, 2], start and end. Cached."""
        if text not in self._bounds:
            if len(self._bounds) > 2_000_000:
                self._bounds.clear()
            if self.tokenizer.is_fast:
                found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            else:  # a slow tokenizer gives no offsets: take the length of the text decoded so far
                ids = self.encode(text)
                ends = [len(self.tokenizer.decode(list(ids[: i + 1]))) for i in range(len(ids))]
                found = list(zip([0, *ends], ends, strict=False))
            self._bounds[text] = np.array(found, dtype=np.int32).reshape(-1, 2)
        return self._bounds[text]

    def forget_encoded(self) -> None:
        """Empty the cache of encodings, because the tokenizer has changed."""
        self.encodings = None
        self._encoded.clear()
        self._encoded_size = 0
        self._bounds.clear()

    def decode(self, ids: tuple[int, ...] | list[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> input embeddings [..., D]."""
        return input_table(self.lm)(ids)

    def new_cache(self, columns: int = 0, branched: bool = False) -> Any:
        """An empty cache of the kind this model needs; see `core/lm/ways.py`."""
        look_again()
        return new_cache(self.lm, columns, branched, checkpointing=self.checkpointing)

    def step(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> Tensor:
        """One forward pass of the body.

        Args:
            embeds_BTD: token embeddings or latents.
            how: see `PassOptions`.

        Returns:
            hidden_BTD: states after the final norm.

        Raises:
            ConfigError: a mask of the second kind for an attention implementation that cannot take it.
        """
        return self._body(embeds_BTD, **how).last_hidden_state

    def states(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> tuple[Tensor, ...]:
        """Like `step`, but returns the states of every layer: embeddings, each layer's output, the last one after the final
        norm."""
        return self._body(embeds_BTD, **how, asked="hidden_states").hidden_states

    def below(self, layer: int, embeds_BTD: Tensor, *, positions_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """The input [B, T, D] of a layer; only the layers below it run."""
        found: list[Tensor] = []

        def stop(_: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
            found.append(given[0] if given else named["hidden_states"])
            raise _Enough

        handle = layer_list(self.lm)[layer].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with contextlib.suppress(_Enough):
                self._body(embeds_BTD, positions_BT, mask, None)
        finally:
            handle.remove()
        return found[0]

    def attention(self, embeds_BTD: Tensor, *, positions_BT: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Attention weights [L, B, H, T, T], whose rows sum to 1; layers without attention are left out.

        For analysis: one pass without a cache by the eager implementation, the only one that returns weights; the model's
        own implementation is restored. None if the family returns no weights.
        """
        kind = self.lm.config._attn_implementation
        try:
            self.lm.set_attn_implementation("eager")
            with torch.inference_mode():
                found = self._body(embeds_BTD, positions_BT, mask, None, asked="attentions").attentions
        finally:
            self.lm.set_attn_implementation(kind)
        weights = [layer for layer in found or () if layer is not None and layer.ndim == 4]
        return torch.stack(weights) if weights else None

    def _body(
        self,
        embeds_BTD: Tensor,
        positions_BT: Tensor,
        mask: Tensor | None = None,
        cache: PassCache | None = None,
        real: np.ndarray | None = None,
        asked: Literal["hidden_states", "attentions"] | None = None,
    ) -> Any:
        if cache is None:
            look_again()
        embeds_BTD = embeds_BTD.to(input_table(self.lm).weight.dtype)
        with recomputing(layer_list(self.lm) if self.checkpointing and cache is not None else None, cache):
            more = {} if asked is None else {f"output_{asked}": True}
            return packing.forward(self.lm, embeds_BTD, positions_BT=positions_BT, mask=mask, cache=cache, real=real, **more)

    def logits(self, hidden: Tensor) -> Tensor:
        """States [..., D] -> logits [..., V]."""
        return head_logits(self.lm, hidden)

    @torch.no_grad()
    def _check(self) -> None:
        """Check that body + head are the whole model, and refuse it otherwise."""
        training = self.lm.training
        self.lm.eval()
        try:
            ids = torch.arange(1, 4, device=self.device)[None] % self.vocabulary
            want = self.lm(input_ids=ids, use_cache=False).logits
            positions = torch.arange(3, device=self.device)[None]
            got = self.logits(self.step(self.embed(ids), positions_BT=positions))
        except (TypeError, AttributeError, RuntimeError) as error:
            raise BackboneError(
                f"cannot drive {type(self.lm).__name__}: {error}; a causal LM that takes inputs_embeds is needed"
            ) from error
        finally:
            self.lm.train(training)
        if not bool(want.isfinite().all()):
            raise BackboneError(
                f"{type(self.lm).__name__}: its own logits are not finite numbers; the weights are too large for their "
                "type, or damaged: take another copy, or dtype float32"
            )
        if not torch.allclose(got.float(), want.float(), rtol=1e-2, atol=1e-3):
            raise BackboneError(
                f"{type(self.lm).__name__}: head(body(x)) differs from the model's own logits by "
                f"{(got - want).abs().max():.3g}: it treats them in a way unspoken does not know; please report it"
            )
        ways_of(self.lm)

    def train(self, mode: bool = True) -> Backbone:
        """See `nn.Module`. Caches are checked again, since the weights may have been changed meanwhile."""
        super().train(mode)
        if self.prefixes is not None:
            self.prefixes.look_again()
        return self

    def freeze(self) -> None:
        """Freeze all weights of the base model."""
        self.lm.requires_grad_(False)

    def adapt(self, lora: LoraSettings, trained_tokens: tuple[int, ...] = ()) -> None:
        """Freeze the base model and add LoRA; the embedding rows of `trained_tokens` are trained too.

        Raises:
            ConfigError: settings that peft refuses, or LoRA on an embedding that is tied to the head.
        """
        from peft import LoraConfig, get_peft_model

        if tied := tied_targets(self.lm, lora.targets or ()):
            raise ConfigError(
                f"LoRA cannot be added to {tied[0]!r}: embedding and head of this model are one table, and what one of them "
                "learns would change the other when it is merged; leave it out of backbone.lora's targets"
            )
        part_from_copies(self.lm, trained_tokens)
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] -- peft says int, and takes any number
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) if lora.targets else "all-linear",
            trainable_token_indices=list(trained_tokens) or None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self.lm.modules()),  # GPT-2's linear layers
            task_type="CAUSAL_LM",
        )
        try:
            adapted = get_peft_model(self.lm, config)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"LoRA cannot be added: {str(error).splitlines()[0]}; check r, alpha and targets") from error
        object.__setattr__(self, "_peft", adapted)
        self._settings = {"lora": asdict(lora), "tokens": list(trained_tokens)}

    def train_rows(self, tokens: tuple[int, ...]) -> None:
        """Freeze the base model except for the rows of some tokens in the embedding (and in a head tied to it)."""
        from peft import TrainableTokensConfig, get_peft_model

        part_from_copies(self.lm, tokens)
        config = TrainableTokensConfig(token_indices=list(tokens), task_type="CAUSAL_LM")
        object.__setattr__(self, "_peft", get_peft_model(self.lm, config))
        self._settings = {"lora": None, "tokens": list(tokens)}

    @property
    def adapted(self) -> bool:
        """Whether it trains by LoRA or only some rows."""
        return self._peft is not None

    def plain(self) -> PreTrainedModel:
        """The causal LM with any LoRA merged into a copy (`adapters.merged`); the model itself if it has none."""
        return self.lm if self._peft is None else merged(self._peft)

    def fold(self) -> None:
        """Merge any LoRA into the model permanently; a model coarser than fp32 becomes fp32."""
        if self._peft is not None:
            self.lm = self.plain().to(self.device)  # pyright: ignore[reportArgumentType]
            self.prefixes = None  # they were of the other one
            object.__setattr__(self, "_peft", None)

    def save(self, folder: Path) -> None:
        """Write the plain model and its tokenizer as an ordinary Hugging Face folder; see also `core/lm/adapters.py`."""
        with _no_bars():
            self.plain().save_pretrained(folder, max_shard_size=SHARD)
        if self._peft is not None and is_low(self.lm.dtype):
            keep(self.lm, self._settings, folder)
        try:
            self.tokenizer.save_pretrained(folder)
        except Exception as error:  # its writer raises bare exceptions, a full disk included
            raise OSError(str(error)) from error


class _Enough(Exception):
    """Raised to end a pass early once its result is known."""


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off transformers' progress bars, which it draws even for small files."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
