"""Ctrl-C during a step that is many calls: it waits until the step is whole, and counted."""

from __future__ import annotations

import threading

# Those of the module signal wrap these, and take ten times as long to make enums of what they return.
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable


def uninterrupted(*calls: Callable[[], None]) -> None:
    """Make these calls; a Ctrl-C that comes meanwhile is handled when the last is through, or one has raised.

    Only the main thread handles signals. A handler that is not Python's, and other signals, are left alone: what their
    handlers raise comes in between.
    """
    handler = getsignal(SIGINT)
    if not callable(handler) or threading.get_ident() != threading.main_thread().ident:
        for call in calls:
            call()
        return
    came: list[tuple[object, ...]] = []
    try:
        signal(SIGINT, lambda *args: came.append(args))
        for call in calls:
            call()
    finally:
        signal(SIGINT, handler)
        if came:
            handler(*came[-1])
