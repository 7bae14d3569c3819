"""What random generators are asked for, of either kind that NumPy has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

Generator: TypeAlias = np.random.Generator | np.random.RandomState


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


@contextmanager
def put_back_on_error(rng: Generator) -> Iterator[None]:
    """Within it, an error leaves the generator as it was before."""
    before = state_of(rng)
    try:
        yield
    except BaseException:
        set_state_of(rng, before)
        raise


def draw_key(rng: Generator) -> int:
    """A key of 53 bits, for the kernel that draws masks: one number is what a generator gives
    fastest."""
    return int(rng.random() * 2**53)
