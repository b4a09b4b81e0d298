"""The model card of an exported folder: what the model is, how to load it, where it comes from.

Every figure is read from the run: from the checkpoint's record, and from reports that `unspoken eval` wrote.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import unspoken
from unspoken.core.config import dump
from unspoken.core.text.markup import cell
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.tables import percent, table
from unspoken.exporters.hf_generate import ThoughtsFile
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir

CHECKED = "transformers 5.16.0 and 5.23.0, torch 2.13.0"
"""What exported folders were tested with, in an environment without unspoken."""


def card(run: RunDir, thoughts: ThoughtsFile | None, question: str, chat: bool) -> str:
    """README.md of an exported folder, in Markdown.

    Args:
        run: the exported run.
        thoughts: `thoughts.json`, or None for a plain language model.
        question: the template around a question.
        chat: whether the tokenizer has a chat template for it.
    """
    config = run.config()
    parts = [
        _header(thoughts),
        f"# {cell(run.path.resolve().name)}",
        _what(config, thoughts),
        _how(thoughts, question, chat),
        whence(run, config),
    ]
    if figures := scores(run, config):
        parts.append(figures)
    return "\n\n".join(parts) + "\n"


def _header(thoughts: ThoughtsFile | None) -> str:
    """The metadata block that the hub reads."""
    tags = ["tags:", "- unspoken"]
    if thoughts is not None:
        tags += [*(["- latent-reasoning"] if thoughts["thoughts"] != "none" else []), "- custom_generate"]
    return "\n".join(["---", "library_name: transformers", "pipeline_tag: text-generation", *tags, "---"])


def _what(config: RunConfig, thoughts: ThoughtsFile | None) -> str:
    if thoughts is None:
        return (
            f"A causal language model that answers questions, trained with unspoken (method `{config.method.name}`). "
            "It is an ordinary model of transformers: weights, tokenizer, generation config."
        )
    if thoughts["thoughts"] == "none":
        return (
            f"A causal language model that answers questions, trained with unspoken (method `{config.method.name}`). Its "
            f"answer ends at eos number {thoughts['ends']}; before the others stands what is left of its written chain. "
            f"`custom_generate/generate.py` puts {len(thoughts['before'])} token(s) behind the question and knows where the "
            "answer ends."
        )
    kind = "hidden states fed back" if thoughts["thoughts"] == "recurrent" else "a learned token's embedding, repeated"
    kind += " through a projection" if thoughts["projection"] else ""
    return (
        f"A causal language model that thinks {thoughts['num_latents']} latents ({kind}) before it answers, trained with "
        f"unspoken (method `{config.method.name}`). The thoughts are vectors, not text: `custom_generate/generate.py` makes "
        "them and then speaks."
    )


def _how(thoughts: ThoughtsFile | None, question: str, chat: bool) -> str:
    trust = ", trust_remote_code=True" if thoughts else ""
    if chat:
        inputs = (
            'messages = [{"role": "user", "content": "..."}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
            ")"
        )
    else:
        text = json.dumps(question, ensure_ascii=False)
        inputs = f'inputs = tokenizer({text}.replace("{{question}}", "..."), return_tensors="pt")'
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})',
        inputs,
        "answer = model.generate(**inputs)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]
    said = f"Greedy answers are, token for token, those that unspoken gives (checked with {CHECKED})."
    if thoughts is None:
        return "\n".join([*lines, "", said])
    if thoughts["thoughts"] == "none":
        lost = "ends at the first eos, before the answer,"
        latents = []
    else:
        lost = "answers without thinking,"
        latents = [
            f"- `num_latents=N` thinks N latents in place of the {thoughts['num_latents']} of training; "
            "`return_latents=True` also returns them [rows, latents, width].",
        ]
    more = [
        "",
        f"**Without `trust_remote_code=True` transformers loads the weights alone, and `generate` {lost} with no warning.**",
        "",
        *latents,
        "- What is returned is the prompt and behind it the answer" + ("; the thoughts are not in it." if latents else "."),
        "- Batches are padded on the left (the tokenizer does so with `padding=True`) and need their `attention_mask`.",
        "- `max_new_tokens`, `do_sample`, `temperature`, `top_p`, `top_k`, `streamer` and `stopping_criteria` work as "
        "usual; other options, such as beams, are refused.",
        f"- {said} Sampling draws from torch's generator, so there it differs.",
    ]
    return "\n".join([*lines, *more])


def whence(run: RunDir, config: RunConfig) -> str:
    """Where a run comes from, as a table."""
    about = run.read()
    made = (about.get("provenance") or {}).get("versions") or {}
    path = config.backbone.path
    rows = [
        ("base model", "none: trained from random weights" if path is None else f"`{public(path)}`, as the run names it"),
        ("task", config.task.name),
        ("run", about["id"] + (f", exported from {about['exported_from']}" if "exported_from" in about else "")),
        ("trained with", ", ".join(f"{name} {version}" for name, version in made.items() if version) or "not recorded"),
        ("exported with", f"unspoken {unspoken.__version__}, transformers {importlib.metadata.version('transformers')}"),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in rows)])
    method = json.dumps(public(dump(config.method)), indent=1, ensure_ascii=False)
    return f"## Where it comes from\n\n{table}\n\nMethod:\n\n```json\n{method}\n```"


def public(value: object) -> object:
    """Shorten absolute paths to their last part, because it will be published. "/no_think" is a text, and no path."""
    if isinstance(value, dict):
        return {name: public(part) for name, part in value.items()}
    if isinstance(value, list):
        return [public(part) for part in value]
    if isinstance(value, str) and Path(value).is_absolute() and len(Path(value).parts) > 2 and "\n" not in value:
        return Path(value).name
    return value


def scores(run: RunDir, config: RunConfig) -> str:
    """The run's scores; empty if it was never evaluated."""
    parts = []
    model = json.loads((run.path / "model" / "unspoken.json").read_text(encoding="utf-8"))
    score, train = model["score"], config.train
    if score is not None:
        kind = f"accuracy {percent(score)}%" if train.select == "accuracy" else f"loss {-score:.4g}"
        parts.append(
            f"On at most {train.validate_limit} problems of the validation split: {kind} (step {model['step']}). This "
            "checkpoint was chosen by that figure, so it flatters."
        )
    reports = {file.stem: EvalReport.from_json(file) for file in run.reports(whole=True)}
    parts.extend(table({label: report}).markdown().strip() for label, report in reports.items())
    return "\n\n".join(["## Scores", *parts]) if parts else ""
