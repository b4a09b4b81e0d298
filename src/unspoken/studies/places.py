"""Where a study keeps what it makes: a run's files, and the folder of results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unspoken.runs.directory import RunDir
from unspoken.studies.plan import evaluation_fingerprint
from unspoken.studies.study import Evaluation, slug, study_file

BUSY = 75
"""The exit code of a job on which another process works."""


@dataclass(frozen=True)
class JobPlaces:
    """Files of one run of a study.

    Args:
        folder: its run directory.
    """

    folder: Path

    @property
    def run(self) -> RunDir:
        """The run."""
        return RunDir(self.folder)

    @property
    def claim(self) -> Path:
        """A folder beside the run's that is locked while somebody works on it."""
        return self.folder.parent / ".working" / self.folder.name

    @property
    def log(self) -> Path:
        """What the run's process said on standard error."""
        return self.folder.parent / "logs" / f"{self.folder.name}.log"

    @property
    def costs(self) -> Path:
        """What its training steps cost."""
        return self.folder / "costs.json"

    def report(self, one: Evaluation) -> Path:
        """The report of an evaluation. A change of the evaluation is another file."""
        return self.folder / f"eval-{self._name(one)}.json"

    def controls(self, one: Evaluation) -> Path:
        """Its controls; `Campaign.control` gives them this name."""
        return self.folder / f"controls-{self._name(one)}.json"

    def look(self, one: Evaluation) -> Path:
        """Stability figures of the latents."""
        return self.folder / f"latents-{self._name(one)}.json"

    def interchange(self, one: Evaluation) -> Path:
        """What another problem's thought groups did."""
        return self.folder / f"interchange-{self._name(one)}.json"

    def _name(self, one: Evaluation) -> str:
        return f"study-{slug(one.name)}-{evaluation_fingerprint(one)}"


@dataclass(frozen=True)
class StudyPlaces:
    """Files of a study.

    Args:
        out: the folder of its results.
        runs: the folder of its run directories.
    """

    out: Path
    runs: Path

    @classmethod
    def of(cls, path: str | Path, out: str | Path | None = None, runs: str | Path | None = None) -> StudyPlaces:
        """The places of a study file: results beside one that is called study.*, else in a folder of the file's name.

        Args:
            path: the study file or its folder.
            out, runs: other places. All studies share runs/studies: what two of them have in common is trained once.
        """
        file = study_file(path)
        beside = file.parent if file.stem == "study" else file.with_suffix("")
        where = Path(out) if out is not None else beside
        return cls(where, Path(runs) if runs is not None else Path("runs") / "studies")

    @property
    def results(self) -> Path:
        """Every figure; what tables, charts and the page are made from."""
        return self.out / "results.json"

    @property
    def records(self) -> Path:
        """What is known of each run (`studies/record.py`); what results are made from."""
        return self.out / "records"

    def card(self, job: str) -> Path:
        """What a run said, to hold it against."""
        return self.out / "cards" / f"{job}.json"
