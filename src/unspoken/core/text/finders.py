"""Get the function that finds steps by a rule, including learned rules."""

from __future__ import annotations

import re

from unspoken.core.extensions import extension
from unspoken.core.text.steps import RULES, Finder, _by_pattern, check_rule


def finder(rule: str) -> Finder:
    """The function that finds steps by a rule. A learned rule is read from its file here.

    Raises:
        ConfigError: no such rule, an invalid pattern, or a file that is not a tagger.
    """
    check_rule(rule)
    kind, _, rest = rule.partition(":")
    if kind == "regex":
        pattern = re.compile(rest)
        return lambda text: _by_pattern(pattern, text)
    if kind == "learned":
        return extension("finder:learned")(rest)
    return RULES[rule]
