"""Adapters (LoRA, trained rows) of a base model that is kept in bf16, on their way to disk and back.

Merged into bf16 an adapter loses what falls below a weight's last digit: two per cent of a short run's update. So it is
merged in fp32, and the folder is an ordinary one whose model is the one that was trained. Beside it lies the adapter by
itself: taken off again, it leaves the base model's own bf16 weights, so that the model that is loaded computes with the
very numbers that were scored, and in their memory.

    FOLDER/model*.safetensors     everything merged, fp32
    FOLDER/adapter.safetensors    the adapter alone; its settings are in the metadata
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from unspoken.core.config import STRICT
from unspoken.core.precision import adapter_parameters, is_low

ADAPTER = "adapter.safetensors"
"""Beside a merged model, its adapter alone."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA through peft, on every linear layer unless `targets` says otherwise."""

    __pydantic_config__ = STRICT

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None  # module names; None = all linear layers but the head


def merged(adapted: Any) -> Any:
    """A copy of what peft has adapted, merged; of a base coarser than fp32 in fp32 and in host memory."""
    known: dict[int, Any] = {}  # copies that are there already
    if any(is_low(p.dtype) for p in adapted.parameters()):
        known = {id(p): nn.Parameter(p.detach().cpu().float()) for p in adapted.parameters()}
        known |= {id(b): b.detach().cpu() for b in adapted.buffers()}
    return copy.deepcopy(adapted, known).merge_and_unload()


def tied_targets(lm: Any, targets: Iterable[str]) -> list[str]:
    """Those of the modules that LoRA is to be put on, by name, that are one of two tables with one weight: the embedding and
    a head tied to it. Merged, what one of them has learned would be in both."""
    tables = (lm.get_input_embeddings(), lm.get_output_embeddings())
    if tables[1] is None or tables[0].weight is not tables[1].weight:
        return []
    names = [name for name, module in lm.named_modules() if any(module is table for table in tables)]
    return [target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)]


def untie_adapted(lm: Any) -> None:
    """Give an embedding and a head that are tied a weight each where an adapter is on one of the two, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tables = (lm.get_input_embeddings(), lm.get_output_embeddings())
    adapted = [isinstance(table, BaseTunerLayer) for table in tables]
    if any(adapted) and not all(adapted) and tables[0].weight is tables[1].weight:
        head = tables[1].get_base_layer() if adapted[1] else tables[1]
        head.weight = nn.Parameter(head.weight.detach().clone())
        lm.config.tie_word_embeddings = False


def keep(lm: Any, settings: dict[str, Any], folder: Path) -> None:
    """Write the adapter of a model, and how it was made."""
    kept = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(lm).items()}
    about = {**settings, "dtype": str(lm.dtype).removeprefix("torch.")}
    save_file(kept, str(folder / ADAPTER), metadata={"about": json.dumps(about), "format": "pt"})
