"""Models and tokenizers from folders and hub ids, with clear errors where transformers would guess or fail obscurely.

Code that comes with a model never runs: `trust_remote_code` is False in every call. If unset, transformers asks at the
terminal, and a "y" in a pipe would count as the answer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from unspoken.core.embeddings import input_table
from unspoken.core.files import kind_of, read_object
from unspoken.core.lm.adapters import untie_adapted
from unspoken.core.lm.hf import with_attention
from unspoken.errors import BackboneError

if TYPE_CHECKING:
    from peft import PeftModel

_VOCABULARY = re.compile(
    r"tokenizer\.(json|model.*)|vocab.*|merges\.txt|.*\.tiktoken|tekken\.json|.*\.(spm|bpe)|bpe\.codes|.*piece.*\.model|"
    r"tokenizer-.*\.json",
    re.IGNORECASE,
)
"""Files that a tokenizer can be made of; without any, transformers makes one up for the model type."""

GIVE = "give a Hugging Face folder, a hub id that this machine can reach, a run directory, or 'builtin:tiny'"

_ADAPTER = "adapter_config.json"
_DEEP = 4
"""How many adapters on adapters are followed."""

_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_place(path: str) -> None:
    """Check that a path can hold a model for transformers; hub ids are not checked.

    Args:
        path: a folder, or a hub id.

    Raises:
        BackboneError: it looks like a path, but there is nothing, or no model folder; says what is there.
    """
    folder = Path(path)
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        # "org/name" may be on the hub, unless a folder "org" lies here.
        if not _HUB.fullmatch(path) or path.startswith(".") or (folder.parent != Path() and folder.parent.is_dir()):
            raise BackboneError(f"{path}: no such folder{_nearest(folder)}; {GIVE}") from None
        return
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path:.200} cannot be read: {getattr(error, 'strerror', None) or error}; {GIVE}") from None
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        raise BackboneError(_gguf(path, folder.parent, folder.name))
    if not folder.is_dir():
        raise BackboneError(f"{path} is {kind_of(mode)}, not a model's folder; give the folder that it lies in")
    try:
        names = {file.name for file in folder.iterdir()}
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror}; {GIVE}") from None
    _check_names(path, folder, names)


def first_line(error: BaseException) -> str:
    """A library's error message in one line; says so if a model needs code of its own."""
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code that it brings along, and unspoken runs none but its own and transformers'"
    if "Weights only load failed" in text:
        return "its pickled weights hold more than tensors, and reading that would run code, so they are refused"
    if "huggingface.co" in text:
        return "no such folder, and no such model on the hub, or the hub cannot be reached"
    return text.splitlines()[0]


def _check_names(path: str, folder: Path, names: set[str]) -> None:
    """Check that the files of a folder are a model's."""
    weights = {name for name in names if name.endswith((".safetensors", ".bin")) and not name.startswith("adapter_model")}
    gguf = sorted(name for name in names if name.lower().endswith(".gguf"))
    if not names:
        raise BackboneError(f"{path} is an empty folder; {GIVE}")
    if _ADAPTER in names:
        if not any(name.startswith("adapter_model.") for name in names):
            raise BackboneError(
                f"{path} is a PEFT adapter without its weights (adapter_model.safetensors); copy them there too"
            )
        if weights & {"model.safetensors", "pytorch_model.bin", *(n for n in weights if "-of-" in n)}:
            raise BackboneError(
                f"{path} holds both a whole model and a PEFT adapter ({_ADAPTER}), so it is open which is meant; move one "
                "of them to a folder of its own"
            )
        return
    if gguf and not weights:
        raise BackboneError(_gguf(path, folder, gguf[0]))
    if "prompt_embeds.json" in names:
        raise BackboneError(
            f"{path} holds prompt embeddings (`export --prompt-embeds`), no model; give the run they came from"
        )
    if "state.json" in names:
        raise BackboneError(f"{path} is a state to resume from, no model; give its run directory, {folder.parent.parent}")
    if "config.json" not in names:
        has = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        raise BackboneError(f"{path} is no model's folder: it has no config.json (it has {has}); {GIVE}")
    if not weights:
        raise BackboneError(f"{path} holds no weights (model.safetensors); copy them there too")
    if not any(name.endswith(".safetensors") for name in weights):
        warnings.warn(
            f"{path}: its weights are pickled ({sorted(weights)[0]}); they are read with weights_only=True, which runs no "
            "code of theirs",
            stacklevel=2,
        )


def _nearest(folder: Path) -> str:
    """The first part of a path that does not exist, if it is not the last."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    return f" (nor is there {missing[-1]})" if len(missing) > 1 else ""


def _gguf(path: str, folder: Path, name: str) -> str:
    return (
        f"{path} holds a GGUF file ({name}), which is made for llama.cpp and cannot be trained; give the Hugging Face "
        'folder that it was made from, or convert it once (pip install gguf): python -c "from transformers import '
        f"AutoModelForCausalLM as M, AutoTokenizer as T; a, g = '{folder}', '{name}'; M.from_pretrained(a, gguf_file=g)"
        ".save_pretrained('OUT'); T.from_pretrained(a, gguf_file=g).save_pretrained('OUT')\""
    )


# tokenizers


def load_tokenizer(source: str, model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, if there is one.

    Args:
        source: where it is.
        model: the model's name in messages.

    Raises:
        BackboneError: there is none (transformers would make one up).
    """
    folder = Path(source)
    if folder.is_dir() and not any(_VOCABULARY.fullmatch(file.name) for file in folder.iterdir()):
        raise _no_tokenizer(source, model)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    special = set(tokenizer.all_special_ids)
    if all(number in special for number in tokenizer.get_vocab().values()):  # made up: it has no words
        raise _no_tokenizer(source, model)
    return tokenizer


def _no_tokenizer(source: str, model: str) -> BackboneError:
    rows = ""
    try:
        config = read_object(Path(source) / "config.json")
        rows = f" (the model has {config.get('vocab_size') or config['text_config']['vocab_size']} tokens)"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return BackboneError(
        f"{model}: no tokenizer lies there{rows}; copy the tokenizer's files (tokenizer.json, tokenizer_config.json) beside "
        "the weights, or set backbone.tokenizer"
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, lm: PreTrainedModel, source: str) -> None:
    """Check that every token has a row in the embedding.

    Raises:
        BackboneError: some have none, so the tokenizer is another model's.
    """
    rows, highest = input_table(lm).weight.shape[0], max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise BackboneError(
            f"the tokenizer in {source} has token {highest}, the model {rows} rows of embeddings (0 to {rows - 1}): it is "
            "another model's; give the model's own (backbone.tokenizer), or resize the model's embeddings and save it again"
        )


def tokenizer_place(path: str, find: Callable[[str], str]) -> str:
    """The folder of a model's tokenizer: its own, or that of the base model if an adapter has none."""
    for _ in range(_DEEP):
        base = adapter_base(path)
        if base is None or has_tokenizer(path):
            return path
        path = find(base)
    return path


# weights


def load_lm(path: str, dtype: torch.dtype, attention: str, find: Callable[[str], str], deep: int = 0) -> PreTrainedModel:
    """The causal LM at a path; a PEFT adapter is merged into its base model, in float32.

    Args:
        path: a folder or hub id.
        dtype: of the weights.
        attention: which implementation.
        find: resolves an adapter's base model to a folder or hub id.
        deep: how many adapters are stacked on this one.

    Raises:
        BackboneError: weights are missing or not finite, or an adapter's base model cannot be loaded.
    """
    if deep:
        check_place(path)
    base = adapter_base(path)
    if base is None:
        how: Any = {"dtype": dtype, "output_loading_info": True}
        load = partial(cast("Any", AutoModelForCausalLM).from_pretrained, path, trust_remote_code=False, **how)
        lm, found = with_attention(load, attention)
        if missing := sorted(found["missing_keys"]):
            raise BackboneError(
                f"{path} lacks {len(missing)} of the model's weights (first: {missing[0]!r}), which would be random; "
                "it is truncated, or its config.json belongs to another model"
            )
        check_finite(lm, path)
        return lm
    try:
        if deep > _DEEP:
            raise BackboneError("adapters are each other's base")
        lm = load_lm(find(base), torch.float32, attention, find, deep + 1)
    except Exception as error:  # transformers, safetensors and hub each raise their own kinds
        raise BackboneError(
            f"{path} is a PEFT adapter of {base}, which cannot be loaded ({first_line(error)}); bring the base model here, "
            'or merge the two where it is: python -c "from peft import AutoPeftModelForCausalLM as M; '
            f"M.from_pretrained('{path}').merge_and_unload().save_pretrained('OUT')\", and copy its tokenizer to OUT"
        ) from error
    whole: Any = merged(lm, path, base)
    check_finite(whole.to(dtype), path)
    return whole


def check_finite(module: nn.Module, where: str) -> None:
    """Check that every weight is finite.

    Raises:
        BackboneError: names the tensor with nan or inf.
    """
    for name, tensor in module.named_parameters():
        # A sum reads once and needs no second tensor; only if it overflows, every value is checked.
        if tensor.is_floating_point() and not tensor.detach().sum(dtype=torch.float32).isfinite():
            bad = int((~tensor.detach().isfinite()).sum())
            if bad:
                raise BackboneError(
                    f"{where}: {name} holds {bad} value{'' if bad == 1 else 's'} that {'is' if bad == 1 else 'are'} no "
                    "finite number (nan or inf); the file is damaged, or training had diverged: take another copy"
                )


# adapters


def adapter_base(path: str) -> str | None:
    """The base model that a PEFT adapter in a folder names, as a path or hub id; None where there is no adapter.

    A relative path is tried from the current folder and from the adapter's.

    Raises:
        BackboneError: the adapter names none.
    """
    file = Path(path) / _ADAPTER
    if not file.is_file():
        return None
    try:
        base = read_object(file).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file} cannot be read: {error}; take another copy of the adapter") from None
    if not isinstance(base, str) or not base:
        raise BackboneError(f"{path} is a PEFT adapter that names no base model; set base_model_name_or_path in {file}")
    beside = Path(path) / base
    return str(beside) if not Path(base).exists() and beside.is_dir() else base


def has_tokenizer(path: str) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any(_VOCABULARY.fullmatch(file.name) for file in Path(path).iterdir())


def merged(lm: PreTrainedModel, path: str, base: str) -> PreTrainedModel:
    """A model with a PEFT adapter merged into it.

    Args:
        lm: the base model, in float32.
        path: the adapter's folder.
        base: the base model's name in messages.

    Raises:
        BackboneError: the adapter cannot be merged, or belongs to another model.
    """
    from peft import PeftModel

    try:
        if (rows := _rows(Path(path), lm)) is not None:  # its tokens were added before it was trained
            lm.resize_token_embeddings(rows, mean_resizing=False)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted: Any = PeftModel.from_pretrained(lm, path)
        if lost := [str(one.message) for one in told if "missing adapter keys" in str(one.message)]:
            raise ValueError(lost[0])
        if not hasattr(adapted, "merge_and_unload"):
            raise ValueError("it is of a kind that adds virtual tokens")
        if more := _left_over(Path(path), adapted):
            raise ValueError(f"it has weights for parts that the model does not have, e.g. {more[0]}")
        untie_adapted(lm)
        lm = adapted.merge_and_unload(safe_merge=True)
        lm.requires_grad_(True)  # peft has frozen the base, which is an ordinary model again
    except Exception as error:  # peft, torch and safetensors each raise their own kinds
        raise BackboneError(
            f"{path} is a PEFT adapter that cannot be merged into {base}: {first_line(error):.200}; give a base model"
        ) from error
    warnings.warn(f"{path} is a PEFT adapter: it was merged into its base {base}", stacklevel=2)
    return lm


def _left_over(path: Path, adapted: PeftModel) -> list[str]:
    """Weights of an adapter that were not used, because the model is smaller than the one it was made for."""
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    taken = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return sorted(key for key in load_peft_weights(str(path), device="cpu") if ".lora_" in key and key not in taken)


def _rows(path: Path, lm: PreTrainedModel) -> int | None:
    """Number of embedding rows in an adapter, if it differs from the model's."""
    from peft.utils import load_peft_weights

    mine = input_table(lm).weight
    name = next(name for name, tensor in lm.named_parameters() if tensor is mine)
    inner = name.removesuffix(".weight")
    for key, tensor in load_peft_weights(str(path), device="cpu").items():
        # "....embed_tokens.weight", or "....embed_tokens.modules_to_save.weight"
        if f".{inner}." in key and key.endswith(".weight") and "lora" not in key and tensor.ndim == 2:
            return int(tensor.shape[0]) if tensor.shape[0] != mine.shape[0] else None
    return None
