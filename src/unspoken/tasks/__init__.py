"""Tasks: where examples come from and how an answer is scored. One literal table; adding a task adds a line here."""

from __future__ import annotations

from collections.abc import Mapping

from unspoken.core.config import lookup, named
from unspoken.tasks.base import SPLITS, Score, Split, Task, TaskConfig

TASKS = {
    "tiny": "unspoken.tasks.generated.tiny:Tiny",
    "gsm8k": "unspoken.tasks.data.gsm8k:Gsm8k",
    "gsm8k_aug": "unspoken.tasks.data.gsm8k:Gsm8kAug",
    "gsm8k_aug_nl": "unspoken.tasks.data.gsm8k_nl:Gsm8kAugNl",
    "math": "unspoken.tasks.data.math:Math",
    "svamp": "unspoken.tasks.data.word_problems:Svamp",
    "multiarith": "unspoken.tasks.data.word_problems:MultiArith",
    "asdiv": "unspoken.tasks.data.asdiv:AsDiv",
    "asdiv_aug": "unspoken.tasks.data.gsm8k:AsDivAug",
    "gsm_hard": "unspoken.tasks.data.word_problems:GsmHard",
    "aqua": "unspoken.tasks.data.choice:Aqua",
    "commonsenseqa": "unspoken.tasks.data.choice:CommonsenseQa",
    "strategyqa": "unspoken.tasks.data.strategyqa:StrategyQa",
    "date_understanding": "unspoken.tasks.data.date_understanding:DateUnderstanding",
    "prosqa": "unspoken.tasks.generated.logic:ProsQa",
    "prontoqa": "unspoken.tasks.generated.logic:ProntoQa",
    "coin_flip": "unspoken.tasks.generated.coin_flip:CoinFlip",
    "multiplication": "unspoken.tasks.generated.multiplication:Multiplication",
    "semcot": "unspoken.tasks.data.semcot:SemCotTask",
    "files": "unspoken.tasks.reading.files:Files",
    "mixture": "unspoken.tasks.mixture:Mixture",
}


def task_config(data: str | Mapping[str, object] | TaskConfig) -> TaskConfig:
    """`{"name": "tiny", ...}`, a name, or a task's config -> a checked config.

    Raises:
        ConfigError: unknown task (with a did-you-mean) or wrong field.
    """
    return named(TASKS, "task", data)


def make_task(data: str | Mapping[str, object] | TaskConfig) -> Task:
    """Make the task of a config, or of anything that `task_config` accepts."""
    config = task_config(data)
    return lookup(TASKS, config.name, "task")(config)


__all__ = ["SPLITS", "TASKS", "Score", "Split", "Task", "TaskConfig", "make_task", "task_config"]
