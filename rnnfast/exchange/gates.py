"""How other libraries arrange the gates of a cell; nothing fails where this is mixed up."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from .._types import Array
from ..cells import Cell


class Order(NamedTuple):
    """Gates by the names that they have in `cells`, in the order of a library's columns, and those
    of which the library has 1 minus what we have: sigmoid(-a) is 1 - sigmoid(a)."""

    gates: str
    opposite: str = ""


Orders: TypeAlias = Mapping[str, Order]
"""By the name of the cell, of those that a library has."""

PYTORCH: Orders = {
    "rnn": Order("h"),
    "rnn_relu": Order("h"),
    "lstm": Order("ifgo"),
    "gru_reset_after": Order("rzh", "z"),
}
KERAS: Orders = {
    "rnn": Order("h"),
    "rnn_relu": Order("h"),
    "lstm": Order("ifgo"),
    "gru": Order("zrh", "z"),
    "gru_reset_after": Order("zrh", "z"),
}
ONNX: Orders = {**KERAS, "lstm": Order("iofg")}


def to_ours(array: Array, cell: Cell, orders: Orders) -> Array:
    """Columns (..., G*H) of a library -> a new array with ours."""
    order = orders[cell.name]
    parts = dict(zip(order.gates, np.split(array, cell.G, axis=-1), strict=True))
    return np.concatenate([_turned(parts[gate], gate, order) for gate in cell.gates], axis=-1)


def to_theirs(array: Array, cell: Cell, orders: Orders) -> Array:
    """Columns (..., G*H) of ours -> a new array with those of a library."""
    order = orders[cell.name]
    parts = dict(zip(cell.gates, np.split(array, cell.G, axis=-1), strict=True))
    return np.concatenate([_turned(parts[gate], gate, order) for gate in order.gates], axis=-1)


def _turned(part: Array, gate: str, order: Order) -> Array:
    return -part if gate in order.opposite else part
