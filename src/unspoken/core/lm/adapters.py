"""Save and load adapters (LoRA, trained rows) of a base model in bf16 without rounding them away.

Merged into bf16, an adapter loses what is below a weight's last digit: two per cent of a short run's update. So it is
merged in fp32, which gives an ordinary folder with the trained model. The adapter is saved beside it. On loading it is
subtracted again, which restores the base model's own bf16 weights: the loaded model computes exactly as the evaluated one
did, in the same memory.

    FOLDER/model*.safetensors     everything merged, fp32
    FOLDER/adapter.safetensors    the adapter alone; its settings are in the metadata
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from unspoken.core.config import config_class
from unspoken.core.embeddings import input_table, output_head
from unspoken.core.precision import adapter_parameters, is_low

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "adapter.safetensors"
"""The adapter alone, beside the merged model."""


@config_class
class LoraSettings:
    """LoRA through peft, on every linear layer unless `targets` says otherwise."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None  # module names; None = all linear layers but the head


def merged(adapted: PeftModel) -> PreTrainedModel:
    """A copy of the parameters that peft has adapted, merged; in fp32 and host memory if the base is coarser."""
    known: dict[int, Any] = {}  # copies that are there already
    if any(is_low(p.dtype) for p in adapted.parameters()):
        known = {id(p): nn.Parameter(p.detach().cpu().float()) for p in adapted.parameters()}
        known |= {id(b): b.detach().cpu() for b in adapted.buffers()}
    return cast("Any", copy.deepcopy(adapted, known)).merge_and_unload()


def tied_targets(lm: PreTrainedModel, targets: Iterable[str]) -> list[str]:
    """Of the modules to put LoRA on, those that share a weight: an embedding and a head tied to it. Merged, an adapter of
    one would change both."""
    tables = (input_table(lm), output_head(lm))
    if tables[1] is None or tables[0].weight is not tables[1].weight:
        return []
    names = [name for name, module in lm.named_modules() if any(module is table for table in tables)]
    return [target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)]


def untie_adapted(lm: PreTrainedModel) -> None:
    """Untie embedding and head in place if one of them has an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tables = (input_table(lm), output_head(lm))
    adapted = [isinstance(table, BaseTunerLayer) for table in tables]
    if any(adapted) and not all(adapted) and tables[0].weight is tables[1].weight:
        head = tables[1].get_base_layer() if isinstance(tables[1], BaseTunerLayer) else tables[1]
        head.weight = nn.Parameter(tables[1].weight.detach().clone())
        lm.config.tie_word_embeddings = False


def keep(lm: PreTrainedModel, settings: Mapping[str, object], folder: Path) -> None:
    """Write the adapter of a model and its settings."""
    kept = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(lm).items()}
    about = {**settings, "dtype": str(lm.dtype).removeprefix("torch.")}
    save_file(kept, str(folder / ADAPTER), metadata={"about": json.dumps(about), "format": "pt"})
