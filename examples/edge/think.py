"""Latents on a laptop: the loop of `unspoken export RUN FOLDER --format gguf` over llama.cpp's C API.

    pip install llama-cpp-py-sync tokenizers jinja2 numpy
    python think.py FOLDER "Ann has 7 figs. She finds 5. How many figs has Ann?"

A state is read after the final norm, projected if the method does so, and fed as the next position's embedding. Stands
alone: no unspoken, no torch. LLAMA_LIBRARY is another build of llama.cpp's library, of the same version.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib  # pyright: ignore[reportMissingImports] -- not of ours
from tokenizers import Tokenizer


class Thinker:
    """A model that thinks before it answers.

    Args:
        folder: what `unspoken export --format gguf` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "thoughts.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        found = folder / "projection.npz"
        self.tensors = dict(np.load(found)) if found.is_file() else {}
        self.ffi: Any = get_ffi()
        other = os.environ.get("LLAMA_LIBRARY")
        self.lib: Any = get_lib() if other is None else self.ffi.dlopen(other)
        self.quiet = self.ffi.callback("ggml_log_callback", lambda level, text, data: None)
        self.lib.llama_log_set(self.quiet, self.ffi.NULL)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(
            str(folder / "model.gguf").encode(), self.lib.llama_model_default_params()
        )
        if self.model == self.ffi.NULL:
            raise ValueError(f"llama.cpp cannot load {folder / 'model.gguf'}")
        settings = self.lib.llama_context_default_params()
        settings.embeddings, settings.pooling_type = True, 0  # every position's state, as it is
        settings.type_k = settings.type_v = 0  # the cache in 32 bits
        self.context = self.lib.llama_init_from_model(self.model, settings)
        self.width = self.lib.llama_model_n_embd(self.model)
        self.words = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.length = 0

    def feed(self, given: list[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Feed token ids, or embeddings [n, D]; the state [D] and logits [V] of the last."""
        count, vectors = len(given), isinstance(given, np.ndarray)
        batch = self.lib.llama_batch_init(count, self.width if vectors else 0, 1)
        batch.n_tokens = count
        for i in range(count):
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = self.length + i, 1, 0
            batch.logits[i] = i == count - 1
            if not vectors:
                batch.token[i] = int(given[i])
        if vectors:
            self.ffi.memmove(batch.embd, np.ascontiguousarray(given, np.float32).tobytes(), count * self.width * 4)
        code = self.lib.llama_decode(self.context, batch)
        self.lib.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode failed with {code}; a longer text than the context?")
        self.length += count
        read = lambda pointer, size: np.frombuffer(self.ffi.buffer(pointer, size * 4), np.float32).copy()  # noqa: E731
        state = read(self.lib.llama_get_embeddings_ith(self.context, -1), self.width)
        return state, read(self.lib.llama_get_logits_ith(self.context, -1), self.words)

    def project(self, x: np.ndarray) -> np.ndarray:
        """The latent that a state becomes."""
        for n, layer in enumerate(self.about["projection"]):
            weight, bias = (self.tensors.get(f"{n}.{name}") for name in ("weight", "bias"))
            if layer["layer"] == "gelu" and layer["approximate"] == "tanh":
                x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            elif layer["layer"] == "gelu":
                x = 0.5 * x * (1 + np.array([math.erf(value / math.sqrt(2)) for value in x], np.float32))
            elif layer["layer"] == "layer_norm":
                x = (x - x.mean()) / np.sqrt(x.var() + layer["eps"])
                x = x if weight is None else x * weight
                x = x if bias is None else x + bias
            else:
                x = weight @ x  # pyright: ignore[reportOptionalOperand] -- a linear layer has one
                x = x if bias is None else x + bias
        return x

    def answer(self, question: str, latents: int | None = None, most: int = 64) -> str:
        """Think, then speak greedily.

        Args:
            question: plain text.
            latents: how many; None = as in training.
            most: tokens of an answer.
        """
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.length = 0
        messages = [{"role": "user", "content": question}]
        text = Template(self.about["template"]).render(
            messages=messages, add_generation_prompt=True, raise_exception=_refuse
        )
        state, logits = self.feed(self.tokenizer.encode(text, add_special_tokens=False).ids)
        for _ in range(self.about["num_latents"] if latents is None else latents):
            state, logits = self.feed(self.project(state)[None])
        _, logits = self.feed(self.about["after"]) if self.about["after"] else (state, logits)
        said: list[int] = []
        while len(said) < most and (token := int(logits.argmax())) not in self.about["eos"]:
            said.append(token)
            _, logits = self.feed([token])
        return self.tokenizer.decode(said)


def _refuse(message: str) -> None:
    """Called by the chat template."""
    raise ValueError(message)


if __name__ == "__main__":
    print(Thinker(Path(sys.argv[1])).answer(" ".join(sys.argv[2:])))
