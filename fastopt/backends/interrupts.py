"""Ctrl-C during a step of many calls: it waits until the step is complete and counted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def uninterrupted(*calls: Callable[[], None]) -> None:
    """Make these calls; a Ctrl-C meanwhile is handled after the last call, or after one that raises.

    Only the main thread handles signals. A handler that is not a Python function stays as it is, and so do other
    signals: their handlers may raise between the calls.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.get_ident() != threading.main_thread().ident:
        for call in calls:
            call()
        return
    pending: list[tuple[int, FrameType | None]] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
        for call in calls:
            call()
    finally:
        signal.signal(signal.SIGINT, handler)
        if pending:
            handler(*pending[-1])
