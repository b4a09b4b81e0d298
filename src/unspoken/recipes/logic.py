"""ProsQA and ProntoQA with Coconut's settings; SIM-CoT has none there and takes its own from GSM8K-Aug.

The training data of both are generated where no file is at hand (`unspoken data prosqa`).

Sources: [C] facebookresearch/coconut 27273cb, args/prosqa_coconut.yaml and prontoqa_coconut.yaml, which are alike; [S]
InternLM/SIM-CoT f3ae967; [ours] chosen here.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods.base import MethodConfig
from unspoken.methods.coconut import CoconutConfig
from unspoken.methods.cot import CotConfig
from unspoken.methods.pause import PauseConfig
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.base import TaskConfig
from unspoken.tasks.generated.logic import ProntoQaConfig, ProsQaConfig

GPT2 = "openai-community/gpt2"  # [C] model_id

_TRAIN = TrainConfig(
    epochs=50,  # [C] num_epochs
    batch_size=128,  # [C] batch_size_training 32 x 4 GPUs
    micro_batch_size=32,  # [C] batch_size_training
    lr=1e-4,  # [C] lr
    weight_decay=0.01,  # [C] weight_decay
    schedule="constant",  # [C] run.py
    clip=None,  # [C] run.py
    seed=0,  # [C] seed
)
_COCONUT = CoconutConfig(
    latents_per_step=1,  # [C] c_thought
    max_stage=6,  # [C] max_latent_stage
    epochs_per_stage=5,  # [C] epochs_per_stage
    first_stage=0,  # [C] resume 0: from GPT-2 itself, all steps written at first
    pad_to_max=True,  # [C] pad_latent_to_max
    restart_optimizer=True,  # [C] reset_optimizer
)
_PAUSE = PauseConfig(pauses=6)  # arXiv 2412.06769, section 4: as many as Coconut has latents, 6 stages of 1


def _run(method: MethodConfig, task: TaskConfig) -> RunConfig:
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=method,
        task=task,
        train=_TRAIN,
        speaking=SamplingParams(max_new_tokens=128),  # [C] run.py: 128 where "gsm" is not in the path
    )


def _sim_cot() -> SimCotConfig:
    """[S] all latents from the start, one decoder target a latent; weight 1."""
    return SimCotConfig(inner=replace(_COCONUT, curriculum="progressive", restart_optimizer=False), weight=1.0)


def prosqa_cot() -> RunConfig:
    """SFT-CoT; the paper has 77.5 (1.9)."""
    return _run(CotConfig(), ProsQaConfig())


def prosqa_no_cot() -> RunConfig:
    """No-CoT; the paper has 76.7 (1.0)."""
    return _run(CotConfig(steps=False), ProsQaConfig())


def prosqa_pause() -> RunConfig:
    """Pause tokens, with the settings of No-CoT; Coconut's table 1 has 75.9 (0.7)."""
    return _run(_PAUSE, ProsQaConfig())


def prosqa_coconut() -> RunConfig:
    """Coconut from GPT-2. [C] prosqa_coconut.yaml; the paper has 97.0 (0.3)."""
    return _run(_COCONUT, ProsQaConfig())


def prosqa_sim_cot() -> RunConfig:
    """SIM-CoT on Coconut; not in its paper."""
    return _run(_sim_cot(), ProsQaConfig())


def prontoqa_cot() -> RunConfig:
    """SFT-CoT; the paper has 98.8 (0.8)."""
    return _run(CotConfig(), ProntoQaConfig())


def prontoqa_no_cot() -> RunConfig:
    """No-CoT; the paper has 93.8 (0.7)."""
    return _run(CotConfig(steps=False), ProntoQaConfig())


def prontoqa_pause() -> RunConfig:
    """Pause tokens, with the settings of No-CoT; Coconut's table 1 has 77.7 (21.0)."""
    return _run(_PAUSE, ProntoQaConfig())


def prontoqa_coconut() -> RunConfig:
    """Coconut from GPT-2. [C] prontoqa_coconut.yaml; the paper has 99.8 (0.2)."""
    return _run(_COCONUT, ProntoQaConfig())


def prontoqa_sim_cot() -> RunConfig:
    """SIM-CoT on Coconut; not in its paper."""
    return _run(_sim_cot(), ProntoQaConfig())
