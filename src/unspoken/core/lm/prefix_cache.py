"""Keys and values of prompts that a frozen model reads again and again, kept from step to step.

In front of the first slot of a prompted thought nothing trains, where the model is frozen: instruction and question give
the same keys and values at every step. They are kept in host memory, the longest unused making room for others; what all
prompts begin with (the instruction) is kept beside them, so that a question that has no place there is not read from the
first token on.

Shapes: B rows, T positions of the longest row, W columns, L layers, H heads, E width of a head; n rows that are read now.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken.core.fast.state_cache import Watch
from unspoken.core.lm.ways import Ways, ways_of
from unspoken.core.precision import circumstances
from unspoken.core.rows.protocol import CausalLM

PrefixKey = tuple[bytes, str]
"""Token ids, and the circumstances they were read in (`core/precision.py`)."""


class PrefixCache:
    """Keys and values by token ids.

    Args:
        lm: the model whose they are; when its weights change, all are forgotten.
        gigabytes: how much host memory they may take.
    """

    def __init__(self, lm: Any, gigabytes: float) -> None:
        self._lm, self._watch = lm, Watch(lm)
        self._limit = int(gigabytes * 1e9)
        self._bytes = 0
        self._kept: OrderedDict[PrefixKey, Tensor] = OrderedDict()
        self._head: tuple[PrefixKey, Tensor] | None = None  # what all prompts so far begin with
        self._fits = True  # all layers keep keys and values of one shape

    def __len__(self) -> int:
        return len(self._kept)

    def look_again(self) -> None:
        """See `Watch`."""
        self._watch.look_again()

    @torch.no_grad()
    def read(self, body: CausalLM, ids_BT: Tensor, lengths_B: np.ndarray) -> tuple[DynamicCache, int] | None:
        """A cache as if the first `lengths_B` tokens of every row had just been read, padded on the right.

        Returns:
            The cache, and the number of positions that had to be forwarded. None where this cannot be done: a layer keeps
            only a window, or something else than keys and values.
        """
        if not self._fits or body.window is not None or ways_of(body.lm) != Ways():
            return None
        if self._watch.changed():
            self._kept.clear()
            self._bytes, self._head = 0, None
        ids = [row[:length] for row, length in zip(ids_BT.cpu().numpy(), lengths_B, strict=True)]
        way = circumstances(self._lm, ids_BT.device.type)
        keys: list[PrefixKey] = [(row.tobytes(), way) for row in ids]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        absent = {key: row for key, row in zip(keys, ids, strict=True) if key not in found}
        forwarded = 0
        if absent:
            made, forwarded = self._forward(body, list(absent.values()), way)
            if made is None:
                self._fits = False
                return None
            found |= dict(zip(absent, made, strict=True))
        for key in dict.fromkeys(keys):
            self._keep(key, found[key])
        return _assembled(body, [found[key] for key in keys]), forwarded

    def _forward(self, body: CausalLM, rows: list[np.ndarray], way: str) -> tuple[list[Tensor] | None, int]:
        """Read rows behind what all prompts begin with; keys and values of each, and the positions this took."""
        alike, known = rows, None
        if self._head is not None and self._head[0][1] == way:
            head = np.frombuffer(self._head[0][0], dtype=rows[0].dtype)
            alike = [head, *rows]
            known = self._head[1][..., : _common(alike), :]
        first = 0 if known is None else known.shape[2]
        own_nW = np.arange(max(map(len, rows)) - first)[None, :] < np.array([len(row) - first for row in rows])[:, None]
        cache = _assembled(body, [known] * len(rows)) if known is not None and first else body.new_cache()
        if own_nW.size:
            ids_nW = np.full(own_nW.shape, rows[0][0], dtype=np.int64)  # padding: a token that is read anyway
            ids_nW[own_nW] = np.concatenate([row[first:] for row in rows])
            mask_nS = np.concatenate([np.ones((len(rows), first), dtype=bool), own_nW], axis=1)
            positions_nW = np.where(own_nW, first + np.arange(own_nW.shape[1])[None, :], 0)
            at = body.device
            body.step(
                body.embed(torch.from_numpy(ids_nW).to(at)),
                positions_BT=torch.from_numpy(positions_nW).to(at),
                mask=None if mask_nS.all() else torch.from_numpy(mask_nS).to(at).long(),
                cache=cache,
            )
        parts: list[Any] = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
        if any(part is None or part.shape != parts[0].shape for part in parts):
            return None, int(own_nW.sum())
        whole = torch.stack(parts, dim=1)  # [n, 2L, H, W, E]
        made = [whole[n][..., : len(row), :].contiguous() for n, row in enumerate(rows)]
        common = _common(alike)
        self._head = ((rows[0][:common].tobytes(), way), made[0][..., :common, :].clone())
        return [kv.cpu() for kv in made], int(own_nW.sum())

    def _keep(self, key: PrefixKey, kv: Tensor) -> None:
        """As the one used last; what was used least recently goes."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        if kv.nbytes > self._limit:
            return
        self._kept[key] = kv
        self._bytes += kv.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def _common(rows: list[np.ndarray]) -> int:
    """How many leading ids all rows have in common."""
    length = min(len(row) for row in rows)
    same = np.ones(length, dtype=bool)
    for row in rows[1:]:
        same &= row[:length] == rows[0][:length]
    return length if same.all() else int(np.argmin(same))


def _assembled(body: CausalLM, parts: list[Tensor]) -> DynamicCache:
    """Keys and values [2L, H, T, E] of single rows as the cache of a batch, zero where a row has ended."""
    two, H, _, E = parts[0].shape
    width = max(part.shape[2] for part in parts)
    whole = parts[0].new_zeros(two, len(parts), H, width, E)
    for b, part in enumerate(parts):
        whole[:, b, :, : part.shape[2]] = part
    whole, cache = whole.to(body.device), body.new_cache()
    for layer in range(two // 2):
        cache.update(whole[2 * layer], whole[2 * layer + 1], layer)
    return cache
