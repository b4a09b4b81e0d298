"""GSM8K-Aug with the published settings. The base model is GPT-2, as in the papers; `backbone.path=...` takes another.

Sources: [C] facebookresearch/coconut 27273cb, args/gsm_*.yaml; [S] InternLM/SIM-CoT f3ae967, Coconut/args/gsm_*.yaml;
[I n] issue n of the same repository; [ours] chosen here, see LOG.md.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods.base import replace_innermost
from unspoken.methods.coconut import CoconutConfig
from unspoken.methods.cot import CotConfig
from unspoken.methods.pause import PauseConfig
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig

GPT2 = "openai-community/gpt2"  # [C] gsm_*.yaml: model_id

_TRAIN = TrainConfig(
    epochs=25,  # [C] gsm_cot: num_epochs
    batch_size=128,  # [C] batch_size_training 32 x 4 GPUs; [C I 3] says that 128 matters
    micro_batch_size=32,  # [C] batch_size_training
    lr=1e-4,  # [C] lr
    weight_decay=0.01,  # [C] weight_decay
    schedule="constant",  # [C] run.py: no scheduler, no warm-up
    clip=None,  # [C] run.py: no clipping
    seed=0,  # [C] seed
    validate_limit=500,  # [C] the whole validation file
)
_SPEAKING = SamplingParams(max_new_tokens=64)  # [C] run.py: 64 where "gsm" is in the path, greedy


def cot() -> RunConfig:
    """SFT-CoT: all steps in words. [C] gsm_cot.yaml; the paper used the checkpoint after 6 epochs ([C I 5])."""
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=CotConfig(),
        task=Gsm8kAugConfig(),
        train=replace(_TRAIN, epochs=6),
        speaking=replace(_SPEAKING, max_new_tokens=128),  # [ours] long chains of 8 steps need more than 64
    )


def no_cot() -> RunConfig:
    """No-CoT: question to answer. [C] the flag `no_cot` with the settings of gsm_cot.yaml."""
    return replace(cot(), method=CotConfig(steps=False), train=_TRAIN, speaking=_SPEAKING)


def pause() -> RunConfig:
    """Pause tokens, as the baseline of Coconut's table 1 (16.4 (1.8)): No-CoT with as many pauses as Coconut has latents."""
    return replace(no_cot(), method=PauseConfig(pauses=6))  # arXiv 2412.06769, section 4: 3 stages of 2


def coconut() -> RunConfig:
    """Coconut from an SFT-CoT run: give it as `backbone.path=RUN`. [C] gsm_coconut.yaml: c 2, 3 epochs a stage, K 3."""
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=CoconutConfig(latents_per_step=2, max_stage=3, epochs_per_stage=3, first_stage=1, restart_optimizer=True),
        task=Gsm8kAugConfig(),
        train=replace(_TRAIN, epochs=22),  # [C] num_epochs 25, resume 3
        speaking=_SPEAKING,
    )


def coconut_mixed() -> RunConfig:
    """Coconut with stage mixing: at stage k, stage i in proportion to i + 1 (arXiv 2602.22441)."""
    base = coconut()
    return replace(base, method=replace(base.method, mixing="proportional"))


def coconut_no_curriculum() -> RunConfig:
    """ "w/o curriculum" of the paper's table 1: the last stage from the start."""
    base = coconut()
    return replace(base, method=replace(base.method, curriculum="none"))


def pause_as_thought() -> RunConfig:
    """ "pause as thought" of the paper's table 1: Coconut's curriculum with learned tokens in the slots."""
    base = coconut()
    return replace(base, method=replace(base.method, thoughts="pause"))


def sim_cot() -> RunConfig:
    """SIM-CoT as its authors recommend: all latents from the start, text steps withdrawn one per stage ([S I 7, 11]).

    Start it from an SFT-CoT or Coconut run: `backbone.path=RUN`.
    """
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=SimCotConfig(
            inner=CoconutConfig(
                latents_per_step=2,  # [S] gsm_simcot.yaml: c_thought
                max_stage=5,  # [S] max_latent_stage
                epochs_per_stage=3,  # [S] epochs_per_stage
                first_stage=0,  # all steps are still written when the latents come in
                curriculum="progressive",
            ),
            weight=1.0,  # [S] coconut.py: hard-coded
        ),
        task=Gsm8kAugConfig(),
        train=replace(_TRAIN, epochs=35, batch_size=64, micro_batch_size=8),  # [S] num_epochs 35; 8 x 8 GPUs
        speaking=_SPEAKING,
    )


def sim_cot_staged() -> RunConfig:
    """SIM-CoT with Coconut's staged curriculum, as the released configuration has it. [S] gsm_simcot.yaml: resume 3."""
    base = sim_cot()
    method = replace_innermost(base.method, curriculum="staged", first_stage=1)
    return replace(base, method=method, train=replace(base.train, epochs=32))


LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"


def coconut_llama1b() -> RunConfig:
    """Coconut, Llama-3.2-1B, from an SFT-CoT run. SIM-CoT's authors had 33.2 as baseline, users 28 ([S I 11])."""
    base = coconut()
    train = replace(
        base.train,
        lr=1e-5,  # zhenyi4/codi issue 8, about its Coconut baseline; [C I 11]: about 1e-5 for Llama
        epochs=5,  # zhenyi4/codi issue 8: 5 epochs of SFT-CoT, then 5 of Coconut
        precision="bf16",  # [ours] fp32 weights
    )
    method = replace(base.method, epochs_per_stage=1)  # [ours] 3 stages and 2 epochs of the last one in 5 epochs
    return replace(base, backbone=BackboneConfig(path=LLAMA_1B), method=method, train=train)


def sim_cot_llama1b() -> RunConfig:
    """SIM-CoT on Coconut, Llama-3.2-1B: six latents from the beginning, one stage ([S I 7]); published 42.2.

    With one stage all steps are one target, explained by all six latents together.
    """
    base = sim_cot()
    method = replace_innermost(base.method, latents_per_step=6, max_stage=1)
    train = replace(base.train, lr=1e-5, precision="bf16")  # [C I 11]; the repository has no Llama settings for this half
    return replace(base, backbone=BackboneConfig(path=LLAMA_1B), method=method, train=train)
