"""Every key is mapped, dropped with a reason, or named by an error."""

from __future__ import annotations

import pytest
import torch

from unspoken.errors import CheckpointError
from unspoken.importers.rules import SHOWN, KeyRule, listed, rename, require

TABLE = (
    KeyRule(pattern="copy.weight", reason="the table again", same_as="lm.table.weight"),
    KeyRule(pattern="old.*.mask", reason="a mask"),
    KeyRule(pattern="old.*.base.weight", target="lm.*.weight"),
    KeyRule(pattern="old.*", target="lm.*"),
)
WANTED = {"lm.table.weight": (3, 2), "lm.h.0.ln.weight": (2,), "lm.h.1.ln.weight": (2,), "lm.h.1.fc.weight": (2, 2)}


def whole() -> dict[str, torch.Tensor]:
    """A checkpoint that the table fits."""
    table = torch.arange(6.0).view(3, 2)
    return {
        "old.table.weight": table,
        "old.h.0.ln.weight": torch.ones(2),
        "old.h.1.ln.weight": torch.full((2,), 2.0),
        "old.h.1.fc.base.weight": torch.eye(2),
        "copy.weight": table.clone(),
        "old.h.0.attn.mask": torch.ones(1),
    }


def test_all_is_accounted_for():
    mapped = rename(TABLE, whole())
    require(mapped, WANTED, "file")
    assert set(mapped.tensors) == set(WANTED)
    assert torch.equal(mapped.tensors["lm.h.1.fc.weight"], torch.eye(2))
    assert mapped.keys["lm.h.1.fc.weight"] == ("old.h.1.fc.base.weight",)
    assert mapped.dropped == {"copy.weight": "the table again", "old.h.0.attn.mask": "a mask"}
    assert {*mapped.dropped, *(key for keys in mapped.keys.values() for key in keys)} == set(whole())


def test_the_first_rule_that_fits_decides():
    rules = (KeyRule(pattern="a.b", reason="first"), KeyRule(pattern="a.*", target="x.*"))
    mapped = rename(rules, {"a.b": torch.zeros(1), "a.c": torch.ones(1)})
    assert list(mapped.tensors) == ["x.c"]
    assert mapped.dropped == {"a.b": "first"}


@pytest.mark.parametrize(
    ("key", "fits"),
    [("a.b.w", True), ("a.bb.c.w", True), ("a..w", False), ("a.w", False), ("a.b.v", False), ("xa.b.w", False)],
)
def test_a_star_is_one_character_or_more(key: str, fits: bool):
    assert KeyRule(pattern="a.*.w", target="t.*").fits(key) is fits


def test_targets_lead_back_to_keys():
    rule = KeyRule(pattern="a.*.w", target="t.*.W")
    assert rule.target_of("a.x.1.w") == "t.x.1.W"
    assert rule.key_of("t.x.1.W") == "a.x.1.w"
    assert rule.key_of("u.x.1.W") is None
    assert KeyRule(pattern="a", reason="none").key_of("a") is None


@pytest.mark.parametrize("lost", ["old.table.weight", "old.h.0.ln.weight"])
def test_a_missing_key_is_named(lost: str):
    state = whole()
    del state[lost]
    with pytest.raises(CheckpointError, match=rf"^file: 1 missing: {lost}; expected each tensor"):
        require(rename(TABLE, state), WANTED, "file")


@pytest.mark.parametrize("kind", ["fc", "fc.base"])
def test_the_name_of_a_missing_key_is_that_of_its_kind_in_other_layers(kind: str):
    mapped = rename(TABLE, {f"old.h.0.{kind}.weight": torch.eye(2)})
    assert mapped.name("lm.h.1.fc.weight") == f"old.h.1.{kind}.weight"


def test_a_renamed_key_is_named_with_its_new_name():
    state = whole()
    state["old.h.1.lnorm.weight"] = state.pop("old.h.1.ln.weight")
    message = r"1 missing: old\.h\.1\.ln\.weight \(did you mean old\.h\.1\.lnorm\.weight\?\); 1 unknown: old\.h\.1\.lnorm"
    with pytest.raises(CheckpointError, match=message):
        require(rename(TABLE, state), WANTED, "file")


def test_an_unknown_key_is_named_whether_a_rule_fits_it_or_not():
    state = {**whole(), "optimizer.step": torch.zeros(1), "old.h.7.ln.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"2 unknown: old\.h\.7\.ln\.weight, optimizer\.step"):
        require(rename(TABLE, state), WANTED, "file")


def test_a_wrong_shape_is_named():
    state = {**whole(), "old.h.0.ln.weight": torch.ones(5)}
    with pytest.raises(CheckpointError, match=r"1 of another shape: old\.h\.0\.ln\.weight is \[5\], expected \[2\]"):
        require(rename(TABLE, state), WANTED, "file")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((2,), torch.nan), r"file: nan or inf in old\.h\.0\.ln\.weight; the file is damaged"),
        (torch.ones(2, dtype=torch.int8), r"1 of whole numbers, perhaps quantized: old\.h\.0\.ln\.weight"),
    ],
)
def test_numbers_that_are_no_weights_are_named(wrong: torch.Tensor, message: str):
    with pytest.raises(CheckpointError, match=message):
        require(rename(TABLE, {**whole(), "old.h.0.ln.weight": wrong}), WANTED, "file")


def test_a_repeated_tensor_that_differs_is_an_error():
    state = whole()
    state["copy.weight"][1, 1] += 1e-6
    with pytest.raises(CheckpointError, match=r"copy\.weight should repeat old\.table\.weight, but differs"):
        rename(TABLE, state)
    state["copy.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"copy\.weight should repeat"):
        rename(TABLE, state)


def test_two_keys_for_one_tensor_are_an_error():
    state = {**whole(), "old.h.1.fc.weight": torch.eye(2)}
    with pytest.raises(CheckpointError, match=r"old\.h\.1\.fc\.base\.weight and old\.h\.1\.fc\.weight are two names"):
        rename(TABLE, state)


def test_a_long_list_is_cut_and_counted():
    names = [f"k{i}" for i in range(SHOWN + 3)]
    assert listed(names).endswith(f"k{SHOWN - 1} and 3 more")
    assert listed(names[:2]) == "k0, k1"
