"""Stop requests: Ctrl-C, SIGTERM (a scheduler, `kill`), SIGHUP (a closed terminal). Training ends after the current
step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal.

    Attributes:
        number: of the signal; the exit code is 128 more by convention.
        step: optimizer steps done.
    """

    def __init__(self, number: int, step: int = 0) -> None:
        super().__init__()
        self.number, self.step = number, step


class Signals(contextlib.AbstractContextManager["Signals"]):
    """Context manager that handles signals. Signals that are ignored (nohup) or have a user's own handler are left alone.

    Attributes:
        asked: the signal that requests a stop after the current step, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._patient = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Context manager: its block is finished before a signal takes effect; a second signal takes effect at once."""
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._patient or self.asked is not None:
            raise Interrupted(number)
        self.asked = number
        with contextlib.suppress(OSError):  # print may not be called from here
            os.write(2, b"stopping after this step, with a state to go on from; the same signal again stops at once\n")
