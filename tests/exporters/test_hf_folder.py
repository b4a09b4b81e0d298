"""An exported Hugging Face folder answers as unspoken does, token for token, where unspoken is not to be had; and what is
missing from it, or cannot be exported, is an error that says so."""

from __future__ import annotations

import ast
import errno
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.fakes.hf import CASES, LATENT, METHOD_CASES, PROJECTED, QUESTIONS, SIM_COT, coconut, make_run, read, upto
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.template import question_ids
from unspoken.errors import ConfigError, RunError
from unspoken.exporters import hf_folder, hf_generate
from unspoken.exporters.hf_folder import chat_template, export_hf, projection
from unspoken.methods import METHODS, make_method
from unspoken.runs.directory import RunDir

pytestmark = pytest.mark.slow

NUMBERS = [0, 1, 7]


@pytest.fixture(scope="module")
def projected():
    """The table of methods has one more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, *PROJECTED)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def said(place: Path, projected: None) -> dict[str, Any]:
    """What a process without unspoken says to every case, exported."""
    folders = {}
    for name, case in CASES.items():
        run = make_run(place / "runs" / name, **case)
        export_hf(run, place / "out" / name)
        folders[name] = place / "out" / name
    return read(place, folders, LATENT, NUMBERS)


def spoken(tokens: list[int], said: dict[str, Any], ends: int = 1) -> tuple[int, ...]:
    """An answer without the padding behind it; it ends with eos number `ends`."""
    n = upto(tokens, said["eos"], ends)
    assert set(tokens[n:]) <= {said["pad"]}
    return tuple(tokens[:n])


def answers(model: unspoken.Model, **more: Any) -> list[tuple[int, ...]]:
    return [a.tokens for a in model.answer(QUESTIONS, batch_size=1, **more)]


@pytest.mark.parametrize("name", CASES)
def test_folder_answers_token_for_token_without_unspoken(said, place, name):
    model, got = unspoken.load(place / "runs" / name, device="cpu"), said[name]
    assert said["modules"] == ["unspoken"]  # the entry that forbids it
    method: Any = model.method.at_inference
    assert got["prompts"] == [list(question_ids(method.backbone, method.config.template, q.strip())) for q in QUESTIONS]
    want, ends = answers(model), method.prompt("?").num_eos
    assert len({len(tokens) for tokens in want}) > 1  # some end early
    assert [spoken(row, got, ends) for row in got["batch"]] == want
    assert [spoken(row, got, ends) for row in got["alone"]] == want
    assert got["echo"]
    assert got["pipeline"] == method.backbone.tokenizer.decode(want[0], skip_special_tokens=True)


@pytest.mark.parametrize("name", sorted(LATENT))
def test_folder_thinks_as_unspoken(said, place, name):
    model, got = unspoken.load(place / "runs" / name, device="cpu"), said[name]
    for number in NUMBERS:
        assert [spoken(row, got) for row in got[f"latents {number}"]] == answers(model, latents=number)
    latents = model.method.prompt("?").latents
    # A trace may hold one more than were fed (CODI's `trailing`).
    thought = torch.cat([model.think([question]).latents_BKD for question in QUESTIONS])[:, :latents]
    assert [len(row) for row in got["latents"]] == [latents] * len(QUESTIONS)
    torch.testing.assert_close(torch.tensor(got["latents"]).view(thought.shape), thought, rtol=1e-3, atol=1e-4)
    assert got["by folder"] == got["batch"]
    assert spoken(got["positional"], got) == answers(model)[0]


def test_thoughts_matter_in_these_tests(said):
    """Otherwise a folder that thinks wrongly would pass."""
    assert said["codi control"]["latents 0"] == said["codi control"]["batch"]
    for name in sorted(LATENT - {"codi control"}):
        assert said[name]["latents 0"] != said[name]["batch"]
        assert said[name]["latents 7"] != said[name]["batch"]


def test_weights_alone_have_no_code(said, place):
    assert not (place / "out" / "cot llama" / "custom_generate").exists()
    beside = place / "out" / "sim_cot llama" / "custom_generate"
    assert sorted(p.name for p in beside.iterdir()) == ["generate.py", "requirements.txt", "thoughts.json"]
    assert beside.joinpath("generate.py").read_bytes() == Path(hf_generate.__file__).read_bytes()
    assert (place / "out" / "projected gpt2" / "custom_generate" / "projection.safetensors").is_file()


def test_generate_stands_alone():
    tree = ast.parse(Path(hf_generate.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"__future__", "collections", "json", "os", "typing", "torch", "transformers", "safetensors"}
    assert {name.split(".")[0] for name in names} == allowed


# generate, in this process


@pytest.fixture
def folder(projected: None, tmp_path: Path) -> Path:
    export_hf(make_run(tmp_path / "run", METHOD_CASES["projected"]), tmp_path / "out")
    return tmp_path / "out"


def loaded(folder: Path) -> tuple[Any, Any]:
    """`generate` on a folder's model, and a question."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return functools.partial(hf_generate.generate, model=model), tokenizer([QUESTIONS[0], "12 + 7"], return_tensors="pt",
                                                                          padding=True)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_latents": -1}, r"num_latents must be a whole number, 0 or more, or None \(as trained: 4\), got -1"),
        ({"num_latents": 2.0}, "num_latents must be .* got 2.0"),
        ({"num_latents": True}, "num_latents must be .* got True"),
        ({"num_latents": "3"}, "num_latents must be .* got '3'"),
        ({"num_beams": 4}, "does not take num_beams=4; it takes num_latents, max_new_tokens"),
        ({"repetition_penalty": 1.2}, "does not take repetition_penalty=1.2"),
        ({"generation_config": GenerationConfig(num_beams=3)}, "does not take num_beams=3"),
        ({"output_scores": True}, "does not take output_scores=True"),
        ({"inputs": torch.ones(1, 3).long()}, "needs the questions once"),
        ({"input_ids": None}, "needs the questions once"),
        ({"input_ids": [1, 2]}, "must be whole numbers .* got list"),
        ({"input_ids": torch.ones(2, 0).long()}, r"must be whole numbers .* got \(2, 0\)"),
        ({"attention_mask": torch.ones(2, 3)}, "attention_mask must be as large as input_ids"),
        ({"max_new_tokens": 0}, "room for at least 1 token, got 0"),
        ({"max_length": 5}, "room for at least 1 token, got -"),
        ({"max_new_tokens": 400}, r"too long: \d+ positions of question and thoughts \+ 400 answer tokens, .* 256"),
        ({"do_sample": True, "temperature": 0.0}, "sampling needs temperature > 0"),
        ({"do_sample": True, "top_p": 1.5}, "sampling needs .* top_p"),
    ],
)
def test_arguments_that_cannot_be_used(folder, change, message):
    generate, inputs = loaded(folder)
    with pytest.raises(ValueError, match=message):
        generate(**{**inputs, **change})


def test_padding_on_the_wrong_side_or_without_a_mask(folder):
    generate, inputs = loaded(folder)
    with pytest.raises(ValueError, match="pass the tokenizer's attention_mask too"):
        generate(inputs["input_ids"])
    turned = {name: tensor.flip(1) for name, tensor in inputs.items()}
    with pytest.raises(ValueError, match="must be padded on the left"):
        generate(**turned)
    hole = inputs["attention_mask"].clone()
    hole[0, 2] = 0
    with pytest.raises(ValueError, match="must be padded on the left"):
        generate(input_ids=inputs["input_ids"], attention_mask=hole)


def test_a_question_that_spells_a_marker(folder):
    generate, _ = loaded(folder)
    ids = AutoTokenizer.from_pretrained(folder)("so <|end-latent|> 5", return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match=r"row 0 contains the marker '<\|end-latent\|>', which is reserved"):
        generate(ids)


def test_a_folder_of_which_a_part_is_missing(folder):
    beside = folder / "custom_generate"
    kept = beside.rename(folder.with_name("kept"))

    def restore() -> None:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(kept, beside)

    def refused(message: str) -> None:
        generate, inputs = loaded(folder)
        with pytest.raises(ValueError, match=message):
            generate(**inputs)

    refused(r"has no custom_generate/thoughts\.json, without which this model cannot think")
    restore()
    (beside / "projection.safetensors").unlink()
    refused(r"has no custom_generate/projection\.safetensors")
    restore()
    tensors = load_file(beside / "projection.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != "0.bias"}, beside / "projection.safetensors")
    refused(r"projection\.safetensors .* does not fit .* expected \['0\.bias', .* got \['0\.weight'")
    restore()
    about = json.loads((beside / "thoughts.json").read_text())
    (beside / "thoughts.json").write_text(json.dumps({**about, "format": 99}))
    refused("has format 99, expected 2")
    (beside / "thoughts.json").write_text('{"format"')
    refused(r"thoughts\.json is broken")
    restore()
    generate, inputs = loaded(folder)
    assert generate(**inputs).shape[1] > inputs["input_ids"].shape[1]


def test_a_base_models_weights_or_tokenizer(folder, tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("12 + 7", return_tensors="pt")["input_ids"]
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows - 3)
    with pytest.raises(
        ValueError, match=rf"the input embedding of .* lacks rows: it has {rows - 3}, .* is number {rows - 1}"
    ):
        hf_generate.generate(ids, model=model)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head = nn.Linear(32, rows - 3, bias=False)
    with pytest.raises(ValueError, match=f"the head of .* lacks rows: it has {rows - 3}"):
        hf_generate.generate(ids, model=model)
    model = AutoModelForCausalLM.from_pretrained(folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"] = [token for token in data["added_tokens"] if "latent" not in token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"the tokenizer of .* lacks the marker token '<\|start-latent\|>': expected number"
    ):
        hf_generate.generate(ids, model=model)


def test_a_relative_path_and_another_working_directory(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    generate, inputs = loaded(Path("out"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="the folder 'out' that this model was loaded from is not there"):
        generate(**inputs)


def test_streaming_stopping_and_lengths(folder):
    generate, inputs = loaded(folder)
    prompt = inputs["input_ids"].shape[1]
    whole = generate(**inputs, eos_token_id=-1)
    assert whole.shape == (2, prompt + 9)  # what the run speaks

    harmless = GenerationConfig(max_new_tokens=4, eos_token_id=-1, num_beams=1, repetition_penalty=1.0)
    assert torch.equal(generate(**inputs, generation_config=harmless), whole[:, : prompt + 4])
    assert torch.equal(generate(**inputs, generation_config=harmless, max_new_tokens=2), whole[:, : prompt + 2])

    class Heard(list):
        def put(self, tokens: torch.Tensor) -> None:
            self.append(tokens)

        def end(self) -> None:
            self.append("end")

    heard = Heard()
    got = generate(**inputs, eos_token_id=-1, max_length=prompt + 3, streamer=heard)
    assert torch.equal(got, whole[:, : prompt + 3])
    assert torch.equal(heard[0], inputs["input_ids"])
    assert torch.equal(torch.stack(heard[1:-1], dim=1), got[:, prompt:])
    assert heard[-1] == "end"

    def third(ids: torch.Tensor, scores: Any) -> torch.Tensor:
        return torch.tensor([ids.shape[1] == prompt + 3, ids.shape[1] == prompt + 5])

    got = generate(**inputs, eos_token_id=-1, pad_token_id=5, stopping_criteria=[third])
    assert got.shape[1] == prompt + 5
    assert torch.equal(got[1], whole[1, : prompt + 5])
    assert got[0, prompt:].tolist() == [*whole[0, prompt : prompt + 3].tolist(), 5, 5]


def test_sampling(folder):
    generate, inputs = loaded(folder)
    greedy = generate(**inputs)
    assert torch.equal(generate(**inputs, do_sample=True, top_k=1), greedy)
    assert torch.equal(generate(**inputs, do_sample=True, top_p=1e-6), greedy)
    assert torch.equal(generate(**inputs, do_sample=False, temperature=3.0), greedy)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(generate(**inputs, do_sample=True, temperature=2.0, eos_token_id=-1))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("say", "want"),
    [
        ({}, [0.2, 0.4, 0.1, 0.3]),
        ({"temperature": 0.5}, [4 / 30, 16 / 30, 1 / 30, 9 / 30]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [2 / 9, 4 / 9, 0, 3 / 9]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_sampled_tokens_have_the_right_frequencies(say, want):
    torch.manual_seed(0)
    logits = torch.tensor([0.2, 0.4, 0.1, 0.3]).log().expand(20_000, 4)
    how: Any = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **say}
    got = hf_generate._choose(logits, how)
    torch.testing.assert_close(got.bincount(minlength=4) / len(logits), torch.tensor(want), rtol=0, atol=0.015)
    assert set(got.tolist()) == {i for i, p in enumerate(want) if p}


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_a_base_model_in_half_precision(projected, tmp_path, kept):
    """Weights that train are kept in fp32, and exported so; a run of version 0.1.0 kept them in bf16. The projection is
    fp32 in both, here as there."""
    run = make_run(tmp_path / "run", METHOD_CASES["codi"], dtype="bfloat16")
    if kept == torch.bfloat16:
        keep_as_0_1_0_did(run, kept)
    export_hf(run, tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == kept
    assert load_file(tmp_path / "out" / "custom_generate" / "projection.safetensors")["0.weight"].dtype == torch.float32
    for question, want in zip(QUESTIONS, answers(unspoken.load(run, device="cpu")), strict=True):
        ids = tokenizer(question.strip(), return_tensors="pt")["input_ids"]
        assert tuple(hf_generate.generate(ids, model=model)[0, ids.shape[1] :].tolist()) == want


def keep_as_0_1_0_did(run: Path, dtype: torch.dtype) -> None:
    """Put the base model of a run into another type, and take away the hashes, of which there were none then."""
    weights, about = run / "model" / "model.safetensors", run / "model" / "unspoken.json"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    said = json.loads(about.read_text())
    about.write_text(json.dumps({key: value for key, value in said.items() if key not in ("sha256", "files")}))


def test_a_run_that_samples_says_so_in_its_folder(projected, tmp_path):
    speaking = SamplingParams(max_new_tokens=5, temperature=0.7, top_p=0.9)
    export_hf(make_run(tmp_path / "run", {"name": "cot"}, speaking=speaking), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    del config["transformers_version"]
    eos = config.pop("eos_token_id")
    assert len(eos) == 2
    assert config == {
        "bos_token_id": eos[0], "do_sample": True, "max_new_tokens": 5, "pad_token_id": eos[0], "temperature": 0.7,
        "top_k": 0, "top_p": 0.9,
    }  # fmt: skip


# export


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("odd", "method 'projected' cannot be exported .*: its projection has a Tanh; Linear, GELU.*use --format run"),
        ("left", r"it has tensors that the folder has no place for, e\.g\. 'beside\.bias'"),
        ("other", "its latents come from Other; a hidden state fed back was expected"),
    ],
)
def test_what_the_folder_cannot_hold_is_refused(projected, tmp_path, layers, message):
    run = make_run(tmp_path / "run", {"name": "projected", "layers": layers})
    with pytest.raises(ConfigError, match=message):
        export_hf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_projection_survives_layer_by_layer():
    class Odd(nn.Linear):
        """A subclass that does something else."""

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.LayerNorm(6, elementwise_affine=False, eps=0.1),
        nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(6, 5), nn.GELU(approximate="tanh")), nn.Identity()),
        nn.Linear(5, 6, bias=False),
        nn.LayerNorm(6, bias=False),
        nn.GELU(),
    ).eval()
    layers, tensors = projection(module, "x", 6)
    assert [layer["layer"] for layer in layers] == ["layer_norm", "linear", "gelu", "linear", "layer_norm", "gelu"]
    assert sorted(tensors) == ["1.bias", "1.weight", "3.weight", "4.weight"]
    thinking = object.__new__(hf_generate._Thinking)
    thinking.layers, thinking.tensors = json.loads(json.dumps(layers)), tensors
    x = torch.randn(3, 6)
    torch.testing.assert_close(thinking.next(x), module(x))
    with pytest.raises(ConfigError, match="its projection has a Odd"):
        projection(nn.Sequential(Odd(6, 6)), "x", 6)

    class Residual(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input + super().forward(input)

    with pytest.raises(ConfigError, match="its projection, Residual, does more than its layers one after the other"):
        projection(Residual(nn.Linear(6, 6)), "x", 6)


def test_a_target_in_use_and_a_full_disk(projected, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", {"name": "cot"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="exists and is not empty; give a new directory"):
        export_hf(run, tmp_path / "mine")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "save", full)
        with pytest.raises(RunError, match=r"cannot write .*No space left on device.*export again"):
            export_hf(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "run"]
    (tmp_path / "out").mkdir()  # an empty one may be there
    export_hf(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out", "run"]


def test_card_says_what_the_run_knows_and_no_more(projected, tmp_path):
    run = make_run(tmp_path / "my-run", SIM_COT)
    export_hf(run, tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    about = RunDir(run).read()
    for part in ("# my-run", "`some/base-model`", "- custom_generate", "thinks 4 latents",
                 "trust_remote_code=True", about["id"], '"name": "sim_cot"', "accuracy 25.0% (step 7)", "it flatters",
                 "add_generation_prompt=True", "transformers 5.23.0", f"unspoken {unspoken.__version__}"):  # fmt: skip
        assert part in card, part
    assert str(tmp_path) not in card
    file = run / "model" / "unspoken.json"
    about = {**json.loads(file.read_text()), "score": None}
    file.write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"unspoken\.json was changed since it was saved"):
        export_hf(run, tmp_path / "b")
    file.write_text(json.dumps({name: value for name, value in about.items() if name != "sha256"}))  # on purpose
    export_hf(run, tmp_path / "b")
    assert "Scores" not in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    report = unspoken.evaluate(unspoken.load(run), unspoken.make_task("tiny"), "test", limit=5)
    report.save(run / "eval-tiny-test.json")
    export_hf(run, tmp_path / "c")
    assert "| eval-tiny-test | 0.0 (0.0–43.4)" in (tmp_path / "c" / "README.md").read_text(encoding="utf-8")


def test_command_writes_either_kind(projected, tmp_path):
    run = make_run(tmp_path / "run", {"name": "cot"})

    def export(*words: str) -> Any:
        return CliRunner().invoke(app, ["export", str(run), *words])

    assert export(str(tmp_path / "hf"), "--format", "hf").exit_code == 0
    assert (tmp_path / "hf" / "config.json").is_file()
    assert export(str(tmp_path / "plain")).exit_code == 0
    assert (tmp_path / "plain" / "run.json").is_file()
    assert "unknown format 'onnx'; known: run, hf" in str(export(str(tmp_path / "x"), "--format", "onnx").exception)


def test_a_tokenizer_for_which_no_chat_template_is_exact(projected, tmp_path, monkeypatch):
    """One that writes a space before a text, but not behind a bos that stands in it."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<<": 2, "▁<<": 3, "<unk>": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made: Any = make_method(coconut(), Backbone(backbone_lm(len(tokenizer)), tokenizer))
    monkeypatch.setattr(hf_folder, "PROBES", ("<< <<",))
    assert chat_template(made) is None

    run = make_run(tmp_path / "run", coconut())
    monkeypatch.setattr(hf_folder, "chat_template", lambda _: None)
    export_hf(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'inputs = tokenizer("{question}\\n".replace("{question}", "..."), return_tensors="pt")' in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is None


def backbone_lm(words: int) -> Any:
    from support import backbones

    lm = backbones.backbone("llama").lm
    lm.resize_token_embeddings(words)
    return lm


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": " "}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12 + 7"}],
        [{"role": "user", "content": [{"type": "text", "text": "12 + 7"}]}],
    ],
)
def test_chat_template_takes_one_question(folder, messages):
    with pytest.raises(Exception, match="this model takes one question: a single user message with a text"):
        AutoTokenizer.from_pretrained(folder).apply_chat_template(messages)


def test_a_family_whose_layers_keep_a_state_answers_without_padding(tmp_path: Path):
    """LFM2's layers read padding, so rows go by themselves; what would be padded is refused."""
    run = make_run(tmp_path / "run", coconut(), model_type="lfm2", layer_types=["conv", "full_attention"])
    export_hf(run, tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    it = unspoken.load(run, device="cpu")
    bare = [question_ids(it.method.backbone, it.method.config.template, question.strip()) for question in QUESTIONS]
    for ids, question in zip(bare, QUESTIONS, strict=True):
        said = hf_generate.generate(torch.tensor([ids]), model=model)[0, len(ids) :].tolist()
        assert tuple(said) == it.answer([question])[0].tokens
    padded, mask = torch.tensor([[0, *bare[1]], [*bare[1], 5]]), torch.ones(2, len(bare[1]) + 1)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="padding would change the answers of this model; give questions of one length"):
        hf_generate.generate(padded, attention_mask=mask, model=model)


def test_a_family_that_begins_anew_between_passes_is_not_exported(tmp_path: Path):
    more: dict[str, Any] = {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "mamba_d_state": 8,
    }
    run = make_run(tmp_path / "run", coconut(), model_type="jamba", **more)
    with pytest.raises(ConfigError, match="a JambaForCausalLM of transformers begins anew in passes of several tokens"):
        export_hf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
