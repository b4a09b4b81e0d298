"""From templates to text. `templates/` holds the HTML of pages and the one stylesheet, which charts as files share.

Every value is escaped (autoescape), and characters that HTML cannot represent are replaced first.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unspoken.core.text.markup import printable


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("unspoken.pages"),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["minus"] = minus
    return made


def minus(text: str) -> str:
    """A text with typographic minus signs."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "\N{MINUS SIGN}", text)


def render(template: str, **values: object) -> str:
    """A template of `templates/` with its values, as text.

    Args:
        template: a file in `templates/`, which documents its values.
        values: by their names in the template, functions that it calls too; text is escaped, `Markup` (what `pages.svg`
            draws) goes in as it is.
    """
    return _environment().get_template(template).render(values)


@cache
def script(name: str) -> tuple[Markup, str]:
    """A script of `templates/`, and the name by which a page's policy lets it alone run."""
    text = _environment().get_template(name).render()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


@cache
def chart_style() -> str:
    """The stylesheet's rules for charts in the colours of its light scheme, for a chart that is a file of its own."""
    style = _environment().get_template("style.css").render()
    colours = dict(re.findall(r"--([\w-]+): ([^;}]+)", style.partition("@media")[0]))
    rules = style.partition("/* charts */")[2].partition("/* pages */")[0]
    return re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]].strip(), rules)
