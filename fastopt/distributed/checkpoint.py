"""Checkpoints of a sharded run: one file of the format of :func:`fastopt.save`, which all ranks write and read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.memory import described
from ..checkpoint.checkpoint import Checkpoint, check_arguments, explaining, is_npz, packed, unpacked
from ..checkpoint.checkpoint import load as load_in_one
from ..checkpoint.files import check_path, check_regular, checked_ending, naming, replace_file
from ..checkpoint.metadata import BLOCK, check_digest, checked_metadata, digest, without_digest
from ..checkpoint.packing import Packer
from ..checkpoint.safetensors import Entry, Layout, layout_of, read_header
from ..core.turns import Kind
from .blocks import Shares, even_cuts, move
from .meetings import NOTHING
from .pieces import Piece, in_c_order
from .ranks import Ranks
from .state import SavingOfShared, SharedState, state_of_pieces

#: Arrays with fewer bytes are read, others stay in the file, mapped, until they are used.
SMALLEST_MAPPED = 2**20


class PiecePacker(Packer):
    """A packer whose arrays are pieces."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def pack(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Piece):
            return {"array": self.add_array(value, path), "order": value.order}
        return super().pack(value, path)

    def copied(self, array: Any) -> Any:
        """Return an array that all ranks have as a piece: each has an equal part."""
        if isinstance(array, Piece):
            return array
        cuts = even_cuts({"": array.size}, {"": array.itemsize}, self.ranks.size)[""]
        begin, end = cuts[self.ranks.rank : self.ranks.rank + 2].tolist()
        elements = np.ascontiguousarray(array).reshape(-1)[begin:end] if end > begin else np.empty(0, array.dtype)
        return Piece(array.shape, array.dtype, "C", cuts, elements)


class SavingOfPieces(SavingOfShared):
    """See ``core/saving.py``; pieces stand for arrays."""

    def params(self) -> Any:
        opt, pieces = self.opt, self.opt.pieces
        parts = zip(opt.whole.names, opt.parts.parameters.arrays, strict=True)
        return opt.whole.structure([pieces.of_param(name, part) for name, part in parts])

    def check(self, what: str) -> None:
        super().check(f"fastopt.distributed.{what}")

    def state(self) -> dict[str, Any]:
        return state_of_pieces(self.opt)


def save(
    path: str | os.PathLike[str],
    opt: Any,
    *,
    params: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of a sharded optimizer; all ranks call it together.

    The file has the bytes that :func:`fastopt.save` writes in one process. Each rank writes its own slices, at their
    places in it; none has the whole state in memory. Whatever becomes of a rank, there is the old file or the new one.

    Parameters
    ----------
    path : path
        The file, in a folder that all ranks see: on several machines, of a file system that they share and on which all
        see what one has written, such as Lustre or GPFS. The path of rank 0 counts. ``.npz`` is refused.
    opt : Sharded
        The optimizer.
    params : array or structure of arrays, default None
        The parameters to save, the same on all ranks, such as ``opt.ema``. None: those of the optimizer.
    extra : dict, optional
        As for :func:`fastopt.save`; the same on all ranks.

    Raises
    ------
    TypeError, ValueError
        As :func:`fastopt.save`; if ``extra`` differs between ranks. The old file is unchanged.
    OSError
        If a rank can't write. The old file is unchanged, and no temporary one is left.
    RankError
        If one of these was raised on another rank.
    RuntimeError
        If a step is running around this call.

    Notes
    -----
    Nothing is copied, so a step in another thread is refused until the file is written. The ranks write a temporary
    file in the same folder, and wait until it is on disk; then rank 0 moves it to the path, as :func:`fastopt.save`
    does. Each rank makes the digests of its own elements. Every rank gets those of all, in parts of 16 MB: 32 bytes for
    each 4,096 elements.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, pathlib
    >>> from mpi4py import MPI
    >>> from fastopt.distributed import Sharded, load, save
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> opt = Sharded(fastopt.AdamW, {"W": np.ones(2)}, MPI.COMM_SELF)
    >>> info = opt.step({"W": np.ones(2)})
    >>> save(path, opt, extra={"epoch": 3})
    >>> fastopt.load(path)
    Checkpoint(params=<1 array, 2 elements>, optimizer=<AdamW after 1 step>, extra=<epoch>)
    >>> load(path, MPI.COMM_SELF).restore(opt)
    LoadResult(missing=[], unexpected=[])
    """
    if not isinstance(opt, SharedState):
        raise TypeError(f"save: expected a Sharded, got one {described(opt)}; fastopt.save writes what one process has")
    with opt.turn("save"):
        opt.parts.turns.run("save", Kind.READER, save_together, path, opt, params, extra)


def save_together(path: Any, opt: SharedState, params: Any, extra: Mapping[str, Any] | None) -> None:
    """Write a checkpoint; see :func:`save`."""
    ranks = opt.ranks
    packer, content = opt.checked(partial(planned, path, opt, params, extra))
    pieces: dict[str, Piece] = packer.arrays
    check_alike(ranks, content, pieces, {} if extra is None else extra)
    pieces = with_block_cuts(ranks, pieces)
    shares = Shares(ranks, {key: its.cuts for key, its in pieces.items()}, lambda key: pieces[key].elements)
    metadata = without_digest(content, len(pieces))
    metadata["digest"] = shares.digest(metadata, pieces)
    write_together(ranks, path, pieces, layout_of(pieces, metadata))


def planned(
    path: Any, opt: SharedState, params: Any, extra: Mapping[str, Any] | None
) -> tuple[PiecePacker, dict[str, Any]]:
    """Check the arguments, and return the content of a checkpoint with a packer that has this rank's pieces."""
    check_arguments(path, opt, params, extra)
    if checked_ending(path) == ".npz":
        raise ValueError(
            f"save: {os.fspath(path)!r}: only one process can write a .npz file; give a path that ends in "
            "'.safetensors'"
        )
    packer = PiecePacker(opt.ranks)
    content = packed(packer, SavingOfPieces(opt), params, extra)
    without_digest(content, len(packer.arrays))  # checks the bounds
    return packer, content


def check_alike(
    ranks: Ranks, content: Mapping[str, Any], pieces: Mapping[str, Piece], extra: Mapping[str, Any]
) -> None:
    """Raise unless all ranks save the same, except for the values of the arrays that ``params`` gave."""
    of_extra = {f"extra[{key!r}]": json.dumps(value) for key, value in content["extra"]["dict"]}
    arrays = {f"extra: {key}": value for key, value in extra.items() if isinstance(value, np.ndarray)}
    forms = [(key, piece.dtype.name, piece.shape) for key, piece in pieces.items()]
    others = {"params": content["params"], "the state": content["optimizer"], "the arrays": forms}
    ranks.agree({**of_extra, **arrays, **{name: digest_of_json(its) for name, its in others.items()}})


def digest_of_json(value: Any) -> str:
    """Return a text that is equal for equal values, and short."""
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def with_block_cuts(ranks: Ranks, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """Return the pieces in C order, with cuts that are multiples of BLOCK: scales of 8-bit slots are moved."""
    found, requests = {}, []
    for key, piece in pieces.items():
        elements, cuts = in_c_order(piece), piece.cuts
        goal = np.where(cuts < cuts[-1], cuts // BLOCK * BLOCK, cuts)
        if (goal != cuts).any():
            elements, request = move(ranks, elements, cuts, goal)
            requests.append(request)
        found[key] = piece._replace(cuts=goal, elements=elements, order="C")
    ranks.wait(requests)
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


def write_together(ranks: Ranks, path: Any, pieces: Mapping[str, Piece], layout: Layout) -> None:
    """Replace a file by one with this layout, of which each rank has pieces."""
    if ranks.rank:
        ranks.meet(None, NOTHING)
        temporary = ranks.all_gather_objects(None)[0]
        ranks.meet(error_of(partial(write_into, path, temporary, ranks.rank, pieces, layout)), NOTHING)
        ranks.meet(None, NOTHING)
        return
    is_known = False  # to the other ranks

    def write(file: IO[bytes]) -> None:
        nonlocal is_known
        ranks.meet(None, NOTHING)
        ranks.all_gather_objects(os.path.abspath(file.name))
        error = error_of(partial(write_first, file, pieces, layout))
        is_known = True
        ranks.meet(error, NOTHING)
        is_known = False

    error = error_of(partial(replace_file, path, write))
    if is_known and error is not None:
        raise error
    ranks.meet(error, NOTHING)


def error_of(call: Callable[[], None]) -> Exception | None:
    """Make a call, and return the error that it raises."""
    try:
        call()
    except Exception as error:
        return error
    return None


def write_first(file: IO[bytes], pieces: Mapping[str, Piece], layout: Layout) -> None:
    """Write the header and the pieces of rank 0."""
    file.write(layout.header)
    write_pieces(file, 0, pieces, layout)


def write_into(path: Any, temporary: str, rank: int, pieces: Mapping[str, Piece], layout: Layout) -> None:
    """Write the pieces of this rank into the temporary file that rank 0 has made, to disk."""
    with naming(path):
        try:
            file = open(temporary, "r+b")  # noqa: SIM115  # the next line closes it
        except FileNotFoundError as error:
            advice = "this rank does not see the file that rank 0 has made here; give a path in a folder that all share"
            raise FileNotFoundError(error.errno, advice) from error
        with file:
            write_pieces(file, rank, pieces, layout)
            os.fsync(file.fileno())


def write_pieces(file: IO[bytes], rank: int, pieces: Mapping[str, Piece], layout: Layout) -> None:
    """Write the pieces of this rank to their places."""
    for key, entry in layout.entries.items():
        piece = pieces[key]
        if piece.elements.size:
            begin = int(piece.cuts[rank]) * piece.dtype.itemsize
            file.seek(len(layout.header) + entry.begin + begin)
            file.write(piece.elements.view(np.uint8).data)
    file.flush()


# --- reading ----------------------------------------------------------------------------------------------------------


class Mapped(NamedTuple):
    """A file whose arrays are read when they are used."""

    entries: dict[str, Entry]
    arrays: dict[str, Array]
    metadata: Mapping[str, str]


def load(path: str | os.PathLike[str], comm: Any) -> Checkpoint:
    """Open a checkpoint on all ranks, and check together that no bit of it has changed.

    Each rank reads an equal part for the check. Then ``restore`` reads what it takes: the parameters, and this rank's
    slices of the state.

    Parameters
    ----------
    path : path
        A file that :func:`save` or :func:`fastopt.save` wrote, with any number of ranks.
    comm : mpi4py.MPI.Intracomm
        The communicator of the ranks that call this together.

    Returns
    -------
    Checkpoint
        As from :func:`fastopt.load`. Arrays of a megabyte or more are read-only and stay in the file, mapped, until
        they are used. ``checkpoint.restore(opt)`` takes a Sharded, on all ranks together, as well as an optimizer of
        one process.

    Raises
    ------
    CheckpointError, ImportError, OSError
        As :func:`fastopt.load`, on every rank, if one was raised on any of them.

    Notes
    -----
    Nobody may write into the file meanwhile (``save`` replaces it, and the mapped one stays what it was). A ``.npz``
    file is read as a whole by every rank; so is one of version 1 by rank 0, for the check.
    """
    ranks = Ranks(comm)
    ranks.call = "load"
    ranks.meet(None, NOTHING)  # the others may make a Sharded
    mapped = together(ranks, partial(map_file, path))
    if mapped is None:
        checkpoint: Checkpoint = together(ranks, partial(load_in_one, path))
        return checkpoint
    found = digest_together(ranks, mapped)
    with explaining(path):
        check_digest(mapped.metadata, found)
        arrays = {
            key: np.array(array) if array.nbytes < SMALLEST_MAPPED else array for key, array in mapped.arrays.items()
        }
        return unpacked(mapped.metadata["content"], arrays)


def map_file(path: str | os.PathLike[str]) -> Mapped | None:
    """Return a file after a check of its header; None for one of NumPy's format."""
    check_path(path, "load(path, comm) returns a Checkpoint, and its restore(opt) loads it into an optimizer")
    check_regular(path)
    with open(path, "rb") as file, explaining(path):
        if is_npz(file):
            return None
        begin, entries, metadata = read_header(file)
        content = np.memmap(file, np.uint8, "r")
        arrays = {
            key: content[begin + its.begin : begin + its.end].view(its.dtype).reshape(its.shape)
            for key, its in entries.items()
        }
        return Mapped(entries, arrays, checked_metadata(metadata))


def digest_together(ranks: Ranks, mapped: Mapped) -> str:
    """Return the digest of a file, on every rank."""
    entries, arrays, metadata = mapped
    if metadata["format_version"] == "1":
        return str(ranks.all_gather_objects("" if ranks.rank else digest(metadata, arrays))[0])
    sizes = {key: arrays[key].size for key in entries}
    cuts = even_cuts(sizes, {key: its.dtype.itemsize for key, its in entries.items()}, ranks.size)

    def own(key: str) -> npt.NDArray[Any]:
        begin, end = cuts[key][ranks.rank : ranks.rank + 2]
        return np.asarray(arrays[key].reshape(-1)[begin:end])

    return Shares(ranks, cuts, own).digest(metadata, entries)


def together(ranks: Ranks, call: Callable[[], Any]) -> Any:
    """Return what a call returns. If it raises on any rank, every rank raises: its own error, or that of the first."""
    found, own = None, None
    try:
        found = call()
    except Exception as raised:
        own = raised
    errors = [error for error in (own, *ranks.all_gather_objects(own)) if error is not None]
    if errors:
        raise errors[0]
    return found
