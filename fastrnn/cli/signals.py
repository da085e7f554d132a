"""Signals that end training between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stop_signals"]

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Which signal has asked for the end, if any has.

    Attributes
    ----------
    signal : int or None
        The first that came.
    breakable : callable or None
        Whether a second Ctrl-C may break into what runs just now, by KeyboardInterrupt. None means no: it is noted like
        any other signal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.breakable: Callable[[], bool] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal is None:
            self.signal = number
        elif self.signal == number == signal.SIGINT and self.breakable is not None and self.breakable():
            self.breakable = None
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Have SIGINT, SIGTERM and SIGHUP noted in what is yielded; the handlers of before come back in the end.

    What the process was started to ignore stays ignored, as `nohup` wants it for SIGHUP, but for SIGINT, which shells
    ignore for what scripts start in the background. Outside the main thread no handler can be set, and none is.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [
        number
        for number, handler in before.items()
        if handler is not None and (handler != signal.SIG_IGN or number == signal.SIGINT)
    ]
    try:
        for number in ours:
            signal.signal(number, stop)
        yield stop
    finally:
        for number in ours:
            signal.signal(number, before[number])
