"""Step-weighted fine-tuning on GSM8K's natural solutions, with the settings of the nanochat script, and on `tiny`.

Sources: [N] karpathy/nanochat 94c5895, scripts/chat_simcot.py and nanochat/gpt.py; [ours] chosen here, see the comment.
The script trains on a mixture of which GSM8K is a third; here it is GSM8K alone. Muon and a learning rate per group are
replaced by AdamW with one rate: that of the script's unembedding.
"""

from __future__ import annotations

from dataclasses import replace

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.template import Template
from unspoken.methods.cot import CotConfig
from unspoken.methods.step_weighted import StepWeightedConfig
from unspoken.recipes import tiny as tiny_recipes
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.data.gsm8k import Gsm8kConfig


def gsm8k() -> RunConfig:
    """GSM8K as published, its <<...>> spans at twice the weight. The base model is GPT-2, as in the other recipes."""
    return RunConfig(
        backbone=BackboneConfig(path="openai-community/gpt2"),  # [ours] the script's own is gsm8k/step_weighted_nanochat
        method=StepWeightedConfig(
            inner=CotConfig(template=Template(answer="#### {answer}")),  # as GSM8K is written
            multiplier=2.0,  # [N] step_weight_multiplier
            segmenter="markers",
            mode="span",  # [ours] mode=window is [N] simcot_utils.py: 2 before, 5 from the first token on
        ),
        task=Gsm8kConfig(steps="annotated"),
        train=TrainConfig(
            epochs=1,  # [N] num_epochs
            batch_size=32,  # [N] target_examples_per_step
            micro_batch_size=4,  # [N] device_batch_size
            lr=8e-5,  # [N] unembedding_lr 0.004 x init_lr_frac 0.02
            betas=(0.8, 0.95),  # [N] gpt.py, the AdamW groups
            weight_decay=0.0,  # [N] weight_decay
            schedule="linear",  # [N] get_lr_multiplier: to 0 over the run
            clip=None,  # [N] no clipping
            precision="bf16",  # [N] dtype
            validate_every=100,  # [N] eval_every
            validate_limit=1024,  # [N] eval_metrics_max_problems; the split has about 370
            log_every=1,  # [N] every step
        ),
        speaking=SamplingParams(max_new_tokens=512),  # [N] scripts/chat_eval.py
    )


def nanochat() -> RunConfig:
    """The same on nanochat's architecture, with its chat format and its calculator's tool calls as steps.

    `backbone.path` takes any nanochat checkpoint in the format of transformers.
    """
    base = gsm8k()
    template = Template(  # [N] tokenizer.render_conversation
        question="<|user_start|>{question}<|user_end|><|assistant_start|>",
        answer="#### {answer}<|assistant_end|>",  # which ends the row, where it is the tokenizer's eos; else eos follows
    )
    return replace(
        base,
        backbone=BackboneConfig(
            path="karpathy/nanochat-d32"
        ),  # [ours] of transformers' documentation; [N] trains on the user's own checkpoint
        method=replace(base.method, inner=CotConfig(template=template), segmenter="tool_calls"),
        task=Gsm8kConfig(steps="nanochat"),
    )


def tiny() -> RunConfig:
    """`tiny/cot` with its steps at twice the weight of what stands around them: from random weights, in minutes."""
    return replace(tiny_recipes.cot(), method=StepWeightedConfig(multiplier=2.0))
