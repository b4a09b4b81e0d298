"""The head: its loss by hand, that it learns what latents say, and its files."""

from __future__ import annotations

import copy
import json
import math
import re

import pytest
import torch
from support.fakes.scaling import lesson

from unspoken.causal.latent_ranker import (
    LatentRanker,
    Learned,
    Taught,
    Trajectories,
    contrastive_loss,
    head_input,
    scores,
    teach,
)
from unspoken.errors import DataError, RunError


def test_the_loss_by_hand():
    scores_QNK = torch.tensor([[[0.0, 1.0], [0.0, 0.0], [math.log(2), 0.0]]])
    right_QN = torch.tensor([[1.0, 0.0, 1.0]])
    first = -(math.log(1 / 4) + math.log(2 / 4)) / 2
    second = -(math.log(math.e / (math.e + 2)) + math.log(1 / (math.e + 2))) / 2
    both = contrastive_loss(scores_QNK, right_QN, torch.tensor([[True, True]]))
    assert float(both) == pytest.approx((first + second) / 2, rel=1e-6)
    assert float(contrastive_loss(scores_QNK, right_QN, torch.tensor([[True, False]]))) == pytest.approx(first, rel=1e-6)


def test_scores_add_up_over_latents_and_stop_where_there_are_none():
    head = LatentRanker(6, 4).eval()
    torch.nn.init.normal_(head.judge.weight)
    input_NKF = torch.randn(2, 3, 6)
    whole = head(input_NKF, torch.tensor([[True, True, True], [True, True, False]]))
    first_two = head(input_NKF[:, :2], torch.ones(2, 2, dtype=torch.bool))
    assert torch.allclose(whole[:, :2], first_two, atol=1e-6), "a part of a trajectory has a score of its own"
    assert whole[1, 2] == whole[1, 1]


def test_a_head_reads_directions_and_how_they_differ_from_the_undisturbed():
    latents, states = torch.randn(2, 3, 2, 8), torch.randn(2, 3, 2, 8)
    read = head_input(5 * latents, states)
    assert read.shape == (2, 3, 2, 4 * 8 + 2)
    assert torch.allclose(read, head_input(latents, 2 * states), atol=1e-4), "lengths are left out"
    assert (read[:, 0, :, 16:] == 0).all()
    assert torch.allclose(read[..., 16:24], read[..., :8] - read[:, :1, :, :8])
    assert torch.allclose(read[..., -1], read[..., 24:32].square().mean(-1).sqrt())
    assert torch.equal(head_input(latents, None)[..., :8], head_input(latents, states)[..., :8])


def test_before_it_has_learnt_it_scores_all_alike():
    assert LatentRanker(4, 8)(torch.randn(5, 3, 4), torch.ones(5, 3, dtype=torch.bool)).std(dim=0).max() == 0


@pytest.fixture(scope="module")
def planted() -> Trajectories:
    """Trajectories of 160 questions, right where the second latent points the way that the question's state does."""
    draw = torch.Generator().manual_seed(3)
    way_Q = torch.randint(2, (160,), generator=draw) * 2.0 - 1
    sign_QN = torch.randint(2, (160, 4), generator=draw) * 2.0 - 1
    input_QNKF = 0.1 * torch.randn(160, 4, 3, 8, generator=draw)
    input_QNKF[:, :, 1, 0] += sign_QN
    input_QNKF[:, :, :, 4] += way_Q[:, None, None]
    real_QNK = torch.ones(160, 4, 3, dtype=torch.bool)
    return Trajectories(input_QNKF=input_QNKF, real_QNK=real_QNK, right_QN=sign_QN == way_Q[:, None])


@pytest.fixture(scope="module")
def taught(planted: Trajectories) -> Taught:
    return teach(planted, hidden=16)


def test_it_learns_what_latents_say_about_their_question(planted: Trajectories, taught: Taught):
    found = scores(taught.head, planted).argmax(dim=1)
    mixed = planted.mixed
    assert planted.right_QN[mixed, found[mixed]].float().mean() > 0.95
    assert taught.kept
    assert taught.gain == pytest.approx(taught.chance - taught.loss)
    assert taught.gain > max(0.1, 5 * taught.error)


def test_a_head_is_judged_by_problems_that_it_did_not_meet(planted: Trajectories, taught: Taught):
    """The gain by hand, and its standard error: every fifth problem, from the second one on."""
    judge, gains = planted.some(planted.mixed[1::5]), []
    for input_NKF, real_NK, right_N in zip(judge.input_QNKF, judge.real_QNK, judge.right_QN, strict=True):
        with torch.no_grad():
            logs_NK = taught.head(input_NKF, real_NK).log_softmax(dim=0)
        gains.append(math.log(4) + float(logs_NK[right_N].mean()))
    assert taught.gain == pytest.approx(sum(gains) / len(gains), rel=1e-4)
    assert taught.error == pytest.approx(float(torch.tensor(gains).std()) / len(gains) ** 0.5, rel=1e-4)
    assert taught.chance == pytest.approx(math.log(4))


def test_a_head_within_a_standard_error_is_not_used(planted: Trajectories):
    control = teach(planted.mismatched(), hidden=16)
    assert not control.kept, "another problem's latents say nothing"
    assert (control.gain <= control.error, control.loss) == (True, pytest.approx(control.chance - control.gain))
    found = scores(control.head, planted.mismatched())
    assert torch.equal(found, found[:, :1].expand_as(found)), "the choice is the first, undisturbed trajectory"


def test_too_few_problems_say_how_many(planted: Trajectories):
    with pytest.raises(DataError, match="at least 20; of 10 there are"):
        teach(planted.some(torch.arange(10)))
    with pytest.raises(DataError, match="of 0 there are 0"):
        teach(planted.some(torch.arange(0)))


def test_a_saved_head_gives_the_same_scores(planted, taught, tmp_path):
    learned = Learned(head=taught.head, control=LatentRanker(8, 16), lesson=lesson())
    file = tmp_path / "ranker.safetensors"
    learned.save(file)
    again = Learned.load(file)
    assert torch.equal(scores(again.head, planted), scores(taught.head, planted))
    assert torch.equal(scores(again.control, planted), scores(learned.control, planted))
    assert again.lesson == learned.lesson
    told = json.loads(file.with_suffix(".json").read_text())
    assert (told["mixed"], told["weights"]) == (30, "w")


@pytest.mark.parametrize("harm", ["gone", "no json", "cut", "another training", "text", "list", "field", "nan", "format"])
def test_damaged_files_are_named(taught, tmp_path, harm: str):
    file = tmp_path / "ränker.safetensors"
    Learned(head=taught.head, control=LatentRanker(8, 16), lesson=lesson()).save(file)
    if harm == "nan":
        head = copy.deepcopy(taught.head)
        torch.nn.init.constant_(head.judge.bias, math.nan)
        Learned(head=head, control=LatentRanker(8, 16), lesson=lesson()).save(file)
    about, message = file.with_suffix(".json"), "is no latent ranker, or damaged"
    if harm == "gone":
        file.unlink()
        message = "cannot read the latent ranker (No such file or directory); `unspoken scale RUN --rank` makes one"
    elif harm == "no json":
        about.unlink()
        message = "cannot read the latent ranker (No such file or directory)"
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif harm == "another training":
        other = tmp_path / "other.safetensors"
        Learned(head=LatentRanker(8, 16), control=LatentRanker(8, 16), lesson=lesson()).save(other)
        other.rename(file)
        message = "the two are not from one training"
    elif harm == "text":
        about.write_text("no")
    elif harm == "list":
        about.write_text("[]")
    elif harm == "nan":
        message = "head.judge.bias holds nan or inf"
    else:
        wrong = {"width": "x"} if harm == "field" else {"format": 2}
        about.write_text(json.dumps({**json.loads(about.read_text()), **wrong}))
    with pytest.raises(RunError, match=re.escape(message)):
        Learned.load(file)
