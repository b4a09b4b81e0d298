"""Each command has a file of its own, named as the command."""

from __future__ import annotations

import keyword
from pathlib import Path

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
