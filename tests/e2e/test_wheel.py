"""The package as a user installs it: built, checked, installed somewhere else, used."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def python(*words: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """What a command of this interpreter prints; fails with everything it said if it fails."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, env={**clean, **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is made from it, by what is installed here."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without its dependencies, which are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    python(
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        folder,
        wheel,
    )
    return folder


def test_the_metadata_is_accepted(built: Path):
    python("-m", "twine", "check", "--strict", *sorted(built.iterdir()))


def test_every_file_of_the_package_is_in_the_wheel(built: Path):
    (wheel,) = built.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("unspoken/")}
    ours = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "unspoken").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == ours
    assert "unspoken/py.typed" in inside


def test_it_works_where_it_is_installed(installed: Path, tmp_path: Path):
    """From another folder, without the checkout: the command line, the data inside the package, an answer."""
    code = (
        "import unspoken, importlib.metadata; print(unspoken.__file__)\n"
        "print(importlib.metadata.version('unspoken') == unspoken.__version__)\n"
        "print(unspoken.load('builtin:tiny').answer(['Ann has 7 figs. She finds 5. How many figs has Ann?'])[0].text)"
    )
    env = {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    file, agrees, *answer = python("-c", code, cwd=tmp_path, **env).splitlines()
    assert Path(file).is_relative_to(installed)
    assert agrees == "True"
    assert answer == ["<<7+5=12>>", "### 12"]
    assert "quickstart" in python("-m", "unspoken", "--help", cwd=tmp_path, **env)
    assert "tiny/sim_cot" in python("-m", "unspoken", "list", cwd=tmp_path, **env)
