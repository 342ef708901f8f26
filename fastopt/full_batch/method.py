"""The base of the full-batch methods: one call of ``step`` is one iteration, and what is accepted is never lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from ..arrays.dtypes import FLOAT32, Array
from ..arrays.memory import described
from ..arrays.texts import amount, assignments
from ..backends.backend import Backend
from ..core.gradients import Gradients
from ..core.parameters import Parameters
from ..core.turns import Turns, change
from ..options.group_by import Grouped
from ..options.ranges import Range, as_number
from .accepted_point import AcceptedPoint, Point
from .box import Box, copies_of, largest_projected, write_back
from .evaluation import checked_evaluation
from .messages import message_of
from .own_parameters import own_parameters
from .results import MinimizeState
from .starting import check_unchanged, move_all_in, nonfinite

#: The function to minimize, without arguments: it returns the loss and the gradients.
Closure = Callable[[], Any]

#: The defaults of gtol and ftol: in double precision, and where an array is float32.
DOUBLE_TOLERANCES, SINGLE_TOLERANCES = (1e-5, 2.2e-9), (1e-4, 1e-6)
TOLERANCE = Range(0.0, optional=True)


class MethodParts(NamedTuple):
    """The parts of a method, for the other modules of fastopt."""

    parameters: Parameters
    backend: Backend
    turns: Turns


class Method(AcceptedPoint):
    """A full-batch method. A subclass defines how it comes from one accepted point to the next.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, changed in place; in groups, or as :func:`fastopt.group_by` returns it.
    bounds : pair, optional
        As an optimizer's.
    gtol, ftol : float, optional
        None: the default for these dtypes; 0: off.
    backend : str, optional

    Attributes
    ----------
    table : Table
        Of the arrays that are not frozen, without bounds in its rows.
    names, arrays, boxes, places : list
        These arrays, the user's own: their names, and their bounds; their numbers among all arrays.
    gradients : Gradients
        ``gradients.given`` are their gradients, each in its array's order of memory, after :meth:`evaluate`.
    grads : structure of arrays
        The gradients as they were returned last.
    evaluations_left : int or None
        How many evaluations :func:`fastopt.minimize` still allows.
    is_single_loss : bool
        Whether the last loss was rounded to single precision.
    makes_steps : bool
        Whether the last iteration was a step, so that a loss that stays the same says something: an optimizer may skip
        one, and a schedule may begin with 0.
    caller : str
        What errors call the function.
    message : str
        Why the last step stopped, with numbers, and what to do; "" where its ``status`` is None.
    decrease, trouble, moved_in : float, str, str
        For messages: how much the last iteration has lowered the loss; what was not finite at the start; how many
        elements were outside their bounds.
    """

    #: Whether groups may have options, which are not the method's.
    takes_group_options: ClassVar[bool] = False
    #: Where it looks for a step that lowers the loss, for messages; "": nowhere.
    searches: ClassVar[str] = "along the last direction, nor along the gradient,"
    #: The attributes that its ``repr`` shows besides those of every method.
    shown: ClassVar[tuple[str, ...]] = ()
    #: The method's name in errors; "": that of its class.
    title: str = ""
    #: How many evaluations :meth:`finish` needs.
    evaluations_at_end: int = 0

    def __init__(
        self,
        params: Any,
        *,
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        gtol, ftol = as_number("gtol", gtol, TOLERANCE), as_number("ftol", ftol, TOLERANCE)
        self.title = self.title or type(self).__name__
        self.own = own_parameters(self.title, params, bounds, backend, self.takes_group_options)
        parameters = self.own.parameters
        self.parts = MethodParts(parameters, self.own.backend, Turns())
        has_single = any(array.dtype == FLOAT32 for array in parameters.arrays)
        defaults = SINGLE_TOLERANCES if has_single else DOUBLE_TOLERANCES
        self.gtol, self.ftol = (
            default if given is None else given for given, default in zip((gtol, ftol), defaults, strict=True)
        )
        self.given_params = params.params if isinstance(params, Grouped) else params
        self.evaluations = 0
        self.evaluations_left: int | None = None
        self.is_single_loss, self.makes_steps = False, True
        self.caller = "closure"
        self.closure: Closure | None = None
        self.grads: Any = None
        self.trouble = self.moved_in = self.message = ""
        self.decrease = 0.0
        #: The arrays' frozen names when the table was made; None: it is to be made.
        self.frozen_in_table: frozenset[str] | None = None
        self.table: Any = None
        self.places: list[int] = []
        self.names: list[str] = []
        self.arrays: list[Array] = []
        self.boxes: list[Box | None] = []
        self.gradients: Gradients

    # --- for subclasses ---

    def prepare(self) -> None:
        """Make what belongs to a new table: it is the first one, or other arrays are frozen."""

    def start(self) -> None:
        """Begin at the parameters as they are, which have just been evaluated: at first, and after :meth:`reset`."""

    def iterate(self) -> str | None:
        """Go from the accepted point to the next one, by :meth:`moving`, :meth:`evaluate` and :meth:`accept`.

        Returns None, "line_search" if there is no better point, or "max_evaluations" if ``evaluations_left`` became 0
        on the way. What it has moved and not accepted is put back afterwards.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Forget what was learned from earlier points."""

    def confirms(self) -> bool:
        """Return whether a small decrease in the last iteration says that it has converged."""
        return True

    def evaluate(self) -> float:
        """Return the loss of the parameters as they are, and hand their gradients to the table.

        Raises
        ------
        TypeError, ValueError
            If the function returned anything else, or replaced an array. What it raises comes through.
        """
        assert self.closure is not None
        parameters = self.parts.parameters
        self.gradients.forget()
        self.grads = None
        returned = self.closure()
        self.evaluations += 1
        if self.evaluations_left is not None:
            self.evaluations_left -= 1
        loss, self.is_single_loss, self.grads = checked_evaluation(self.caller, returned)
        del returned
        self.own.check_in_place()
        leaves = parameters.leaves(self.grads, "grads")
        if len(leaves) != len(self.places):
            leaves = [leaves[i] for i in self.places]
        for name, leaf in zip(self.names, leaves, strict=True):
            if leaf is None:
                raise ValueError(
                    f"grads: {name!r} has none; {self.caller} has to return a gradient of every array: "
                    "give np.zeros_like of it, or leave the array out of the parameters (opt.freeze)"
                )
        self.gradients.take(self.table, leaves, self.refuse_row_sparse)
        return loss

    def projected_norm(self) -> float:
        """Return the largest absolute element of the projected gradient, from the gradients last evaluated."""
        return largest_projected(self.arrays, self.gradients.given, self.boxes)

    # --- what callers see ---

    def __repr__(self) -> str:
        parameters = self.parts.parameters
        frozen = [f"{len(parameters.frozen)} frozen"] if parameters.frozen else []
        options = {name: getattr(self, name) for name in (*self.shown, "gtol", "ftol", "iterations", "loss", "backend")}
        return f"{self.title}({', '.join([amount(parameters.arrays), *frozen, *assignments(options)])})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse what copy and pickle would do: the copy would change arrays that nobody else has."""
        raise TypeError(
            f"{self.title}: it can't be copied or pickled, since it changes your own arrays; copy these, build "
            "another one for them and other.load_state_dict(opt.state_dict()), or use fastopt.save and fastopt.load"
        )

    @property
    def params(self) -> Any:
        """The parameters in the structure in which they were given: the very arrays, changed in place."""
        return self.given_params

    @property
    def is_bounded(self) -> bool:
        """Whether an array has bounds."""
        return self.own.bounds is not None

    @property
    def backend(self) -> str:
        """Where the vectors are computed: "native" or "numpy", with the same bits."""
        return self.parts.backend.name

    @property
    def frozen(self) -> list[str]:
        """The names of the arrays that :meth:`freeze` has taken out, in the order of the parameters."""
        return self.parts.parameters.in_order(self.parts.parameters.frozen)

    @change
    def freeze(self, pattern: str) -> list[str]:
        """Take these arrays out: they stay as they are, and their gradients (None, say) are ignored.

        What was learned of the function is forgotten, since it is another function now.

        Parameters
        ----------
        pattern : str
            A name, or a glob pattern: ``*`` is any text (dots too), ``?`` one character, ``[ab]`` one of these.

        Returns
        -------
        list of str
            The names that match.

        Raises
        ------
        ValueError
            If there is none.
        RuntimeError
            If a step is running.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"a": np.ones(2), "b": np.ones(1)}
        >>> opt = fastopt.LBFGS(params)
        >>> opt.freeze("b")
        ['b']
        >>> state = opt.step(lambda: (float(params["a"] @ params["a"]), {"a": 2 * params["a"]}))
        >>> params["b"]
        array([1.])
        """
        return self.parts.parameters.freeze(pattern)

    @change
    def unfreeze(self, pattern: str = "*") -> list[str]:
        """Take these arrays in again: the opposite of :meth:`freeze`, with its argument, result and errors."""
        return self.parts.parameters.unfreeze(pattern)

    @change
    def reset(self, keep_history: bool = False) -> None:
        """Say that the parameters or the function changed: the next step evaluates again before it moves.

        Parameters
        ----------
        keep_history : bool, default False
            Whether to keep what was learned from earlier points: after small changes it helps.

        Raises
        ------
        RuntimeError
            If a step is running.
        """
        if self.frozen_in_table is not None and (self.is_torn or not keep_history):
            self.forget()
        self.settled = None
        if self.point is not None:  # nothing is known of the parameters now
            self.point = Point(math.nan, math.nan, 0.0, self.point.iterations)

    @change
    def step(self, closure: Closure) -> MinimizeState:
        """Make one iteration: one evaluation as a rule, one more in the first step.

        The loss and the gradient of the accepted point are kept from step to step. So call :meth:`reset` after you
        have changed parameters, or the data that the closure uses.

        Parameters
        ----------
        closure : callable
            ``closure()`` returns ``(loss, grads)`` at the parameters' present values: a real number, and the gradients
            in the structure of the parameters, which may be the same arrays in each call. It must not change the
            parameters.

        Returns
        -------
        MinimizeState
            With ``status`` None if there is more to do.

        Raises
        ------
        TypeError, ValueError
            If the closure returned anything else; names the array. What it raises comes through. In both cases, as
            after Ctrl-C, the parameters are the last accepted ones, and the next step goes on from there.
        RuntimeError
            If a step is running already, in another thread or around the call.
        """
        return self.run(closure, self.iteration)

    @change
    def begin(self, closure: Closure) -> MinimizeState:
        """Evaluate at the start, without an iteration."""
        return self.run(closure, self.evaluate_start)

    def finish(self, closure: Closure, state: MinimizeState) -> MinimizeState:
        """Return the state after the last iteration of a run."""
        return state

    def run(self, closure: Closure, call: Callable[[], str | None]) -> MinimizeState:
        """Make a call that uses a closure. After an exception the parameters are the accepted ones."""
        if not callable(closure):
            raise TypeError(
                f"{self.caller}: expected a function that returns (loss, grads), since a line search may need several "
                f"evaluations, got a value {described(closure)}"
            )
        try:
            try:
                self.closure = closure
                self.make_ready()
                status = call()
            finally:
                self.clear_away()
        finally:
            self.clear_away()  # an interrupt may have come before the first one was done
        self.message = "" if status is None else message_of(status, self)
        return self.state(status)

    def clear_away(self) -> None:
        """End a call: the parameters are the accepted ones, and the closure and its gradients are not kept."""
        if self.is_moved:
            self.undo_move()
        if self.closure is not None:
            self.grads = None
            if self.table is not None:
                self.gradients.forget()
                self.table.forget_grads()
            self.closure = None

    def state(self, status: str | None) -> MinimizeState:
        """Return the accepted point as users see it."""
        point = self.point
        assert point is not None
        return MinimizeState(
            point.loss, point.grad_norm, point.step_size, point.iterations, self.evaluations, self.given_params, status
        )

    # --- the parts of a step ---

    def make_ready(self) -> None:
        """Check that the arrays are as they were, and make a table if other ones are frozen."""
        parameters = self.parts.parameters
        self.own.check_in_place()
        if self.frozen_in_table is not parameters.frozen:
            self.make_table()
        if self.is_moved:  # a second interrupt came before this was done
            self.undo_move()
        if not self.are_writeable():
            parameters.check_writeable(np.isin(np.arange(len(parameters.arrays)), self.places))

    def make_table(self) -> None:
        """Make a table of the arrays that are not frozen."""
        parameters, backend = self.parts.parameters, self.parts.backend
        self.moved_from = self.settled = None
        frozen = parameters.frozen
        places = [i for i, name in enumerate(parameters.names) if name not in frozen]
        if not places:
            raise ValueError(f"freeze: all arrays are frozen, {parameters.names}; unfreeze one, or make no step")
        arrays = [parameters.arrays[i] for i in places]
        names = self.names = [parameters.names[i] for i in places]
        in_order = backend.ops.in_memory_order
        self.places, self.arrays, self.boxes = places, arrays, [self.own.box(i) for i in places]
        extents = backend.extents(names, arrays)
        self.gradients = Gradients(backend.ops, backend.add_rows, names, arrays, extents, False)
        self.table = backend.table(list(map(in_order, arrays)), [()] * len(arrays), self.own.extras(places))
        self.are_writeable = backend.writeable_check(arrays)
        self.prepare()
        self.frozen_in_table = frozen  # last: after an interrupt all of this is done again

    def refuse_row_sparse(self, i: int) -> NoReturn:
        """Raise for a row-sparse gradient of array number ``i`` of the table."""
        raise TypeError(f"grads: {self.names[i]!r} is row-sparse; {self.title} needs the whole gradient: give an array")

    def iteration(self) -> str | None:
        """Make an iteration; return the status."""
        if self.settled is None or self.settled is not self.point:
            status = self.evaluate_start()
            if status is not None:
                return status
        before = self.point
        assert before is not None
        if before.grad_norm <= self.gtol or before.grad_norm == 0:
            return "gtol"
        status = self.iterate()
        now = self.point
        if now is before or now is None:
            return status
        self.decrease = before.loss - now.loss
        if now.grad_norm <= self.gtol or now.grad_norm == 0:
            return "gtol"
        can_converge = self.makes_steps and status != "max_evaluations"
        if can_converge and self.ftol > 0 and 0 <= self.decrease <= self.ftol and self.confirms():
            return "ftol"
        return status

    def evaluate_start(self) -> str | None:
        """Evaluate at the parameters as they are; return the status."""
        found = copies_of(self.arrays)
        try:
            outside = move_all_in(self.names, self.arrays, self.boxes)
            self.moved_in = outside or self.moved_in
            before = copies_of(self.arrays) if outside else found
            loss = self.evaluate()
            check_unchanged(self.names, self.arrays, before, self.caller, self.title)
            norm = self.projected_norm()
            self.trouble = nonfinite(loss, self.names, self.arrays, self.gradients.given)
            point = Point(loss, norm, self.step_size, self.iterations)
            if not self.trouble:
                if self.is_torn:
                    self.forget()
                self.start()
        except BaseException:
            write_back(self.arrays, found)
            raise
        self.point = point
        if self.trouble:
            return "nonfinite_start"
        self.settled = point
        return "gtol" if norm <= self.gtol or norm == 0 else None
