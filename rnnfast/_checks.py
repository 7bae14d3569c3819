"""Checks of arguments. A message says the argument, what was expected, what came, what to do."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, Literal

import numpy as np

from ._types import Array, ArrayLike, BatchPart, DTypeLike, Ids, Seed, Shape, Sizes

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _shape_text(shape: Sequence[object]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def as_float_dtype(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    """One of `FLOATS`, given as NumPy takes it."""
    if dtype is None:  # which NumPy takes for float64
        raise TypeError(f"{name}: expected float32 or float64, got None")
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name}: expected float32 or float64, got {dtype!r}") from None
    if found not in FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {found}")
    return found


def as_precision(precision: object, dtype: np.dtype[Any]) -> Literal["bfloat16"] | None:
    """What operands of products with weights of this dtype are rounded to: None where they are
    not."""
    if precision is None:
        return None
    if not isinstance(precision, str) or precision not in ("bfloat16", dtype.name):
        raise ValueError(
            f"precision: expected 'bfloat16', or {dtype.name!r} as the weights have, or None, "
            f"got {precision!r}"
        )
    if precision == dtype.name:
        return None
    if dtype != np.float32:
        raise ValueError(
            f"precision: expected float32 with 'bfloat16', got {dtype.name}; give float32 (dtype, "
            "--dtype, or that of the weights), or leave precision out"
        )
    return "bfloat16"


def as_array(name: str, array: ArrayLike) -> Array:
    """`array`, or the array that its numbers make."""
    if isinstance(array, np.ndarray):
        return array
    try:
        return np.asarray(array)
    except ValueError as error:  # what NumPy says of it names no argument
        raise ValueError(
            f"{name}: expected an array, got rows of different shapes; give all rows one length"
        ) from error


def check_shape(name: str, array: Array, shape: Sizes, hint: str = "") -> None:
    """Raise ValueError unless `array` has `shape`, in which a string stands for any size >= 1."""
    found = array.shape
    if found == shape or _fits(found, shape):
        return
    empty = " (sizes must be at least 1)" if 0 in found else ""
    raise ValueError(
        f"{name}: expected an array of shape {_shape_text(shape)}, "
        f"got {_shape_text(found)}{empty}{hint and '; ' + hint}"
    )


@lru_cache
def _fits(found: Shape, shape: Sizes) -> bool:
    return len(found) == len(shape) and all(
        got == want or (got > 0 and isinstance(want, str))
        for got, want in zip(found, shape, strict=True)
    )


def as_weights(**arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays themselves (lists are converted), which must share one dtype of `FLOATS`."""
    weights = {name: np.asarray(array) for name, array in arrays.items()}
    (first, dtype) = next((name, array.dtype) for name, array in weights.items())
    for name, array in weights.items():
        if array.dtype not in FLOATS:
            raise TypeError(
                f"{name}: expected dtype float32 or float64, got {array.dtype}; "
                f"convert it with {name}.astype(numpy.float32)"
            )
        if array.dtype != dtype:
            raise TypeError(
                f"{name}: expected {dtype} as {first} has, got {array.dtype}; "
                "give all weights of a layer one dtype"
            )
    return tuple(weights.values())


def as_floats(name: str, array: ArrayLike, dtype: DTypeLike, shape: Sizes, hint: str = "") -> Array:
    """`array` as an aligned array of `dtype` (the same object where it is one) and of `shape`."""
    array = as_array(name, array)
    fits = array.dtype == dtype
    if not fits and array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}: expected an array of real numbers, got dtype {array.dtype}; "
            f"convert it with numpy.asarray({name}, dtype={dtype})"
        )
    if not _fits(array.shape, shape):  # so that small layers spend less time on a call
        check_shape(name, array, shape, hint)
    if fits and array.flags.aligned:
        return array
    return aligned(array if fits else array.astype(dtype))


def as_own_floats(name: str, array: ArrayLike, shape: Sizes, hint: str = "") -> Array:
    """`array` in float64 if it is in float64, else in float32: for layers without weights."""
    array = as_array(name, array)
    dtype = array.dtype
    if dtype not in FLOATS:  # big-endian float64 is float64 too
        dtype = FLOATS[dtype.newbyteorder("=") == np.float64]
    return as_floats(name, array, dtype, shape, hint)


def aligned(array: Array) -> Array:
    """`array`, or a copy where its numbers stand at odd addresses, as in a field of packed
    records or in a file after a header: the kernels count strides in whole numbers."""
    return array if array.flags.aligned else array.copy()


def unshared(own: Array, given: ArrayLike) -> Array:
    """`own`, made of what the caller gave, or a copy where it still is the caller's memory."""
    return own.copy() if own is given or np.may_share_memory(own, given) else own


def as_ids(
    name: str,
    ids: ArrayLike,
    vocab_size: int,
    shape: Sizes,
    ignore_label: int | None = None,
    used: Array | None = None,
    what: str = "token ids",
    hint: str = "check the vocabulary the ids come from",
) -> Ids:
    """A C-contiguous int64 copy of token ids, each in 0..vocab_size-1 or `ignore_label`.

    Where `used`, bools of the same shape, is False, an id may be anything, and is 0 in the copy.
    """
    ids = as_array(name, ids)
    check_shape(name, ids, shape)  # first, since an empty list is an array of floats
    if ids.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: expected {what} of an integer dtype, got {ids.dtype}; "
            f"convert whole numbers with {name}.astype(numpy.int64)"
        )
    if used is not None:
        ids = ids * used
    own: Ids = np.array(ids, np.int64, order="C")
    if _all_below(own, vocab_size):
        return own
    besides = "" if ignore_label is None else f" or the ignored label {ignore_label}"
    label = () if ignore_label is None else (ignore_label,)
    expected = f"{what} in 0..{vocab_size - 1}{besides}"
    _check_between(name, ids, vocab_size - 1, expected, hint, label)
    return own


def _all_below(ids: Ids, size: int) -> bool:
    """Whether all ids, int64, are in 0..size-1: in one question, where calls take microseconds."""
    if ids.size == 1:  # as where a text is written
        return bool(0 <= ids.item() < size)
    # negative numbers are the largest without a sign
    return not np.count_nonzero(ids.view(np.uint64) >= size)


def as_sides(name: str, flags: ArrayLike, shape: Sizes, ignore_label: int, hint: str) -> Array:
    """Flags 0, 1 or `ignore_label`, of any real dtype, as a C-contiguous int8 array: 1 where a flag
    is 0, -1 where it is 1, 0 where it is ignored."""
    flags = as_array(name, flags)
    check_shape(name, flags, shape, hint)
    if flags.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: expected an array of the numbers 0 and 1, got dtype {flags.dtype}; "
            f"convert it with {name}.astype(numpy.int64)"
        )
    ignored, zeros, ones = flags == ignore_label, flags == 0, flags == 1
    _check_none(
        name,
        flags,
        ~(ignored | zeros | ones),
        f"0 or 1 or the ignored label {ignore_label}",
        "there is one for every logit",
    )
    sides = np.subtract(zeros, ones, dtype=np.int8)
    sides[ignored] = 0
    return np.ascontiguousarray(sides)


def as_lengths(name: str, lengths: ArrayLike, rows: int, steps: int) -> Ids:
    """A C-contiguous int64 copy of how many of its `steps` each of the `rows` has."""
    lengths = as_array(name, lengths)
    check_shape(name, lengths, (rows,), "a length for every row")
    if lengths.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: expected whole numbers of an integer dtype, got {lengths.dtype}; "
            f"convert them with numpy.asarray({name}, dtype=numpy.int64)"
        )
    expected = f"whole numbers in 0..{steps}"
    _check_between(name, lengths, steps, expected, "a row has at most the steps of the block")
    return np.array(lengths, np.int64, order="C")


def _check_between(
    name: str,
    values: Array,
    most: int,
    expected: str,
    hint: str,
    besides: tuple[int, ...] = (),
) -> None:
    """Raise ValueError where a whole number is not in 0..most, and none of `besides`."""
    # in the caller's dtype: a uint64 above the int64 range would turn negative, into a label
    wrong = (values < 0) | (values > most)
    for value in besides:
        wrong &= values != value
    _check_none(name, values, wrong, expected, hint)


def _check_none(name: str, values: Array, wrong: Array, expected: str, hint: str) -> None:
    """Raise ValueError with the first of the values that are wrong, and its position."""
    if wrong.any():
        where = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}: expected {expected}, got {values[where]} at position {where}"
            f"{hint and '; ' + hint}"
        )


def as_bools(name: str, flags: ArrayLike, shape: Sizes, hint: str = "") -> Array:
    """A C-contiguous copy of an array of bools."""
    flags = as_array(name, flags)
    check_shape(name, flags, shape, hint)
    if flags.dtype != bool:
        raise TypeError(
            f"{name}: expected an array of bools, got dtype {flags.dtype}; "
            f"convert it with numpy.asarray({name}, dtype=bool)"
        )
    return np.array(flags, order="C")


def as_bool(name: str, flag: object) -> bool:
    """True or False, as Python has them."""
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {flag!r}")
    return bool(flag)


def as_count(name: str, value: object, least: int = 1, hint: str = "") -> int:
    """A whole number of at least `least`, as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(
            f"{name}: expected a whole number of at least {least}, got {value!r}"
            f"{hint and '; ' + hint}"
        )
    return int(value)


def as_batch_part(part: Any) -> BatchPart:
    """None, or two whole numbers, as ints."""
    if part is None:
        return None
    if isinstance(part, (tuple, list)) and len(part) == 2:
        whole = all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in part)
        if whole and 0 <= part[0] < part[1]:
            return int(part[0]), int(part[1])
    raise ValueError(
        "batch_part: expected None, or (first row, rows of the whole batch) with "
        f"0 <= first row < rows, got {part!r}"
    )


def check_part(first: int, n: int, whole: int) -> None:
    """Raise ValueError unless a mask of `whole` numbers has `n` from number `first` on."""
    if not 0 <= first <= whole - n:
        raise ValueError(
            f"first, of: expected {n} numbers that a mask of `of` numbers has, got those from "
            f"number {first} on of {whole}; leave out both for a whole mask"
        )


def is_number(value: Any) -> bool:
    """Whether something is a real number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def as_real(value: Any) -> float:
    """A real number as a float: infinite where it is beyond float64; NaN of what is none."""
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.inf


def as_fraction(name: str, value: Any) -> float:
    """A number of at least 0 and below 1, as a float."""
    if not 0 <= as_real(value) < 1:
        raise ValueError(f"{name}: expected a number in 0 <= {name} < 1, got {value!r}")
    return float(value)


def as_above_zero(name: str, value: Any) -> float:
    """A finite number above 0, as a float."""
    if not 0 < as_real(value) < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def check_finite(name: str, array: Array, hint: str = "") -> None:
    """Raise ValueError where an array holds NaN or an infinity, with the first one's position."""
    _check_none(name, array, ~np.isfinite(array), "finite numbers", hint)


def as_generator(
    rng: Seed,
    name: str = "rng",
    *,
    legacy: bool = False,
) -> np.random.Generator | np.random.RandomState:
    """A random generator as it is, one that a whole number seeds, or a fresh one for None.

    With `legacy` a number seeds a RandomState, whose numbers no version of NumPy changes.
    """
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, (int, np.integer))):
        raise TypeError(
            f"{name}: expected a numpy.random.Generator or RandomState, a whole number or None, "
            f"got {rng!r}; numpy.random.default_rng makes a generator"
        )
    if rng is not None and rng < 0:
        raise ValueError(f"{name}: expected a whole number of at least 0, got {rng}")
    if rng is not None and legacy and rng >= 2**32:
        raise ValueError(f"{name}: expected a whole number below 2**32, got {rng}")
    return np.random.RandomState(rng) if legacy else np.random.default_rng(rng)


def normal_numbers(
    rng: Seed, name: str = "rng", *, legacy: bool = False
) -> Callable[[Shape], Array]:
    """What draws standard normal numbers of a shape; None is NumPy's global state."""
    if rng is None:
        return np.random.standard_normal
    return as_generator(rng, name, legacy=legacy).standard_normal
