"""Solvers that call a function until they converge, measured a few calls at a time: what they do between the calls."""

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from bench.case import Stepper

#: Evaluates the function that is minimized, at the parameters that the solver has put in place.
Evaluate = Callable[[], Any]


class Ended(BaseException):
    """Ends a solver's thread, through whatever stands between its call and here."""


class Pause:
    """Where a solver's thread waits, within the function, until it may go on for some more evaluations.

    Parameters
    ----------
    warm : evaluations of each run that are not counted: the history is not full yet
    """

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.left, self.outside = 0, 0.0
        self.evaluations, self.since = 0, 0.0
        self.is_closed = False
        self.error: BaseException | None = None

    def evaluate(self, fun: Evaluate) -> Any:
        """Call the function; what has passed since its last call is the solver's own time."""
        passed = time.perf_counter() - self.since
        if self.evaluations > self.warm:
            self.outside += passed
            self.left -= 1
            if self.left == 0:
                self.stopped.release()
                self.wait()
        self.evaluations += 1
        result = fun()
        self.since = time.perf_counter()
        return result

    def wait(self) -> None:
        self.go.acquire()
        if self.is_closed:
            raise Ended

    def repeat(self, solve: Callable[[Callable[[Evaluate], Any]], None]) -> NoReturn:
        """Solve again and again: a solver that has converged begins anew."""
        self.wait()
        while True:
            self.evaluations = 0
            solve(self.evaluate)
            if self.evaluations <= self.warm + 1:
                raise RuntimeError(f"it stopped after {self.evaluations} evaluations")

    def work(self, solve: Callable[[Callable[[Evaluate], Any]], None]) -> None:
        """What the thread does."""
        try:
            self.repeat(solve)
        except Ended:
            pass
        except BaseException as error:
            self.error = error
            self.stopped.release()

    def close(self, thread: threading.Thread) -> None:
        """End the thread. One that still is in C++ when Python ends would abort the process."""
        self.is_closed = True
        self.go.release()
        if thread is not threading.current_thread():
            thread.join()


class RunStepper(Stepper):
    """A solver in a thread of its own, which rests within the function between the measured times.

    Parameters
    ----------
    solve : minimizes from the start until it converges; it is given a function that calls the one that is minimized
    warm : evaluations at the start of each run that are not counted
    """

    def __init__(self, solve: Callable[[Callable[[Evaluate], Any]], None], warm: int) -> None:
        super().__init__(lambda _: self.seconds(1), [None])
        self.before = lambda _: None  # the function: each step is timed alone
        self.pause = Pause(warm)
        thread = threading.Thread(target=self.pause.work, args=(solve,), daemon=True)
        weakref.finalize(self, self.pause.close, thread)
        thread.start()

    def seconds(self, steps: int) -> float:
        """The solver's own time for an evaluation, the mean of so many."""
        pause = self.pause
        pause.left, pause.outside = steps, 0.0
        pause.go.release()
        pause.stopped.acquire()
        if pause.error is not None:
            raise pause.error
        return pause.outside / steps
