"""What stands in a pickle of a list of arrays, read without calling anything that it names.

A pickle is a program for a machine with a stack. This one has the instructions that lists, tuples,
numbers and strings need. Where others would import and call a function, it notes the name and the
arguments, and `_as_array` knows what NumPy's pickles mean by a few of them.
"""

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array

MOST_STEPS = 100_000  # an array takes some thirty
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
CODES = {"f2", "f4", "f8"}
KNOWN = {
    f"{module} {function}": function
    for module, function in [
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # which stands for bytes in old protocols
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
        *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ]
}
"""What NumPy's pickles of arrays call, by `Name`."""


class Name(str):
    """A function or class that a pickle names: module and name, with a blank between them."""


@dataclass
class Made:
    """What a call would make, and what would be put into it."""

    name: str
    arguments: Any
    state: Any = None


def read_arrays(data: bytes) -> list[Array]:
    """The arrays, float16, 32 or 64, of a pickle of a list of arrays and floats, whatever its
    protocol; they are read-only.

    Raises ValueError, TypeError, LookupError or AttributeError for any other bytes.
    """
    found = _run(data)
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"expected a list of arrays, got {_text(found)}")
    return [_as_array(item) for item in found]


def _run(data: bytes) -> Any:
    """What a pickle would leave on the stack."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def taken(count: int | None = None) -> list[Any]:
        start = marks.pop() if count is None else len(stack) - count
        items = stack[start:]
        del stack[start:]
        return items

    end = len(data)
    for step, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if step > MOST_STEPS:
            raise ValueError(f"expected at most {MOST_STEPS:,} instructions, got more")
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in TUPLES:
            stack.append(tuple(taken(TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(taken()))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            stack.append(taken())
        elif name in ("APPEND", "APPENDS"):
            items = taken(1 if name == "APPEND" else None)
            stack[-1].extend(items)
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(Name(argument))
        elif name == "STACK_GLOBAL":
            stack.append(Name(" ".join(taken(2))))
        elif name == "REDUCE":
            stack.append(Made(*taken(2)))
        elif name == "BUILD":
            (state,) = taken(1)
            stack[-1].state = state
        elif name == "STOP":
            if place is None or place + 1 != end or len(stack) != 1 or marks:
                raise ValueError("it has more in it than a list of arrays")
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"expected arrays, lists and floats alone, got the opcode {name}")
    raise ValueError("it has no end")


def _as_array(item: Any) -> Array:
    if isinstance(item, float):
        return np.array(item)
    function = _function(item)
    if function == "_reconstruct":
        _, shape, dtype, fortran_order, numbers = item.state
        return _array(numbers, dtype, shape, "F" if fortran_order else "C")
    if function == "_frombuffer":
        return _array(*item.arguments)
    if function == "scalar":
        dtype, numbers = item.arguments
        return _array(numbers, dtype, (), "C")
    raise ValueError(f"expected an array or a float, got {_text(item)}")


def _array(numbers: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Array:
    if _function(numbers) == "encode":
        text, encoding = numbers.arguments
        if encoding != "latin1":
            raise ValueError(f"expected bytes, got a text in {encoding}")
        numbers = text.encode("latin1")
    if _function(dtype) != "dtype" or (code := dtype.arguments[0]) not in CODES:
        raise ValueError(f"expected an array of {', '.join(sorted(CODES))}, got {_text(dtype)}")
    byte_order = dtype.state[1]
    if byte_order not in ("<", ">", "=", "|"):
        raise ValueError(f"expected an order of bytes, got {_text(byte_order)}")
    flat: Array = np.frombuffer(numbers, np.dtype(byte_order + code))
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError(f"expected a shape, got {_text(shape)}")
    # no product of numbers of any length
    if any(type(size) is not int or not 0 <= size < 2**48 for size in shape) or (
        math.prod(shape) != flat.size
    ):
        raise ValueError(f"an array of {flat.size} numbers says that it has shape {shape!r:.200}")
    return flat.reshape(shape, order=order)


def _function(item: Any) -> str | None:
    """Which of the functions below a call is of, if any."""
    name = item.name if isinstance(item, Made) else None
    return KNOWN.get(name) if isinstance(name, Name) else None


def _text(item: Any) -> str:
    """What to call something in an error: not what is in it, which may have no end."""
    if isinstance(item, Made):
        return f"a call of {item.name if isinstance(item.name, Name) else 'something made'}"
    if isinstance(item, (str, float, bool, type(None))):
        return f"{item!r:.60}"
    return f"a {type(item).__name__}"
