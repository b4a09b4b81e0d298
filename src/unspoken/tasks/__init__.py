"""Tasks: where examples come from and how an answer is scored. One literal table; adding a task adds a line here."""

from __future__ import annotations

from typing import Any

from unspoken.core.config import lookup, named
from unspoken.tasks.base import SPLITS, Score, Split, Task

TASKS = {
    "tiny": "unspoken.tasks.tiny:Tiny",
    "gsm8k": "unspoken.tasks.gsm8k:Gsm8k",
    "gsm8k_aug": "unspoken.tasks.gsm8k:Gsm8kAug",
    "gsm8k_aug_nl": "unspoken.tasks.gsm8k_nl:Gsm8kAugNl",
    "svamp": "unspoken.tasks.word_problems:Svamp",
    "multiarith": "unspoken.tasks.word_problems:MultiArith",
    "asdiv": "unspoken.tasks.asdiv:AsDiv",
    "gsm_hard": "unspoken.tasks.word_problems:GsmHard",
    "aqua": "unspoken.tasks.choice:Aqua",
    "commonsenseqa": "unspoken.tasks.choice:CommonsenseQa",
    "strategyqa": "unspoken.tasks.strategyqa:StrategyQa",
    "date_understanding": "unspoken.tasks.date_understanding:DateUnderstanding",
    "prosqa": "unspoken.tasks.logic:ProsQa",
    "prontoqa": "unspoken.tasks.logic:ProntoQa",
    "coin_flip": "unspoken.tasks.coin_flip:CoinFlip",
    "multiplication": "unspoken.tasks.multiplication:Multiplication",
    "semcot": "unspoken.tasks.semcot:SemCot",
    "files": "unspoken.tasks.files:Files",
}


def task_config(data: Any) -> Any:
    """`{"name": "tiny", ...}`, a name, or a task's config -> a checked config.

    Raises:
        ConfigError: unknown task (with a did-you-mean) or wrong field.
    """
    return named(TASKS, "task", data)


def make_task(data: Any) -> Task:
    """The task of a config (or of what `task_config` takes)."""
    config = task_config(data)
    return lookup(TASKS, config.name, "task")(config)


__all__ = ["SPLITS", "TASKS", "Score", "Split", "Task", "make_task", "task_config"]
