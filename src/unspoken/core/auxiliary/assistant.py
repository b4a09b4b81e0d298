"""An assistant model that thinks for the base model: it reads its own prompt, and its states at given slots are used.

A frozen assistant's states depend only on its weights and prompt, so a training run computes them once and caches them
(`core/fast/state_cache.py`). Slots may hold trained vectors instead of a token ([INI], SoftCoT++); gradients then flow
through the assistant from the slots on, even if it is frozen. Shapes: B rows, K slots, D width of the base, A width of the
assistant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unspoken.core.embeddings import input_table, output_head
from unspoken.core.fast.state_cache import StateCache, Watch, config_hash, weights_hash
from unspoken.core.fast.switch import is_on, settings
from unspoken.core.files import expanded, homeless
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone, restore
from unspoken.core.lm.markers import add_tokens
from unspoken.core.loop.loop import unroll
from unspoken.core.precision import circumstances
from unspoken.core.rows.attachment import Attachment
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import EMPTY, Row

ASSISTANT_PROMPT = "assistant_prompt"
"""The name of an `AssistantPrompt` in `Row.extra`."""


@dataclass(frozen=True)
class AssistantPrompt(Attachment):
    """The assistant's prompt for a row; its states at this prompt's latent slots become the row's latents."""

    row: Row

    @classmethod
    def collate(cls, parts: Sequence[AssistantPrompt | None], /) -> Batch:
        """A batch of prompts, with empty rows for rows without one."""
        return collate([EMPTY if part is None else part.row for part in parts])

    def positions_elsewhere(self, chain: int, sample: int) -> int:
        """The whole prompt for the first set of thoughts, only the slots for later sets, nothing for further samples."""
        return 0 if sample else self.row.latents if chain else len(self.row.ids)


def assistant_batch(batch: Batch) -> Batch | None:
    """The assistant's prompts for a batch; None if no row has latents."""
    return cast("Batch | None", batch.extra.get(ASSISTANT_PROMPT))


class Assistant(nn.Module):
    """A causal LM beside the base model. `FastConfig.states` says where the states of a frozen one are cached.

    Args:
        config: which model; with `lora` it trains.
        trains: train it. Without `lora` that is all of it except the head, and of the embedding only the rows of `tokens`.
        tokens: texts of tokens to add; they train if the assistant does.
        like: rows of added tokens start as the mean of the rows of this text's tokens.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        trains: bool = False,
        tokens: tuple[str, ...] = (),
        like: str = "\n",
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = load_backbone(config)
        self.token_ids: tuple[int, ...] = add_tokens(self.backbone, tokens, like) if tokens else ()
        self.frozen = not trains and config.lora is None
        if self.frozen:
            self.backbone.freeze()
        elif config.lora is not None:
            self.backbone.adapt(config.lora, self.token_ids)
        else:
            _train_rows(self.backbone.lm, self.token_ids)
        states = settings().states
        self._folder = None if states is None or homeless(expanded(states)) else states
        self._keeps = False
        self._watch = Watch(self.backbone.lm)
        self._hash = ""
        self._cache: StateCache | None = None

    @property
    def width(self) -> int:
        """A."""
        return self.backbone.width

    @property
    def lm(self) -> nn.Module:
        """The causal LM itself."""
        return self.backbone.lm

    @property
    def context(self) -> int | None:
        """The most positions it takes; None if its config does not say."""
        return self.backbone.context

    @property
    def named(self) -> dict[str, str] | None:
        """Its path and hash, if it need not be saved: it was not trained and is not in a run's own folder."""
        path = self.config.path
        if not self.frozen or path is None or (Path(path).parent / "unspoken.json").is_file():
            return None
        return {"path": path, "weights": self.hash}

    def save(self, folder: Path) -> None:
        """Write it as an ordinary Hugging Face folder."""
        self.backbone.save(folder)

    def restore(self, folder: Path) -> None:
        """Attach the adapter in the folder it was loaded from, if there is one."""
        restore(self.backbone, folder)

    @property
    def hash(self) -> str:
        """A hash of its weights, updated when they change."""
        if self._watch.changed():
            self._hash = weights_hash(self.backbone.lm)
        return self._hash

    def train(self, mode: bool = True) -> Assistant:
        """Dropout stays off in a frozen assistant, whose states are cached from the first training step on."""
        super().train(mode and not self.frozen)
        self.training = mode
        self._keeps = self._keeps or (mode and self.frozen)
        if mode:
            self._watch.look_again()
        return self

    def states(self, batch: Batch, initial_KA: Tensor | None = None, chains: int = 1) -> Tensor:
        """The last layer's states (after the final norm) at the slots of every row.

        Args:
            batch: the assistant's rows; they may end with their slots.
            initial_KA: per set, the vector in all slots; None = their token.
            chains: sets of states per row.

        Returns:
            [chains x B, K, A], set c of row b at c * B + b; zero beyond a row's slots.
        """
        fixed = self.frozen and (initial_KA is None or not initial_KA.requires_grad)
        if not (fixed and self._keeps and self._folder is not None and is_on()):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not fixed):
                return self._run(batch, initial_KA, chains)
        return self._kept(batch, initial_KA, chains)

    def _run(self, batch: Batch, initial_KA: Tensor | None, chains: int) -> Tensor:
        """Forward the rows that have slots."""
        K, A = int(batch.latents_B.max()), self.width
        rows_n = np.flatnonzero(batch.latents_B)
        zeros = self._zeros(chains, len(batch), K, A)
        if not len(rows_n):
            return zeros.flatten(0, 1)
        part = batch.select(rows_n)
        source = None if initial_KA is None else _Initial(initial_KA)
        prefixes = self.backbone.prefixes if self._keeps else None
        trace = unroll(self.backbone, part, source, chains=chains, frozen=self.frozen, prefixes=prefixes)
        place_nK = part.starts_B[:, None] + np.minimum(np.arange(K)[None, :], part.latents_B[:, None] - 1)
        rows_N = np.repeat(np.arange(chains * len(part)), K)
        states = trace.hidden_at(rows_N, np.tile(place_nK, (chains, 1)).reshape(-1)).view(chains, len(part), K, A)
        real_nK = torch.from_numpy(np.arange(K)[None, :] < part.latents_B[:, None]).to(states.device)
        states = states * real_nK[None, :, :, None]
        return zeros.index_copy(1, torch.from_numpy(rows_n).to(states.device), states).flatten(0, 1)

    def _zeros(self, *shape: int) -> Tensor:
        return input_table(self.backbone.lm).weight.new_zeros(*shape)

    def _kept(self, batch: Batch, initial_KA: Tensor | None, chains: int) -> Tensor:
        """`_run` with the cache: missing states are computed and added."""
        model = f"{self.hash}-{config_hash(self.backbone.lm)}"
        if self._cache is None or self._cache.folder.name != model:
            self._cache = StateCache(str(self._folder), model)
        way = circumstances(self.backbone.lm, batch.ids_BT.device.type)
        keys = _keys(batch, None if initial_KA is None else initial_KA[:chains], way)
        found = self._cache.find(keys)
        B, K = len(batch), int(batch.latents_B.max())
        absent_n = np.array([b for b in range(B) if any(states is None for states in found[b::B])], dtype=np.int64)
        if len(absent_n):
            part = batch.select(absent_n)
            with torch.no_grad():
                states = self._run(part, initial_KA, chains)
            fresh = {}
            for i, made_KA in enumerate(states):
                c, b = divmod(i, len(part))
                fresh[keys[c * B + int(absent_n[b])]] = made_KA[: int(part.latents_B[b])]
            self._cache.put(fresh)
            found = self._cache.find(keys)
        out = self._zeros(chains * B, K, self.width)
        for i, states in enumerate(found):
            assert states is not None
            out[i, : len(states)] = states.to(out.device)
        return out


def _train_rows(lm: PreTrainedModel, rows: tuple[int, ...]) -> None:
    """Train only some rows of the embedding, and nothing of the output head, which is not used."""
    table = input_table(lm).weight
    for p in output_head(lm).parameters():
        if p is not table:
            p.requires_grad_(False)
    if not rows:
        table.requires_grad_(False)
        return

    def only(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[list(rows)] = gradient[list(rows)]
        return kept

    table.register_hook(only)


class _Initial:
    """[INI] vectors: set k holds vector k in all its slots."""

    def __init__(self, vectors_KA: Tensor) -> None:
        self.vectors_KA = vectors_KA

    @property
    def chains(self) -> int:
        """Sets."""
        return len(self.vectors_KA)

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `Prompted.vectors`."""
        one_by_one = self.vectors_KA[:chains].repeat_interleave(len(batch), dim=0)
        return one_by_one[:, None].expand(-1, int(batch.latents_B.max()), -1)


def _keys(batch: Batch, initial_KA: Tensor | None, way: str) -> list[str]:
    """A cache key per row: a hash of its tokens, its slots, what they hold, and how the assistant is run."""
    ids_BT = batch.ids_BT.cpu().numpy()
    held = [b""] if initial_KA is None else [row.tobytes() for row in initial_KA.detach().float().cpu().numpy()]
    keys = []
    for vector in held:
        for b, length in enumerate(batch.lengths_B):
            place = f"{length} {batch.starts_B[b]} {batch.latents_B[b]} {ids_BT.dtype} {way} "
            digest = hashlib.blake2b(place.encode() + ids_BT[b, :length].tobytes() + vector, digest_size=16)
            keys.append(digest.hexdigest())
    return keys


class Assisted:
    """Precomputed thoughts: an assistant's states, projected to the base model's width.

    Args:
        assistant: reads the rows' `AssistantPrompt`s.
        project: states [..., A] -> latents [..., D].
        initial_KA: the [INI] vectors, one per set; None = one set from the slots' own token.
    """

    def __init__(self, assistant: Assistant, project: Callable[[Tensor], Tensor], initial_KA: Tensor | None = None) -> None:
        self.assistant, self.project, self.initial_KA = assistant, project, initial_KA

    @property
    def chains(self) -> int:
        """Sets of thoughts."""
        return 1 if self.initial_KA is None else len(self.initial_KA)

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `Prompted.vectors`."""
        if (asked := assistant_batch(batch)) is None:  # no row has slots
            B = chains * len(batch)
            return self.project(torch.zeros(B, 0, self.assistant.width, device=self.assistant.backbone.device))
        return self.project(self.assistant.states(asked, self.initial_KA, chains))
