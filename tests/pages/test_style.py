"""The stylesheet in numbers: whatever is text on a page stands out by 4.5 to 1 or more (WCAG AA), in both schemes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from unspoken.pages import svg

STYLE = (files("unspoken.pages") / "templates" / "style.css").read_text(encoding="utf-8")
LEAST = 4.5
RUNS = [f"c{i}" for i in range(svg.COLOURS)]
PAIRS = [
    *((text, back) for text in ("ink", "soft", "good", "bad", *RUNS) for back in ("paper", "card")),
    ("good", "good-back"), ("bad", "bad-back"), ("ink", "bad-back"), ("paper", "ink"),
]  # fmt: skip
"""(text, background); a pressed button has paper's colour on ink's."""

Colour = tuple[float, float, float]


def colours(scheme: str) -> dict[str, Colour]:
    """The stylesheet's colours; what the dark scheme does not name is the light one's."""
    light, _, rest = STYLE.partition("@media (prefers-color-scheme: dark)")
    named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", light))
    if scheme == "dark":
        named |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", rest.partition("/* charts */")[0]))
    return {name: _rgb(code[1:]) for name, code in named.items()}


def _rgb(code: str) -> Colour:
    code = "".join(sign * 2 for sign in code) if len(code) == 3 else code
    r, g, b = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return r, g, b


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: Colour) -> float:
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(_rgb("777"), _rgb("fff")) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "back"), PAIRS)
def test_text_stands_out(scheme: str, text: str, back: str) -> None:
    named = colours(scheme)
    assert contrast(named[text], named[back]) >= LEAST


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shade", ["c0", "c1"])
def test_numbers_in_a_map_stand_out(scheme: str, shade: str) -> None:
    """They are written on at most so much of a colour, over the card."""
    named = colours(scheme)
    share = svg.LEGIBLE
    behind = tuple(share * a + (1 - share) * b for a, b in zip(named[shade], named["card"], strict=True))
    assert contrast(named["ink"], behind) >= LEAST  # pyright: ignore[reportArgumentType]


def test_no_text_is_made_paler() -> None:
    """Opacity would undo what the colours promise; shapes of charts may have it."""
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", STYLE, flags=re.S))
    pale = {selector.strip() for selector, body in rules if re.search(r"(?<![-\w])opacity: (?!1\b)", body)}
    assert pale
    assert all(re.fullmatch(r"svg \.(stage|whisker|leader|track|fill)", name) for name in pale), pale


def test_every_colour_is_one_of_these() -> None:
    """No rule names a colour by itself, so that none escapes the test above."""
    rest = STYLE.partition("/* charts */")[2]
    assert not re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", rest)
