"""For the export to Hugging Face folders: a method with a projection, runs that need no training, and a reader of
exported folders that has no unspoken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from support import backbones
from tokenizers import processors
from torch import Tensor, nn

from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence, Source
from unspoken.methods import make_method, method_config
from unspoken.methods.coconut import Coconut, CoconutConfig
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import RunDir
from unspoken.runs.model import Model
from unspoken.tasks import task_config

QUESTIONS = [
    "Ann has 3 pens and buys 4 more. She doubles them.",
    "How many?",
    "  Bob has 9 figs. He eats 2. How many are left, if 4 more were left at noon and he then doubles them? ",
    "12 + 7",
]


@dataclass(frozen=True, kw_only=True)
class ProjectedConfig(CoconutConfig):
    """Settings of `Projected`."""

    name: Literal["projected"] = "projected"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: Literal["mlp", "odd", "left", "other"] = "mlp"


class Other:
    """A source of latents that is no recurrence."""

    def next(self, hidden_ND: Tensor, rows_N: Any, index_N: Any) -> Tensor:
        """See `Source.next`."""
        return -hidden_ND


class Projected(Coconut):
    """Coconut whose latents go through a projection; with `layers`, one that cannot be exported."""

    Config = ProjectedConfig

    def __init__(self, config: ProjectedConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.layers = config.layers
        D = backbone.width
        mlp = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, 24), nn.GELU(), nn.Linear(24, D, bias=False))
        self.projection = nn.Sequential(nn.Identity(), mlp, nn.LayerNorm(D))
        if config.layers == "odd":
            self.projection.append(nn.Tanh())
        if config.layers == "left":
            self.beside = nn.Linear(D, D)

    def source(self) -> Source:
        """The projected recurrence."""
        return Other() if self.layers == "other" else Recurrence(self.projection)


PROJECTED = ("projected", "support.fakes.hf:Projected")
"""Its line in the table of methods."""


def coconut(**more: Any) -> dict[str, Any]:
    """Coconut with 4 latents."""
    return {"name": "coconut", "max_stage": 2, **more}


SIM_COT = {"name": "sim_cot", "inner": coconut(), "decoder": {"kind": "layers"}}
METHOD_CASES: dict[str, Any] = {
    "cot": {"name": "cot"},
    "coconut": coconut(),
    "pause": coconut(thoughts="pause"),
    "sim_cot": SIM_COT,
    "projected": {"name": "projected", "max_stage": 2},
    "codi": {"name": "codi", "projection_width": 20, "projection_dropout": 0.5},
}
LONG = SamplingParams(max_new_tokens=24)
"""Room for two eos."""
# A random GPT-2 with one table for words in and words out says the same word for ever.
FAMILIES: dict[str, dict[str, Any]] = {"gpt2": {"tie_word_embeddings": False}, "llama": {}, "qwen3": {}}
ON = {
    "cot": FAMILIES, "coconut": FAMILIES, "pause": ("qwen3",), "sim_cot": ("llama",), "projected": ("gpt2", "qwen3"),
    "codi": ("gpt2", "llama"),
}  # fmt: skip
"""A method writes its own folder, a family is transformers' own: each is met, not every pair."""
CASES: dict[str, dict[str, Any]] = {
    **{f"{name} {family}": {"method": method, "family": family, **FAMILIES[family]}
       for name, method in METHOD_CASES.items() for family in ON[name]},
    "coconut bos": {"method": coconut(), "bos": True},
    "sim_cot codi": {"method": {**SIM_COT, "inner": {"name": "codi", "projection_norm": False, "trailing": True}}},
    "codi control": {"method": {"name": "codi", "latents": 0}},
    "cot bos": {"method": {"name": "cot", "template": {"question": "Q: {question}\nA:"}}, "bos": True},
    "coconut window": {"method": coconut(), "model_type": "mistral", "sliding_window": 12},
    "pause tokens": {"method": {"name": "pause", "pauses": 4, "marker_init": "pens"}, "family": "gpt2", **FAMILIES["gpt2"]},
    "pause rows": {"method": {"name": "pause", "pauses": 4, "trains": "pauses"}},
    "icot_si qwen3": {"method": {"name": "icot_si"}, "family": "qwen3", "speaking": LONG},
    "icot_si bos": {"method": {"name": "icot_si", "keep_position": True}, "bos": True, "speaking": LONG},
    "coconut granite": {"method": coconut(), "model_type": "granite", "logits_scaling": 3.0, "embedding_multiplier": 2.0},
}  # fmt: skip
LATENT = {name for name in CASES if not name.startswith(("cot ", "icot_si "))}


def with_bos(backbone: Backbone) -> None:
    """Let the tokenizer put a token before every prompt, as Llama's does."""
    words = backbone.tokenizer
    words.add_special_tokens({"bos_token": "<s>"})
    backbone.lm.resize_token_embeddings(len(words), mean_resizing=False)
    pairs = [("<s>", words.bos_token_id)]
    words._tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pairs)
    backbone.forget_encoded()


def upto(tokens: Sequence[int], eos: Collection[int], count: int) -> int:
    """How many tokens there are up to the `count`-th eos; all of them where there are fewer eos."""
    places = [n for n, token in enumerate(tokens, start=1) if token in eos]
    return places[count - 1] if len(places) >= count else len(tokens)


def make_run(
    path: Path,
    method: Any,
    family: str = "llama",
    *,
    bos: bool = False,
    speaking: SamplingParams | None = None,
    dtype: Any = "float32",
    **arch: Any,
) -> Path:
    """A run directory around a random model, some of whose answers end early."""
    backbone = backbones.backbone(family, **arch)
    # As some base models have it; an answer must not depend on it.
    backbone.lm.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=1.5)
    if bos:
        with_bos(backbone)
    made: Any = make_method(method, backbone)
    torch.manual_seed(1)
    with torch.no_grad():
        embedding = backbone.lm.get_input_embeddings().weight
        embedding[len(backbones.tokenizer()) :].normal_(std=0.2)
    speaking = speaking or SamplingParams(max_new_tokens=9)
    # A token that ends some answers early, and not all of them alike, becomes one more eos, as chat models have it.
    free = [answer.tokens for answer in Model(made.eval(), speaking).answer(QUESTIONS, batch_size=1)]
    last = made.prompt("?").num_eos
    ends = [token for token in dict.fromkeys(free[0][2:]) if len({upto(t, {token}, last) for t in free}) > 1]
    assert ends, f"every answer of this random model is alike: {free}"
    backbone.lm.generation_config.eos_token_id = [backbone.tokenizer.eos_token_id, ends[0]]
    config = RunConfig(
        backbone=BackboneConfig(path="some/base-model", dtype=dtype),
        method=method_config(method),
        task=task_config("tiny"),
        train=TrainConfig(steps=1),
        speaking=speaking,
    )
    run = RunDir(path)
    run.create(config, {"provenance": {"versions": {"unspoken": "0.1.0"}}})
    run.save_model(made, step=7, score=0.25)
    return path


READER = """
import json, sys
sys.modules["unspoken"] = None  # importing it is an error
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

def rows(tensor):
    return tensor.tolist()

def chat(question):
    return [{"role": "user", "content": question}]

said = {}
job = json.load(open(sys.argv[1], encoding="utf-8"))
for name, folder in job["folders"].items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    asked = dict(add_generation_prompt=True, return_dict=True, return_tensors="pt")
    batch = tokenizer.apply_chat_template([chat(q) for q in job["questions"]], padding=True, **asked)
    alone = [tokenizer.apply_chat_template(chat(q), **asked) for q in job["questions"]]
    prompt = batch["input_ids"].shape[1]
    batched = model.generate(**batch)
    out = said[name] = {
        "prompts": [rows(one["input_ids"][0]) for one in alone],
        "batch": rows(batched[:, prompt:]),
        "echo": bool((batched[:, :prompt] == batch["input_ids"]).all()),
        "alone": [rows(model.generate(**one)[0, one["input_ids"].shape[1]:]) for one in alone],
        "pad": tokenizer.pad_token_id,
        "eos": model.generation_config.eos_token_id,
        "pipeline": pipeline("text-generation", model=model, tokenizer=tokenizer)(
            chat(job["questions"][0]), return_full_text=False)[0]["generated_text"],
    }
    if name in job["latent"]:
        for number in job["numbers"]:
            out[f"latents {number}"] = rows(model.generate(**batch, num_latents=number)[:, prompt:])
        out["latents"] = rows(model.generate(**batch, return_latents=True)[1])
        plain = AutoModelForCausalLM.from_pretrained(folder)
        by_folder = plain.generate(**batch, custom_generate=folder, trust_remote_code=True)
        out["by folder"] = rows(by_folder[:, prompt:])
        out["positional"] = rows(model.generate(alone[0]["input_ids"])[0, alone[0]["input_ids"].shape[1]:])
said["modules"] = sorted(name for name in sys.modules if name.split(".")[0] == "unspoken")
json.dump(said, open(sys.argv[2], "w", encoding="utf-8"))
"""
"""Loads exported folders as a stranger would; `-I` keeps this checkout's paths out, and `unspoken` cannot be imported."""


def read(where: Path, folders: dict[str, Path], latent: set[str], numbers: list[int]) -> dict[str, Any]:
    """What transformers alone says to `QUESTIONS`, per folder."""
    (where / "reader.py").write_text(READER, encoding="utf-8")
    job = {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "questions": QUESTIONS,
        "latent": sorted(latent),
        "numbers": numbers,
    }
    (where / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "HF_HOME": str(where / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", where / "reader.py", where / "job.json", where / "said.json"],
        env=environment, cwd=where, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((where / "said.json").read_text(encoding="utf-8"))
