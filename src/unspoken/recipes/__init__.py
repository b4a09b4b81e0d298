"""Recipes: functions that return a `RunConfig`, with a source per number. One literal table, loaded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unspoken.core.config import build, dump, lookup, override, place
from unspoken.core.files import parse_json
from unspoken.errors import ConfigError
from unspoken.runs.earlier import check_moved, updated
from unspoken.tasks import task_config

if TYPE_CHECKING:
    from unspoken.runs.config import RunConfig

RECIPES = {
    "tiny/cot": "unspoken.recipes.tiny:cot",
    "tiny/no_cot": "unspoken.recipes.tiny:no_cot",
    "tiny/coconut": "unspoken.recipes.tiny:coconut",
    "tiny/coconut_progressive": "unspoken.recipes.tiny:coconut_progressive",
    "tiny/coconut_collapse": "unspoken.recipes.tiny:coconut_collapse",
    "tiny/pause_as_thought": "unspoken.recipes.tiny:pause_as_thought",
    "tiny/pause": "unspoken.recipes.tiny:pause",
    "tiny/icot_si": "unspoken.recipes.tiny:icot_si",
    "tiny/lotus": "unspoken.recipes.tiny:lotus",
    "tiny/lotus_codi": "unspoken.recipes.tiny:lotus_codi",
    "tiny/sim_cot": "unspoken.recipes.tiny:sim_cot",
    "tiny/shipped": "unspoken.recipes.tiny:shipped",
    "tiny/codi": "unspoken.recipes.tiny:codi",
    "tiny/sim_cot_codi": "unspoken.recipes.tiny:sim_cot_codi",
    "tiny/mux_codi": "unspoken.recipes.tiny:mux_codi",
    "tiny/pccot": "unspoken.recipes.tiny:pccot",
    "tiny/softcot": "unspoken.recipes.tiny:softcot",
    "tiny/softcot_pp": "unspoken.recipes.tiny:softcot_pp",
    "tiny/softcot_no_cot": "unspoken.recipes.tiny:softcot_no_cot",
    "tiny/sim_cot_softcot": "unspoken.recipes.tiny:sim_cot_softcot",
    "tiny/step_weighted": "unspoken.recipes.step_weighted:tiny",
    "tiny/semcot": "unspoken.recipes.tiny:semcot",
    "tiny/semcot_generator": "unspoken.recipes.tiny:semcot_generator",
    "tiny/sim_cot_semcot": "unspoken.recipes.tiny:sim_cot_semcot",
    "gsm8k/cot": "unspoken.recipes.gsm8k:cot",
    "gsm8k/no_cot": "unspoken.recipes.gsm8k:no_cot",
    "gsm8k/pause": "unspoken.recipes.gsm8k:pause",
    "gsm8k/coconut": "unspoken.recipes.gsm8k:coconut",
    "gsm8k/coconut_mixed": "unspoken.recipes.gsm8k:coconut_mixed",
    "gsm8k/coconut_no_curriculum": "unspoken.recipes.gsm8k:coconut_no_curriculum",
    "gsm8k/pause_as_thought": "unspoken.recipes.gsm8k:pause_as_thought",
    "gsm8k/sim_cot": "unspoken.recipes.gsm8k:sim_cot",
    "gsm8k/sim_cot_staged": "unspoken.recipes.gsm8k:sim_cot_staged",
    "gsm8k/coconut_llama1b": "unspoken.recipes.gsm8k:coconut_llama1b",
    "gsm8k/sim_cot_llama1b": "unspoken.recipes.gsm8k:sim_cot_llama1b",
    "gsm8k/step_weighted": "unspoken.recipes.step_weighted:gsm8k",
    "gsm8k/step_weighted_nanochat": "unspoken.recipes.step_weighted:nanochat",
    "gsm8k/codi": "unspoken.recipes.codi:gsm8k",
    "gsm8k/codi_llama1b": "unspoken.recipes.codi:gsm8k_llama1b",
    "gsm8k/codi_llama3b": "unspoken.recipes.codi:gsm8k_llama3b",
    "gsm8k/codi_llama8b": "unspoken.recipes.codi:gsm8k_llama8b",
    "gsm8k/sim_cot_codi": "unspoken.recipes.codi:sim_gsm8k",
    "gsm8k/sim_cot_codi_llama1b": "unspoken.recipes.codi:sim_gsm8k_llama1b",
    "gsm8k/sim_cot_codi_llama3b": "unspoken.recipes.codi:sim_gsm8k_llama3b",
    "gsm8k/sim_cot_codi_llama8b": "unspoken.recipes.codi:sim_gsm8k_llama8b",
    "gsm8k/lotus": "unspoken.recipes.lotus:gsm8k",
    "gsm8k/lotus_llama1b": "unspoken.recipes.lotus:gsm8k_llama1b",
    "gsm8k/lotus_llama3b": "unspoken.recipes.lotus:gsm8k_llama3b",
    "gsm8k/lotus_codi_llama3b": "unspoken.recipes.lotus:codi_gsm8k_llama3b",
    "gsm8k/cot_qwen3_0_6b": "unspoken.recipes.chat_models:cot_qwen3_0_6b",
    "gsm8k/coconut_qwen3_0_6b": "unspoken.recipes.chat_models:coconut_qwen3_0_6b",
    "gsm8k/sim_cot_qwen3_0_6b": "unspoken.recipes.chat_models:sim_cot_qwen3_0_6b",
    "gsm8k/codi_qwen3_0_6b": "unspoken.recipes.chat_models:codi_qwen3_0_6b",
    "gsm8k/sim_cot_codi_qwen3_0_6b": "unspoken.recipes.chat_models:sim_cot_codi_qwen3_0_6b",
    "gsm8k/cot_qwen3_1_7b": "unspoken.recipes.chat_models:cot_qwen3_1_7b",
    "gsm8k/coconut_qwen3_1_7b": "unspoken.recipes.chat_models:coconut_qwen3_1_7b",
    "gsm8k/sim_cot_qwen3_1_7b": "unspoken.recipes.chat_models:sim_cot_qwen3_1_7b",
    "gsm8k/codi_qwen3_1_7b": "unspoken.recipes.chat_models:codi_qwen3_1_7b",
    "gsm8k/sim_cot_codi_qwen3_1_7b": "unspoken.recipes.chat_models:sim_cot_codi_qwen3_1_7b",
    "gsm8k/cot_qwen3_4b": "unspoken.recipes.chat_models:cot_qwen3_4b",
    "gsm8k/coconut_qwen3_4b": "unspoken.recipes.chat_models:coconut_qwen3_4b",
    "gsm8k/sim_cot_qwen3_4b": "unspoken.recipes.chat_models:sim_cot_qwen3_4b",
    "gsm8k/codi_qwen3_4b": "unspoken.recipes.chat_models:codi_qwen3_4b",
    "gsm8k/sim_cot_codi_qwen3_4b": "unspoken.recipes.chat_models:sim_cot_codi_qwen3_4b",
    "gsm8k/cot_qwen3_8b": "unspoken.recipes.chat_models:cot_qwen3_8b",
    "gsm8k/coconut_qwen3_8b": "unspoken.recipes.chat_models:coconut_qwen3_8b",
    "gsm8k/sim_cot_qwen3_8b": "unspoken.recipes.chat_models:sim_cot_qwen3_8b",
    "gsm8k/codi_qwen3_8b": "unspoken.recipes.chat_models:codi_qwen3_8b",
    "gsm8k/sim_cot_codi_qwen3_8b": "unspoken.recipes.chat_models:sim_cot_codi_qwen3_8b",
    "gsm8k/cot_llama1b": "unspoken.recipes.chat_models:cot_llama1b",
    "gsm8k/cot_llama3b": "unspoken.recipes.chat_models:cot_llama3b",
    "gsm8k/coconut_llama3b": "unspoken.recipes.chat_models:coconut_llama3b",
    "gsm8k/sim_cot_llama3b": "unspoken.recipes.chat_models:sim_cot_llama3b",
    "gsm8k/mux_codi": "unspoken.recipes.codi:mux_gsm8k",
    "gsm8k/mux_codi_llama1b": "unspoken.recipes.codi:mux_gsm8k_llama1b",
    "gsm8k/pccot": "unspoken.recipes.pccot:gsm8k",
    "gsm8k/pccot_llama1b": "unspoken.recipes.pccot:gsm8k_llama1b",
    "gsm8k/icot_si": "unspoken.recipes.icot:gsm8k",
    "gsm8k/icot_si_medium": "unspoken.recipes.icot:gsm8k_medium",
    "gsm8k/icot_si_mistral": "unspoken.recipes.icot:gsm8k_mistral",
    "gsm8k_nl/codi": "unspoken.recipes.codi:nl",
    "gsm8k_nl/codi_llama1b": "unspoken.recipes.codi:nl_llama1b",
    "gsm8k_nl/sim_cot_codi": "unspoken.recipes.codi:sim_nl",
    "gsm8k_nl/sim_cot_codi_llama1b": "unspoken.recipes.codi:sim_nl_llama1b",
    "commonsenseqa/codi": "unspoken.recipes.codi:commonsenseqa",
    "commonsenseqa/codi_llama1b": "unspoken.recipes.codi:commonsenseqa_llama1b",
    "commonsenseqa/sim_cot_codi": "unspoken.recipes.codi:sim_commonsenseqa",
    "commonsenseqa/sim_cot_codi_llama1b": "unspoken.recipes.codi:sim_commonsenseqa_llama1b",
    "strategyqa/codi": "unspoken.recipes.codi:strategyqa",
    "strategyqa/codi_llama1b": "unspoken.recipes.codi:strategyqa_llama1b",
    "strategyqa/sim_cot_codi": "unspoken.recipes.codi:sim_strategyqa",
    "strategyqa/sim_cot_codi_llama1b": "unspoken.recipes.codi:sim_strategyqa_llama1b",
    "gsm8k/softcot_llama8b": "unspoken.recipes.softcot:gsm8k_llama8b",
    "gsm8k/softcot_qwen7b": "unspoken.recipes.softcot:gsm8k_qwen7b",
    "gsm8k/softcot_pp_llama8b": "unspoken.recipes.softcot:plus_gsm8k_llama8b",
    "gsm8k/softcot_pp_qwen3_8b": "unspoken.recipes.softcot:plus_gsm8k_qwen3_8b",
    "gsm8k/sim_cot_softcot_llama8b": "unspoken.recipes.softcot:sim_gsm8k_llama8b",
    "aqua/softcot_llama8b": "unspoken.recipes.softcot:aqua_llama8b",
    "aqua/softcot_qwen7b": "unspoken.recipes.softcot:aqua_qwen7b",
    "asdiv_aug/softcot_llama8b": "unspoken.recipes.softcot:asdiv_aug_llama8b",
    "asdiv_aug/softcot_qwen7b": "unspoken.recipes.softcot:asdiv_aug_qwen7b",
    "strategyqa/softcot_llama8b": "unspoken.recipes.softcot:strategyqa_llama8b",
    "strategyqa/softcot_qwen7b": "unspoken.recipes.softcot:strategyqa_qwen7b",
    "multiplication/icot_si_4": "unspoken.recipes.icot:multiplication_4",
    "multiplication/icot_si_5": "unspoken.recipes.icot:multiplication_5",
    "multiplication/icot_si_7": "unspoken.recipes.icot:multiplication_7",
    "multiplication/icot_si_9": "unspoken.recipes.icot:multiplication_9",
    "semcot/gsm8k": "unspoken.recipes.semcot:gsm8k",
    "semcot/svamp": "unspoken.recipes.semcot:svamp",
    "semcot/multiarith": "unspoken.recipes.semcot:multiarith",
    "semcot/commonsense_qa": "unspoken.recipes.semcot:commonsense_qa",
    "semcot/coin_flip": "unspoken.recipes.semcot:coin_flip",
    "semcot/gsm8k_mistral": "unspoken.recipes.semcot:gsm8k_mistral",
    "semcot/svamp_mistral": "unspoken.recipes.semcot:svamp_mistral",
    "semcot/multiarith_mistral": "unspoken.recipes.semcot:multiarith_mistral",
    "semcot/commonsense_qa_mistral": "unspoken.recipes.semcot:commonsense_qa_mistral",
    "semcot/coin_flip_mistral": "unspoken.recipes.semcot:coin_flip_mistral",
    "semcot/gsm8k_qwen": "unspoken.recipes.semcot:gsm8k_qwen",
    "prosqa/cot": "unspoken.recipes.logic:prosqa_cot",
    "prosqa/no_cot": "unspoken.recipes.logic:prosqa_no_cot",
    "prosqa/pause": "unspoken.recipes.logic:prosqa_pause",
    "prosqa/coconut": "unspoken.recipes.logic:prosqa_coconut",
    "prosqa/sim_cot": "unspoken.recipes.logic:prosqa_sim_cot",
    "prontoqa/cot": "unspoken.recipes.logic:prontoqa_cot",
    "prontoqa/no_cot": "unspoken.recipes.logic:prontoqa_no_cot",
    "prontoqa/pause": "unspoken.recipes.logic:prontoqa_pause",
    "prontoqa/coconut": "unspoken.recipes.logic:prontoqa_coconut",
    "prontoqa/sim_cot": "unspoken.recipes.logic:prontoqa_sim_cot",
}


def recipe(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a recipe, with `a.b=value` overrides applied.

    Args:
        name: a name of the table or of an installed package, "module:function", or a JSON file that holds a config (a
            run.json will do).
        overrides: assignments, e.g. "train.lr=1e-3". "task.name=files" takes another task, with its own defaults.

    Raises:
        ConfigError: unknown recipe (with a did-you-mean), unreadable file, unknown field or wrong type.
    """
    is_file = name not in RECIPES and (name.endswith(".json") or Path(name).is_file())
    if not is_file:  # before torch is loaded, which takes seconds
        try:
            place(RECIPES, name, "recipe")
        except ConfigError as error:
            raise ConfigError(f"{error}; or give a JSON file") from None
    from unspoken.runs.config import RunConfig

    if is_file:
        try:
            data = parse_json(Path(name).read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read recipe file {name}: {error}") from error
        data = data.get("config", data) if isinstance(data, dict) else data
        config = build(RunConfig, updated(data), f"{name}: ")
    else:
        made = lookup(RECIPES, name, "recipe")()
        config = build(RunConfig, made, f"recipe {name!r}: ")
    if not overrides:
        return config
    check_moved(dumped := dump(config), overrides)
    pairs = [text.partition("=") for text in overrides]
    named = next((value.strip() for name, _, value in reversed(pairs) if name.strip() == "task.name"), config.task.name)
    if named != config.task.name:  # another task has other fields
        dumped["task"] = dump(task_config(named))
    return build(RunConfig, override(dumped, overrides))
