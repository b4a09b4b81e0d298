"""Every case of the folder is run by a module here, or skipped with its reason: none is passed over in silence."""

from __future__ import annotations

import pytest
from support.parity import cases

if cases.folder() is None:
    pytest.skip(cases.ABSENT, allow_module_level=True)


@pytest.mark.parametrize(("name", "method"), sorted(cases.cases().items()))
def test_a_case_has_a_module_that_runs_it(name: str, method: str):
    if method not in cases.METHODS:
        pytest.skip(f"{name}: its method {method!r} is not in this package; known: {', '.join(cases.METHODS)}")
    assert name in cases.names(method)
    case = cases.load(name)
    assert case.facts["tokenizer"]
    assert case.tokenizer() is not None
