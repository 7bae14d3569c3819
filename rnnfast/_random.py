"""What random generators are asked for, of either kind that NumPy has."""

import copy
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from ._types import Array

Generator: TypeAlias = np.random.Generator | np.random.RandomState
AT_ONCE = 1 << 20  # numbers that are drawn together


def state_of(rng: Generator) -> Any:
    """The state of a random generator, a dict."""
    if isinstance(rng, np.random.RandomState):
        return rng.get_state(legacy=False)
    return rng.bit_generator.state


def set_state_of(rng: Generator, state: Any) -> None:
    """Let a random generator carry on from a state of one of its kind."""
    if isinstance(rng, np.random.RandomState):
        rng.set_state(state)
    else:
        rng.bit_generator.state = state


class PutBackOnError:
    """Within it, an error leaves the generators as they were before. (A class, since small layers
    would notice the time of a `contextmanager`.)"""

    def __init__(self, *generators: Generator) -> None:
        self._before = [(rng, state_of(rng)) for rng in generators]

    def __enter__(self) -> None:
        pass

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for rng, state in self._before:
                set_state_of(rng, state)


def draw_key(rng: Generator) -> int:
    """A key of 53 bits, for the kernel that draws masks: one number is what a generator gives
    fastest."""
    return int(rng.random() * 2**53)


def uniforms(rng: Generator, rows: int, length: int) -> Iterator[Array]:
    """The columns of what `rng.random((rows, length))` returns, some of them at a time, in memory
    that does not grow with their number. When this returns, the generator is behind all of them."""
    if rows * length <= AT_ONCE:
        return iter([rng.random((rows, length))])
    own = []
    for _ in range(rows):
        own.append(copy.deepcopy(rng))
        _skip(rng, length)
    return _side_by_side(own, length)


def _side_by_side(generators: list[Generator], length: int) -> Iterator[Array]:
    for width in widths(len(generators), length):
        yield np.stack([rng.random(width) for rng in generators])


def widths(rows: int, length: int) -> Iterator[int]:
    """How many of `length` columns are handled together, one time after the other."""
    width = max(1, AT_ONCE // rows)
    for begin in range(0, length, width):
        yield min(width, length - begin)


def _skip(rng: Generator, count: int) -> None:
    """Let a generator go on as if `random(count)` had been called."""
    if isinstance(rng, np.random.Generator):
        bits = rng.bit_generator
        if isinstance(bits, (np.random.PCG64, np.random.PCG64DXSM)):  # the default: takes no time
            before = bits.state
            bits.advance(count)
            # half a word may be left of what was drawn before; advance() forgets it
            bits.state = before | {"state": bits.state["state"]}
            return
    for width in widths(1, count):
        rng.random(width)
