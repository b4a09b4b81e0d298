"""Runs on the Hugging Face Hub: "hf://owner/name[@revision]" stands for a folder in the Hub's cache on this machine.

Only a run's own files are fetched: run.json and model/, safetensors and JSON. Code and pickles that lie beside them stay
where they are. The token is the one of `hf auth login` or HF_TOKEN, HF_HUB_OFFLINE=1 takes what was fetched before.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unspoken.core.config import method_layers, place
from unspoken.core.files import read_object
from unspoken.errors import ConfigError, RunError
from unspoken.methods import METHODS

HUB = "hf://"
_PLACE = re.compile(r"hf:[/\\]+(?P<repo>[^@]*)(?:@(?P<revision>.*))?", re.DOTALL)  # `Path` makes hf:/ of hf://
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_REPO = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_WANTED = ["run.json", "model/*"]
_UNWANTED = ["*.py", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.gguf"]


@dataclass(frozen=True)
class HubRun:
    """A repository on the Hub.

    Attributes:
        repo: owner/name.
        revision: a branch, tag or commit; None = main.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """A name for files about the run: with the revision, since another one is another model."""
        name = self.repo.rpartition("/")[2]
        return name + (f"-{self.revision.replace('/', '-')}" if self.revision else "")


def is_on_hub(path: str | Path) -> bool:
    """Whether a path begins with hf://, also as a `Path`, which has one slash of the two."""
    return _PLACE.fullmatch(str(path)) is not None


def hub_run(path: str | Path) -> HubRun:
    """The repository that hf://owner/name[@revision] names.

    Raises:
        ConfigError: it is not written so.
    """
    found = _PLACE.fullmatch(str(path))
    repo, revision = (found["repo"].replace("\\", "/").rstrip("/"), found["revision"]) if found else (str(path), None)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{revision!r:.80} is no revision; give a branch, tag or commit: {HUB}owner/name@main")
    return HubRun(checked_repo(repo), revision)


def checked_repo(text: str) -> str:
    """The name of a repository, owner/name.

    Raises:
        ConfigError: it is not written so.
    """
    if not _REPO.fullmatch(text) or ".." in text or "--" in text or text.endswith(".git"):
        raise ConfigError(f"{text!r:.80} is no repository on the Hub; give owner/name, e.g. {HUB}somebody/my-sim-cot")
    return text


@cache
def fetched(run: HubRun) -> Path:
    """The folder of a run's files, fetched unless they are there. Asked once in a process, so all of it sees one revision.

    Raises:
        RunError: the Hub cannot be reached and the run was not fetched before, there is no such repository, or no
            permission, or it holds no run, or one whose method is not installed.
    """
    from huggingface_hub import snapshot_download  # half a second; whoever asks for no run on the Hub does not pay it

    with told(str(run)):
        # First the small file, so that a repository of something else is not fetched.
        folder = Path(snapshot_download(run.repo, revision=run.revision, allow_patterns=_WANTED[:1]))
        if (folder / "run.json").is_file():
            folder = Path(
                snapshot_download(run.repo, revision=run.revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
            )
    if not (folder / "run.json").is_file():
        raise RunError(
            f"{run} holds no run of unspoken: it has no run.json. A plain model is evaluated by `unspoken eval {run.repo} "
            "--task TASK`, and trained from by backbone.path"
        )
    _check_method(run, folder)
    return folder


def _check_method(run: HubRun, folder: Path) -> None:
    """Say what to install where a run's method is not part of unspoken: code never comes with a run."""
    try:
        config = read_object(folder / "run.json")["config"]
        names = [str(layer["name"]) for layer in method_layers(config["method"])]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # damaged: whoever reads it says how
    for name in names:
        try:
            module = place(METHODS, name, "method").split(":")[0]
            there = module.startswith("unspoken.") or importlib.util.find_spec(module.split(".")[0]) is not None
        except (ConfigError, ValueError):
            module, there = "", False
        if not there:
            what = (
                f"the package that has the module {module!r}"
                if module
                else "the package that brings it, or a newer unspoken"
            )
            raise RunError(
                f"{run}: its method {name!r:.80} is not installed here, and no code comes with a run; install {what}"
            )


@contextlib.contextmanager
def told(what: str, *, writing: bool = False) -> Iterator[None]:
    """Turn the errors of huggingface_hub into ours. No message holds a token, nor what a server said.

    Args:
        what: the repository, as the message calls it.
        writing: it was being written to.

    Raises:
        RunError: any of them.
    """
    from huggingface_hub import errors

    http: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # httpx's HTTPError, or that of the copy the Hub's client has
    try:
        yield
    except errors.RevisionNotFoundError:
        raise RunError(f"{what}: the repository has no such revision; give a branch, tag or commit that it has") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, http) as error:
        raise RunError(f"{what} {_why(error, writing)}") from None


def _why(error: BaseException, writing: bool) -> str:
    """The reason, and what to try."""
    lacks = getattr(error, "response", None) is None  # a file that is not in the cache: why it could not be fetched either
    cause = (error.__cause__ or error) if lacks else error
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    kind = type(cause).__name__
    if kind == "GatedRepoError":
        return "is shared on request only (403); ask for it on its page on the Hub, and log in: `hf auth login`, or HF_TOKEN"
    if kind == "RepositoryNotFoundError" or status == 404:
        return (
            f"is not on the Hub, or private and not yours to see ({status}); check its name, and log in: `hf auth login`, "
            "or set HF_TOKEN"
        )
    if status == 401:
        return "needs a valid token (401); log in: `hf auth login`, or set HF_TOKEN"
    if status == 403:
        need = "write to it: take one with write permission, and a name of yours or of an organisation you are in"
        return f"is refused (403): the token may not {need if writing else 'read it'}"
    if status == 429:
        return "is refused for now (429: too many requests); try again in some minutes"
    if status is not None:
        return f"could not be {'written' if writing else 'read'}: the Hub answers {status}; try again later"
    if kind == "OfflineModeIsEnabled":
        hint = "needs the network" if writing else "was not fetched before"
        return f"{hint}, and HF_HUB_OFFLINE is set; unset it"
    lost = "cannot be reached" if writing else "cannot be reached, and it was not fetched whole before"
    return f"{lost}: no answer from the Hub ({kind}); check the network, or HF_ENDPOINT"
