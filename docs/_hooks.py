"""What the site needs beyond MkDocs: lists of pages, sections of the README, links that work, nothing from elsewhere.

- The navigation of `methods/` and `decisions/` is the folder itself, so that a new page needs no second line.
- `<!-- pages: FOLDER -->` in a page becomes a list of that folder's pages.
- `<!-- readme: HEADING -->` becomes that section of the README, without its heading.
- A link to a file of the repository that is no page of the site becomes the file's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("methods", "decisions")
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//"""
    r"""|<link(?=[^>]*\srel=["']?(?:stylesheet|preconnect|preload|icon))[^>]*\shref=["']?(?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
)
"""A file that a browser would fetch from another place on opening a page."""


def title(page: Path) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise PluginError(f"{page.relative_to(ROOT)} has no heading")
    return found[1].replace("`", "")


def pages(folder: str) -> list[Path]:
    """The pages of a folder, without its index."""
    return sorted(page for page in (DOCS / folder).glob("*.md") if page.name != "index.md")


def on_config(config: Any) -> Any:
    """Fill in the folders of the navigation."""

    def fill(entries: list[Any]) -> None:
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else ():
                if isinstance(value, list):
                    folder = posixpath.dirname(value[0]) if isinstance(value[0], str) else ""
                    if folder in FOLDERS:
                        value.extend({title(page): f"{folder}/{page.name}"} for page in pages(folder))
                    fill(value)

    fill(config["nav"])
    return config


def section(heading: str) -> str:
    """The text of the README under a heading of the second level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise PluginError(f"README.md has no section {heading!r}")
    return found[1].strip()


def relink(text: str, source: str, target: str) -> str:
    """Links of a text that stands in one folder of the repository, for a page in another folder of it.

    Args:
        text: Markdown.
        source, target: the folders, as paths from the repository's root.
    """

    def one(match: re.Match[str]) -> str:
        words, link = match[1], match[2]
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, _, anchor = link.partition("#")
        full = posixpath.normpath(posixpath.join(source, path))
        if not (ROOT / full).exists():
            raise PluginError(f"a link from {source or 'README.md'} leads to {full}, which is not there")
        if not full.startswith("docs/"):
            return f"`{full}`" if words.strip("`") in full else f"{words} (`{full}`)"
        return f"[{words}]({posixpath.relpath(full, target)}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", one, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what a page asks for, and mend its links."""
    here = posixpath.dirname("docs/" + page.file.src_uri)

    def listed(match: re.Match[str]) -> str:
        return "\n".join(
            f"- [{title(path)}]({posixpath.relpath(f'docs/{match[1]}/{path.name}', here)})" for path in pages(match[1])
        )

    markdown = relink(markdown, here, here)
    markdown = re.sub(r"<!-- pages: (\S+) -->", listed, markdown)
    return re.sub(r"<!-- readme: (.+?) -->", lambda match: relink(section(match[1]), "", here), markdown)


def on_post_build(config: Any) -> None:
    """Fail if a page would fetch anything from elsewhere."""
    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := ELSEWHERE.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.relative_to(site)} fetches something from elsewhere: {found[0]!r}")
