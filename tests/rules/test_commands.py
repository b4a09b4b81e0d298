"""Each command has a file of its own, named as the command; commands on pages have only options that exist."""

from __future__ import annotations

import keyword
import re
import shlex
import subprocess
from pathlib import Path

import typer
from typer.models import CommandInfo

from unspoken import cli


def said(info: CommandInfo) -> str:
    """What is typed to run a command."""
    assert info.callback is not None
    return info.name or info.callback.__name__


def test_a_command_stands_in_the_file_of_its_name():
    found = {said(info): info for info in cli.app.registered_commands}
    for group in cli.app.registered_groups:
        assert group.typer_instance is not None
        found |= {f"{group.name} {said(info)}": info for info in group.typer_instance.registered_commands}
    files = set()
    for name, info in found.items():
        file = name.replace(" ", "_").replace("-", "_")
        files.add(file + "_" * keyword.iskeyword(file))
        assert info.callback.__module__.removeprefix("unspoken.cli.").rstrip("_") == file, name
    there = {path.stem for path in Path(cli.__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    assert there == files == set(cli.COMMANDS), "a file in cli/ without an underscore is a command"


ROOT = Path(__file__).resolve().parents[2]
GROUP = typer.main.get_command(cli.app)
HANDED_ON = ("lm-eval",)
"""Commands that hand their options to another program."""


def typed(page: Path) -> list[tuple[int, list[str]]]:
    """(line, words) of every command of ours on a page, in a block of code or between backticks."""
    found = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for text in [line.strip(), *re.findall(r"`(unspoken [^`]*)`", line)]:
            if text.startswith("unspoken ") and re.fullmatch(r"[a-z-]+", text.split()[1]):
                try:
                    found.append((number, shlex.split(text.partition("  #")[0])[1:]))
                except ValueError:
                    continue  # a word that goes on in the next line
    return found


def test_commands_on_pages_have_options_that_exist():
    listed = ["git", "ls-files", "-z", "--", "*.md"]
    pages = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    commands, seen, odd = dict(getattr(GROUP, "commands", {})), 0, []
    for name in filter(None, pages):
        if name.startswith(("docs/decisions/", "CHANGELOG", "LOG")):
            continue  # they tell what was once
        for number, (first, *words) in typed(ROOT / name):
            command = commands.get(first)
            if command is None or first in HANDED_ON:
                continue  # prose, or somebody else's options
            inner = getattr(command, "commands", {})
            if inner and words and words[0] in inner:
                command = inner[words[0]]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            seen += len(given)
            odd += [f"{name}:{number}: unspoken {first} has no {option}" for option in sorted(given - known - {"--help"})]
    assert seen > 50, "the pages were not read"
    assert not odd, "\n".join(odd)
