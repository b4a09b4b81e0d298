"""Export a run as a GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio).

    model.gguf       weights (LoRA merged, 32 or 8 bits), settings, tokenizer where llama.cpp knows its kind, chat template
    tokenizer.json   the tokenizer for everybody else
    README.md        how to run it
    thoughts.json, projection.npz    for recurrent latents: what `examples/edge/think.py` needs

A model whose answers are tokens runs in llama.cpp as it is. Recurrent latents need a loop over its C API, which the example
is: llama.cpp's programs feed tokens only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from unspoken.core.files import check_new, write_folder
from unspoken.core.text.markup import cell
from unspoken.errors import ConfigError
from unspoken.exporters.hf_folder import Thoughts, thoughts_of
from unspoken.exporters.model_card import scores, whence
from unspoken.exporters.vllm_folder import prompt_template
from unspoken.methods.base import Method
from unspoken.runs.directory import RunDir
from unspoken.runs.stage import own_latents

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FAMILIES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "GPT2LMHeadModel": "gpt2",
}  # fmt: skip
"""Classes of transformers, and llama.cpp's names for these architectures."""

PRE = {
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}": "qwen2",
}
"""How a tokenizer's pattern begins, and llama.cpp's name for how such a tokenizer cuts a text before merging. The longest
that fits is meant; with the pattern of GPT-2, which byte-level tokenizers have built in, it is "gpt-2"."""

NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
"""llama.cpp's kinds of tokens."""

Bits = Literal["f32", "q8_0"]


def export_gguf(path: str | Path, out: str | Path, bits: Bits = "f32") -> None:
    """Write a folder with a GGUF file.

    Args:
        path: a run directory, or a model in the package.
        out: a new folder.
        bits: f32, or q8_0 for matrices in 8 bits.

    Raises:
        RunError: `path` is no run, `out` exists and is not empty, or it cannot be written.
        ConfigError: gguf is not installed, or llama.cpp cannot do what the method does at inference.
    """
    try:
        import gguf  # noqa: F401 -- an extra
    except ImportError:
        raise ConfigError("writing GGUF needs the package gguf: pip install 'unspoken[gguf]'") from None
    source = RunDir(path)
    check_new(out)
    method = source.load_method(at_inference=True).at_inference
    method.eval()
    thoughts = thoughts_of(method, own_latents(source.path))
    _refuse(method, thoughts)
    lm, tokenizer = method.backbone.plain(), method.backbone.tokenizer
    template = prompt_template(method, None if thoughts is None else thoughts.about)
    words = vocabulary(tokenizer, lm.config.vocab_size)
    text = _card(source, thoughts, words.pre)

    def write(folder: Path) -> None:
        folder.mkdir()
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
        _write(folder / "model.gguf", lm, words, method.backbone.eos_ids, template, bits)
        if thoughts is not None and thoughts.about["thoughts"] == "recurrent":
            about = json.dumps({**thoughts.about, "eos": list(method.backbone.eos_ids), "template": template}, indent=1)
            (folder / "thoughts.json").write_text(about, encoding="utf-8")
            if thoughts.tensors:
                arrays = {name: tensor.detach().float().numpy() for name, tensor in thoughts.tensors.items()}
                np.savez(folder / "projection.npz", allow_pickle=False, **arrays)

    write_folder(out, write, then="export again")


def _refuse(method: Method, thoughts: Thoughts | None) -> None:
    name, lm = method.config.name, method.backbone.plain()
    family, config = type(lm).__name__, lm.config
    if family not in FAMILIES:
        raise ConfigError(
            f"a {family} cannot be exported as GGUF; known: {', '.join(FAMILIES)}. Use --format hf, from which "
            "llama.cpp's own convert_hf_to_gguf.py writes more families"
        )
    if thoughts is not None and thoughts.about["ends"] > 1:
        raise ConfigError(
            f"method {name!r} cannot be exported as GGUF: its answer ends at end-of-text number {thoughts.about['ends']}, "
            "and llama.cpp ends at the first; use --format hf"
        )
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        raise ConfigError("a model with a sliding window cannot be exported as GGUF; use --format hf")


# tokenizer


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A byte-level tokenizer as llama.cpp has it.

    Attributes:
        tokens, kinds: by id.
        merges: pairs, the first first.
        pre: how text is cut before merging; None if llama.cpp has no name for it.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    pre: str | None


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The tokens, merges and kind of a tokenizer; rows of the embedding without a token get a name."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError("a tokenizer without tokenizer.json cannot be exported as GGUF; use --format hf")
    about = json.loads(backend.to_str())
    model = about["model"]
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    known = model.get("vocab") or {}
    for token, number in known.items() if isinstance(known, dict) else ():
        tokens[number], kinds[number] = token, NORMAL
    for token in about["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and about.get("normalizer") is None
    return Vocabulary(tokens=tokens, kinds=kinds, merges=merges, pre=_pre(about.get("pre_tokenizer")) if plain else None)


def _pre(cuts: Mapping[str, object] | None) -> str | None:
    """llama.cpp's name for how a tokenizer cuts a text; None if it has none."""
    match cuts:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return "gpt-2"
        case {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": str(pattern)}}, *_]}:
            found = [begin for begin in PRE if pattern.startswith(begin)]
            return PRE[max(found, key=len)] if found else None
    return None


# weights


def _write(
    path: Path, lm: PreTrainedModel, words: Vocabulary, eos: tuple[int, ...], template: str | None, bits: Bits
) -> None:
    """Write the file."""
    from gguf import GGUFWriter

    arch = FAMILIES[type(lm).__name__]
    writer = GGUFWriter(str(path), arch)
    _settings(writer, lm)
    if words.pre is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(words.pre)
        writer.add_token_list(words.tokens)
        writer.add_token_types(words.kinds)
        writer.add_token_merges(words.merges)
        writer.add_eos_token_id(eos[0])
        if len(eos) > 1:
            writer.add_eot_token_id(eos[1])
        writer.add_add_bos_token(False)  # the chat template writes it
        if template is not None:
            writer.add_chat_template(template)
    for name, array in tensors(lm, arch).items():
        _add(writer, name, array, bits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(writer: GGUFWriter, lm: PreTrainedModel) -> None:
    c = lm.config
    heads = c.num_attention_heads
    groups = getattr(c, "num_key_value_heads", None) or heads
    size = getattr(c, "head_dim", None) or c.hidden_size // heads
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(getattr(c, "intermediate_size", None) or getattr(c, "n_inner", None) or 4 * c.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_vocab_size(c.vocab_size)
    writer.add_file_type(0)
    if hasattr(c, "layer_norm_epsilon"):
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float((getattr(c, "rope_parameters", None) or {}).get("rope_theta", 10000.0)))


def tensors(lm: PreTrainedModel, arch: str) -> dict[str, np.ndarray]:
    """A model's weights under llama.cpp's names, as it wants them.

    Raises:
        ConfigError: a tensor that llama.cpp has no place for, or positions that it cannot turn.
    """
    import gguf

    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, lm.config.num_hidden_layers)
    made: dict[str, np.ndarray] = {}
    tied = lm.config.tie_word_embeddings
    for name, tensor in lm.state_dict().items():
        if (tied and name == "lm_head.weight") or name.endswith((".attn.bias", ".attn.masked_bias", "inv_freq")):
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ConfigError(f"the model has a tensor that llama.cpp has no place for: {name}; use --format hf")
        made[theirs] = _as_wanted(name, tensor, lm, arch).contiguous().numpy()
    if (factors := _rope_factors(lm, arch)) is not None:
        made["rope_freqs.weight"] = factors
    return made


def _as_wanted(name: str, tensor: Tensor, lm: PreTrainedModel, arch: str) -> Tensor:
    """GPT-2's matrices are transposed; llama's queries and keys have the two numbers that turn together side by side."""
    x, c = tensor.detach().cpu().float(), lm.config
    if arch == "gpt2":
        return x.t() if x.ndim == 2 and any(part in name for part in ("c_attn", "c_proj", "c_fc")) else x
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
        return x.view(heads, 2, len(x) // heads // 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)
    return x


def _rope_factors(lm: PreTrainedModel, arch: str) -> np.ndarray | None:
    """What each pair's angle is divided by, if positions are turned otherwise than by powers of the base."""
    turns = getattr(getattr(lm, "model", None), "rotary_emb", None)
    if turns is None:
        return None
    found, base = turns.inv_freq.float().cpu(), (lm.config.rope_parameters or {}).get("rope_theta", 10000.0)
    plain = 1.0 / base ** (torch.arange(0, 2 * len(found), 2) / (2 * len(found)))
    if torch.allclose(found, plain, rtol=1e-4):
        return None
    if arch != "llama" or turns.attention_scaling != 1.0:
        raise ConfigError(
            f"positions of this {type(lm).__name__} are turned in a way that is not written to GGUF; use --format hf"
        )
    return (plain / found).numpy()


def _add(writer: GGUFWriter, name: str, array: np.ndarray, bits: Bits) -> None:
    import gguf

    if bits == "f32" or array.ndim < 2 or array.shape[-1] % 32 or "position" in name:
        writer.add_tensor(name, array)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


# README.md


def _card(run: RunDir, thoughts: Thoughts | None, pre: str | None) -> str:
    config = run.config()
    recurrent = thoughts is not None and thoughts.about["thoughts"] == "recurrent"
    run_it: Callable[[], list[str]] = _loop if recurrent else _programs
    parts = [
        "\n".join(["---", "library_name: gguf", "pipeline_tag: text-generation", "tags:", "- unspoken", "---"]),
        f"# {cell(run.path.resolve().name)}",
        f"A causal language model that answers questions, trained with unspoken (method `{config.method.name}`), as GGUF.",
        "\n".join(run_it()),
    ]
    if pre is None:
        parts.append(
            "llama.cpp has no name for how this model's tokenizer cuts a text, so model.gguf has no tokenizer: give its "
            "programs token ids, from `tokenizer.json`."
        )
    parts.append(whence(run, config))
    if figures := scores(run, config):
        parts.append(figures)
    return "\n\n".join(parts) + "\n"


def _programs() -> list[str]:
    return ["```sh", "llama-server -m model.gguf --jinja --temp 0", "```"]


def _loop() -> list[str]:
    return [
        "It thinks in latents, hidden states that are fed back. llama.cpp's programs feed tokens only, and would answer "
        "without thinking; the loop over its C API is `examples/edge/think.py` of unspoken's repository:",
        "",
        "```sh",
        "pip install llama-cpp-py-sync tokenizers jinja2 numpy",
        'python think.py FOLDER "..."',
        "```",
    ]
