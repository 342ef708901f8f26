"""Saving and loading a run: the public names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import NoneType
from typing import IO, Any, NamedTuple

from ..arrays.dtypes import Array
from ..arrays.memory import described
from ..arrays.structure import branch_of
from ..arrays.texts import amount_in, number_of
from ..backends.interrupts import uninterrupted
from ..core import state_dict
from ..core.results import LoadResult
from ..core.saving import Load, Resumable, Saving
from ..core.turns import Kind
from .files import check_path, check_regular, checked_ending, replace_file
from .metadata import CheckpointError, check_metadata, metadata_of
from .npz import read_npz, write_npz
from .packing import Packer
from .safetensors import read_safetensors, write_safetensors
from .unpacking import parse, unpack


class Checkpoint(NamedTuple):
    """The content of a checkpoint file.

    Attributes
    ----------
    params : array or structure of arrays
        In the saved structure.
    optimizer : dict or None
        For :meth:`fastopt.Optimizer.load_state_dict`.
    extra : dict
        The ``extra`` of :func:`save`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> fastopt.Checkpoint({"W": np.ones(2)}, None, {"epoch": 3}).extra
    {'epoch': 3}
    """

    params: Any
    optimizer: dict[str, Any] | None
    extra: dict[str, Any]

    def __repr__(self) -> str:
        of = self.optimizer
        params = "None" if self.params is None else f"<{amount_in(self.params)}>"
        optimizer = (
            "None" if of is None else f"<{of.get('optimizer')} after {number_of(of.get('step_count', 0), 'step')}>"
        )
        return f"Checkpoint(params={params}, optimizer={optimizer}, extra=<{', '.join(map(str, self.extra))}>)"

    def restore(
        self, opt: Resumable, strict: bool = True, *, state: bool = True, options: bool | None = None
    ) -> LoadResult:
        """Write the saved parameters into those of an optimizer, in place, and load the saved state.

        Parameters
        ----------
        opt : Optimizer or LBFGS
            Of the saved class; of any class with ``state=False``.
        strict : bool, default True
            Whether all names, shapes and dtypes must match. False: load the arrays that fit, such as the lower layers
            of a model with a new head.
        state : bool, default True
            False: take the parameters only. The optimizer's slots, averages, step counts and options stay: a new one
            begins at step 0, with its own warm-up.
        options : bool or None, default None
            Whether to load the options; see :meth:`fastopt.Optimizer.load_state_dict`. None: as ``state``. False: the
            run goes on with the options that the optimizer was built with. True with ``state=False``: take the
            parameters and the options.

        Returns
        -------
        LoadResult
            As from :meth:`fastopt.Optimizer.load_state_dict`; parameters are called ``"params.<name>"``. Its
            ``options`` says which options the file changed.

        Raises
        ------
        TypeError, ValueError
            As from :meth:`fastopt.Optimizer.load_state_dict`, also for parameters; and inside
            :meth:`fastopt.Optimizer.averaged`. Nothing is changed then.
        RuntimeError
            If another change of the optimizer is running, as for :meth:`fastopt.Optimizer.step`.

        Notes
        -----
        A parameter that comes without its state is taken over as :meth:`fastopt.Optimizer.reload_params` says.

        Examples
        --------
        >>> import numpy as np, fastopt, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
        >>> opt = fastopt.Adam({"W": np.ones(2)})
        >>> info = opt.step({"W": np.ones(2)})
        >>> fastopt.save(path, opt)
        >>> params = {"W": np.zeros(2)}
        >>> other = fastopt.Adam(params)
        >>> fastopt.load(path).restore(other)
        LoadResult(missing=[], unexpected=[])
        >>> params["W"], other.step_count
        (array([0.999, 0.999]), 1)

        Fine-tuning takes the parameters only:

        >>> tuned = fastopt.SGD(params, lr=fastopt.schedules.warmup_constant(1e-4, warmup=100))
        >>> fastopt.load(path).restore(tuned, state=False).options, tuned.step_count
        ({}, 0)
        """
        if not isinstance(opt, Resumable):
            raise TypeError(
                f"restore: expected the optimizer whose parameters to write, got one {described(opt)}; give it: "
                "checkpoint.restore(opt), or with state=False to take the parameters alone. Without an optimizer the "
                "saved arrays are in checkpoint.params"
            )
        with_options = state if options is None else options
        return opt.parts.turns.run("restore", Kind.CHANGE, restore, opt, self, strict, state, with_options)


def restore(opt: Resumable, checkpoint: Checkpoint, strict: bool, with_state: bool, with_options: bool) -> LoadResult:
    """Load a checkpoint into an optimizer; see :meth:`Checkpoint.restore`."""
    parts, saving = opt.parts, opt.saving()

    def plan() -> tuple[tuple[dict[str, tuple[Array, Array]], Load], LoadResult]:
        saving.check("restore")
        misfits, pairs = state_dict.plan_params(saving.parameters, checkpoint.params)
        saved = checkpoint.optimizer if with_state or with_options else None
        load = saving.plan(saved, strict, misfits, with_state, with_options)
        return (pairs, load), load.result

    (pairs, load), result = saving.together(plan)

    def write() -> None:
        for array, value in pairs.values():
            parts.backend.ops.write(array, value)
        load.carry_out(pairs)

    uninterrupted(write)
    return result


def save(
    path: str | os.PathLike[str],
    opt: Resumable | None = None,
    *,
    params: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. A process that is killed at any moment leaves the old file or the new one, both complete.

    Parameters
    ----------
    path : path
        The file; a link counts as the file that it leads to, which may be a new one. A path that ends in ``.npz``
        selects NumPy's format, which has no bfloat16 or 8-bit floats. One that ends in ``.safetensors``, or has no
        ending, selects safetensors.
    opt : Optimizer, LBFGS or None, default None
        The optimizer whose state is saved.
    params : array or structure of arrays, default None
        The parameters to save. None: the parameters of the optimizer.
    extra : dict, optional
        Anything made of None, bool, int, float, str, list, tuple, dict, NumPy arrays and NumPy's random generators,
        such as the ``state_dict()`` of an lr_scheduler or of an EarlyStopping, the generator that shuffles the data,
        or the epoch.

    Raises
    ------
    TypeError
        If a checkpoint can't hold one of the values, ``extra`` is not a dict, or the arguments change places.
    ValueError
        If there is nothing to save, no array in ``params``, or values are nested more than 100 deep, as those that
        contain themselves are; if the path has another ending; or if ``opt`` is inside
        :meth:`fastopt.Optimizer.averaged` or :meth:`fastopt.SGD.lookahead`: the run would go on from these values.
        (``save(path, params=opt.ema)`` saves the averages alone.) The old file is unchanged.
    RuntimeError
        If a step of ``opt`` is running around this call. A signal handler that should save sets a flag; save after the
        step.
    OSError
        If the file can't be written, with ``path`` as its ``filename``; or if there is something that is no file, such
        as a folder, a pipe or a device. The old file is unchanged.

    Notes
    -----
    The data is written to a temporary file in the same folder, which replaces the old file once it is on disk. If the
    process is killed meanwhile, the temporary file stays behind: ``.fastopt-<16 hex digits>.tmp``, which only its owner
    can read. The new file has the rights of the old one; a group or an access list that this process can't set gets the
    rights of all others.

    Other threads may step and save meanwhile: the file is of one step of ``opt``. It is waited for, everything is
    copied, and the next step may begin; then the file is written. Without ``opt`` no step is waited for: the file
    loads, but the step of another thread may have changed a part of ``params`` already.

    The copies take as much memory as the file has bytes, twice that for arrays on a GPU. An ``.npz`` file takes up to
    17 MiB more.

    Nothing is pickled. A schedule is saved as its name and arguments. A function is saved as its name only, and loading
    keeps the function of the optimizer.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
    >>> opt = fastopt.SGD({"W": np.ones(2)})
    >>> fastopt.save(path, opt, extra={"epoch": 3, "rng": np.random.default_rng(0)})
    >>> fastopt.load(path).extra["epoch"]
    3
    """
    check_arguments(path, opt, params, extra)
    packer = Packer()
    if opt is None:
        content = packed(packer, None, params, extra)
    else:
        content = opt.parts.turns.run("save", Kind.READER, packed, packer, opt.saving(), params, extra)
    metadata = metadata_of(content, packer.arrays)
    write = write_npz if checked_ending(path) == ".npz" else write_safetensors
    replace_file(path, lambda file: write(file, packer.arrays, metadata))


def check_arguments(path: Any, opt: Any, params: Any, extra: Any) -> None:
    """Raise if these are no arguments of :func:`save`."""
    is_opt = isinstance(path, Resumable)
    check_path(path, "the path comes first: save(path, opt)" if is_opt else "a file is replaced by its path")
    if not isinstance(opt, (Resumable, NoneType)):
        raise TypeError(
            f"save: expected an optimizer, got one {described(opt)}; give parameters as params=, and all else in extra="
        )
    if opt is None and params is None and extra is None:
        raise ValueError("save: there is nothing to save; give an optimizer, params= or extra=")
    if params is not None and all(array is None for array in branch_of(params).arrays()):
        raise ValueError(f"params={params!r:.80}: expected an array or a structure of arrays, got none; leave it out")
    if not isinstance(extra, (Mapping, NoneType)):
        raise TypeError(f"extra is {described(extra)}; expected a dict: extra={{'name': value}}")


def packed(packer: Packer, saving: Saving | None, params: Any, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the content of a checkpoint as JSON has it; the packer gets its arrays."""
    if saving is not None:
        saving.check("save")
        params = saving.params() if params is None else params
    return {
        "params": packer.pack(params, ("params",)),
        "optimizer": packer.pack(None if saving is None else saving.state(), ()),
        "extra": packer.pack({} if extra is None else dict(extra), ("extra",)),
    }


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, and check that no bit of it has changed.

    Parameters
    ----------
    path : path
        A file that :func:`save` wrote, in either format.

    Returns
    -------
    Checkpoint
        ``params`` in the saved structure, ``optimizer`` for ``load_state_dict``, and ``extra``.

    Raises
    ------
    CheckpointError
        A ValueError, if the file is not a complete checkpoint (truncated, changed in a single bit, or hostile), or has
        a newer format.
    ImportError
        If the file has bfloat16 or 8-bit floats and ml_dtypes is missing.
    OSError
        If the file is missing, can't be read, or is no file but a folder, a pipe or a device.

    Notes
    -----
    This takes the memory of the arrays. For an ``.npz`` file, that of the largest one is added while it is read.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
    >>> fastopt.save(path, params=[np.ones(2), {"b": np.zeros(1)}])
    >>> fastopt.load(path).params
    [array([1., 1.]), {'b': array([0.])}]
    >>> size = path.write_bytes(path.read_bytes()[:-1])
    >>> fastopt.load(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fastopt.checkpoint.CheckpointError: ...run.npz: it is not a complete checkpoint: ...
    """
    check_path(path, "load(path) returns a Checkpoint, and load(path).restore(opt) loads it into an optimizer")
    check_regular(path)
    with open(path, "rb") as file, explaining(path):
        arrays, metadata = read_npz(file) if is_npz(file) else read_safetensors(file)
        check_metadata(metadata, arrays)
        return unpacked(metadata["content"], arrays)


def is_npz(file: IO[bytes]) -> bool:
    """Return whether a file, which is at its beginning, has NumPy's format."""
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def unpacked(text: str, arrays: dict[str, Array]) -> Checkpoint:
    """Return the checkpoint that has this content and these arrays, which are taken out of ``arrays``."""
    content = parse(text, len(arrays))
    if not isinstance(content, dict) or set(content) != set(Checkpoint._fields):
        raise ValueError(f"its content is not a dict of {list(Checkpoint._fields)}")
    checkpoint = Checkpoint(**{name: unpack(content[name], arrays) for name in Checkpoint._fields})
    if arrays:
        raise ValueError(f"nothing refers to the arrays {list(arrays)!r:.200}")
    if not isinstance(checkpoint.extra, dict) or not isinstance(checkpoint.optimizer, (dict, NoneType)):
        raise ValueError("its 'extra' is not a dict, or its 'optimizer' neither a dict nor None")
    return checkpoint


@contextmanager
def explaining(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors about the content of a file name its path, and say what to do."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{os.fspath(path)}: it is not a complete checkpoint: {error!s:.300}; use an earlier one"
        ) from error
