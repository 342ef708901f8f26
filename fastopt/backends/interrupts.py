"""Ctrl-C during a step that is many calls: it waits until the step is whole, and counted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def uninterrupted(*calls: Callable[[], None]) -> None:
    """Make these calls; a Ctrl-C that comes meanwhile is handled when the last is through, or one has raised.

    Only the main thread handles signals. A handler that is not Python's, and other signals, are left alone: what their
    handlers raise comes in between.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.get_ident() != threading.main_thread().ident:
        for call in calls:
            call()
        return
    came: list[tuple[int, FrameType | None]] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
        for call in calls:
            call()
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[-1])
