"""Schedules are pure: progress in, stage out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.rows.curriculum import Curriculum, Phase, Stage, single, stagewise
from unspoken.errors import ConfigError


def test_equal_phases_and_the_last_lasts():
    stages = [Stage(index=i) for i in range(4)]
    curriculum = stagewise(stages, 3)
    assert [curriculum.at(epoch).index for epoch in (0, 2.99, 3, 5.5, 6, 9, 100)] == [0, 0, 1, 1, 2, 3, 3]
    assert curriculum.boundaries() == [3, 6, 9]
    assert curriculum.last is stages[-1]


def test_one_stage_for_good():
    stage = Stage(index=7)
    assert single(stage).at(0) is single(stage).at(1e9) is single(stage).last is stage
    assert single(stage).boundaries() == []


@given(st.integers(1, 50), st.integers(2, 8))
def test_a_boundary_belongs_to_the_later_stage(steps: int, stages: int):
    """Also where a fraction such as 1/3 is not exact in binary."""
    curriculum = stagewise([Stage(index=i) for i in range(stages)], 1 / steps)
    for i in range(stages):
        assert curriculum.at(i / steps).index == i
        assert curriculum.at(sum([1 / steps] * i)).index == i


def test_no_phases():
    with pytest.raises(ConfigError, match="a curriculum needs at least one phase"):
        Curriculum(())


def test_a_phase_of_negative_length():
    with pytest.raises(ConfigError, match="a curriculum phase lasts at least 0 epochs, got -1"):
        Curriculum((Phase(epochs=-1, stage=Stage()),))
