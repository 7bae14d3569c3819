"""Random sizes, options and layouts for tests that try many."""

import math

import numpy as np
import sequences

# On both sides of where kernels do something else: of vectors, of panels, and of tiles.
EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 129, 193)
ROWS = (1, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 25, 49, 70)
STEPS = (1, 1, 2, 3, 4, 5, 7, 11, 30)
MOST = 400_000  # multiplications of a step times steps, so that thousands take minutes


def draw_sizes(rng):
    """(N, T, D, H, V)"""
    while True:
        N, T, (D, H, V) = rng.choice(ROWS), rng.choice(STEPS), rng.choice(EDGES, 3)
        if N * T * (D + H) * max(H, V) <= MOST:
            return tuple(map(int, (N, T, D, H, V)))


def draw_block(rng, cell, dtype):
    """A block of random sizes, and another one for the way back, see `both_directions`."""
    *sizes, _ = draw_sizes(rng)
    names = [name for name in sequences.OPTIONS if rng.random() < 0.4]
    seed = int(rng.integers(1 << 30))
    return [sequences.make_block(cell, sizes, names, dtype, seed + k) for k in range(2)]


def contiguous(shape):
    """Strides, in numbers."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def laid_out(array, strides, offset=0):
    """A copy with these strides, in numbers and none negative, so many numbers behind the beginning
    of memory of its own, at whose end it ends."""
    size = offset + 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    memory = np.empty(size if array.size else offset, array.dtype)
    strides = [s * array.itemsize for s in strides]
    view = np.ndarray(array.shape, array.dtype, memory.data, offset * array.itemsize, strides)
    view[...] = array
    return view


def moved(array, rng, offset=0):
    """A copy with any strides that a view can have, gaps and negative ones too."""
    strides, step = [], int(rng.choice([1, 1, 1, 2]))
    for n in reversed(array.shape):
        strides.insert(0, step)
        step = n * step + int(rng.choice([0, 0, 1, 3]))
    view = laid_out(array, strides, offset)
    for axis in range(array.ndim):
        if rng.random() < 0.2:
            view = np.flip(view, axis)
    view[...] = array
    return view


def place(shape, dtype, rng):
    """(an array to be written, all memory around it), full of 99: the last axis is contiguous, the
    others are in any order, with gaps and in both directions."""
    strides, step = [1] * len(shape), shape[-1] + int(rng.choice([0, 0, 1, shape[-1]]))
    for axis in rng.permutation(len(shape) - 1):
        strides[axis] = step
        step = step * shape[axis] + int(rng.choice([0, 0, 1, 3]))
    view = laid_out(np.full(shape, 99, dtype), strides)
    memory = np.frombuffer(view.base, dtype)
    memory[...] = 99
    for axis in range(len(shape) - 1):
        if rng.random() < 0.2:
            view = np.flip(view, axis)
    return view, memory
