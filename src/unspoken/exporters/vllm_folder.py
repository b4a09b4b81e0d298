"""Export a run as a folder that vLLM serves, recurrent latents included.

    config.json, model.safetensors, tokenizer, generation_config.json    as transformers writes them, with two differences:
                                                                         `architectures` names a class of the plugin, and
                                                                         an `unspoken` object says how to think
    projection.safetensors      where latents are projected
    chat_template.jinja         question and what opens the thoughts
    README.md                   the command

The plugin (`unspoken/vllm`) is found by vLLM wherever unspoken is installed. Methods whose thoughts are tokens need none:
their tokens are written by the chat template. Greedy answers are unspoken's, token for token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import check_new, write_folder
from unspoken.core.tensors import save_tensors
from unspoken.core.text.markup import cell
from unspoken.core.text.template import question_ids
from unspoken.errors import ConfigError
from unspoken.exporters.hf_folder import PROBES, Thoughts, chat_template, generation_config, template_of, thoughts_of
from unspoken.exporters.hf_generate import ThoughtsFile
from unspoken.exporters.model_card import scores, whence
from unspoken.exporters.vllm_format import FAMILIES, FORMAT, KEY, PREFIX, PROJECTION, LatentConfig
from unspoken.methods.base import Method
from unspoken.runs.directory import RunDir
from unspoken.runs.stage import own_latents

MOST = 32
"""A request may ask for so many latents, or for twice as many as in training if that is more."""


def export_vllm(path: str | Path, out: str | Path) -> None:
    """Write a folder that `vllm serve` takes.

    Args:
        path: a run directory, or a model in the package ("builtin:tiny").
        out: a new folder.

    Raises:
        RunError: `path` is no run, `out` exists and is not empty, or it cannot be written.
        ConfigError: vLLM cannot do what the method does at inference.
    """
    source = RunDir(path)
    check_new(out)
    config = source.config()
    method = source.load_method(at_inference=True).at_inference
    method.eval()
    thoughts = thoughts_of(method, own_latents(source.path))
    about = None if thoughts is None else thoughts.about
    _refuse(method, about)
    backbone = method.backbone
    latent = (
        latent_config(about, method.latents_per_group) if about is not None and about["thoughts"] == "recurrent" else None
    )
    settings = generation_config(backbone, config.speaking)
    if latent is not None:  # vLLM counts latents and markers among the tokens of an answer
        settings.max_new_tokens += latent["latents"] + len(latent["after"])
    backbone.lm.generation_config = settings
    template = prompt_template(method, about)
    backbone.tokenizer.chat_template = template
    text = _card(source, about, bool(template))

    def write(folder: Path) -> None:
        folder.mkdir()
        backbone.save(folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
        if about is not None:
            _make_special(folder, list(about["markers"]), latent)
        if latent is not None:
            assert thoughts is not None
            _set_architecture(folder, latent)
            _add_projection(folder, thoughts)

    write_folder(out, write, then="export again")


def latent_config(about: ThoughtsFile, group: int) -> LatentConfig:
    """The object in config.json, from what is known of a method with recurrent latents."""
    assert about["slot"] is not None
    latents = about["num_latents"]
    return {
        "format": FORMAT,
        "latents": latents,
        "most": max(MOST, 2 * latents),
        "group": max(group, 1),
        "before": about["before"],
        "slot": about["slot"],
        "after": about["after"],
        "markers": about["markers"],
        "reserved": about["reserved"],
        "projection": about["projection"],
    }


def _refuse(method: Method, about: ThoughtsFile | None) -> None:
    """Refuse what vLLM, or the plugin in it, cannot do.

    Raises:
        ConfigError: says what, and what to use instead.
    """
    name, family = method.config.name, type(method.backbone.plain()).__name__
    if about is None:
        return
    if about["ends"] > 1:
        raise ConfigError(
            f"method {name!r} cannot be exported for vLLM: its answer ends at end-of-text number {about['ends']}, and vLLM "
            "ends at the first; serve it with `unspoken serve`, or export it with --format hf"
        )
    if about["thoughts"] == "recurrent" and family not in FAMILIES:
        raise ConfigError(
            f"method {name!r} cannot be exported for vLLM: its latents need a class inside vLLM, and there is none for a "
            f"{family}; known: {', '.join(FAMILIES)}. Serve it with `unspoken serve`, or export it with --format hf"
        )
    added = method.backbone.tokenizer.get_added_vocab()
    if plain := [text for text in about["markers"] if text not in added]:
        raise ConfigError(
            f"method {name!r} cannot be exported for vLLM: {plain[0]!r} stands around its thoughts and is an ordinary word, "
            "which vLLM would show as part of the answer; use --format hf"
        )
    if ending := set(about["markers"].values()) & set(method.backbone.eos_ids):
        raise ConfigError(
            f"method {name!r} cannot be exported for vLLM: token {min(ending)} both stands in its thoughts and ends an "
            "answer; use --format hf"
        )


def prompt_template(method: Method, about: ThoughtsFile | None) -> str | None:
    """The template of `--format hf`, and behind it what opens the thoughts; refuses questions with a marker in them.

    For thoughts that are tokens, all of them; `latents` in `chat_template_kwargs` is their number.
    """
    template = chat_template(method)
    if template is None or about is None:
        return template
    texts = {number: text for text, number in about["markers"].items()}

    def literal(ids: Sequence[int]) -> str:
        return f"{{{{ {json.dumps(''.join(texts[i] for i in ids), ensure_ascii=False)} }}}}" if ids else ""

    tests = "".join(
        f"{{% if {json.dumps(text, ensure_ascii=False)} in messages[0].content %}}"
        f"{{{{ raise_exception('the question contains the marker {text}, which is reserved for thoughts; remove it') }}}}"
        "{% endif %}"
        for text in about["reserved"]
    )
    # The first test of the template is that there is one message with a text.
    first, rest = template.split("{% endif %}", 1)
    behind = literal(about["before"])
    if about["thoughts"] == "tokens":
        assert about["slot"] is not None
        slot = json.dumps(texts[about["slot"]], ensure_ascii=False)
        behind += f"{{{{ {slot} * (latents | default({about['num_latents']}) | int) }}}}" + literal(about["after"])
    whole = f"{first}{{% endif %}}{tests}{rest}{behind}"
    for question in PROBES:
        _check_template(method, whole, question, about)
    return whole


def _check_template(method: Method, template: str, question: str, about: ThoughtsFile) -> None:
    """Raise if a template does not give exactly the tokens of a method's prompt."""
    backbone = method.backbone
    got = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], chat_template=template, add_generation_prompt=True, return_dict=False
    )
    want = question_ids(backbone, template_of(method), question.strip()) + tuple(about["before"])
    if about["thoughts"] == "tokens":
        want = method.prompt(question.strip(), about["num_latents"]).ids
    if tuple(got) != tuple(want):
        raise ConfigError(
            f"method {method.config.name!r} cannot be exported for vLLM: no chat template gives its prompts, expected "
            f"tokens {list(want)}, got {list(got)}; use --format hf"
        )


def _make_special(folder: Path, markers: Sequence[str], latent: LatentConfig | None) -> None:
    """Mark tokens as special in a tokenizer's files: vLLM leaves those out of an answer's text. How to think stands there
    too, since reasoning parsers are given a tokenizer and no config."""
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    for token in about["added_tokens"]:
        token["special"] = token["special"] or token["content"] in markers
    path.write_text(json.dumps(about, ensure_ascii=False, indent=2), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    for token in about.get("added_tokens_decoder", {}).values():
        token["special"] = token["special"] or token["content"] in markers
    if latent is not None:
        about[KEY] = latent
    path.write_text(json.dumps(about, ensure_ascii=False, indent=2), encoding="utf-8")


def _set_architecture(folder: Path, latent: LatentConfig) -> None:
    """Name the plugin's class, and say how to think."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [PREFIX + name for name in config["architectures"]]
    config[KEY] = latent
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _add_projection(folder: Path, thoughts: Thoughts) -> None:
    """Write a projection's tensors, and enter them where the model's weights are listed."""
    if not thoughts.tensors:
        return
    tensors = {PROJECTION + name: tensor for name, tensor in thoughts.tensors.items()}
    save_tensors(folder / "projection.safetensors", tensors)
    index = folder / "model.safetensors.index.json"
    if index.is_file():  # with such a list, vLLM reads no other file
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"] |= dict.fromkeys(tensors, "projection.safetensors")
        index.write_text(json.dumps(listed, indent=2), encoding="utf-8")


def _card(run: RunDir, about: ThoughtsFile | None, chat: bool) -> str:
    """README.md: what the model is, the command, where it comes from."""
    config = run.config()
    header = ["---", "library_name: vllm", "pipeline_tag: text-generation", "tags:", "- unspoken", "---"]
    parts = [
        "\n".join(header),
        f"# {cell(run.path.resolve().name)}",
        _what(config.method.name, about),
        _how(about, str(config.backbone.dtype), chat),
        whence(run, config),
    ]
    if figures := scores(run, config):
        parts.append(figures)
    return "\n\n".join(parts) + "\n"


def _what(name: str, about: ThoughtsFile | None) -> str:
    first = f"A causal language model that answers questions, trained with unspoken (method `{name}`), for vLLM. "
    if about is None or about["thoughts"] == "none":
        return first + "It is an ordinary model, which any vLLM serves."
    if about["thoughts"] == "tokens":
        return first + (
            f"{about['num_latents']} learned tokens stand between question and answer; the chat template writes them, so "
            "that any vLLM serves it."
        )
    return first + (
        f"It thinks {about['num_latents']} latents (hidden states fed back"
        f"{' through a projection' if about['projection'] else ''}) before it answers. The plugin that comes with unspoken "
        "makes them inside vLLM; without it, vLLM does not know the architecture."
    )


def _how(about: ThoughtsFile | None, dtype: str, chat: bool) -> str:
    recurrent = about is not None and about["thoughts"] == "recurrent"
    exact = " --dtype float32" if dtype == "float32" else ""
    install = "pip install vllm unspoken" if recurrent else "pip install vllm"
    before = "VLLM_USE_V2_MODEL_RUNNER=1 " if recurrent else ""
    parser = " --reasoning-parser unspoken" if recurrent else ""
    lines = ["```sh", install, f"{before}vllm serve FOLDER --served-model-name model{exact}{parser}"]
    if chat:
        lines += [
            "curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\",
            '  -d \'{"model": "model", "temperature": 0, "messages": [{"role": "user", "content": "..."}]}\'',
        ]
    lines += ["```", "", "Greedy answers are, token for token, those that unspoken gives in the same precision."]
    if not chat:
        lines += ["", "No chat template gives this model's prompts; send the tokens of `Method.prompt` as `prompt`."]
    if recurrent:
        assert about is not None
        lines += [
            "",
            f'- `"vllm_xargs": {{"latents": N}}` thinks N latents in place of {about["num_latents"]}.',
            "- Latents are `usage.completion_tokens_details.reasoning_tokens`; they count in `max_tokens`.",
            "- Send one question as a single user message. A prompt of `/v1/completions` is taken as it is.",
        ]
    elif about is not None and about["thoughts"] == "tokens":
        lines += ["", '- `"chat_template_kwargs": {"latents": N}` is another number of them.']
    return "\n".join(lines)
