"""Several processes that train one model together over MPI, each on its own lanes of the text.

A process is a rank, as in MPI, and computes on its own share of the rows of every block. What the
ranks tell each other are sums of gradients and of a few numbers, so that all of them take the same
step. `Ranks` speaks through a communicator of mpi4py, which is imported only where there are
several processes; `ONE_RANK` is a process on its own.

An error must not leave the others waiting for the one that has it. So what a rank computes by
itself stands within `together`, after which an error of one is an error of all; where the others
cannot learn of an error any more, all processes are ended.
"""

import math
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from hashlib import blake2b
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from .._launch import launched
from .._types import Array, Ids
from ..errors import InputError, RankError, TrainingDiverged, TrainingInterrupted
from ..layers.base import same
from ..models import Network
from ..models.saving import LAYERS
from ..reference.optimizer_steps import Rows
from ..threads import (
    ENVIRONMENT,
    available_cpus,
    default_num_threads,
    propose_num_threads,
    quota,
    usable_cpus,
)
from .optimizers import gradient_norm

T = TypeVar("T")

# Numbers that are summed at once: MPI's own memory for them stays in the cache. A whole gradient of
# 40 MB took 2.5 times as long as its parts, with MPICH as with Open MPI.
PART = 1 << 19
LINE = 64  # bytes of a line of the cache, at which gradients begin
SHOWN = 0.2  # seconds until mpiexec, which ends soon after, has shown what a rank said
LEAVING = 5.0  # seconds at most to wait for the others after an error
NUMBERS = 4  # that `together` sends: whether there was an error, and sums
WRITTEN = (InputError, OSError, RankError, TrainingDiverged, TrainingInterrupted)
"""Errors whose text is for users, and says enough without their kind."""
START_ALIKE = "start all ranks with the same"


class OneRank:
    """A process that trains alone.

    Attributes
    ----------
    rank, size : which one this is, from 0, and how many there are
    seconds, sent : time that went by in communication, and bytes of sums that were handed over
    """

    rank = 0
    size = 1
    seconds = 0.0
    sent = 0

    def share(self, rows: int) -> slice:
        """The rows of this rank, out of so many: as many for each, the first have one more."""
        return slice(0, rows)

    def together(self, *sums: Array) -> AbstractContextManager[None]:
        """Within it, each rank does something by itself; afterwards they all go on, or none.

        An error of one is an error of all: others raise a RankError that names it. The numbers of
        `sums`, float64 arrays of one axis, three numbers at most, become their sums over the ranks.
        """
        return nullcontext()

    def any(self, mine: bool) -> bool:
        """Whether it is so on one of the ranks."""
        return mine

    def of_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on all ranks; it is called there only."""
        return make()

    def require_same(self, fields: Mapping[str, str], advice: str = START_ALIKE) -> None:
        """Raise a RankError that names a rank and a field unless all ranks have the same."""

    def gathered(self, rows: Array, axis: int) -> Array:
        """Rows of all ranks one after the other along an axis, of the rows of each."""
        return rows

    def hold_gradients(self, model: Network) -> None:
        """Put the gradients of a model where they are summed with few calls.

        Raises InputError where one has gaps in memory.
        """

    def sum_gradients(self, model: Network, rows: Rows) -> tuple[Rows, float]:
        """Sum `grads` of a model over the ranks, in place -> rows and the `gradient_norm` of the
        sums.

        `rows`, as the optimizers take them, are those that may differ from zero on this rank.
        """
        return rows, gradient_norm(model.grads, rows=rows)

    def default_num_threads(self) -> int:
        """Threads for a rank that is told nothing: its share of the CPUs of its machine."""
        return default_num_threads()

    def places(self) -> list[str]:
        """Where the ranks run, a text for each machine."""
        return []

    def described(self, text: str) -> str:
        """The text of the error that ends this rank, with its number if it had it alone."""
        return text

    def leave(self) -> None:
        """After an error, wait until all have said what they say: mpiexec ends the others when one
        has left."""

    def or_none(self) -> AbstractContextManager[None]:
        """Within it, an error that the other ranks do not know of ends all processes."""
        return nullcontext()


ONE_RANK = OneRank()


class Ranks(OneRank):
    """The processes of a communicator of mpi4py."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._flat: WeakKeyDictionary[Network, _FlatGradients] = WeakKeyDictionary()
        self._depth = 0  # of `together` within `together`
        self._leaving = 0  # the depth to which all leave, since another rank is there already
        self._known: BaseException = RankError()  # the last error that all ranks know of
        self._failed: list[int] = []  # the ranks that had it
        propose_num_threads(self.default_num_threads())

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return as_ranks, (self._comm,)

    def share(self, rows: int) -> slice:
        each, more = divmod(rows, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    @contextmanager
    def together(self, *sums: Array) -> Iterator[None]:
        if self._leaving:
            raise self._known
        error: BaseException | None = None
        self._depth += 1
        depth = self._depth
        try:
            yield
        except BaseException as caught:
            if isinstance(caught, KeyboardInterrupt):  # anywhere, where others wait for a sum
                self._end_all(caught)
            error = caught
        finally:
            self._depth = depth - 1
        if self._leaving:
            if self._leaving == depth:
                self._leaving = 0
            raise self._known if error is None else error
        # a rank that fails is heard by the others wherever within they are: all send as much
        numbers, places = np.zeros(NUMBERS), np.cumsum([1, *map(len, sums)])
        numbers[0] = error is not None
        numbers[1 : places[-1]] = np.concatenate([np.empty(0), *sums])
        self._sum(numbers)
        if numbers[0]:
            self._raise(error, depth)
        for part, first in zip(sums, places[:-1], strict=True):
            part[...] = numbers[first : first + len(part)]

    def _raise(self, error: BaseException | None, depth: int) -> None:
        """Raise the error of this rank, or else one that names that of another.

        Where another rank had it in an outer `together`, it is out of the inner ones: they are left
        without a further sum, up to that.
        """
        text = None if error is None else _described(error)
        told = self._call(self._comm.allgather, (text, depth))
        failed = [rank for rank, (text, _) in enumerate(told) if text is not None]
        if not self._knows(error):  # on its way out, all have it
            self._failed = failed
        outermost = min(depth for _, depth in told)
        self._leaving = outermost if outermost < depth else 0
        if error is None:
            error = RankError(f"rank {failed[0]}: {told[failed[0]][0]}")
        self._known = error
        raise error

    def described(self, text: str) -> str:
        return f"rank {self.rank}: {text}" if self._failed == [self.rank] else text

    def any(self, mine: bool) -> bool:
        count = np.array([float(mine)])
        with self.together(count):
            pass
        return bool(count[0])

    def of_first(self, make: Callable[[], T]) -> T:
        made: T | None = None
        with self.together():
            if self.rank == 0:
                made = make()
        result: T = self._call(self._comm.bcast, made)
        return result

    def require_same(self, fields: Mapping[str, str], advice: str = START_ALIKE) -> None:
        with self.together():  # all have come here
            pass
        everyone = self._call(self._comm.allgather, list(fields.values()))
        for name, values in zip(fields, zip(*everyone, strict=True), strict=True):
            for rank, value in enumerate(values):
                if value != values[0]:
                    self._failed = []
                    self._known = RankError(
                        f"rank {rank} differs from rank 0 in {name}: expected {values[0]}, "
                        f"got {value}; {advice}"
                    )
                    raise self._known

    def gathered(self, rows: Array, axis: int) -> Array:
        with self.together():  # all have come here
            pass
        return np.concatenate(self._call(self._comm.allgather, rows), axis)

    def hold_gradients(self, model: Network) -> None:
        self._flat.setdefault(model, _FlatGradients()).hold(model)

    def sum_gradients(self, model: Network, rows: Rows) -> tuple[Rows, float]:
        squares = np.zeros(1)
        with self.or_none():
            self.hold_gradients(model)
            sums: list[Ids | None] = [None] * len(model.grads) if rows is None else list(rows)
            whole = [own is None for own in sums]
            for k, (dW, own) in enumerate(zip(model.grads, sums, strict=True)):
                if own is None:
                    continue
                sums[k] = all_rows = self._all_rows(own, len(dW))
                whole[k] = 2 * len(all_rows) > len(dW)  # then it goes with the others
                if not whole[k]:
                    packed = dW[all_rows]
                    squares += self._sum_with_squares(packed.reshape(-1))
                    dW[all_rows] = packed
            for numbers in self._flat[model].parts(whole):
                squares += self._sum_with_squares(numbers)
            self._sum(squares)
            model.set_grad_rows(sums)
        norm = math.sqrt(squares[0]) if math.isfinite(squares[0]) else None
        return sums, gradient_norm(model.grads, rows=sums) if norm is None else norm

    def _sum_with_squares(self, numbers: Array) -> float:
        """Sum as `_sum` does; of the sums' squares, return a share that no other rank does.

        Each takes parts in turn, while they are in the cache.
        """
        squares = 0.0
        for k, first in enumerate(range(0, len(numbers), PART)):
            part = numbers[first : first + PART]
            self._sum(part)
            if k % self.size == self.rank:
                norm = gradient_norm([part])
                squares += norm * norm
        return squares

    def _all_rows(self, rows: Ids, count: int) -> Ids:
        """The numbers of rows, of so many, that one of the ranks has or more."""
        bits = np.zeros(count, np.bool_)
        bits[rows] = True
        packed = np.packbits(bits)
        self._call(self._comm.Allreduce, _mpi().IN_PLACE, packed, _mpi().BOR)
        self.sent += packed.nbytes
        return np.flatnonzero(np.unpackbits(packed, count=count))

    def _sum(self, numbers: Array) -> None:
        """Sum an array of one axis over the ranks, in place."""
        for first in range(0, len(numbers), PART):
            self._call(self._comm.Allreduce, _mpi().IN_PLACE, numbers[first : first + PART])
        self.sent += numbers.nbytes

    def _call(self, collective: Callable[..., Any], *arguments: Any) -> Any:
        """What a collective call returns. An error in it, such as Ctrl-C, ends all."""
        started = time.perf_counter()
        with self.or_none():
            result = collective(*arguments)
        self.seconds += time.perf_counter() - started
        return result

    def default_num_threads(self) -> int:
        node = self._comm.Split_type(_mpi().COMM_TYPE_SHARED)
        everyone = node.allgather(usable_cpus())
        own, ranks = everyone[node.Get_rank()], len(everyone)
        node.Free()
        if os.environ.get(ENVIRONMENT):  # which may be of this rank alone
            return default_num_threads()
        # each CPU is shared by those that may use it: ranks may have some of their own
        share = sum(Fraction(1, sum(cpu in others for others in everyone)) for cpu in own)
        return max(1, min(int(share), available_cpus(), quota() // ranks))

    def places(self) -> list[str]:
        everyone = self._call(self._comm.allgather, (platform.node(), os.getpid()))
        machines: dict[str, list[str]] = {}
        for rank, (node, process) in enumerate(everyone):
            machines.setdefault(node, []).append(f"{rank} is process {process}")
        return [f"{node}: {', '.join(processes)}" for node, processes in machines.items()]

    def leave(self) -> None:
        everyone, end = self._comm.Ibarrier(), time.monotonic() + LEAVING
        while not everyone.Test() and time.monotonic() < end:
            time.sleep(0.001)

    @contextmanager
    def or_none(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not self._knows(error):
                self._end_all(error)
            raise

    def _knows(self, error: BaseException | None) -> bool:
        """Whether it is the last error that all ranks know of, or comes from that."""
        while error is not None and error is not self._known:
            error = error.__cause__ or error.__context__
        return error is not None

    def _end_all(self, error: BaseException) -> None:
        _say_what_ends_all(self.rank, error)
        stopped = isinstance(error, KeyboardInterrupt)
        time.sleep(SHOWN)
        code = 128 + getattr(error, "number", signal.SIGINT) if stopped else 1
        self._comm.Abort(code)
        os._exit(code)  # that of MPICH may return before the process is ended


class _FlatGradients:
    """The gradients of a model in arrays that hold many of them, so that few calls sum them all.

    Those of this package's layers become views of one array for each dtype. A layer of somebody's
    own may have its gradients in other places too, and keeps its arrays.
    """

    def __init__(self) -> None:
        self._listed: list[Array] = []  # the model's gradients, of which each has a place:
        self._places: list[tuple[Array, int, int]] = []  # an array of one axis, and its part there

    def hold(self, model: Network) -> None:
        """Take the gradients of a model, unless they are here."""
        if same(self._listed, model.grads):
            return
        layers = [*model.layers, model.loss_layer]
        own = {
            id(dW): (layer, k)
            for layer in layers
            if type(layer) in LAYERS.values()
            for k, dW in enumerate(layer.grads)
        }
        ends: dict[Any, int] = {}
        begins = []
        for dW in model.grads:
            begins.append(ends.get(dW.dtype, 0))
            if id(dW) in own:
                ends[dW.dtype] = begins[-1] + -(-dW.nbytes // LINE) * LINE // dW.itemsize
        flat = {dtype: np.zeros(size, dtype) for dtype, size in ends.items()}
        self._places = []
        for i, (dW, first) in enumerate(zip(list(model.grads), begins, strict=True)):
            if id(dW) not in own:
                self._places.append((_in_a_row(dW), 0, dW.size))
                continue
            layer, k = own[id(dW)]
            numbers = flat[dW.dtype][first : first + dW.size]
            view = numbers.reshape(dW.shape, order="C" if dW.flags.c_contiguous else "F")
            view[...] = dW
            model.grads[i] = layer.grads[k] = view
            self._places.append((flat[dW.dtype], first, first + dW.size))
        self._listed = list(model.grads)

    def parts(self, wanted: Sequence[bool]) -> Iterator[Array]:
        """Arrays of one axis with all the numbers of the gradients that are wanted."""
        numbers, first, end = None, 0, 0
        for own, begin, stop in (p for p, good in zip(self._places, wanted, strict=True) if good):
            if own is numbers and begin - end < LINE // own.itemsize:
                end = stop
                continue
            if numbers is not None:
                yield numbers[first:end]
            numbers, first, end = own, begin, stop
        if numbers is not None:
            yield numbers[first:end]


def _in_a_row(array: Array) -> Array:
    """The numbers of an array along one axis, which are its own memory."""
    for view in (array.reshape(-1), array.T.reshape(-1)):
        if not array.size or (view.flags.c_contiguous and np.may_share_memory(view, array)):
            return view
    raise InputError(
        f"grads: expected arrays whose numbers follow each other in memory, got one of shape "
        f"{array.shape} and strides {array.strides}; several ranks need such"
    )


def checksum_of_text(ids: Array) -> str:
    """That of ids, whatever their dtype."""
    return checksum(ids[k : k + PART].astype(np.int64) for k in range(0, len(ids), PART))


_made: dict[int, Ranks] = {}  # by the handles of communicators


def checksum(parts: Iterable[Any]) -> str:
    """That of arrays and bytes."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


def as_ranks(comm: Any) -> OneRank:
    """The processes of a communicator of mpi4py, or of None, which is this one alone."""
    if comm is None:
        return ONE_RANK
    if isinstance(comm, OneRank):
        return comm
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not isinstance(comm, mpi.Intracomm):
        raise TypeError(
            f"comm: expected None or a communicator of mpi4py, such as MPI.COMM_WORLD, got {comm!r}"
        )
    if comm.Get_size() == 1:
        return ONE_RANK
    # one for all who have this communicator: they wait for each other
    handle = comm.py2f()
    ranks = _made.get(handle)
    if ranks is None or ranks._comm != comm:  # one that is free again has no handle
        ranks = _made[handle] = Ranks(comm)
    return ranks


def world() -> OneRank:
    """All processes that a launcher has started, or this one alone.

    Raises InputError where they cannot speak to each other.
    """
    size = launched()[1]
    if size == 1:
        return ONE_RANK
    try:
        comm = _mpi().COMM_WORLD
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{size} processes were started, and mpi4py, through which they train together, cannot "
            f'be imported ({error}); `pip install "rnnfast[mpi]"` brings it, or start one process'
        ) from None
    if comm.Get_size() != size:
        library = _mpi().Get_library_version().split("\n")[0].strip()
        raise InputError(
            f"{size} processes were started, but the MPI that mpi4py has found ({library}) sees "
            f"{comm.Get_size()}: the launcher is that of another MPI; start rnnfast with the "
            "mpiexec of this one, or install mpi4py for that one"
        )
    return as_ranks(comm)


def _mpi() -> Any:
    """The module of mpi4py, which starts MPI where it is imported first."""
    from mpi4py import MPI

    return MPI


def _described(error: BaseException) -> str:
    """An error in a line; one that is not written for users, with its kind."""
    written = isinstance(error, WRITTEN)
    kind = type(error).__name__
    return str(error) if written else f"{kind}: {error}" if str(error) else kind


def _say_what_ends_all(rank: int, error: BaseException) -> None:
    if not isinstance(error, (InputError, OSError, KeyboardInterrupt)):
        traceback.print_exception(error)
    text = f"rnnfast: error: rank {rank}: {_described(error)}; all ranks end"
    print(text, file=sys.stderr, flush=True)
