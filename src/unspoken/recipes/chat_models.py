"""SFT-CoT, Coconut, CODI and SIM-CoT on GSM8K-Aug with Qwen3 (0.6B to 8B) and Llama-3.2 (1B, 3B).

Nobody has published settings of these methods for Qwen3, nor of Coconut for Llama-3.2-3B: numbers without a source are ours,
taken from the nearest size that has one (`gsm8k.py`, `codi.py`), and have not been tried at full length. Users report that
latents cost Qwen3-4B accuracy against its words ([C I 50]); so train `cot_...` too, and compare.

Coconut and SIM-CoT on it start from an SFT-CoT run: `backbone.path=RUN`. Sizes of 3B and more train with LoRA, to spare
memory; SIM-CoT's decoder is there the smallest model of the family, not a second copy.

Sources: [Z] zhenyi4/codi 4fd88d4; [S] InternLM/SIM-CoT f3ae967; [C I n] issue n of facebookresearch/coconut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unspoken.core.auxiliary.step_decoder import StepDecoderConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.recipes import codi, gsm8k
from unspoken.runs.config import RunConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model and what its size asks for.

    Attributes:
        path: the hub's name.
        scripts: settings of CODI, and of LoRA elsewhere.
        explainer: the model that SIM-CoT's decoder starts from; None = a copy of the base, whose weights all train.
    """

    path: str
    scripts: codi.Scripts
    explainer: str | None = None

    @property
    def backbone(self) -> BackboneConfig:
        """The base model: all weights train, or with an explainer only LoRA on frozen ones in bf16."""
        if self.explainer is None:
            return BackboneConfig(path=self.path)
        return BackboneConfig(path=self.path, lora=codi.LORA, dtype="bfloat16")

    @property
    def lr(self) -> float:
        """The learning rate without distillation."""
        return 1e-5 if self.explainer is None else self.scripts.lr  # [C I 11] for Llama; LoRA as CODI's

    @property
    def decoder(self) -> StepDecoderConfig:
        """The model that explains the latents."""
        return StepDecoderConfig() if self.explainer is None else StepDecoderConfig(kind="model", path=self.explainer)


def _like(scripts: codi.Scripts, path: str) -> codi.Scripts:
    """[Z], [S] the settings of the Llama of about this size."""
    return replace(scripts, path=path)


_SMALLEST = "Qwen/Qwen3-0.6B"
QWEN_06B = Size(path=_SMALLEST, scripts=_like(codi.LLAMA_1B, _SMALLEST))
QWEN_17B = Size(path="Qwen/Qwen3-1.7B", scripts=_like(codi.LLAMA_1B, "Qwen/Qwen3-1.7B"))
QWEN_4B = Size(path="Qwen/Qwen3-4B", scripts=_like(codi.LLAMA_3B, "Qwen/Qwen3-4B"), explainer=_SMALLEST)
QWEN_8B = Size(path="Qwen/Qwen3-8B", scripts=_like(codi.LLAMA_8B, "Qwen/Qwen3-8B"), explainer=_SMALLEST)
LLAMA_1B = Size(path=codi.LLAMA_1B.path, scripts=codi.LLAMA_1B)
LLAMA_3B = Size(path=codi.LLAMA_3B.path, scripts=codi.LLAMA_3B, explainer=codi.LLAMA_1B.path)


def _on(base: RunConfig, size: Size) -> RunConfig:
    """A recipe for GPT-2 on another model."""
    train = replace(base.train, lr=size.lr, precision="bf16", micro_batch_size=size.scripts.micro)
    return replace(base, backbone=size.backbone, train=train)


def _cot(size: Size) -> RunConfig:
    base = gsm8k.cot()
    return _on(replace(base, train=replace(base.train, epochs=5)), size)  # zhenyi4/codi issue 8: 5 epochs


def _coconut(size: Size) -> RunConfig:
    return _on(gsm8k.coconut_llama1b(), size)


def _sim_cot(size: Size) -> RunConfig:
    base = _on(gsm8k.sim_cot_llama1b(), size)
    return replace(base, method=replace(base.method, decoder=size.decoder))


def _codi(size: Size) -> RunConfig:
    return codi.codi_of(size.scripts, Gsm8kAugConfig())


def _sim_codi(size: Size) -> RunConfig:
    return codi.sim_cot_of(size.scripts, Gsm8kAugConfig(), size.explainer)


def cot_qwen3_0_6b() -> RunConfig:
    """SFT-CoT, Qwen3-0.6B."""
    return _cot(QWEN_06B)


def coconut_qwen3_0_6b() -> RunConfig:
    """Coconut, Qwen3-0.6B."""
    return _coconut(QWEN_06B)


def sim_cot_qwen3_0_6b() -> RunConfig:
    """SIM-CoT on Coconut, Qwen3-0.6B."""
    return _sim_cot(QWEN_06B)


def codi_qwen3_0_6b() -> RunConfig:
    """CODI, Qwen3-0.6B."""
    return _codi(QWEN_06B)


def sim_cot_codi_qwen3_0_6b() -> RunConfig:
    """SIM-CoT on CODI, Qwen3-0.6B."""
    return _sim_codi(QWEN_06B)


def cot_qwen3_1_7b() -> RunConfig:
    """SFT-CoT, Qwen3-1.7B."""
    return _cot(QWEN_17B)


def coconut_qwen3_1_7b() -> RunConfig:
    """Coconut, Qwen3-1.7B."""
    return _coconut(QWEN_17B)


def sim_cot_qwen3_1_7b() -> RunConfig:
    """SIM-CoT on Coconut, Qwen3-1.7B."""
    return _sim_cot(QWEN_17B)


def codi_qwen3_1_7b() -> RunConfig:
    """CODI, Qwen3-1.7B."""
    return _codi(QWEN_17B)


def sim_cot_codi_qwen3_1_7b() -> RunConfig:
    """SIM-CoT on CODI, Qwen3-1.7B."""
    return _sim_codi(QWEN_17B)


def cot_qwen3_4b() -> RunConfig:
    """SFT-CoT, Qwen3-4B, with LoRA."""
    return _cot(QWEN_4B)


def coconut_qwen3_4b() -> RunConfig:
    """Coconut, Qwen3-4B, with LoRA."""
    return _coconut(QWEN_4B)


def sim_cot_qwen3_4b() -> RunConfig:
    """SIM-CoT on Coconut, Qwen3-4B, with LoRA."""
    return _sim_cot(QWEN_4B)


def codi_qwen3_4b() -> RunConfig:
    """CODI, Qwen3-4B."""
    return _codi(QWEN_4B)


def sim_cot_codi_qwen3_4b() -> RunConfig:
    """SIM-CoT on CODI, Qwen3-4B."""
    return _sim_codi(QWEN_4B)


def cot_qwen3_8b() -> RunConfig:
    """SFT-CoT, Qwen3-8B, with LoRA."""
    return _cot(QWEN_8B)


def coconut_qwen3_8b() -> RunConfig:
    """Coconut, Qwen3-8B, with LoRA."""
    return _coconut(QWEN_8B)


def sim_cot_qwen3_8b() -> RunConfig:
    """SIM-CoT on Coconut, Qwen3-8B, with LoRA."""
    return _sim_cot(QWEN_8B)


def codi_qwen3_8b() -> RunConfig:
    """CODI, Qwen3-8B."""
    return _codi(QWEN_8B)


def sim_cot_codi_qwen3_8b() -> RunConfig:
    """SIM-CoT on CODI, Qwen3-8B."""
    return _sim_codi(QWEN_8B)


def cot_llama1b() -> RunConfig:
    """SFT-CoT, Llama-3.2-1B-Instruct."""
    return _cot(LLAMA_1B)


def cot_llama3b() -> RunConfig:
    """SFT-CoT, Llama-3.2-3B-Instruct, with LoRA."""
    return _cot(LLAMA_3B)


def coconut_llama3b() -> RunConfig:
    """Coconut, Llama-3.2-3B-Instruct, with LoRA."""
    return _coconut(LLAMA_3B)


def sim_cot_llama3b() -> RunConfig:
    """SIM-CoT on Coconut, Llama-3.2-3B-Instruct, with LoRA."""
    return _sim_cot(LLAMA_3B)
