"""Signals that end a long run: obeyed at once, or at the next place where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["StopRequest", "terminating"]


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""
    with _handled((signal.SIGTERM, signal.SIGHUP), _interrupt):
        yield


class StopRequest:
    """Whether someone asked for an end while it was `listening`; once more ends the block at once."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block Ctrl-C, SIGTERM and SIGHUP only set `made`, the first time."""
        with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            _interrupt(number, frame)
        self.made = True
        with suppress(OSError):  # after SIGHUP there may be no terminal; `print` cannot be entered twice
            os.write(2, b"\nsaving, then ending; once more to end at once\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handled(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Signals go to `handler` until the block ends. Only the main thread can ask for that; in others they go
    where they went."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
