"""The state dict of parity cases, written as it would be released, imports and gives the recorded numbers.

Every second case: their neighbours differ in what no file holds, and tests/reference has all of them. Each takes another
of the published forms. What no file says (latents, alpha) is given as the case has it. The numbers of `tests/reference`
are from methods that the tests put together; here they are from what `unspoken.load` gives.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fakes.released import FORMS, write
from support.parity import cases
from support.parity.coconut import official_parameters as coconut_parameters
from support.parity.codi import in_official_order, our_ids, padding_of, rows_of
from support.parity.codi import official_parameters as codi_parameters
from support.parity.padding import AttendsPadding, attended, padded
from torch import Tensor
from transformers import AutoConfig

import unspoken
from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.trace import Trace
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import Row
from unspoken.errors import CheckpointError
from unspoken.importers import import_checkpoint
from unspoken.importers.released import Imported

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)

COCONUT = cases.names("coconut", "simcot_coconut")
CODI = cases.names("codi", "simcot_codi")
CASES = COCONUT[::2] + [name for name in CODI if name in CODI[::2] or "decoderpath" in name]
PARTS = 3
"""A case is asked about one in so many keys of its file."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A case, and the run directory that its state dict was imported to."""

    number: int
    case: cases.Case
    files: Path
    base: str
    options: dict[str, Any]
    done: Imported
    method: Any


def write_base(folder: Path, case: cases.Case, config: dict[str, Any]) -> str:
    """Config, with the vocabulary before tokens were added, and tokenizer."""
    words = case.tokenizer()
    rest = {key: value for key, value in config.items() if key not in ("torch_dtype", "model_type", "vocab_size")}
    AutoConfig.for_model(config["model_type"], vocab_size=len(words), **rest).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def released(case: cases.Case) -> dict[str, Tensor]:
    """The official state dict, repeated entries under every name."""
    return {key: value.clone() for key, value in case.state("").items()}


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    case, folder = cases.load(request.param), tmp_path_factory.mktemp("import")
    official = case.facts["method_config"]
    base = write_base(folder / "base", case, case.facts["backbone_config"])
    options: dict[str, Any] = {}
    if request.param in COCONUT:
        options |= {"latents_per_step": official["c_thought"], "max_stage": official["max_latent_stage"]}
    else:
        options |= {"latents": official["num_latent"]}
    if "lora" in case.facts:
        options["alpha"] = case.facts["lora"]["alpha"]
    if official.get("decoder_path"):
        options["decoder_base"] = write_base(folder / "other", case, case.facts["decoder_config"])
    files = write(folder / "files", released(case), FORMS[CASES.index(request.param) % len(FORMS)])
    done = import_checkpoint(files, base, folder / "run", **options)
    method: Any = unspoken.load(done.path).method
    method.backbone.__class__ = AttendsPadding  # sees padding only inside `attended`
    return Run(CASES.index(request.param), case, files, base, options, done, method)


def is_coconut(run: Run) -> bool:
    """Whether it is Coconut's half."""
    return "coconut" in run.case.facts["method"]


def test_there_are_fixtures():
    """An empty folder would pass every parametrised test."""
    if not cases.recorded():
        pytest.skip("another folder may hold cases of one kind only")
    assert len(COCONUT) > 10
    assert len(CODI) > 10


def test_every_tensor_has_its_place(run: Run):
    """Bit by bit, merged LoRA and the order of CODI's added tokens aside; every key is mapped or repeats another."""
    case, state = run.case, released(run.case)
    repeated = {alias["key"] for alias in case.facts["state_aliases"]}
    assert set(run.done.dropped) == repeated
    assert {key for keys in run.done.mapped.values() for key in keys} == set(state) - repeated
    want = {key.replace(".base_layer", ""): state[key] for key in state if ".lora_" not in key and key not in repeated}
    adapted = {key.removesuffix(".lora_A.default.weight") for key in state if ".lora_A." in key}
    assert bool(adapted) == (run.done.merged is not None) == ("lora" in case.facts)
    for layer in adapted:
        a, b = (state[f"{layer}.lora_{part}.default.weight"].double() for part in "AB")
        more = case.facts["lora"]["scaling"] * (b @ a)
        more = more.T if case.facts["backbone_config"]["model_type"] == "gpt2" else more
        want[f"{layer}.weight"] = want[f"{layer}.weight"].double() + more
    got = coconut_parameters(run.method) if is_coconut(run) else codi_parameters(case, run.method)
    assert set(got) == set(want)
    for key, value in got.items():
        value = value.detach() if is_coconut(run) else in_official_order(case, key, value.detach())
        if key.removesuffix(".weight") in adapted:
            torch.testing.assert_close(value.double(), want[key], rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(value, want[key]), key


def coconut_rows(case: cases.Case) -> list[Row]:
    """The rows of the official batch, without its padding."""
    tensors, rows = case.tensors, []
    for b, mask in enumerate(tensors["batch/attention_mask"].bool()):
        ids, labels = (tuple(tensors[f"batch/{name}"][b][mask].tolist()) for name in ("input_ids", "labels"))
        latents = ids.count(case.facts["special_ids"]["latent"])
        start = ids.index(case.facts["special_ids"]["latent"]) if latents else len(ids)
        rows.append(Row(ids=ids, labels=labels, start=start, latents=latents))
    return rows


def codi_forward(run: Run) -> tuple[Batch, Any]:
    """The official batch through the method; padding is seen where the released code sees it."""
    case, method = run.case, run.method
    # How the teacher's chain was cut is not in a checkpoint, and no matter at inference.
    include = case.facts["method_config"]["include_last_cot"]
    method.at_inference.config = dataclasses.replace(method.at_inference.config, include_last_step=include)
    rows, padding = rows_of(case, method), padding_of(case)
    batch = collate(padded(rows, padding, method.at_inference.markers.latent))
    with torch.no_grad(), attended(method.backbone, padding, math=case.facts["sdpa_kernel"] == "math"):
        return batch, method(batch, method.counts(batch))


def same_logits(run: Run, kind: str, trace: Trace, first_B: Tensor) -> None:
    """Compare with the recorded logits; their columns are counted from `first_B` in our rows."""
    index = run.case.tensors[f"logits/{kind}_index"]
    rows_N, places_N = index[:, 0].numpy(), (index[:, 1] + first_B[index[:, 0]]).numpy()
    with torch.no_grad():
        logits = run.method.backbone.logits(trace.hidden_at(rows_N, places_N))
    ids = torch.arange(logits.shape[1]) if is_coconut(run) else our_ids(run.case)
    cases.same("logits of imports", logits[:, ids], run.case.tensors[f"logits/{kind}"])


def test_recorded_latents_and_logits(run: Run):
    case, method = run.case, run.method
    if is_coconut(run):
        batch = collate(coconut_rows(case))
        with torch.no_grad():
            trace = unroll(method.backbone, batch, method.source())
        cases.same("latents of imports", trace.latents_BKD, case.tensors["latents"])
        same_logits(run, "answer", trace, -case.tensors["batch/attention_mask"].argmax(dim=1))
        return
    batch, report = codi_forward(run)
    K = report.trace.latents_BKD.shape[1]
    assert case.facts["method_config"]["num_latent"] + hasattr(method, "decoder") == K
    cases.same("latents of imports", report.trace.latents_BKD, case.tensors["latents"][:, :K])
    same_logits(run, "answer", report.trace, torch.from_numpy(batch.starts_B + batch.latents_B))
    same_logits(run, "teacher", report.trace.branch, torch.zeros(len(batch), dtype=torch.int64))
    losses = case.facts["losses"]
    for term, name in (("answer", "ce"), ("teacher", "ref_ce"), ("explain", "explain")):
        assert (term in report.terms) == (name in losses)
        if name in losses:
            cases.same("losses of imports", report.terms[term], torch.tensor(losses[name]))


def test_recorded_logits_of_the_decoder(run: Run):
    """From the recorded inputs, so that it stands by itself."""
    case, method = run.case, run.method
    if not hasattr(method, "decoder"):
        assert not any(key.startswith(("expainable_llm.", "decoder.")) for key in released(case))
        return
    recorded = [int(key.split("/")[1]) for key in case.tensors if re.fullmatch(r"explain/\d+/labels", key)]
    assert bool(recorded) == (case.facts["losses"]["explain"] > 0)
    for k in recorded:
        fed, mask = case.tensors[f"explain/{k}/inputs_embeds"], case.tensors[f"explain/{k}/attention_mask"].long()
        positions = torch.arange(fed.shape[1]).expand(fed.shape[:2])
        with torch.no_grad():
            logits = method.decoder.logits(method.decoder.step(fed, positions_BT=positions, mask=mask))
        index = case.tensors[f"explain/{k}/logits_index"]
        cases.same("decoder logits of imports", logits[index[:, 0], index[:, 1]], case.tensors[f"explain/{k}/logits"])


def test_recorded_answers(run: Run):
    """Plain questions, as a user asks them, one by one. Coconut's questions bring the number of latents that the case has;
    questions of CODI whose recorded answer depends on padding are left out."""
    case, tensors = run.case, run.case.tensors
    most = case.facts["generate"]["max_new_tokens"]
    model = unspoken.load(run.done.path, explain=False)
    special = case.facts["special_ids"]
    if not is_coconut(run):
        method: Any = model.method.at_inference
        backbone, eot = method.backbone, torch.tensor(method.markers.eot)
        whole = backbone.logits  # the released loop cuts eot out
        backbone.logits = lambda hidden: whole(hidden).index_fill(-1, eot, -torch.inf)
        if not case.facts["method_config"]["remove_eos"]:
            return  # no published script has it; ours asks without
        mask_BQ, ids = tensors["generate/attention_mask"], our_ids(case)
        assert any(mask.all() for mask in mask_BQ), "the longest question has no padding"
        for example, mask, said in zip(case.examples, mask_BQ, tensors["generate/ids"], strict=False):
            if mask.all():
                want = ids[said[said >= 0]].tolist()
                assert list(model.answer([example.question], max_new_tokens=most)[0].tokens) == want
        return
    # In these untrained models the marker rows equal the '<<' row; rounding decides between the names of one vector.
    name_of = {special[marker]: special["target"] for marker in ("start", "end", "latent")}
    for i, example in enumerate(case.examples):
        prompt = tensors[f"generate/prompt_{i}"].tolist()
        row = model.method.prompt(example.question, prompt.count(special["latent"]))
        assert list(row.ids) == prompt
        (said,) = generate(model.method.backbone, [row], model.method.source(), SamplingParams(max_new_tokens=most))
        want = tensors[f"generate/ids_{i}"].tolist()[len(prompt) :]
        want = [] if want[0] == special["eos"] else want  # the released loop never looks whether its first token is eos
        tokens = said.tokens[:-1] if said.finished else said.tokens
        assert [name_of.get(token, token) for token in tokens] == [name_of.get(token, token) for token in want]


def test_thoughts_in_words(run: Run):
    """What the imported decoder says of the imported model's latents; where padding does not change them."""
    case, method = run.case, run.method
    if is_coconut(run):
        if not case.facts.get("explanations"):
            return
        eos = case.facts["special_ids"]["eos"]
        with torch.no_grad():
            trace = unroll(method.backbone, collate(coconut_rows(case)), method.source())
        for b in range(len(case.examples)):
            groups = trace.row(b).latents_BKD[0].reshape(-1, method.latents_per_group, trace.latents_BKD.shape[2])
            official = case.tensors[f"explain_decode/ids_{b}"].tolist()
            for said, want in zip(method.decoder.speak(groups, 12), official, strict=True):
                assert said == want[: want.index(eos) + 1][:12]
        return
    if not hasattr(method, "decoder") or case.facts["padding_attended"]:
        return
    eos = case.facts["special_ids"]["eos"]
    trace = unspoken.Model(method).think([case.examples[0].question])
    official = case.tensors["derived/explain_decode_ids"][0].tolist()
    for said, want in zip(method.decoder.speak(trace.latents_BKD[0][:, None], 12), official, strict=True):
        assert said == want[: want.index(eos) + 1 if eos in want else 12]


def test_a_renamed_or_missing_key_is_named(run: Run, tmp_path: Path):
    """Some parts of the file, others in the next case; all keys of all families: test_released.py."""
    state = released(run.case)
    repeated = {key for alias in run.case.facts["state_aliases"] for key in (alias["key"], alias["same_storage_as"])}
    chosen = {re.sub(r"\d+", "N", key): key for key in state if key not in repeated}
    for number, key in enumerate(list(chosen.values())[run.number % PARTS :: PARTS]):
        for renamed in (None, key.replace("weight", "w8").replace("bias", "b8")):
            broken = {(renamed or "") if k == key else k: v for k, v in state.items() if k != key or renamed}
            path = write(tmp_path / f"{number}-{renamed is None}", broken, "checkpoint")
            with pytest.raises(CheckpointError, match=re.escape(key)) as caught:
                import_checkpoint(path, run.base, tmp_path / "out", **run.options)
            assert renamed is None or renamed in str(caught.value)
    assert not (tmp_path / "out").exists()
