"""Pages agree with the repository: links lead somewhere, lines are short, the site shows every page."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import yaml
from support.sources import over

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 120
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~)")


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows or would know, so that build folders and environments are left out."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file())


PAGES = tracked("*.md")
SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> list[tuple[int, str]]:
    """The numbered lines of a page that are not inside a fenced block."""
    lines, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            lines.append((number, line))
    return lines


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Python-Markdown make them."""
    found = set()
    for _, line in prose(page):
        if heading := re.match(r"#+ (.*)", line):
            words = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower())
            found.add(re.sub(r"\s+", "-", words.strip()))
    return found


def wide(page: Path) -> list[int]:
    """Lines that are too wide. Tables, indented code and lines that are one link or one picture cannot be broken."""
    return [
        number
        for number, line in prose(page)
        if len(line) > WIDTH and not line.startswith("    ") and not line.lstrip().startswith("|") and " " in line.strip()
    ]


@over(PAGES)
def test_lines_are_short(page: Path):
    assert not wide(page), f"{name_of(page)}: lines of more than {WIDTH} characters: {wide(page)}"


@over(PAGES)
def test_links_lead_somewhere(page: Path):
    for number, line in prose(page):
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{name_of(page)}:{number}: no file {target}"
            if anchor and file.suffix == ".md":
                assert anchor in anchors(file), f"{name_of(page)}:{number}: no heading for {target}"


def test_pages_named_in_code_exist():
    """A docstring or message that sends a reader to a page sends him to one that is there."""
    for path in tracked("*.py", "*.md", "*.html", "Makefile"):
        for found in re.findall(r"\bdocs/[\w./-]+\.(?:md|svg|png)\b", path.read_text(encoding="utf-8")):
            assert (ROOT / found).exists(), f"{name_of(path)} names {found}"


def test_a_decision_has_a_number_of_its_own():
    numbers = [name_of(page).split("/")[-1][:3] for page in PAGES if re.match(r"docs/decisions/\d", name_of(page))]
    assert numbers == [f"{number:03}" for number in range(1, len(numbers) + 1)]


HISTORY = ("LOG.md", "CHANGELOG.md", "docs/decisions/")


@over(p for p in PAGES if not name_of(p).startswith(HISTORY))
def test_modules_named_on_pages_exist(page: Path):
    """A path to a module is that of a file of the package or the repository. Records of the past may name what is gone."""
    for number, line in prose(page):
        for found in re.findall(r"(?<![\w/.])((?:[\w.-]+/)+[\w-]+\.py)\b", line):
            places = [ROOT / found, ROOT / "src" / "unspoken" / found, ROOT / "src" / found, page.parent / found]
            assert any(place.exists() for place in places), f"{name_of(page)}:{number} names {found}"


def test_the_api_reference_names_what_is_there():
    """Every `::: unspoken.module.Name` can be imported; the site's own build would only say so where it is built."""
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, name = path.rpartition(".")
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), name), f"{name_of(page)} names {path}"


def nav(entries: list) -> list[str]:
    return [
        page
        for entry in entries
        for value in (entry.values() if isinstance(entry, dict) else [entry])
        for page in (nav(value) if isinstance(value, list) else [value])
    ]


class _Loader(yaml.SafeLoader):
    """mkdocs.yml names Python objects; what they are does not matter here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def test_every_page_is_in_the_navigation_once():
    """An index stands for its whole folder where docs/_hooks.py fills it in."""
    listed = nav(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])  # a subclass of SafeLoader
    assert len(set(listed)) == len(listed)
    filled = {entry.removesuffix("/index.md") for entry in listed if entry in ("methods/index.md", "decisions/index.md")}
    names = {page.relative_to(ROOT / "docs").as_posix() for page in SITE}
    assert {name for name in names if name in listed or name.split("/")[0] not in filled} == set(listed)


def test_the_site_needs_no_network():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    assert config["theme"]["font"] is False
    assert not [name for key in ("extra_css", "extra_javascript") for name in config.get(key, []) if "//" in name]


def test_promises_name_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), (file, test)
