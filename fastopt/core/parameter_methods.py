"""The methods of an optimizer about its parameters: freezing, averages, and values that others have written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..options.group_by import matching
from . import averages, params_in_state
from .hooks import Hooks
from .parts import Parts
from .setting import set_options
from .turns import change, reader
from .workspace import Workspace


class ParameterMethods(Hooks):
    """The part of :class:`fastopt.Optimizer` that is about its parameters."""

    parts: Parts

    def ready(self) -> Workspace:
        """Check the groups and the parameters' containers, and return the table with all that belongs to it."""
        raise NotImplementedError

    @property
    def params(self) -> Any:
        """The parameters in their structure (lists for tuples): the very arrays that the optimizer was given."""
        return self.parts.parameters.given()

    @property
    def frozen(self) -> list[str]:
        """The names of the arrays that :meth:`freeze` has taken out, in the order of the parameters."""
        return self.parts.parameters.in_order(self.parts.parameters.frozen)

    @change
    def freeze(self, pattern: str) -> list[str]:
        """Skip these arrays from now on, whatever their gradient: no update, their slots and step counts untouched.

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
            If another change of this optimizer is running, as for :meth:`fastopt.Optimizer.step`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"body": {"W": np.ones(1), "b": np.ones(1)}, "head": {"W": np.ones(1)}}
        >>> opt = fastopt.SGD(params, lr=0.5)
        >>> opt.freeze("body.*")
        ['body.W', 'body.b']
        >>> info = opt.step({"body": {"W": np.ones(1), "b": np.ones(1)}, "head": {"W": np.ones(1)}})
        >>> params["body"]["W"], params["head"]["W"]
        (array([1.]), array([0.5]))
        """
        return self.parts.parameters.freeze(pattern)

    @change
    def unfreeze(self, /, pattern: str = "*", **options: Any) -> list[str]:
        """Update these arrays again, with these options: the opposite of :meth:`freeze`, with its result and errors.

        Parameters
        ----------
        pattern : str, default "*"
            A name or a glob pattern, as for :meth:`freeze`.
        **options
            Options to set, as :meth:`set` does.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD({"body": np.ones(1), "head": np.ones(1)}, lr=0.5)
        >>> opt.freeze("body"), opt.unfreeze("body", lr=0.01), opt.lr
        (['body'], ['body'], [0.5, 0.01])
        """
        names = matching(pattern, self.parts.parameters.names)
        if options:
            set_options(self, self.parts, pattern, options)
        self.parts.parameters.unfreeze(pattern)
        return names

    @change
    def set(self, /, pattern: str, **options: Any) -> list[str]:
        """Set options of the arrays that match, from the next step on.

        Parameters
        ----------
        pattern : str
            A name or a glob pattern, as for :meth:`freeze`.
        **options
            Options of a group, such as ``lr`` and ``weight_decay``.

        Returns
        -------
        list of str
            The names that match.

        Raises
        ------
        TypeError, ValueError
            If no name matches, there is no such option, or it is out of its range. Nothing has changed then.
        RuntimeError
            If another change of this optimizer is running, as for :meth:`fastopt.Optimizer.step`.

        Notes
        -----
        If the pattern matches some arrays of a group, these become a new group, at the end of ``param_groups``, with
        the other options of the group; slots and step counts stay. A group of a driver (:mod:`fastopt.lr_scheduler`)
        has an ``initial_lr``, which the new one inherits; where ``lr`` is set, it changes by the same factor. The
        drivers that there are go on for both.

        A saved state has the groups as they are: before it is loaded, set the options in a new optimizer too.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"blocks": [{"W": np.ones(1)} for _ in range(3)], "head": np.ones(1)}
        >>> opt = fastopt.SGD(params, lr=0.5)
        >>> opt.set("blocks.*", lr=0.25, weight_decay=0.1)
        ['blocks.0.W', 'blocks.1.W', 'blocks.2.W']
        >>> [(group["lr"], group["weight_decay"]) for group in opt.param_groups]
        [(0.5, 0.0), (0.25, 0.1)]

        Rates that decrease from layer to layer:

        >>> names = [opt.set(f"blocks.{k}.*", lr=0.5 * 0.8 ** (3 - k)) for k in range(3)]
        >>> [round(lr, 3) for lr in opt.lr]
        [0.5, 0.4, 0.256, 0.32]
        """
        return set_options(self, self.parts, pattern, options)

    @change
    def reload_params(self, pattern: str = "*") -> list[str]:
        """Take over what was written into these parameters: weights from elsewhere, or values changed by hand.

        Parameters
        ----------
        pattern : str, default "*"
            A name or a glob pattern, as for :meth:`freeze`.

        Returns
        -------
        list of str
            The names that match.

        Raises
        ------
        ValueError
            If there is none, or in :meth:`averaged`.
        RuntimeError
            If another change of this optimizer is running, as for :meth:`fastopt.Optimizer.step`.

        Notes
        -----
        A step computes float16 and bfloat16 parameters from their float32 masters; so the next step would undo what was
        written. Now the masters, and the copies of ``copy_to``, get the values of the parameters. The ``z`` of
        Schedule-Free does too: it would draw the parameters back, and ``x`` is found from it. Before an array's first
        step, and for float32 and float64 without these options, writing is enough. All else stays: slots, step counts,
        and averages, which go on from where they are (``opt.ema[...][...] = values`` changes them).

        Megatron-LM calls it ``reload_model_params``.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> theta = np.ones(2, np.float16)
        >>> opt = fastopt.SGD(theta, lr=0.5)
        >>> info = opt.step(np.ones(2))
        >>> theta[...] = 3
        >>> opt.reload_params()
        ['0']
        >>> info = opt.step(np.ones(2))
        >>> theta
        array([2.5, 2.5], dtype=float16)
        """
        names = matching(pattern, self.parts.parameters.names)
        params_in_state.reload(self, self.parts, names)
        return names

    @property
    @reader
    def ema(self) -> Any:
        """The averaged parameters in the parameters' structure (lists for tuples); the next step changes them in place.

        An array without a step has no average: its own values are here, as they were when this was read. Reading it
        waits for the step of another thread, but the arrays that it returns change with the next one.
        ``fastopt.save(path, opt, params=opt.ema)`` saves averages of one step.

        Raises
        ------
        ValueError
            If the optimizer has neither ``ema_decay`` nor ``polyak=True``.
        RuntimeError
            As for :meth:`fastopt.Optimizer.state_dict`.

        Examples
        --------
        An average that begins with the parameters after the first step, and forgets more slowly the longer it is:

        >>> import numpy as np, fastopt
        >>> theta = np.array([4.0])
        >>> opt = fastopt.SGD(theta, lr=1.0, ema_decay=lambda t: (t - 1) / t, ema_start="after")
        >>> for _ in range(3):
        ...     info = opt.step(np.array([1.0]))
        >>> opt.ema  # the mean of 3, 2 and 1
        array([2.])
        """
        return self.parts.parameters.structure(averages.averages_of(self, "ema"))

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averaged parameters into the parameter arrays (and their copies), and back.

        On leaving, also by an exception, the arrays have the bits that they had. Arrays without a step have no average,
        and keep their own values: running statistics, say, which never have a gradient. Entering and leaving wait for
        the step, or the save, of another thread.

        Raises
        ------
        ValueError
            If there is no average. Inside, in any thread: for a step, another ``averaged()``, :meth:`reload_params`,
            and for :func:`fastopt.save` and ``restore`` of this optimizer.
        RuntimeError
            On entering, if a call that changes or reads this optimizer is running around this one.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> theta = np.array([4.0])
        >>> opt = fastopt.SGD(theta, lr=1.0, polyak=True)
        >>> for _ in range(2):
        ...     info = opt.step(np.array([1.0]))
        >>> with opt.averaged():
        ...     print(theta)
        [2.5]
        >>> theta
        array([2.])
        """
        return averages.averaged(self)
