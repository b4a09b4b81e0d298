"""What is said in several files about the package agrees."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import unspoken

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", read(name), re.MULTILINE))


def bounds(requirements: list[str]) -> dict[str, str]:
    return {
        found[1].lower(): found[2]
        for requirement in requirements
        if (found := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement))
    }


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_version_is_said_once():
    """In pyproject.toml; the installed package, the citation and the changelog follow it."""
    installed = importlib.metadata.version("unspoken")
    assert installed == VERSION, "the package is installed as an older version: run make, or pip install -e . again"
    assert unspoken.__version__ == VERSION
    assert yaml.safe_load(read("CITATION.cff"))["version"] == VERSION
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] == VERSION


def test_the_oldest_versions_are_the_lower_bounds():
    """What pyproject.toml promises is what continuous integration installs."""
    promised = bounds(PROJECT["dependencies"])
    oldest = pins("constraints-oldest.txt")
    assert set(oldest) == set(promised)
    for name, version in oldest.items():
        assert numbers(version)[: len(numbers(promised[name]))] == numbers(promised[name]), name


@pytest.mark.parametrize("extra", [None, "dev", "docs"])
def test_every_package_is_pinned_and_the_pin_is_allowed(extra: str | None):
    requirements = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    pinned = pins("constraints.txt")
    for name, version in bounds(requirements).items():
        assert name in pinned, f"{name} has no pin in constraints.txt"
        assert numbers(pinned[name]) >= numbers(version), name


def test_make_docs_installs_the_extra():
    """Without the package and its dependencies, which pip cannot leave out of an extra."""
    for requirement in PROJECT["optional-dependencies"]["docs"]:
        assert requirement.split(">=")[0] in read("Makefile")


def test_pre_commit_has_the_pinned_ruff():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["rev"] for repo in hooks if "ruff" in repo["repo"]] == ["v" + pins("constraints.txt")["ruff"]]


def test_pre_commit_finds_nothing():
    """What its hooks look for, less ruff and pyright, which `make lint` runs: so that nobody's first commit is refused for
    a file of somebody else's."""
    hooks = {hook["id"]: hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git repository")

    def looked_at(hook: str, name: str) -> bool:
        return not re.search(hooks[hook].get("exclude", "^$"), name)

    for name in filter(None, listed.stdout.split("\0")):
        data = (ROOT / name).read_bytes()
        if b"\0" in data or not data:
            continue  # not a text
        if looked_at("end-of-file-fixer", name):
            assert re.search(rb"[^\n]\n\Z", data), f"{name} does not end with one end of line"
        if looked_at("trailing-whitespace", name):
            assert not re.search(rb"[ \t]+\r?$", data, re.MULTILINE), f"{name} has spaces at the end of a line"
        if name.endswith((".yml", ".yaml")) and looked_at("check-yaml", name):
            assert "--allow-multiple-documents" in hooks["check-yaml"]["args"]
            assert list(yaml.safe_load_all(data)), name


def test_the_package_is_typed():
    assert (ROOT / "src/unspoken/py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_forms_can_be_read(path: Path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert data
    if "ISSUE_TEMPLATE" in path.parts and path.stem != "config":
        assert {"name", "description", "body"} <= set(data)
        assert all({"type", "attributes"} <= set(part) for part in data["body"])
    if "workflows" in path.parts:
        assert data["permissions"] == {"contents": "read"}
        assert all(job["steps"] for job in data["jobs"].values())


def test_ci_runs_what_make_runs():
    """`make test` holds lint, formatting and types, of every folder with Python in it; .ci/run is `make test`."""
    make = read("Makefile")
    assert re.search(r"^test:.*\n\t.* lint tests$", make, re.MULTILINE)
    lint = make[make.index("\nlint:") :].split("\n\n")[0]
    for command in ("ruff check .", "ruff format --check .", "pyright"):
        assert command in lint
    assert "make test" in read(".ci/run")
