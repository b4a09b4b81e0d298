"""Every case of the folder is run by a module here, or skipped with its reason: none is passed over in silence."""

from __future__ import annotations

import parity
import pytest

if parity.folder() is None:
    pytest.skip(parity.ABSENT, allow_module_level=True)


@pytest.mark.parametrize(("name", "method"), sorted(parity.cases().items()))
def test_a_case_has_a_module_that_runs_it(name: str, method: str):
    if method not in parity.METHODS:
        pytest.skip(f"{name}: its method {method!r} is not in this package; known: {', '.join(parity.METHODS)}")
    assert name in parity.names(method)
    case = parity.load(name)
    assert case.facts["tokenizer"]
    assert case.tokenizer() is not None
