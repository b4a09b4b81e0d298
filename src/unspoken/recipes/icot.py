"""iCoT-SI with the published settings: multiplication of two numbers of n digits, and GSM8K-Aug.

Sources: [R] README of da03/Internalize_CoT_Step_by_Step c2e3891, which has one command for each of the two: 9 x 9 digits on
GPT-2, GSM8K on Mistral-7B; [T] train.py there; [ours] chosen here. The accuracies quoted are those of its log files.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods.icot_si import IcotSiConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.gsm8k import Gsm8kAugConfig
from unspoken.tasks.generated.multiplication import MultiplicationConfig

GPT2 = "openai-community/gpt2"  # [R] MODEL=gpt2
GPT2_MEDIUM = "openai-community/gpt2-medium"
MISTRAL = "mistralai/Mistral-7B-v0.1"  # [R] MODEL

_METHOD = IcotSiConfig(
    remove_per_epoch=8,  # [R] REMOVE_PER_EPOCH
    remove_all_beyond=None,  # [R] REMOVE_ALL_WHEN_REMOVE_BEYOND=inf
    remove_from=0,  # [T] the default
    pretrain_epochs=0,  # [R] PRETRAIN_EPOCHS
    smoothing=4.0,  # [R] REMOVAL_SMOOTHING_LAMBDA
    side="left",  # [R] REMOVAL_SIDE
    keep_position=False,  # [R] not given
    restart_optimizer=True,  # [R] --reset_optimizer
)
_TRAIN = TrainConfig(
    epochs=200,  # [R] EPOCHS
    batch_size=32,  # [R] BSZ 32, ACCUMULATE 1
    lr=5e-5,  # [R] LR
    weight_decay=0.01,  # [T] torch's default for AdamW
    schedule="constant",  # [T]
    clip=1.0,  # [T] the default
    seed=3456,  # [R] SEED
    validate_limit=1000,  # [R] all of valid.txt
)


def _multiplication(digits: int) -> RunConfig:
    """[R] has its command for 9 digits and results for 4, 5, 7 and 11 too; their settings are taken to be the same."""
    said = 3 * digits * (digits + 1) + 8  # [ours] the whole chain, which has 3 n^2 + n - 6 tokens, and the answer
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=_METHOD,
        task=MultiplicationConfig(digits=digits, train_size=808_000),  # rows of the published train.txt
        train=_TRAIN,
        speaking=SamplingParams(max_new_tokens=said),
    )


def multiplication_4() -> RunConfig:
    """4 x 4 digits, GPT-2; reported 100.0."""
    return _multiplication(4)


def multiplication_5() -> RunConfig:
    """5 x 5 digits, GPT-2; reported 99.6."""
    return _multiplication(5)


def multiplication_7() -> RunConfig:
    """7 x 7 digits, GPT-2; reported 94.5."""
    return _multiplication(7)


def multiplication_9() -> RunConfig:
    """9 x 9 digits, GPT-2: the published command; reported 98.8."""
    return _multiplication(9)


def gsm8k() -> RunConfig:
    """GSM8K-Aug, GPT-2; reported 30.1. [R] has no command for it: schedule of Mistral's, learning rate of GPT-2's."""
    return RunConfig(
        backbone=BackboneConfig(path=GPT2),
        method=replace(_METHOD, remove_all_beyond=39),  # [R] GSM8K: REMOVE_ALL_WHEN_REMOVE_BEYOND
        task=Gsm8kAugConfig(),
        train=replace(
            _TRAIN,
            epochs=80,  # [R] GSM8K: EPOCHS
            lr=5e-5,  # [R] 9 x 9, the command for this model
            max_positions=150,  # [R] GSM8K: MAX_LEN_TRAIN
            seed=1234,  # [R] GSM8K: SEED
            validate_limit=500,  # [R] all of valid.txt
        ),
        speaking=SamplingParams(max_new_tokens=128),  # [ours] chains of 8 steps, while they are still written
    )


def gsm8k_medium() -> RunConfig:
    """GSM8K-Aug, GPT-2 Medium; reported 34.9. As `gsm8k`."""
    return replace(gsm8k(), backbone=BackboneConfig(path=GPT2_MEDIUM))


def gsm8k_mistral() -> RunConfig:
    """GSM8K-Aug, Mistral-7B: the published command; reported 51.0."""
    base = gsm8k()
    train = replace(
        base.train,
        lr=1e-5,  # [R] LR
        batch_size=32,  # [R] BSZ 16, ACCUMULATE 2
        micro_batch_size=16,  # [R] BSZ
        precision="bf16",  # [R] --bf16, there for weights and optimizer too; ours are fp32
    )
    return replace(base, backbone=BackboneConfig(path=MISTRAL), train=train)
