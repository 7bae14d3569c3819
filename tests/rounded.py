"""What is compared where operands of products are rounded to bf16.

Two programs that add up the same float32 numbers in another order differ in last bits; where such a
number is rounded after that, and lies as near to a tie, the two get neighbours: the number has
flipped. That happens to one of some ten thousand, and everything that comes of it then differs.
"""

import numpy as np
from forms import LONG, SEED
from problems import TOLERANCES

TOLERANCE = TOLERANCES[np.dtype(np.float32)]
# A flip moves an operand by a unit in its last place; rounding has moved all, by up to half of it.
FLIP = 2


def require_rounded_alike(run, seeds=range(4)):
    """`run(seed)` returns three results by name: two that are to agree, and what the same is with
    operands that are not rounded. Without a flip they agree as float32 does, and so it is for
    half of the seeds at least; with some, they differ by no more than all the rounding explains."""
    without_flips = 0
    for seed in seeds:
        actual, expected, unrounded = run(seed)
        assert actual.keys() == expected.keys() == unrounded.keys()
        agree = True
        for name, e in expected.items():
            a, u = np.asarray(actual[name]), np.asarray(unrounded[name])
            e = np.asarray(e)
            assert a.shape == e.shape == u.shape, name
            size, moved = (np.abs(x).max(initial=0) for x in (e, e - u))
            difference = np.abs(a - e).max(initial=0)
            assert difference <= FLIP * moved + TOLERANCE * size < np.inf, (
                f"{name}, seed {seed}: {difference:.2e} of {size:.2e}, rounding: {moved:.2e}"
            )
            agree &= bool(difference <= TOLERANCE * size)
        without_flips += agree
    assert 2 * without_flips >= len(seeds), f"{without_flips} of {len(seeds)} agree"


def nearest(x):
    """float32 numbers -> the nearest of bf16, by their distances, which float64 has exactly."""
    x = np.asarray(x, np.float32)
    bits = np.atleast_1d(x).view(np.uint32).astype(np.uint64)
    below, above = bits & 0xFFFF_0000, (bits & 0xFFFF_0000) + 0x1_0000  # in size
    with np.errstate(invalid="ignore"):  # of NaN
        sides = [as_floats(side) for side in (below, above)]
        down, up = (np.abs(side - np.atleast_1d(x).astype(np.float64)) for side in sides)
    upper = (up < down) | ((up == down) & (below >> 16 & 1 == 1))
    found = np.where(upper, above, below).astype(np.uint32).view(np.float32).reshape(x.shape)
    return np.where(np.isfinite(x), found, x)


def as_floats(bits):
    """Numbers of these bits as float64; those of an infinity count as the next power of two."""
    infinite = (bits & 0x7FFF_FFFF) == 0x7F80_0000
    values = (bits & 0xFFFF_FFFF).astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(infinite, np.copysign(2.0**128, values), values)


def from_bits(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def special_bits():
    """Every bf16, and behind each the lower halves where something changes."""
    halves = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | halves).reshape(-1)


def many_bits():
    """Those and random ones; in the long form, all that there are."""
    yield special_bits()
    rng, part = np.random.default_rng(SEED), np.arange(1 << 20, dtype=np.uint32)
    for k in range(1 << 12 if LONG else 4):
        yield (k << 20) + part if LONG else rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
