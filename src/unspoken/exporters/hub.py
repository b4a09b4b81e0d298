"""Send a run to the Hugging Face Hub, for `unspoken.load("hf://owner/name")`.

    README.md      a model card; one that is there already is kept, since its owner may have put a licence into it
    run.json       the config; of absolute paths only the last part
    model/         as it is, with its hashes

States, metrics, reports and other files of the run's folder stay where they are, unless they are asked for by name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unspoken.core.config import build, method_layers
from unspoken.core.text.markup import cell
from unspoken.errors import ConfigError, RunError
from unspoken.exporters.model_card import public, scores, whence
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir
from unspoken.runs.hub import HubRun, checked_repo, hub_run, is_on_hub, told
from unspoken.runs.places import is_plain

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What would be sent.

    Attributes:
        to: the repository, and the branch.
        files: contents by name in the repository, a file or bytes.
    """

    to: HubRun
    files: dict[str, Path | bytes] = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(what) if isinstance(what, bytes) else what.stat().st_size for name, what in sorted(self.files.items())
        }


def parcel(run: str | Path, repo: str, *, revision: str | None = None, also: Collection[str] = ()) -> Parcel:
    """What `push` would send. Asks nobody, except for a run that is itself on the Hub.

    Args:
        run: a run directory.
        repo: owner/name; hf://owner/name[@revision] is taken too.
        revision: the branch; None = main.
        also: names of other files in the run's folder, e.g. "metrics.jsonl" or a report.

    Raises:
        ConfigError: no such name of a repository, or no such file beside the run.
        RunError: the run is missing, damaged, or needs a model that only this machine has.
    """
    to = hub_run(repo) if is_on_hub(repo) else HubRun(checked_repo(repo))
    if revision is not None:
        if to.revision not in (None, revision):
            raise ConfigError(f"{repo} names one revision and --revision {revision} another; give one of them")
        to = hub_run(f"hf://{to.repo}@{revision}")
    source = RunDir(run)
    source.read()
    source.check_model()
    _check_beside(source)
    files: dict[str, Path | bytes] = {"run.json": _told(source), CARD: run_card(source, to).encode()}
    files |= {f"model/{name}": source.path / "model" / name for name in _of_model(source)}
    return Parcel(to=to, files=files | {name: _beside(source, name, files) for name in also})


def push(what: Parcel, *, private: bool = False, message: str | None = None) -> str:
    """Send it, as one commit; the repository is made if there is none. Files of an earlier run's model/ are removed.

    Args:
        what: see `parcel`.
        private: only you see it; a repository that is public already is refused.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the message is empty, or the repository is public and should be private.
        RunError: there is no token, no network or no permission.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if message is not None and not message.strip():
        raise ConfigError("the message is empty; give one, or leave --message away")
    if get_token() is None:
        raise RunError(f"{what.to}: no token to write with; log in with `hf auth login`, or set HF_TOKEN")
    api, repo, branch = HfApi(), what.to.repo, what.to.revision
    with told(f"hf://{repo}", writing=True):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ConfigError(f"{repo} is there already and public; make it private on its page, or leave --private away")
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        there = set(api.list_repo_files(repo, revision=branch))
        files = {name: held for name, held in what.files.items() if name != CARD or CARD not in there}
        gone = sorted(name for name in there if name.startswith("model/") and name not in files)
        done = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, held if isinstance(held, bytes) else str(held)) for name, held in files.items()),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=message or "A run of unspoken",
            revision=branch,
        )
    return done.commit_url


def run_card(run: RunDir, to: HubRun) -> str:
    """README.md of a run on the Hub, in Markdown; the licence is its owner's to add."""
    config = run.config()
    names = [str(layer["name"]) for layer in method_layers(run.model_info()["method"])]
    own = [name for name in names if ":" in name]
    parts = [
        _header(config, [name for name in names if ":" not in name]),
        f"# {cell(to.repo.rpartition('/')[2])}",
        f"A language model that answers questions, trained with unspoken (method `{cell(' around '.join(names))}`, task "
        f"`{cell(config.task.name)}`). It is a run directory of unspoken, in safetensors and JSON; no code comes with it.",
    ]
    if own:
        parts.append(f"Its method `{cell(own[0])}` is not part of unspoken: install the package that has it first.")
    parts.append(
        "```sh\n"
        f'unspoken ask {to} "..."\n'
        "```\n\n"
        "```python\n"
        "import unspoken\n\n"
        f"model = unspoken.load({json.dumps(str(to))})\n"
        'print(model.answer(["..."])[0].text)\n'
        "```"
    )
    parts += [whence(run, config), scores(run, config)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(config: RunConfig, names: Sequence[str]) -> str:
    """The metadata that the Hub reads. Texts in JSON's quotes are YAML too."""
    lines = ["---", "library_name: unspoken", "pipeline_tag: text-generation"]
    path = config.backbone.path
    if path is not None and is_plain(path) and not Path(path).exists():
        lines.append(f"base_model: {json.dumps(path)}")
    lines += ["tags:", "- unspoken", "- latent-reasoning", *(f"- {json.dumps(name)}" for name in names), "---"]
    return "\n".join(lines)


def _told(run: RunDir) -> bytes:
    """run.json without the places of this machine."""
    about = public(run.read())
    assert isinstance(about, dict)
    build(RunConfig, about["config"], "run.json: ")
    return (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()


def _of_model(run: RunDir) -> list[str]:
    """The files of model/: those that have a hash; of older runs, which have none, all that are no hidden files."""
    info, folder = run.model_info(), run.path / "model"
    if isinstance(kept := info.get("files"), dict):
        return [*kept, "unspoken.json"]
    found = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [file.as_posix() for file in found if not any(part.startswith(".") for part in file.parts)]


def _check_beside(run: RunDir) -> None:
    """Refuse a run that needs a model which lies in a folder of this machine."""
    model = run.model_info()
    named = model.get("named") or ({"assistant": model["assistant"]} if "assistant" in model else {})
    for name, about in named.items():
        if Path(path := about["path"]).is_absolute() or Path(path).exists():
            raise RunError(
                f"{run.given} needs its {name} from the folder {path}, which nobody else has; push that to the Hub, and "
                "train with its id there"
            )


def _beside(run: RunDir, name: str, taken: Collection[str]) -> Path:
    """Another file of the run's folder."""
    file = run.path / name
    if not name or Path(name).name != name or name in taken or not file.is_file():
        raise ConfigError(f"--also {name!r:.80}: no other file of {run.given}; give the name of one, e.g. metrics.jsonl")
    return file
