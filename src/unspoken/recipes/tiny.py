"""The task `tiny` on a model of 0.3 million weights: every method in minutes on a CPU core. All numbers are ours; LOG.md
says what was tried.

`cot` trains the explicit-CoT model that ships inside the package ("builtin:tiny"); the others start from it. All of them
get the same problems, updates, optimizer and learning rate, so what differs is the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from unspoken.core.auxiliary.sentence_encoder import EncoderConfig
from unspoken.core.auxiliary.step_decoder import StepDecoderConfig
from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.curriculum import StageSettings
from unspoken.core.text.prompts import TEXTS
from unspoken.core.text.template import Template
from unspoken.methods.base import replace_innermost
from unspoken.methods.coconut import CoconutConfig
from unspoken.methods.codi import CodiConfig
from unspoken.methods.cot import CotConfig
from unspoken.methods.distill import DistillConfig
from unspoken.methods.icot_si import IcotSiConfig
from unspoken.methods.lotus import LotusConfig
from unspoken.methods.mux import MuxConfig
from unspoken.methods.pause import PauseConfig
from unspoken.methods.semcot import SemCotConfig
from unspoken.methods.semcot_generator import SemCotGeneratorConfig
from unspoken.methods.sim_cot import SimCotConfig
from unspoken.methods.softcot import SoftCotConfig
from unspoken.methods.softcot_pp import SoftCotPpConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks.generated.tiny import TinyConfig

START = "builtin:tiny"

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}

STEPS = 4  # operations per problem
UPDATES = 2400
_ROWS = 20_000
_BATCH = 32

_TASK = TinyConfig(min_steps=STEPS, max_steps=STEPS, train_size=_ROWS)
_TRAIN = TrainConfig(
    steps=UPDATES,
    batch_size=_BATCH,
    lr=2e-3,  # 3e-3 and a constant 2e-3 were too hot for latents, 1.2e-3 too slow
    betas=(0.9, 0.98),
    warmup_steps=50,
    restart_warmup_steps=50,
    schedule="linear",  # to 0 from the start: latents become precise only as the rate falls
    validate_every=400,
    validate_limit=200,
    save_every=400,
    log_every=20,
)
_SPEAKING = SamplingParams(max_new_tokens=64)


def _run(method: object, train: TrainConfig = _TRAIN) -> RunConfig:
    """A method from the shipped model, on the problems that all methods get."""
    return RunConfig(backbone=BackboneConfig(path=START), method=method, task=_TASK, train=train, speaking=_SPEAKING)


def cot() -> RunConfig:
    """SFT-CoT from random weights on problems of 1 to 6 steps: the model that ships with the package."""
    return RunConfig(
        backbone=BackboneConfig(arch=SHAPE, tokenizer="builtin:tiny-tokenizer"),
        method=CotConfig(),
        task=TinyConfig(min_steps=1, max_steps=6, train_size=40_000),
        train=replace(_TRAIN, lr=3e-3),
        speaking=_SPEAKING,
    )


def no_cot() -> RunConfig:
    """No-CoT: the answer at once."""
    return _run(CotConfig(steps=False))


def _stage_epochs(train: TrainConfig, stages: int, share: float) -> float:
    """Epochs per stage, so that `stages` stages take a share of the run."""
    return round(share * (train.steps or 0) * train.batch_size / _ROWS / stages, 6)


_COCONUT_STAGES = (STEPS - 1, 0.3)
_SIM_COT_STAGES = (STEPS, 0.4)
"""How many stages before the last one, and the share of the run that they take together."""


def coconut() -> RunConfig:
    """Coconut: one more step becomes a latent at each stage, as published; after 30% of the run no text is left.

    Its last stage is longer than SIM-CoT's (70% of the run to 60%), and its optimizer restarts at each stage, as published.
    """
    return _run(
        CoconutConfig(
            latents_per_step=1,
            max_stage=STEPS,
            first_stage=1,
            epochs_per_stage=_stage_epochs(_TRAIN, *_COCONUT_STAGES),
            restart_optimizer=True,
        ),
    )


def coconut_collapse() -> RunConfig:
    """Coconut driven to collapse, for the monitor: 24 latents at once, nothing but the answer to supervise them.

    No curriculum, a learning rate twice as high that does not fall, 240 updates. docs/guides/inspector.md shows what becomes
    of it. At the usual rate seeds differ: latents lie together for some of the updates, or hardly.
    """
    base = coconut()
    method = replace(base.method, curriculum="none", latents_per_step=6)
    train = replace(
        _TRAIN, steps=240, lr=4e-3, schedule="constant", validate_every=120, save_every=120, stability_limit=32,
        stability_every=20,
    )  # fmt: skip
    return replace(base, method=method, train=train)


STEP_TOKENS = 8  # << a + b = c >> and a line break: every number and sign is a token


def lotus() -> RunConfig:
    """LOTUS: a block of slots per step, as many as it has tokens; a step more becomes a block at each stage, over 40% of
    the run."""
    return _run(
        LotusConfig(
            latents_per_step=STEP_TOKENS,
            max_stage=STEPS,
            first_stage=1,  # the start writes all steps already
            epochs_per_stage=_stage_epochs(_TRAIN, STEPS - 1, 0.4),
        )
    )


def lotus_codi() -> RunConfig:
    """LOTUS + CODI: the start, which writes its steps, is also the teacher."""
    base = lotus()
    return replace(base, method=DistillConfig(inner=base.method, teacher=BackboneConfig(path=START)))


def pause_as_thought() -> RunConfig:
    """Coconut's rows and curriculum with learned tokens in the slots: what the latents themselves are worth."""
    base = coconut()
    return replace(base, method=replace(base.method, thoughts="pause"))


def pause() -> RunConfig:
    """Pause tokens: as many as Coconut has latents, then the answer at once. What the positions alone are worth."""
    return replace(no_cot(), method=PauseConfig(pauses=STEPS))


CHAIN_TOKENS = STEP_TOKENS * STEPS


def icot_si() -> RunConfig:
    """iCoT-SI: a token more goes at equal distances, all of them after 40% of the run, as with SIM-CoT's text.

    Rows are those the start was trained on, with an eos around the chain.
    """
    return _run(
        IcotSiConfig(
            remove_per_epoch=round(CHAIN_TOKENS / (0.4 * UPDATES * _BATCH / _ROWS), 6),
            smoothing=4.0,
            restart_optimizer=False,  # a token goes every 30 updates, less than the warm-up behind a restart takes
            template=Template(),  # as the start was trained
            separator="",
            chain="{chain}",
        ),
    )


def _explained(base: RunConfig) -> RunConfig:
    """SIM-CoT on a recipe: each latent explained by a copy of the base, which can write steps from the start."""
    decoder = StepDecoderConfig(kind="copy")  # a fresh layer would learn that first
    method = SimCotConfig(inner=base.method, decoder=decoder, normalisation="token", max_step_tokens=16)
    return replace(base, method=method)


def sim_cot() -> RunConfig:
    """SIM-CoT on Coconut: all latents from the start, each explained by a copy of the base, text withdrawn over 40%."""
    return _explained(coconut_progressive())


def coconut_progressive() -> RunConfig:
    """SIM-CoT without its decoder: the same rows, schedule and optimizer. What is left of its gain is the supervision."""
    return _run(
        CoconutConfig(
            latents_per_step=1,
            max_stage=STEPS,
            first_stage=0,
            epochs_per_stage=_stage_epochs(_TRAIN, *_SIM_COT_STAGES),
            curriculum="progressive",
            restart_optimizer=False,
        )
    )


def shipped() -> RunConfig:
    """The SIM-CoT that ships inside the package ("builtin:tiny-sim-cot"), from random weights in one run.

    The text of all four steps is written at first (12% of the run), and withdrawn step by step until 60% of it. Heads are
    32 wide, the narrowest that vLLM's attention takes on a CPU; the size is that of the other models here.
    """
    updates = 2200
    base = sim_cot()
    train = replace(_TRAIN, steps=updates, lr=3e-3, validate_every=400, save_every=400)
    shape = {**SHAPE, "num_attention_heads": 3, "num_key_value_heads": 3}
    return replace(
        base,
        backbone=BackboneConfig(arch=shape, tokenizer="builtin:tiny-tokenizer"),
        method=replace_innermost(base.method, epochs_per_stage=_stage_epochs(train, STEPS + 1, 0.6)),
        train=train,
    )


def codi() -> RunConfig:
    """CODI: as many latents as steps; student and teacher learn side by side from the first update."""
    return _run(
        CodiConfig(
            latents=STEPS,
            template=Template(),  # as the start was trained
            separator="",
        ),
    )


def pccot() -> RunConfig:
    """PCCoT: four latents per step, all of them made in three iterations, as published."""
    base = codi()
    method = replace(base.method, latents=4 * STEPS, iterations=3, projection=False, compare_embeddings=False)
    return replace(base, method=method)


def mux_codi() -> RunConfig:
    """MUX on CODI: each latent's state must say its step through the model's own head."""
    base = codi()
    return replace(base, method=MuxConfig(inner=base.method))


def sim_cot_codi() -> RunConfig:
    """SIM-CoT on CODI: the same, each latent explained by a copy of the base."""
    return _explained(codi())


def softcot() -> RunConfig:
    """SoftCoT: base model and assistant are frozen, the projection learns; the base writes its steps.

    Thoughts stand in front of the question: this model has only ever seen a question followed by its steps, and with four
    vectors between them it answers 5% right after 300 updates where in front of it nothing is lost.
    """
    return _run(
        SoftCotConfig(
            assistant=BackboneConfig(path=START),  # the only other model at hand; any causal LM would do
            latents=STEPS,
            texts=replace(TEXTS["plain"], base="{thoughts}{question}\n"),
        ),
        train=replace(_TRAIN, steps=300, validate_every=100),  # the base writes its steps faultlessly: little to learn
    )


def softcot_pp() -> RunConfig:
    """SoftCoT++: the same with three sets of thoughts."""
    base = softcot()
    return replace(base, method=SoftCotPpConfig(softcot=base.method, chains=3))


def softcot_no_cot() -> RunConfig:
    """SoftCoT's thoughts behind the question, and the answer at once: for this the base trains, with LoRA."""
    base = replace(softcot(), train=_TRAIN)
    method = replace(base.method, texts=TEXTS["plain"], steps=False)
    return replace(base, backbone=BackboneConfig(path=START, lora=LoraSettings(r=16, alpha=32.0)), method=method)


def sim_cot_softcot() -> RunConfig:
    """SIM-CoT on it: each soft thought explained by a copy of the base."""
    return _explained(softcot_no_cot())


def semcot() -> RunConfig:
    """SemCoT: the shipped model frozen, a copy of it as generator.

    The encoder takes 15% of the run, a third of that for its linear layer; the projection alone 5%.
    """

    def lesson(share: float) -> StageSettings:
        return StageSettings(epochs=_stage_epochs(_TRAIN, 1, share))

    generator = SemCotGeneratorConfig(
        assistant=BackboneConfig(path=START),
        latents=STEPS,
        warmup=lesson(0.05),
        texts=TEXTS["plain"],  # as the start was trained
    )
    method = SemCotConfig(
        inner=generator,
        encoder=EncoderConfig(first=1, last=2, width=96),
        align_weight=0.25,
        encoder_warmup=lesson(0.05),
        encoder_training=lesson(0.1),
        condensed="rule",
    )
    return replace(_run(method), fast=FastConfig(prefix_gb=0.0))  # a resumed run then is the same bit for bit


def semcot_generator() -> RunConfig:
    """SemCoT without encoder and alignment: what the alignment is worth."""
    base = semcot()
    return replace(base, method=base.method.inner)


def sim_cot_semcot() -> RunConfig:
    """SIM-CoT on SemCoT: each latent also explained by a copy of the base."""
    return _explained(semcot())


def _shortened(config: RunConfig, seed: int, stages: tuple[int, float] | None = None, updates: int = 1700) -> RunConfig:
    """The same recipe with fewer updates; stages keep their share of the run."""
    train = replace(config.train, steps=updates, validate_every=updates // 5, save_every=updates // 5, seed=seed)
    if stages is None:
        return replace(config, train=train)
    method = replace_innermost(config.method, epochs_per_stage=_stage_epochs(train, *stages))
    return replace(config, method=method, train=train)


QUICKSTART: dict[str, Callable[[int], RunConfig]] = {
    "No-CoT": lambda seed: _shortened(no_cot(), seed),
    "Coconut": lambda seed: _shortened(coconut(), seed, _COCONUT_STAGES),
    "SIM-CoT": lambda seed: _shortened(sim_cot(), seed, _SIM_COT_STAGES),
}
"""What `unspoken quickstart` trains: label -> recipe of a seed."""
