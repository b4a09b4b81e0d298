"""What an import needs of the base model: architecture and tokenizer, but not its weights.

A released file says neither which tokenizer it was trained with nor which token ends an answer. So we check that the two
eos ids of the base model agree, that a Llama-3 tokenizer is a chat model's, and, if the base model's weights are on this
machine, that weights frozen under LoRA are equal in both.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from unspoken.core.embeddings import input_table, output_head
from unspoken.core.lm.loading import resolve
from unspoken.core.lm.markers import BOT, EOT, LATENT
from unspoken.core.lm.pretrained import first_line, load_tokenizer
from unspoken.errors import BackboneError, CheckpointError, ConfigError, did_you_mean

_BASE_END, _CHAT_END = "<|end_of_text|>", "<|eot_id|>"
"""Llama 3: what ends a text for the base model, and an answer for the Instruct model; both tokenizers have both tokens."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The tensors of a causal LM.

    Attributes:
        shapes: name -> shape; a head that is tied to the embedding is left out.
        body: prefix of all names but the head's, e.g. "model.".
        embedding: name of the input embedding.
        head: name of the output head.
        tied: whether the head is the embedding.
        conv1d: names of weights that are stored [in, out] (GPT-2), not [out, in].
    """

    shapes: Mapping[str, tuple[int, ...]]
    body: str
    embedding: str
    head: str
    tied: bool
    conv1d: frozenset[str]

    @property
    def width(self) -> int:
        """Of an input embedding."""
        return self.shapes[self.embedding][1]


@dataclass(frozen=True, kw_only=True)
class BaseOutline:
    """The base model of a checkpoint, without its weights.

    Attributes:
        path: as given.
        config, generation, tokenizer: as loaded by transformers.
        trusted: the eos token was given explicitly, so the base model's is not checked.
    """

    path: str
    config: Any
    generation: GenerationConfig
    tokenizer: PreTrainedTokenizerBase
    trusted: bool

    @property
    def words(self) -> int:
        """Tokens of the tokenizer: the id of the first token that is added."""
        return len(self.tokenizer)

    @property
    def rows(self) -> int:
        """Rows of the embedding, spare ones included."""
        return int(self.config.get_text_config().vocab_size)

    def architecture(self, rows: int | None = None) -> Architecture:
        """The tensors of the model, with another number of embedding rows if given."""
        config = self.resized(self.rows if rows is None else rows)
        with torch.device("meta"):
            lm: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        lm.tie_weights()
        names = {id(p): name for name, p in lm.named_parameters()}
        embedding, head = input_table(lm).weight, output_head(lm).weight
        every = dict(lm.named_parameters(remove_duplicate=False))
        state = {name: t for name, t in lm.state_dict(keep_vars=True).items() if names.get(id(t), name) == name}
        return Architecture(
            shapes={name: tuple(t.shape) for name, t in state.items()},
            body=f"{lm.base_model_prefix}.",
            embedding=names[id(embedding)],
            head=next(name for name, p in reversed(every.items()) if p is head),
            tied=head is embedding,
            conv1d=frozenset(f"{name}.weight" for name, module in lm.named_modules() if isinstance(module, Conv1D)),
        )

    def resized(self, rows: int) -> Any:
        """The config with another number of embedding rows."""
        config = copy.deepcopy(self.config)
        config.get_text_config().vocab_size = rows
        return config


def read_base(path: str, eos: str | None = None, *, speaks: bool = True) -> BaseOutline:
    """Config and tokenizer of a base model.

    Args:
        path: a Hugging Face folder (weights may be absent), hub id or "builtin:...".
        eos: the token that ends an answer; None = the tokenizer's own, which is then checked.
        speaks: whether it generates answers; if not, its eos is not checked.

    Raises:
        BackboneError: there is no usable model at the path.
        ConfigError: the tokenizer does not know `eos`.
        CheckpointError: the eos of `path` is not a chat model's, or it is a trained run.
    """
    try:
        where = resolve(path)
        tokenizer: Any = load_tokenizer(where, path)
        config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False)
        generation = _generation(where, config)
    except (ConfigError, BackboneError):
        raise
    except Exception as error:  # transformers, tokenizers and hub each raise their own kinds
        raise BackboneError(
            f"cannot read config and tokenizer of the base model {path}: {first_line(error)}; give the Hugging Face "
            "folder or hub id of the model that the checkpoint was trained from"
        ) from error
    known = tokenizer.get_vocab()
    if BOT in known:
        raise CheckpointError(
            f"base model {path} has marker tokens already: it is a trained model; give the model that it was trained from"
        )
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise CheckpointError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens, its config {config.get_text_config().vocab_size}; "
            "tokenizer and config are of different models: give one model as --base"
        )
    if not speaks:
        pass
    elif eos is None:
        _check_eos(path, tokenizer, generation)
    elif eos not in known:
        raise ConfigError(f"--eos {eos!r} is no token of {path}; {did_you_mean(eos, tokenizer.all_special_tokens)}")
    else:
        tokenizer.eos_token = eos
        generation.eos_token_id = known[eos]
    return BaseOutline(path=path, config=config, generation=generation, tokenizer=tokenizer, trusted=eos is not None)


def _generation(where: str, config: PreTrainedConfig) -> GenerationConfig:
    """The special ids of a model's generation config, or of its config; without sampling settings."""
    try:
        found = GenerationConfig.from_pretrained(where)
    except OSError:  # there is none
        found = GenerationConfig.from_model_config(config)
    return GenerationConfig(
        bos_token_id=found.bos_token_id, eos_token_id=found.eos_token_id, pad_token_id=found.pad_token_id
    )


def _check_eos(path: str, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> None:
    """Refuse a tokenizer with which answers would never end, or another model's."""
    mine, theirs = tokenizer.eos_token_id, generation.eos_token_id
    theirs = [theirs] if isinstance(theirs, int) else list(theirs or [])
    if mine is None:
        raise CheckpointError(f"the tokenizer of {path} has no eos token; say which token ends an answer with --eos TOKEN")
    if theirs and mine not in theirs:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(theirs)))
        raise CheckpointError(
            f"{path} disagrees with itself: its tokenizer ends answers with {tokenizer.eos_token!r}, its generation config "
            f"with {names}; tokenizer and config are of different models: give one model as --base, or say which token "
            "ends an answer with --eos TOKEN"
        )
    if tokenizer.eos_token == _BASE_END and _CHAT_END in tokenizer.get_vocab():
        raise CheckpointError(
            f"the tokenizer of {path} ends answers with {_BASE_END!r}: it is a Llama-3 base model's; the released Llama "
            f"checkpoints were trained from Instruct models, end with {_CHAT_END!r}, and would never stop; give the "
            f"Instruct model as --base, or --eos '{_BASE_END}' if this checkpoint was trained from the base model"
        )


def write_lm(folder: Path, base: BaseOutline, rows: int, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """A Hugging Face folder of a base model's shape, with other weights."""
    folder.mkdir(parents=True)
    base.resized(rows).save_pretrained(folder)
    base.generation.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    whole = {name: t.to(dtype).contiguous() for name, t in tensors.items()}
    save_file(whole, str(folder / "model.safetensors"), metadata={"format": "pt"})


def add_marker_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the markers after a tokenizer's last token, in the order in which methods add them."""
    tokenizer.add_tokens([BOT, EOT, LATENT])


def check_frozen(base: BaseOutline, body: str, frozen: Mapping[str, tuple[str, Tensor]]) -> int:
    """Compare weights that training did not touch with those of the base model, if they are on this machine.

    Args:
        base: the base model.
        body: see `Architecture`.
        frozen: name -> (key in the checkpoint, tensor); an embedding may have more rows than the base model's.

    Returns:
        How many were compared; 0 if the base model's weights are not here.

    Raises:
        CheckpointError: one differs: the checkpoint was trained from another model of the same shape.
    """
    compared = 0
    if base.trusted:
        return compared
    for name, theirs in _weights_of(base, body, set(frozen)):
        key, mine = frozen[name]
        compared += 1
        # Both sides as bf16, in which the released code trains: its own rounding must not look like a difference.
        if not torch.equal(mine[: theirs.shape[0]].to(torch.bfloat16), theirs.to(torch.bfloat16)):
            raise CheckpointError(
                f"{key} differs from that of {base.path}, though training with LoRA leaves it as it was: the checkpoint was "
                "trained from another model (Instruct, or another version); give that one as --base, or say which token "
                "ends an answer with --eos TOKEN if only the tokenizer is taken from here"
            )
    return compared


def _weights_of(base: BaseOutline, body: str, names: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The named tensors, as far as they are in safetensors files of a base model on this machine."""
    folder = Path(resolve(base.path))
    if not folder.is_dir():
        cached = try_to_load_from_cache(base.path, "config.json")
        if not isinstance(cached, str):
            return
        folder = Path(cached).parent
    for path in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(OSError, SafetensorError), safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                # GPT-2's own file has the body's names without the body in front.
                if (name := key if key in names else body + key) in names:
                    yield name, file.get_tensor(key)
