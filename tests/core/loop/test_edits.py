"""Edits of latents: they know whose latent it is, whatever the batch, and may lead one question along several paths."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from contract import cases as cases

from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.row import LatentKey
from unspoken.errors import ConfigError, DataError
from unspoken.runs.model import Model

QUESTIONS = [e.question for e in cases.EXAMPLES]
LATENT = ("coconut", "codi", "sim_cot codi", "pause", "coconut pause", "softcot", "softcot_pp", "semcot")


def model(name: str) -> Model:
    """A random model of a case of the contract."""
    return Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=8))


def own_noise(latents_ND: torch.Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray, path: int = 0) -> torch.Tensor:
    """Noise that depends on whose latent it is, and on nothing else; `path` is added to the number of the set."""
    draws = [
        np.random.default_rng((*name.encode(), chain + path, k)).standard_normal(latents_ND.shape[1])
        for (name, chain), k in zip(keys_N, index_N.tolist(), strict=True)
    ]
    return latents_ND + torch.from_numpy(np.stack(draws)).to(latents_ND.dtype)


@pytest.mark.parametrize("name", LATENT)
def test_an_edit_knows_its_question_whatever_the_batch(name: str):
    asked = model(name)
    n, seen = len(QUESTIONS), []

    def edit(latents_ND: torch.Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> torch.Tensor:
        seen.extend(zip(keys_N, index_N.tolist(), strict=True))
        return own_noise(latents_ND, keys_N, index_N)

    whole = asked.answer(QUESTIONS, latents=4, edit=edit)
    assert sorted(seen) == [((f"question {i}", 0), k) for i in range(n) for k in range(4)]
    for size in (2, 1):
        assert [a.tokens for a in asked.answer(QUESTIONS, latents=4, edit=own_noise, batch_size=size)] == [
            a.tokens for a in whole
        ]
    assert [a.tokens for a in whole] != [a.tokens for a in asked.answer(QUESTIONS, latents=4)]


@pytest.mark.parametrize("name", [name for name in LATENT if name != "softcot_pp"])
def test_several_paths_of_one_question(name: str):
    """Path c of a question has the key (its name, c); path by path as if it were asked alone."""
    asked = model(name)
    n, paths = len(QUESTIONS), 4

    def path(number: int) -> Any:
        return functools.partial(own_noise, path=number)

    together = asked.sample(QUESTIONS, chains=paths, latents=3, edit=own_noise, batch_size=7)
    assert [[a.chain for a in given] for given in together] == [list(range(paths))] * n
    # The prompt, which the sets share, is a pass of its own; one that thinks by itself reads it in one anyway.
    more = 0 if cases.recurrent(asked.method) else 1
    for c in range(paths):
        alone = asked.answer(QUESTIONS, latents=3, edit=path(c))
        assert [given[c].tokens for given in together] == [a.tokens for a in alone]
        assert [given[c].passes for given in together] == [a.passes + more for a in alone]
    with pytest.raises(ConfigError, match=r"chains in 1\.\."):
        asked.sample(QUESTIONS, chains=paths)


def test_paths_share_the_question():
    asked = model("coconut")
    alone = asked.answer(QUESTIONS, latents=3)
    together = asked.sample(QUESTIONS, chains=3, latents=3, edit=lambda latents_ND, keys_N, index_N: latents_ND)
    for question, one, given in zip(QUESTIONS, alone, together, strict=True):
        head = asked.method.prompt(question, 3).start
        assert [a.tokens for a in given] == [one.tokens] * 3
        assert [a.positions for a in given] == [one.positions] + [one.positions - head] * 2


@pytest.mark.parametrize("name", LATENT)
def test_traces_say_what_was_fed(name: str):
    asked = model(name)
    chains = max(asked.chains, 2)
    kept: dict[LatentKey, torch.Tensor] = {}
    numbers = {(str(i), c): 10 * (c * len(QUESTIONS) + i) for i in range(len(QUESTIONS)) for c in range(chains)}

    def keep(trace: Any, keys: list[LatentKey]) -> None:
        kept.update(zip(keys, trace.latents_BKD, strict=True))

    def mark(latents_ND: torch.Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> torch.Tensor:
        marks_N = torch.tensor([numbers[key] for key in keys_N]) + torch.from_numpy(index_N)
        return torch.ones_like(latents_ND) * marks_N[:, None].to(latents_ND.dtype)

    names = [str(i) for i in range(len(QUESTIONS))]
    asked.sample(QUESTIONS, chains=chains, latents=2, names=names, edit=mark, batch_size=4, on_trace=keep)
    assert kept.keys() == numbers.keys()
    for key, latents_KD in kept.items():
        assert latents_KD[:2, 0].tolist() == [numbers[key], numbers[key] + 1]


def test_nothing_to_edit():
    with pytest.raises(ConfigError, match="makes no latents while it thinks, so there is nothing to edit"):
        model("no-cot").answer(QUESTIONS, edit=own_noise)


def test_names_must_tell_questions_apart():
    with pytest.raises(DataError, match="two questions have one name"):
        model("coconut").answer(QUESTIONS, names=["a"] * len(QUESTIONS), edit=own_noise)
