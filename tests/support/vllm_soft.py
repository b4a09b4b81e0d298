"""What our engine and vLLM say when they think softly. Importable only where vLLM is."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from support.vllm_runs import FAMILIES, random_run
from vllm import LLM, SamplingParams

from unspoken.exporters.vllm_folder import export_vllm
from unspoken.runs.model import Model

SOFT = ["soft,limit=12", "switch,window=2,limit=16,switches=3", "soft,temperature=3,top_k=5,limit=9", None,
        "switch,window=1,limit=10,top_k=4,temperature=2", "chain,limit=4", "soft,feed=token,limit=12",
        "soft,entropy=0.5,steps=3,limit=20"]  # fmt: skip
"""How one request after the other thinks."""


def thinks_softly(folder: Path, **more: str) -> dict[str, Any]:
    """The override that makes an ordinary model think softly."""
    (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    return {"architectures": [f"UnspokenSoft{name}"], **more}


def until(how: str | None) -> str | None:
    """The run's own mark, which vLLM cannot know."""
    return how if how is None or ",until=" in how else f"{how},until=####"


def ours_softly(model: Model, asked: Sequence[str], hows: Sequence[str | None], words: int) -> list[tuple[int, ...]]:
    """Our engine's greedy answers, without the token that ends one."""
    said: dict[int, tuple[int, ...]] = {}
    for how in dict.fromkeys(hows):
        mine = [n for n, one in enumerate(hows) if one == how]
        answers = model.answer([asked[n] for n in mine], soft=until(how), max_new_tokens=words, temperature=0.0)
        said |= {n: tuple(answer.tokens) for n, answer in zip(mine, answers, strict=True)}
    return [said[n] for n in range(len(asked))]


def theirs_softly(llm: LLM, asked: Sequence[str], hows: Sequence[str | None], words: int) -> list[tuple[int, ...]]:
    """vLLM's."""
    params = [
        SamplingParams(temperature=0, max_tokens=words, extra_args={} if how is None else {"soft_thinking": until(how)})
        for how in hows
    ]
    chats: Any = [[{"role": "user", "content": question}] for question in asked]
    return [tuple(output.outputs[0].token_ids) for output in llm.chat(chats, params, use_tqdm=False)]


def without_end(model: Model, said: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """Answers without the token that ends one."""
    end = set(model.method.backbone.eos_ids)
    return [tuple(token for token in one if token not in end) for one in said]


def compare_softly(
    model: Model, llm: LLM, asked: Sequence[str], hows: Sequence[str | None], words: int
) -> list[tuple[int, ...]]:
    """Assert that both say the same; at most 1 answer in 25 may part where two words are as likely as each other."""
    want = without_end(model, ours_softly(model, asked, hows, words))
    got = without_end(model, theirs_softly(llm, asked, hows, words))
    wrong = [n for n, (a, b) in enumerate(zip(want, got, strict=True)) if a != b]
    assert len(wrong) <= len(asked) // 25, [(asked[n], hows[n], want[n], got[n]) for n in wrong[:3]]
    return got


def exported(folder: Path, family: str) -> tuple[Path, Path]:
    """A random run that writes its steps, and its folder for vLLM. Its mixtures are broad, so that a vector at the wrong
    place changes every answer behind it."""
    run = random_run(folder / "run", {"name": "cot"}, FAMILIES[family])
    export_vllm(run, folder / "out")
    return run, folder / "out"
