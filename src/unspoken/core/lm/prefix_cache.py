"""Keys and values of prompts that a frozen model reads repeatedly, cached over training steps.

In a frozen model nothing before the first slot of a precomputed thought trains: instruction and question give the same keys
and values at every step. They are kept in host memory, and the least recently used make room for others. The common prefix
of all prompts (the instruction) is kept separately, so that a question that is not cached need not be read from its first
token.

Shapes: B rows, T positions of the longest row, W columns, L layers, H heads, E width of a head; n rows that are read now.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from unspoken.core.fast.state_cache import Watch
from unspoken.core.lm.ways import Ways, ways_of
from unspoken.core.precision import circumstances
from unspoken.core.rows.protocol import CausalLM

PrefixKey = tuple[bytes, str]
"""Token ids, and the precision they were read in (`core/precision.py`)."""


class PrefixCache:
    """Keys and values by token ids.

    Args:
        lm: the model; when its weights change, the cache is emptied.
        gigabytes: limit of host memory.
    """

    def __init__(self, lm: PreTrainedModel, gigabytes: float) -> None:
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
        """A model cache as if the first `lengths_B` tokens of every row had just been read, padded on the right.

        Returns:
            The cache, and the number of positions that had to be forwarded. None if a layer keeps only a window, or
            something other than keys and values.
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
        """Read rows after the common prefix; returns keys and values of each, and the number of positions forwarded."""
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
        """Add an entry as most recently used; drop the least recently used ones."""
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
    """Length of the rows' common prefix."""
    length = min(len(row) for row in rows)
    same = np.ones(length, dtype=bool)
    for row in rows[1:]:
        same &= row[:length] == rows[0][:length]
    return length if same.all() else int(np.argmin(same))


def _assembled(body: CausalLM, parts: list[Tensor]) -> DynamicCache:
    """The cache of a batch from keys and values [2L, H, T, E] of single rows; zero after a row's end."""
    two, H, _, E = parts[0].shape
    width = max(part.shape[2] for part in parts)
    whole = parts[0].new_zeros(two, len(parts), H, width, E)
    for b, part in enumerate(parts):
        whole[:, b, :, : part.shape[2]] = part
    whole, cache = whole.to(body.device), body.new_cache()
    for layer in range(two // 2):
        cache.update(whole[2 * layer], whole[2 * layer + 1], layer)
    return cache
