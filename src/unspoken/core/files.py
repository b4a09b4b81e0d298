"""Files and folders that are written whole or not at all; tensors and JSON in them.

    .NAME.1f09ac2b.tmp/NAME     what is being written, beside NAME; it is renamed once it is whole and on the disk
    .NAME.old                   a folder that is being replaced

Who writes holds a lock on the temporary folder. So what a killed process has left can be told from what is being written
at this moment, by whatever process, and the next one to write NAME removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unspoken.errors import RunError, UnspokenError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and leftovers stay
    fcntl = None

_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a place that you may write to"),
    errno.ENAMETOOLONG: "give a shorter name",
}
"""What to do about an error of the operating system; where it says nothing, another place may help."""

_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+\.tmp", re.DOTALL)
"""Name of a temporary folder; with the number of its process, as older versions named files and folders, too."""

_RUST = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) tell an error of the operating system."""


# writing


def write_file(
    path: str | Path, write: Callable[[Path], object], *, error: type[UnspokenError] = RunError, then: str = ""
) -> None:
    """Let `write` make a file, then put it in the place of `path`; readers see the old one or the new one.

    A symbolic link stays, and what it points to is replaced. The file gets the mode that the umask gives, also where a
    library makes it for its owner alone.

    Args:
        path: the file; folders above it are made.
        write: makes the file at the path that it is given.
        error: what to raise.
        then: the end of the message: what to do once the fault is mended.

    Raises:
        UnspokenError: of the kind `error`: the disk is full, nothing can be written there, or `path` is a folder, a device
            or a pipe. What was there before is unchanged, and nothing new is left behind.
    """
    check_file(path, error=error)
    _replace(Path(path), write, error, then)


def write_folder(
    path: str | Path, write: Callable[[Path], object], *, error: type[UnspokenError] = RunError, then: str = ""
) -> None:
    """`write_file` for a folder: `write` is given one that does not exist yet.

    Raises:
        UnspokenError: of the kind `error`: see `write_file`; or `path` is no folder.
    """
    _check(path, error, folder=True)
    _replace(Path(path), write, error, then)


def write_text(path: str | Path, text: str, *, error: type[UnspokenError] = RunError, then: str = "") -> None:
    """Write a text in UTF-8, whole or not at all. A lone surrogate, which has no UTF-8, becomes a question mark.

    Raises:
        UnspokenError: see `write_file`.
    """
    write_file(path, lambda new: new.write_bytes(text.encode("utf-8", errors="replace")), error=error, then=then)


def write_json(path: str | Path, data: Any, *, error: type[UnspokenError] = RunError, then: str = "") -> None:
    """Write JSON, whole or not at all.

    Raises:
        UnspokenError: see `write_file`.
    """
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", error=error, then=then)


def lines_json(data: Mapping[str, Any], rows: Collection[str], indent: int = 2, *, ensure_ascii: bool = True) -> str:
    """JSON in which lists of many records take a line per record; other lists take one line.

    A value that JSON has no form for (a path) goes in as text: it must not cost a finished evaluation.

    Args:
        data: what to write.
        rows: names of the lists of records, at any depth.
        indent: spaces per level.
        ensure_ascii: write other letters as numbers.
    """

    def told(value: Any, level: int) -> str:
        space, end = "\n" + " " * indent * (level + 1), "\n" + " " * indent * level
        if not isinstance(value, Mapping) or not value:
            return _one_line(value, ensure_ascii)
        parts = []
        for name, inner in value.items():
            if name in rows and inner and isinstance(inner, (list, tuple)):
                within = any(isinstance(row, Mapping) and any(one in rows for one in row) for row in inner)
                lines = [told(row, level + 2) if within else _one_line(row, ensure_ascii) for row in inner]
                text = f"[{space}{' ' * indent}" + f",{space}{' ' * indent}".join(lines) + f"{space}]"
            else:
                text = told(inner, level + 1)
            parts.append(f"{_one_line(str(name), ensure_ascii)}: {text}")
        return "{" + space + f",{space}".join(parts) + end + "}"

    return told(data, 0) + "\n"


def _one_line(value: Any, ensure_ascii: bool) -> str:
    return json.dumps(value, default=str, ensure_ascii=ensure_ascii)


def check_file(path: str | Path, *, error: type[UnspokenError] = RunError) -> None:
    """See at once, before hours of work, that a file can be written at a path.

    Raises:
        UnspokenError: of the kind `error`: the name is too long, or something is there that is no file.
    """
    _check(path, error, folder=False)


def check_new(path: str | Path) -> None:
    """See that a path is free for a new folder.

    Raises:
        RunError: something is there that is not an empty folder, or the name cannot be one.
    """
    _check(path, RunError, folder=True)
    if Path(path).is_dir() and any(Path(path).iterdir()):
        raise RunError(f"{path} exists and is not empty; give a new directory")


def recover(folder: Path) -> None:
    """Put back a folder whose replacement was interrupted between its two renames, and drop one that was replaced."""
    folder = Path(os.path.realpath(folder))
    old = folder.with_name(f".{folder.name}.old")
    with contextlib.suppress(OSError):
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes have left half-written in a folder; what is being written stays.

    Args:
        folder: where.
        name: only of the file or folder of this name; None = of any.
    """
    with contextlib.suppress(OSError):
        for left in list(folder.iterdir()):
            found = _LEFT.fullmatch(left.name)
            if found is not None and name in (None, found["name"]):
                with contextlib.suppress(OSError), _locked(left):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def reason(error: BaseException) -> tuple[str, str]:
    """What a failed operation was refused for, in the system's words, and what to do about it."""
    number = getattr(error, "errno", None)
    if number is None and (found := _RUST.search(str(error))):
        number = int(found[1])
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (os.strerror(number) if number else first), _HINTS.get(number or 0, "choose another place")


def _check(path: str | Path, error: type[UnspokenError], *, folder: bool) -> None:
    wanted = "folder" if folder else "file"
    try:
        if not str(path):
            raise error(f"the name of a {wanted} is empty; give one")
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as fault:
        why, hint = reason(fault)
        raise error(f"cannot write {path!s:.200}: {why}; {hint}") from fault
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        raise error(f"{path} is {kind_of(mode)}, not a {wanted}; give the name of a {wanted}")


def kind_of(mode: int) -> str:
    """What lies at a path, by its mode, with its article."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for holds, name in kinds if holds(mode)), "a device")


def _replace(path: Path, write: Callable[[Path], object], error: type[UnspokenError], then: str) -> None:
    """Let `write` make a file or folder in a temporary place beside `path`, then put it in the place of `path`."""
    then = f"; {then}" if then else ""
    try:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place.parent, _short(place.name))
        with _temporary(place) as temporary:
            new = temporary / place.name
            write(new)
            _settle(temporary)
            if new.is_dir() and place.exists():
                # A folder cannot be replaced in one call; `recover` puts the old one back if we are killed in between.
                recover(place)
                place.rename(old := place.with_name(f".{place.name}.old"))
                new.replace(place)
                shutil.rmtree(old, ignore_errors=True)
            else:
                new.replace(place)
        _sync(place.parent)
    except UnspokenError:
        raise
    except Exception as fault:  # of the system, or of a library that wraps one: safetensors, tokenizers
        if not isinstance(fault, (OSError, SafetensorError)) and not _RUST.search(str(fault)):
            raise
        why, hint = reason(fault)
        raise error(f"cannot write {path}: {why}; what was there before is unchanged; {hint}{then}") from fault
    finally:
        with contextlib.suppress(OSError):
            recover(path)


@contextlib.contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A new locked folder beside a path, removed at the end."""
    while True:
        temporary = place.with_name(f".{_short(place.name)}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(_locked(temporary))
            except BlockingIOError:  # somebody who sweeps was quicker than the lock
                continue
            except OSError:
                if not temporary.exists():
                    continue  # or has removed it already; a file system without locks is all that is left
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file or folder; the system lets go of it when the process ends, however it ends.

    Raises:
        OSError: somebody holds it (BlockingIOError), or nothing can be locked here.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(handle)


def _short(name: str) -> str:
    """A name with room for what stands around it: file systems allow 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _settle(folder: Path) -> None:
    """Give all files in a folder the mode that the umask gives, and have them on the disk."""
    mode = folder.stat().st_mode & 0o666
    for above, _, names in os.walk(folder):
        for name in names:
            file = Path(above, name)
            if not file.is_symlink():
                file.chmod(mode)
                _sync(file)
        _sync(Path(above))


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(handle)


# reading


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, whose every complaint is a ValueError, in one line.

    Raises:
        ValueError: no JSON, not UTF-8, nested too deeply, or a number too long to be one.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    data = parse_json(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"an object in braces was expected, got {type(data).__name__}")
    return data


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex digits, as `sha256sum` prints it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
