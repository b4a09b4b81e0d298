"""The stability figures: against numbers worked out by hand, and by the rules that docs/guides/inspector.md states."""

from __future__ import annotations

import math

import pytest
import torch

from unspoken.inspector.stability import FLOOR, SHRUNK, collapse, equation_parts, geometry, recovered, recovery, said_in


def itself(number: str) -> set[str]:
    return {number}


def test_geometry_by_hand() -> None:
    rows = [torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 0.0]]), torch.tensor([[3.0, 0.0]])]
    found = geometry(rows, torch.tensor([0.0, 4.0]))
    assert found is not None
    assert (found.problems, found.latents) == (2, 2.0)
    assert found.norm == pytest.approx((5 + 0 + 3 + 3) / 4)
    assert found.distance == pytest.approx((5 + 4 + 3) / 3)  # the second problem has no two
    assert found.centre == pytest.approx((3 + 4 + 5 + 5) / 4)
    assert found.within == pytest.approx(4 / 2.75)
    assert found.across == pytest.approx(4 / 2.75)  # only the first latents of both can be compared


def test_geometry_of_little() -> None:
    assert geometry([torch.zeros(0, 3)], torch.zeros(3)) is None
    one = geometry([torch.ones(1, 3)], torch.zeros(3))
    assert one is not None
    assert one.within is one.across is one.distance is None
    nothing = geometry([torch.zeros(2, 3)], torch.zeros(3))
    assert nothing is not None
    assert nothing.within is None  # no length to divide by


def test_distances_do_not_change_with_the_scale() -> None:
    torch.manual_seed(0)
    rows = [torch.randn(4, 8) for _ in range(3)]
    small, large = (geometry([scale * row for row in rows], torch.zeros(8)) for scale in (1.0, 50.0))
    assert small is not None
    assert large is not None
    assert small.within == pytest.approx(large.within)
    assert small.across == pytest.approx(large.across)
    assert large.distance == pytest.approx(50 * (small.distance or 0))


def test_the_threshold_is_that_of_the_paper() -> None:
    assert pytest.approx(math.sqrt(4.21 / 28.34 * 20.30 / 32.81), abs=0.005) == SHRUNK


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ({"within": 1.0, "across": 1.0}, [], None),
        ({"within": 0.31, "across": 1.0}, [{"within": 1.0, "across": 1.0}], None),
        ({"within": 0.29, "across": 1.0}, [{"within": 1.0, "across": 1.0}, {"within": 0.5}], "of one question"),
        ({"within": 1.0, "across": 0.29}, [{"within": 1.0, "across": 1.0}], "of different questions"),
        ({"within": None, "across": 0.4}, [{"within": None, "across": 1.0}], None),
        ({"within": FLOOR - 0.01, "across": None}, [], "of one question"),
        ({"within": FLOOR + 0.01, "across": None}, [], None),
    ],
)
def test_collapse(now: dict[str, float | None], before: list[dict[str, float | None]], said: str | None) -> None:
    found = collapse(now, before)
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")


def test_parts_of_steps() -> None:
    found = equation_parts(["<<3+4=7>>", "<<7*2=14>>", "she then buys 5"])
    assert found.numbers == {"3", "4", "7", "2", "5"}
    assert found.operators == {"+", "*"}
    assert found.results == {"7", "14"}


def test_a_number_of_several_tokens_must_be_whole_at_one_place() -> None:
    true = [equation_parts(["<<12+3=15>>"])]

    def digits(number: str) -> set[str]:
        return set(number)

    together = recovery(true, [[{"1", "2", "+"}, {"3"}]], digits)
    assert together["numbers"] == {"found": 2, "n": 2, "value": 1.0}
    assert together["operators"]["value"] == 1.0
    assert together["results"]["value"] == 0.0  # "1" and "5" do not stand together
    apart = recovery(true, [[{"1"}, {"2"}, {"3"}]], digits)
    assert apart["numbers"]["found"] == 1


def test_in_place_and_chance() -> None:
    """The right words in the wrong thought count anywhere, not in place; the next problem's words are the chance."""
    steps = [["<<3+4=7>>", "<<7*2=14>>"], ["<<9-2=7>>"]]
    expected = [["<<3+4=7>>", "<<7*2=14>>"], ["<<9-2=7>>"]]
    seen = [[{"7", "2", "*", "14"}, {"3", "4", "+"}], [{"9", "2", "-", "7"}]]
    found = recovered(steps, expected, seen, seen, itself)
    assert found["anywhere"]["results"]["value"] == 1.0
    assert found["in_place"]["results"] == {"found": 2, "n": 3, "value": 2 / 3}
    assert found["in_place"]["operators"]["found"] == 1
    assert found["chance"]["results"] == {"found": 2, "n": 3, "value": 2 / 3}  # "7" stands in both, "14" does not
    assert recovered(steps[:1], expected[:1], seen[:1], seen[:1], itself)["chance"] is None


def test_nothing_to_recover_is_no_rate() -> None:
    found = recovery([equation_parts(["every lempus is a yumpus"])], [[{"lempus"}]], itself)
    assert all(found[kind]["value"] is None for kind in found)


def test_what_a_decoded_step_says() -> None:
    assert said_in("<<3+4=7>>") == {"3", "4", "+", "7"}
