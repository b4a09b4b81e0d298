"""Processes of the package that begin with everything imported: forked from a server, one per process of the tests.

A new interpreter spends five seconds of processor time on importing torch, transformers and accelerate. What is about
starting itself (the real command's exit code, variables that are read on import, torchrun) starts a real one.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any
from unittest import mock

from support.command_line import Done

IMPORTED = (
    "unspoken.cli",
    "unspoken.causal.campaign",
    "unspoken.training.loop",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
AT_FIRST = dict(os.environ)
"""The server starts with what the tests were started with, whatever the first test that needs it has set."""


@functools.cache
def server() -> Any:
    """The context of multiprocessing whose processes are forked from our server."""
    with mock.patch.dict(os.environ, AT_FIRST, clear=True):
        forkserver.set_forkserver_preload([*IMPORTED])
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


Stream = str | Connection | None
"""Where a stream leads: a file to write behind, a pipe, or where the server's own leads."""


def _begin(
    words: list[str], script: str | None, env: Mapping[str, str], cwd: str, *streams: Stream, module: str = ""
) -> None:
    """What the process does: the command, a module, or a script that finds `words` in sys.argv[1:]."""
    for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        if stream is None:
            continue
        fd = os.open(stream, os.O_WRONLY | os.O_APPEND) if isinstance(stream, str) else stream.fileno()
        os.dup2(fd, number)
        file = open(number, "r" if name == "stdin" else "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, file)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["unspoken", *words]
    if script is not None:
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        return
    if module:
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from unspoken.__main__ import main

    main()


class Forked:
    """A process, and what it has written so far."""

    def __init__(self, *words: str | Path, script: str | None = None, env: Mapping[str, str] = {}, cwd: Path | None = None):
        self._said = [tempfile.NamedTemporaryFile(prefix="said-") for _ in range(2)]  # noqa: SIM115 - kept while this object is
        paths = [file.name for file in self._said]
        told = ([*map(str, words)], script, {**os.environ, **env}, str(cwd or Path.cwd()), None, *paths)
        self._process = server().Process(target=_begin, args=told)
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs; -9 where it was killed."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self.kill()
            raise TimeoutError(f"the process still runs after {timeout} s; it said: {self.stdout()}{self.stderr()}")
        return code

    def stdout(self) -> str:
        """What it has written so far."""
        return Path(self._said[0].name).read_text(encoding="utf-8")

    def stderr(self) -> str:
        """What it has written so far."""
        return Path(self._said[1].name).read_text(encoding="utf-8")

    def until(self, holds: Callable[[], bool], timeout: float = 120) -> None:
        """Wait, while it runs, for something to be so."""
        deadline = time.monotonic() + timeout
        while not holds():
            assert self.poll() is None, self.stderr()
            assert time.monotonic() < deadline, f"not so after {timeout} s; it said: {self.stderr()}"
            time.sleep(0.02)

    def done(self, timeout: float = 300) -> Done:
        """What it leaves behind, once it has ended."""
        code = self.wait(timeout)
        return Done(code, self.stdout(), self.stderr())


class Popen:
    """In place of a `subprocess.Popen` of `python -m MODULE WORDS...`, for code under test that starts one.

    As far as that code uses it: streams are inherited, text pipes, or, for standard error, a file that is written behind.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
        **how: Any,
    ) -> None:
        interpreter, dash, module, *words = command
        assert (interpreter, dash) == (sys.executable, "-m"), command
        assert how.keys() <= {"text", "encoding", "start_new_session"}, how
        into, self.stdin = _pipe("w", stdin)
        out, self.stdout = _pipe("r", stdout)
        err, self.stderr = _pipe("r", stderr) if isinstance(stderr, int | None) else (str(stderr.name), None)
        told = (words, None, dict(os.environ if env is None else env), str(Path.cwd()), into, out, err)
        self._process = server().Process(target=_begin, args=told, kwargs={"module": "" if module == "unspoken" else module})
        self._process.start()
        self.pid: int = self._process.pid
        for end in (into, out, err):
            if isinstance(end, Connection):
                end.close()

    def poll(self) -> int | None:
        """See `subprocess.Popen`."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """See `subprocess.Popen`."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """See `subprocess.Popen`."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """See `subprocess.Popen`."""
        self._process.terminate()

    def kill(self) -> None:
        """See `subprocess.Popen`."""
        self._process.kill()


def _pipe(mode: str, asked: int | None) -> tuple[Connection | None, IO[str] | None]:
    """The end of a pipe for the process, and the other as a text file; neither where none is asked for."""
    if asked != subprocess.PIPE:
        return None, None
    read, write = multiprocessing.Pipe(duplex=False)
    theirs, ours = (read, write) if mode == "w" else (write, read)
    file = open(os.dup(ours.fileno()), mode, encoding="utf-8")  # noqa: SIM115 - the other side's
    ours.close()
    return theirs, file


def forked(*words: str | Path, script: str | None = None, env: Mapping[str, str] = {}, cwd: Path | None = None) -> Done:
    """Run the command, or a script, to its end."""
    return Forked(*words, script=script, env=env, cwd=cwd).done()


def ranks(processes: int, *words: str | Path, script: str | None = None, env: Mapping[str, str] = {}) -> list[Done]:
    """Run it in processes that know of each other as torchrun's do; all must end by themselves."""
    return [process.done() for process in launched(processes, *words, script=script, env=env)]


def launched(processes: int, *words: str | Path, script: str | None = None, env: Mapping[str, str] = {}) -> list[Forked]:
    """Start it in such processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(processes)
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Forked(*words, script=script, env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank), **env})
        for rank in range(processes)
    ]


def in_two(*words: str | Path, script: str | None = None, env: Mapping[str, str] = {}) -> Done:
    """Run it in two such processes. The exit code is that of the first that failed, the texts are those of both."""
    ended = ranks(2, *words, script=script, env=env)
    code = next((done.returncode for done in ended if done.returncode), 0)
    return Done(code, "".join(done.stdout for done in ended), "".join(done.stderr for done in ended))
