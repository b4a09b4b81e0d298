"""Being asked to stop: Ctrl-C, SIGTERM (a scheduler, `kill`), SIGHUP (a closed terminal). Training ends behind a step."""

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
    """Training was asked to stop.

    Attributes:
        number: of the signal; a shell expects 128 more as the exit code.
        step: optimizer steps done.
    """

    def __init__(self, number: int, step: int = 0) -> None:
        super().__init__()
        self.number, self.step = number, step


class Signals(contextlib.AbstractContextManager["Signals"]):
    """Hears signals as long as it is entered. Where one was ignored (nohup) or has a handler of somebody's own, it stays so.

    Attributes:
        asked: the signal that asks to stop after the step under way; None = nobody asks.
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
        """What happens inside is finished before a signal is heeded; a second one is heeded at once."""
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
