"""What a training says before it begins, and what a dry run leaves behind."""

from __future__ import annotations

import pytest
from support.command_line import FAST, unspoken

from unspoken.training.loop import Training, train
from unspoken.training.plan import duration, plan_of
from unspoken.training.progress import Quiet


class Heard(Quiet):
    """Keeps what it is told."""

    def begins(self, plan):
        self.plan = plan


def test_a_plan_names_what_will_happen(make, tmp_path):
    training = Training(make(), tmp_path / "run", Quiet())
    plan = plan_of(training)
    assert (plan.method, plan.task, plan.rows, plan.steps, plan.batch_size) == ("sim_cot(coconut)", "files", 24, 12, 4)
    assert plan.epochs == 2
    assert plan.stages[0][:2] == (0, 0)
    for (_, _, end), (_, first, _) in zip(plan.stages, plan.stages[1:], strict=False):
        assert end == first
    assert plan.stages[-1][2] == 12
    for index, first, end in plan.stages:
        assert {training.schedule.stage(step).index for step in range(first, end)} == {index}
    assert plan.parameters == sum(p.numel() for p in training.method.parameters())
    assert (plan.done, plan.finished) == (None, False)


def test_a_finished_run_without_states_stays_finished(make, tmp_path):
    """`unspoken clean` has removed them; the same command must not train all of it again."""
    run = train(make(), tmp_path / "run")
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and "state" not in file.parts}
    run.drop_states()
    heard = Heard()
    train(make(), tmp_path / "run", heard)
    assert heard.plan.finished
    assert "nothing is left to do" in heard.plan.lines()[0]
    after = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and "state" not in file.parts}
    assert after == before


def test_the_command_says_it(tmp_path):
    done = unspoken("train", "tiny/sim_cot", *FAST, "--dry-run", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("sim_cot(coconut)", "40 rows of tiny", "3 steps of 32 rows", "a step takes", "nothing was written"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []
    done = unspoken("train", "tiny/sim_cot", *FAST, "--out", "run", cwd=tmp_path)
    assert done.stdout.strip() == "run"
    for part in ("40 rows of tiny", "the same command goes on", "next: unspoken eval run", "unspoken clean run"):
        assert part in done.stderr


@pytest.mark.parametrize(("seconds", "said"), [(40, "about 40 s"), (300, "about 5 minutes"), (11520, "about 3.2 hours")])
def test_durations(seconds, said):
    assert duration(seconds) == said
