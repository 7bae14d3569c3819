"""Random sizes, options and layouts for tests that try many."""

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


def laid_out(array, strides, memory=None, offset=0):
    """A copy with these strides, in numbers and none negative, so many numbers behind the beginning
    of memory that `memory(bytes)` returns, or of its own. It ends where the memory does."""
    size = offset + 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    size = size if array.size else offset
    flat = (memory or (lambda count: np.empty(count, np.uint8)))(size * array.itemsize)
    strides = [s * array.itemsize for s in strides]
    view = np.ndarray(array.shape, array.dtype, flat.data, offset * array.itemsize, strides)
    view[...] = array
    return view


def draw_strides(rng, shape):
    """Of an array whose axes are in the order of `shape` in memory, some of them with gaps."""
    strides, step = [], int(rng.choice([1, 1, 1, 2]))
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
        step += int(rng.choice([0, 0, 1, 3]))
    return strides


def contiguous(shape):
    return [int(np.prod(shape[k + 1 :])) for k in range(len(shape))]
