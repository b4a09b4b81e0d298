"""Small trained models of finished studies as assets of a release: `make models`.

    python studies/pack_models.py dist/models [--runs runs/studies]

Each is a run directory without states and metrics, in NAME.tar.gz with a card (README.md): what `unspoken ask`, `eval`
and `inspect` take. SHA256SUMS holds their checksums (`sha256sum -c SHA256SUMS`). The same run gives the same file, byte
for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from unspoken.core.files import write_text
from unspoken.errors import RunError, UnspokenError
from unspoken.exporters.hub import CARD, parcel
from unspoken.exporters.model_card import whence
from unspoken.runs.directory import RunDir
from unspoken.studies.places import JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.run import planned
from unspoken.studies.state import report_of

MOST = 10 * 10**6
"""Bytes of a packed model."""

ROOT = Path(__file__).resolve().parents[1]
CHOSEN = {
    "methods": ("tiny", ("no_cot-1", "pause-1", "icot_si-1", "coconut-1", "sim_cot-1", "codi-1", "sim_cot_codi-1")),
    "latents": ("latents", ("coconut-16-1", "sim_cot-16-1", "codi-16-1", "sim_cot_codi-16-1")),
    "multiplication": ("multiplication", ("no_cot-1", "icot_si-1")),
    "prosqa": ("prosqa", ("cot-1", "coconut-1", "sim_cot-1")),
    "semcot": ("semcot", ("semcot-1",)),
}
"""Study -> how its models' names begin, and the runs; the first seed of each."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A model that was packed.

    Attributes:
        name: what its folder is called when it is unpacked.
        file: NAME.tar.gz.
        sha256: of the file.
    """

    name: str
    file: Path
    sha256: str


def pack(job: Job, name: str, out: Path) -> Packed:
    """Pack a finished run of a study.

    Raises:
        RunError: it is damaged, needs a model of this machine, or is larger than 10 MB.
    """
    files = {**parcel(job.folder, f"unspoken/{name}").files, CARD: card(job, name).encode()}
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for place, held in sorted(files.items()):
            data = held if isinstance(held, bytes) else held.read_bytes()
            entry = tarfile.TarInfo(f"{name}/{place}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    data = packed.getvalue()
    if len(data) > MOST:
        raise RunError(f"{name} has {len(data) / 1e6:.1f} MB packed, {MOST / 1e6:.0f} at most; choose a smaller model")
    file = out / f"{name}.tar.gz"
    file.write_bytes(data)
    return Packed(name=name, file=file, sha256=hashlib.sha256(data).hexdigest())


def card(job: Job, name: str) -> str:
    """The README of a packed model, in Markdown."""
    figures = [
        f"- {one.name}: {100 * report.accuracy.value:.1f}% of {report.n} test problems "
        f"({100 * report.accuracy.interval[0]:.1f} to {100 * report.accuracy.interval[1]:.1f}; other problems, this model)"
        for one in job.evaluations
        if (report := report_of(JobPlaces(job.folder), one)) is not None
    ]
    run = RunDir(job.folder)
    parts = [
        f"# {name}",
        f"A run of unspoken: method `{job.config.method.name}`, task `{job.config.task.name}`, training seed {job.seed}. It "
        "answers problems of that task and of no other; what it says to anything else means nothing. Trained on generated "
        "rows, so with nobody's data; Apache-2.0, as the package.",
        f"```sh\nunspoken ask {name}\nunspoken inspect {name}\nunspoken eval {name}\n```",
        "\n".join(["## Scores", "", *figures]) if figures else "",
        whence(run, run.config()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> int:
    """Pack what is finished; say what is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the studies' run directories")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    packed = []
    for study, (begins, names) in CHOSEN.items():
        jobs = {job.name: job for job in planned(ROOT / "studies" / study, runs=args.runs).every}
        for one in names:
            job, name = jobs[one], f"{begins}-{one.removesuffix('-1')}"
            if not RunDir(job.folder).finished:
                print(f"{name}: not trained yet; unspoken study studies/{study} --only seed=1")
                continue
            try:
                packed.append(pack(job, name, args.out))
            except UnspokenError as error:
                print(f"{name}: left out: {error}")
                continue
            print(f"{packed[-1].file}: {packed[-1].file.stat().st_size / 1e6:.1f} MB")
    write_text(args.out / "SHA256SUMS", "".join(f"{one.sha256}  {one.file.name}\n" for one in packed))
    return 0 if packed else 1


if __name__ == "__main__":
    sys.exit(main())
