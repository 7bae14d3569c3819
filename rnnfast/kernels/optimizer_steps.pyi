"""Steps of the optimizers and what clipping needs, of lists of arrays.

`rnnfast.reference.ops` documents what these functions do, and which arrays they take.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from numpy import int64
from numpy.typing import NDArray

_Arrays: TypeAlias = Sequence[NDArray[Any]]
_State: TypeAlias = Sequence[tuple[NDArray[Any], ...]]
_Rows: TypeAlias = Sequence[NDArray[int64] | None] | None

def adagrad_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
) -> bool: ...
def adam_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
    beta1: float,
    beta2: float,
) -> bool: ...
def clip_arrays(arrays: _Arrays, rows: _Rows, limit: float) -> bool: ...
def momentum_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
    momentum: float,
) -> bool: ...
def nesterov_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
    momentum: float,
) -> bool: ...
def rmsprop_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
    decay_rate: float,
) -> bool: ...
def scale_arrays(arrays: _Arrays, rows: _Rows, factor: float) -> bool: ...
def sgd_step(
    params: _Arrays,
    grads: _Arrays,
    state: _State,
    rows: _Rows,
    decay: float,
    lr: float,
) -> bool: ...
def sum_of_squares(arrays: _Arrays, rows: _Rows) -> float | None: ...
