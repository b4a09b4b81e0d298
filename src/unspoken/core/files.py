"""Write files and folders atomically; read and write JSON.

    .NAME.1f09ac2b.tmp/NAME     what is being written, beside NAME; it is renamed once it is whole and on the disk
    .NAME.old                   a folder that is being replaced

A writer holds a lock on the temporary folder. So leftovers of a killed process can be told from what another process is
writing, and are removed by the next process that writes NAME.
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
"""Advice per operating system error; by default, to try another place."""

_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+\.tmp", re.DOTALL)
"""Names of temporary folders, including those of older versions with a process id."""

_RUST = re.compile(r"\(os error (\d+)\)")
"""How Rust libraries (safetensors, tokenizers) report operating system errors."""


# writing


def expanded(path: str | Path) -> Path:
    """A path as a user writes it, with "~" replaced by the home folder; unchanged where there is no such home, see
    `homeless`."""
    return Path(os.path.expanduser(path))


def homeless(path: Path) -> bool:
    """Whether an expanded path is in a home that there is not, as for a container's user without a name."""
    return path.parts[:1] != () and path.parts[0].startswith("~")


def write_file(
    path: str | Path, write: Callable[[Path], object], *, error: type[UnspokenError] = RunError, then: str = ""
) -> None:
    """Let `write` make a file, then move it to `path`; readers see either the old or the new file.

    A symbolic link is kept, and its target replaced. The file's mode follows the umask, even if a library creates it for
    its owner only.

    Args:
        path: the file; parent folders are created.
        write: creates the file at the path it is given.
        error: the class of error to raise.
        then: the end of the error message: what to do after the problem is fixed.

    Raises:
        UnspokenError: of class `error`: the disk is full, the place is not writable, or `path` is a folder, a device or a
            pipe. The old file is unchanged, and nothing is left behind.
    """
    check_file(path, error=error)
    _replace(Path(path), write, error, then)


def write_folder(
    path: str | Path, write: Callable[[Path], object], *, error: type[UnspokenError] = RunError, then: str = ""
) -> None:
    """Like `write_file`, for a folder: `write` gets the path of a folder that does not exist yet.

    Raises:
        UnspokenError: of the kind `error`: see `write_file`; or `path` is no folder.
    """
    _check(path, error, folder=True)
    _replace(Path(path), write, error, then)


def write_text(path: str | Path, text: str, *, error: type[UnspokenError] = RunError, then: str = "") -> None:
    """Write a text atomically in UTF-8. A lone surrogate, which cannot be encoded, becomes a question mark.

    Raises:
        UnspokenError: see `write_file`.
    """
    write_file(path, lambda new: new.write_bytes(text.encode("utf-8", errors="replace")), error=error, then=then)


def write_json(path: str | Path, data: object, *, error: type[UnspokenError] = RunError, then: str = "") -> None:
    """Write JSON atomically.

    Raises:
        UnspokenError: see `write_file`.
    """
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", error=error, then=then)


def lines_json(data: Mapping[str, object], rows: Collection[str], indent: int = 2, *, ensure_ascii: bool = True) -> str:
    """JSON text in which chosen lists have a line per record, and other lists are on one line.

    Values that JSON cannot represent, such as paths, are written as text, so that a finished evaluation is never lost.

    Args:
        data: what to write.
        rows: names of the lists of records, at any depth.
        indent: spaces per level.
        ensure_ascii: escape non-ASCII characters.
    """

    def told(value: object, level: int) -> str:
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


def _one_line(value: object, ensure_ascii: bool) -> str:
    return json.dumps(value, default=str, ensure_ascii=ensure_ascii)


def check_file(path: str | Path, *, error: type[UnspokenError] = RunError) -> None:
    """Check before hours of work that a file can be written at a path.

    Raises:
        UnspokenError: of class `error`: the name is too long, or there is something that is not a file.
    """
    _check(path, error, folder=False)


def check_new(path: str | Path) -> None:
    """Check that a path is free for a new folder.

    Raises:
        RunError: there is something other than an empty folder, or the name is not possible.
    """
    _check(path, RunError, folder=True)
    if Path(path).is_dir() and any(Path(path).iterdir()):
        raise RunError(f"{path} exists and is not empty; give a new directory")


def recover(folder: Path) -> None:
    """Finish an interrupted replacement of a folder: restore the old folder, or remove it if it was replaced."""
    folder = Path(os.path.realpath(folder))
    old = folder.with_name(f".{folder.name}.old")
    with contextlib.suppress(OSError):
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove half-written leftovers of killed processes in a folder; files being written are kept.

    Args:
        folder: where.
        name: only leftovers of this file or folder; None = of any.
    """
    with contextlib.suppress(OSError):
        for left in list(folder.iterdir()):
            found = _LEFT.fullmatch(left.name)
            if found is not None and name in (None, found["name"]):
                with contextlib.suppress(OSError), locked(left):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def reason(error: BaseException) -> tuple[str, str]:
    """The system's reason for a failed operation, and advice."""
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
    """What is at a path, by its mode: "a folder", "a pipe", ..."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for holds, name in kinds if holds(mode)), "a device")


def _replace(path: Path, write: Callable[[Path], object], error: type[UnspokenError], then: str) -> None:
    """Let `write` make a file or folder in a temporary place next to `path`, then move it to `path`."""
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
                # A folder cannot be replaced in one call; `recover` restores the old one if we are killed in between.
                recover(place)
                place.rename(old := place.with_name(f".{place.name}.old"))
                new.replace(place)
                shutil.rmtree(old, ignore_errors=True)
            else:
                new.replace(place)
        sync(place.parent)
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
    """A new locked folder next to a path, removed at the end."""
    while True:
        temporary = place.with_name(f".{_short(place.name)}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(temporary))
            except BlockingIOError:  # another process swept the folder before it was locked
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
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file or folder; the system releases it when the process ends for any reason.

    Raises:
        OSError: another process holds it (BlockingIOError), it has been removed (FileNotFoundError), or locks are not
            supported here.
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
    """Shorten a name so that the temporary name fits into the 255 bytes that file systems allow."""
    return os.fsdecode(os.fsencode(name)[:200])


def _settle(folder: Path) -> None:
    """Set the mode of all files in a folder by the umask, and flush them to the disk."""
    mode = folder.stat().st_mode & 0o666
    for above, _, names in os.walk(folder):
        for name in names:
            file = Path(above, name)
            if not file.is_symlink():
                file.chmod(mode)
                sync(file)
        sync(Path(above))


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk.

    Raises:
        OSError: it is not there, or the disk does not take it.
    """
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
    """`json.loads` with every error as a ValueError with a message of one line.

    Raises:
        ValueError: invalid JSON, not UTF-8, nested too deeply, or an overlong number.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

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
