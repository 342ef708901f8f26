"""The cost of a sharded step on any number of ranks, computed and not measured: bytes, messages, seconds, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array, compute_dtype
from ..arrays.memory import described
from ..arrays.structure import branch_of
from ..backends.table import CHUNK
from ..core.optimizer import Optimizer
from ..core.state_size import sample_of, state_bytes
from ..options.ranges import NON_NEGATIVE, POSITIVE, Allowed, Choice, Range, check
from . import slices
from .exchange import LANES
from .layout import Bucket, Form, bucket_of_each, buckets_of
from .meetings import numbers_sent
from .parameters import LANES as LANES_OF_GATHER
from .payload import can_carry

#: Bytes of a collective up to which MPI libraries double the data that a rank has with each message (MPICH's limit);
#: above it each rank passes on one slice after the other, in a ring.
SHORT = 1 << 19
#: Bytes of a chunk's sum and of its count of elements that are not finite.
OF_CHUNK = 16


class Memory(NamedTuple):
    """Bytes of memory on one rank.

    Attributes
    ----------
    parameters, gradients : int
        The arrays of the caller, whole on every rank.
    state : int
        Slots, masters, averages and counts, as ``opt.state_bytes`` has them.
    buffers : int
        Sums of gradients, and at most so much for what is on its way.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.distributed import cost
    >>> cost(1 << 20, fastopt.AdamW, 4).sharded.memory.state == 2 * 4 * (1 << 18) + 8
    True
    """

    parameters: int
    gradients: int
    state: int
    buffers: int

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(self)


class Seconds(NamedTuple):
    """Seconds of one step on one rank, by part.

    Attributes
    ----------
    exchange : float
        The slices of gradients on their way; with ``opt.add`` they can be hidden behind the backward pass.
    sums : float
        Gradients packed, and added in rank order.
    step : float
        The update of the slice, and the read of its gradients before it if a norm is asked for.
    gather : float
        The new parameters on their way, and those of small arrays unpacked.
    meeting : float
        The header before the step, and the sums of chunks for norms.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.distributed import cost
    >>> seconds = cost(1 << 20, fastopt.AdamW, 4, bandwidth=1e9, latency=0.0).sharded.seconds
    >>> seconds.gather == 3 * (1 << 20) / 1e9
    True
    """

    exchange: float
    sums: float
    step: float
    gather: float
    meeting: float

    @property
    def total(self) -> float:
        """The sum of all: no part hides behind another."""
        return sum(self)


class StepCost(NamedTuple):
    """The cost of one step on one rank.

    Attributes
    ----------
    bytes_sent, bytes_received : int
        Payload that crosses the rank's border in either direction.
    messages : int
        Messages that the rank sends one after the other: each waits for one latency.
    seconds : Seconds
    memory : Memory

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.distributed import cost
    >>> each = cost(1 << 20, fastopt.AdamW, 4).sharded
    >>> each.messages, each.memory.total > each.memory.state
    (8, True)
    """

    bytes_sent: int
    bytes_received: int
    messages: int
    seconds: Seconds
    memory: Memory


class Cost(NamedTuple):
    """The cost of one step, by two ways of making it.

    Attributes
    ----------
    sharded : StepCost
        By :class:`fastopt.distributed.Sharded`.
    all_reduce : StepCost
        By the usual home-made loop: every rank adds the gradients of all by MPI_Allreduce, and makes the whole step.

    Examples
    --------
    >>> import fastopt
    >>> from fastopt.distributed import cost
    >>> found = cost(1 << 20, fastopt.AdamW, 4)
    >>> found.all_reduce.memory.state // found.sharded.memory.state
    3
    """

    sharded: StepCost
    all_reduce: StepCost


#: The values that the arguments of :func:`cost` may have.
ALLOWED: Mapping[str, Allowed] = {
    "ranks": Range(1, whole=True),
    "rank": Range(0, whole=True, optional=True),
    "bandwidth": POSITIVE,
    "latency": NON_NEGATIVE,
    "memory_bandwidth": POSITIVE,
    "wire_dtype": Choice(None, "float16", "bfloat16"),
    "micro_batches": Range(1, whole=True),
    "bucket_bytes": Range(1, whole=True),
}


def cost(
    params: Any,
    optimizer: type[Optimizer],
    ranks: int,
    *,
    rank: int | None = None,
    bandwidth: float = 12.5e9,
    latency: float = 5e-6,
    memory_bandwidth: float = 2e10,
    wire_dtype: str | None = None,
    micro_batches: int = 1,
    bucket_bytes: int = 2**25,
    **options: Any,
) -> Cost:
    """Return the cost of a step of :class:`fastopt.distributed.Sharded`, and of the home-made loop in its place.

    Nothing is measured or allocated, and MPI is not needed. With n ranks, latency a (seconds), bandwidth b and memory
    bandwidth m (bytes a second), K exchanges of G bytes of gradients in all, P bytes of parameters in B buckets, and a
    rank that owns the nth part, the parts of a step take::

        exchange    K (n - 1) a + (n - 1)/n G / b
        sums        (small arrays and those converted, of others: read, written; n slices read, one written) / m
        step        (gradients read, parameters and state read and written: of the slice) / m
        gather      B M a + (n - 1)/n P / b + (small arrays: read, written) / m,
                    M = log2(n) for buckets up to 512 KiB, n - 1 above
        meeting     log2(n) a, but none where all gradients are one exchange of up to 64 KiB: it brings the header;
                    with a norm M a + (16 bytes for every 4,096 elements) / b

    and those of the home-made loop::

        exchange    B 2 log2(n) a + 2 (n - 1)/n G / b
        sums        (two read, one written of (n - 1)/n G) / m
        step        (gradients read, parameters and state read and written: of everything) / m

    Parameters
    ----------
    params : array, int, or structure of these
        The parameters, in the form in which :class:`Sharded` gets them. Only their shapes and dtypes are read, so
        ``np.broadcast_to(np.float32(0), (50_000, 768))`` will do. A whole number stands for a float32 vector of this
        many elements.
    optimizer : class
        An optimizer of fastopt, such as :class:`fastopt.AdamW`.
    ranks : int
        At least 1.
    rank : int, optional
        The rank whose cost is wanted. Default: the one that owns the most.
    bandwidth : float, default 12.5e9
        Bytes per second that a rank sends, and at the same time receives: above 0. The default is 100 Gbit/s.
    latency : float, default 5e-6
        Seconds that a message without content takes: at least 0.
    memory_bandwidth : float, default 2e10
        Bytes per second that a rank reads and writes while all ranks of its machine do: above 0.
    wire_dtype : {"float16", "bfloat16"}, optional
        As for :class:`Sharded`. Default: the dtype in which the parameters are computed.
    micro_batches : int, default 1
        A rank's gradients in each step with ``exact=True``: each is sent. The home-made loop adds its own, and sends
        the sum.
    bucket_bytes : int, default 2**25
        As for :class:`Sharded`: at least 1.
    **options
        Those of the optimizer.

    Returns
    -------
    Cost

    Raises
    ------
    TypeError, ValueError
        For arguments out of their ranges, and as the optimizer raises for its options.

    Notes
    -----
    Bytes and memory are exact, but for buffers, which may be smaller; seconds are a model. It assumes links that send
    and receive at once, without contention; algorithms as those of MPICH (pairwise exchange, doubling and rings,
    Rabenseifner's all-reduce); updates that are bound by memory; and no part that hides behind another. Python's own
    time, for each step and each bucket, is left out. Gradients have the dtypes of their parameters. Optimizers that
    need numbers of whole arrays read them more often than counted here.

    S. Rajbhandari and others, *ZeRO: memory optimizations toward training trillion parameter models* (2020); R. Thakur,
    R. Rabenseifner and W. Gropp, *Optimization of collective communication operations in MPICH* (2005).

    Examples
    --------
    GPT-2 small on 8 ranks: bytes sent, and the memory of Adam's state, sharded and not.

    >>> import fastopt
    >>> from fastopt.distributed import cost
    >>> sharded, all_reduce = cost(124_000_000, fastopt.AdamW, 8)
    >>> round(sharded.bytes_sent / 1e6), round(all_reduce.bytes_sent / 1e6)
    (868, 868)
    >>> round(sharded.memory.state / 1e6), round(all_reduce.memory.state / 1e6)
    (124, 992)
    >>> sharded.seconds.step < all_reduce.seconds.step / 7
    True
    """
    arguments = locals()
    for name, allowed in ALLOWED.items():
        check(name, arguments[name], allowed)
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"optimizer: expected a class of fastopt, such as fastopt.AdamW, got {described(optimizer)}")
    if rank is not None and rank >= ranks:
        raise ValueError(f"rank={rank}: expected a rank from 0 to {ranks - 1}, since ranks={ranks}")
    branch = branch_of(params)
    likes = [stand_in(name, value) for name, value in zip(branch.names(), branch.arrays(), strict=True)]
    if not likes:
        raise ValueError("params: there is no array in this structure; give at least one")
    alone = sample_of(optimizer, likes, options)
    are_cut = cut_arrays(alone, list(branch.arrays()), likes, ranks)
    forms = [Form(like.size, like.dtype, is_cut) for like, is_cut in zip(likes, are_cut, strict=True)]
    buckets = buckets_of(forms, ranks, bucket_bytes)
    if rank is None:
        rank = most_loaded(buckets, ranks)
    network = Network(ranks, bandwidth, latency, memory_bandwidth)
    wire = None if wire_dtype is None else 2
    bounds = [bucket.slice_of(i, rank) for i, bucket in bucket_of_each(buckets).items()]
    vectors = [np.broadcast_to(np.zeros((), like.dtype), (like.size,)) for like in likes]
    parts = list(map(slices.part_of, likes, vectors, bounds, are_cut))
    sample = sample_of(optimizer, parts, options)
    return Cost(
        sharded_cost(sample, likes, parts, buckets, rank, network, wire, micro_batches, bucket_bytes),
        all_reduce_cost(alone, likes, buckets, network, wire),
    )


class Lanes:
    """The memory of exchanges that are on their way at a time, at most so many: each has room for the largest."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.uses, self.to_send, self.to_receive = 0, 0, 0

    def use(self, times: int, to_send: int, to_receive: int) -> None:
        self.uses += times
        self.to_send, self.to_receive = max(self.to_send, to_send), max(self.to_receive, to_receive)

    @property
    def nbytes(self) -> int:
        return min(self.most, self.uses) * (self.to_send + self.to_receive)


class Network(NamedTuple):
    """The ranks, and the speed of what is between and below them."""

    ranks: int
    bandwidth: float
    latency: float
    memory_bandwidth: float

    @property
    def doublings(self) -> int:
        """How many messages reach all ranks, if each passes on all that it has."""
        return (self.ranks - 1).bit_length()

    def gather_messages(self, size: int) -> int:
        """Return how many messages a rank sends in an all-gather of this many bytes in all."""
        return self.doublings if size <= SHORT else self.ranks - 1


def stand_in(name: str, value: Any) -> Array:
    """Return an array with the shape and dtype of a parameter, which takes no memory."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"params: {name!r} is {value}; expected a number of elements of at least 0")
        return np.broadcast_to(np.float32(0), (value,))
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"params: {name!r} is {described(value)}; expected an array or a number of elements")
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def cut_arrays(alone: Optimizer, values: Sequence[Any], likes: Sequence[Array], ranks: int) -> list[bool]:
    """Return which arrays are cut. Those that were given as a number, or as views of one element, are contiguous."""
    takes_slices = ranks > 1 and slices.takes_slices(alone)
    are_cut = []
    for value, like, k in zip(values, likes, alone.parts.parameters.group_of.tolist(), strict=True):
        is_contiguous = not isinstance(value, np.ndarray) or value.flags.c_contiguous or 0 in value.strides
        are_cut.append(slices.can_cut(like.ndim, is_contiguous, alone.parts.groups.checked[k].values, takes_slices))
    return are_cut


def most_loaded(buckets: Sequence[Bucket], ranks: int) -> int:
    """Return the rank that owns the most bytes."""
    owned = np.zeros(ranks, np.int64)
    for bucket in buckets:
        owned += np.diff(bucket.cuts) * bucket.dtype.itemsize
    return int(owned.argmax())


def sharded_cost(
    sample: Optimizer,
    likes: Sequence[Array],
    parts: Sequence[Array],
    buckets: Sequence[Bucket],
    rank: int,
    network: Network,
    wire: int | None,
    micro_batches: int,
    bucket_bytes: int,
) -> StepCost:
    """Return the cost of a sharded step on a rank that owns these parts.

    ``sample`` is an optimizer like its own; ``wire`` has the bytes of an element on the wire, if they were chosen.
    """
    n, latency = network.ranks, network.latency
    sent = received = messages = moved = added = copied = held_by_sums = 0
    exchange = gather = 0.0
    lanes, vectors = Lanes(LANES), Lanes(LANES_OF_GATHER)
    for bucket in buckets:
        size, own, item = bucket.size, bucket.counts[rank], bucket.dtype.itemsize
        is_packed, computed = len(bucket.numbers) > 1, compute_dtype(bucket.dtype).itemsize
        w = computed if wire is None else wire
        length = bucket.piece_length(size if is_packed else bucket_bytes // item)
        exchanges = micro_batches * -(-max(bucket.counts) // max(length, 1))
        is_converted = is_packed or w != item
        largest = sum(min(its, length) for its in bucket.counts) - min(own, length)
        lanes.use(exchanges, largest * w if is_converted else 0, (n - 1) * min(own, length) * w)
        out, into = micro_batches * (size - own) * w, micro_batches * (n - 1) * own * w
        exchange += exchanges * (n - 1) * latency + max(out, into) / network.bandwidth
        added += (item + w) * (size - own) * micro_batches * is_converted
        added += (item + (n - 1) * w) * own * micro_batches
        # Sums of micro-batches are read again, but for the first.
        added += computed * own * (2 * micro_batches - 1)
        if n > 1:
            new = (size - own) * item
            hops = network.gather_messages(size * item)
            gather += hops * latency + new / network.bandwidth
            copied += 2 * size * item * is_packed
            vectors.use(is_packed, size * item * is_packed, 0)
            sent += out + (n - 1) * own * item
            received += into + new
            messages += exchanges * (n - 1) + hops
        held_by_sums += own * computed
        moved += own * (2 * item + computed)
    # All cuts are between chunks.
    chunks, own_chunks = (sum(-(-each.size // CHUNK) for each in arrays) for arrays in (likes, parts))
    state = sum(state_bytes(sample, parts))
    moved += 2 * state
    header = 8 * numbers_sent(len(likes))
    sent, received = sent + (n - 1) * header, received + (n - 1) * header
    wires = [compute_dtype(bucket.dtype).itemsize if wire is None else wire for bucket in buckets]
    has_message = micro_batches > 1 or not can_carry([b.size * w for b, w in zip(buckets, wires, strict=True)])
    meeting = has_message * network.doublings * latency + (n - 1) * header / network.bandwidth
    messages += has_message * network.doublings
    if reads_gradients(sample):
        moved += sum(each.size * compute_dtype(each.dtype).itemsize for each in parts)
        hops = network.gather_messages(chunks * OF_CHUNK)
        meeting += hops * latency + (chunks - own_chunks) * OF_CHUNK / network.bandwidth
        messages += hops
        sent += (n - 1) * own_chunks * OF_CHUNK
        received += (chunks - own_chunks) * OF_CHUNK
    if n == 1 and wire is None and micro_batches == 1:
        added = 0  # the step reads the gradients where they are
    held = sum(like.size * like.dtype.itemsize for like in likes)
    m = network.memory_bandwidth
    seconds = Seconds(exchange, added / m, moved / m, gather + copied / m, meeting)
    buffers = held_by_sums + lanes.nbytes + vectors.nbytes
    return StepCost(sent, received, messages, seconds, Memory(held, held, state, buffers))


def all_reduce_cost(
    alone: Optimizer, likes: Sequence[Array], buckets: Sequence[Bucket], network: Network, wire: int | None
) -> StepCost:
    """Return the cost of adding gradients by MPI_Allreduce, bucket by bucket, and a whole step on each rank."""
    n, m = network.ranks, network.memory_bandwidth
    state = sum(state_bytes(alone, likes))
    moved = 2 * state
    sent = messages = 0
    for bucket in buckets:
        item, computed = bucket.dtype.itemsize, compute_dtype(bucket.dtype).itemsize
        sent += 2 * (bucket.size - bucket.size // n) * (item if wire is None else wire)
        messages += 2 * network.doublings
        moved += bucket.size * (2 * item + computed * (2 if reads_gradients(alone) else 1))
    held = sum(like.size * like.dtype.itemsize for like in likes)
    exchange = messages * network.latency + sent / network.bandwidth
    seconds = Seconds(exchange, 1.5 * sent / m, moved / m, 0.0, 0.0)
    return StepCost(sent, sent, messages, seconds, Memory(held, held, state, 0))


def reads_gradients(sample: Optimizer) -> bool:
    """Return whether a step reads all gradients before it, for a norm or for elements that are not finite."""
    whole = sample.parts.whole
    is_clipped = whole.clip_global_norm is not None or whole.skip_above is not None
    return is_clipped or sample.parts.groups.clips_arrays or sample.parts.options.nonfinite != "propagate"
