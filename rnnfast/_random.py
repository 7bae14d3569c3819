"""What random generators are asked for, of either kind that NumPy has."""

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
