"""All layers and directions of a module, by the kernels, on the memory of PyTorch's tensors.

Letters in shapes: N batch rows, T time steps, R rows of all steps of packed sequences, K features,
H hidden size; L layers, D directions.
"""

import sys
import threading
import weakref
from collections.abc import Sequence
from ctypes import c_char
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from .._types import Array
from ..cells import Cell
from ..kernels import recurrent_backward, recurrent_forward
from ..kernels.engine import Lent

Tensor: TypeAlias = Any
Weights: TypeAlias = list[tuple[Lent, ...]]
"""Of each layer and direction: Wx, Wh, b, bh."""
DTYPES: dict[Any, Any] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
ANYWHERE = c_char * sys.maxsize


@dataclass(slots=True)
class Call:
    """What there is to know of a call, besides its tensors."""

    cell: Cell
    layers: int
    directions: int
    hidden: int
    bias: bool
    N: int
    T: int
    batched: bool
    batch_first: bool
    batch_sizes: Array | None
    """Of packed sequences: how many have a step t, int64 (T,)."""
    addresses: list[int]
    """Of the weights."""
    weights: "Weights | None"
    """What stands there, as kernels have it; None where a copy is needed for that."""
    home: "weakref.ref[State]"
    """Where memory goes that is no longer needed."""


class Memory:
    """What backward needs of a forward."""

    __slots__ = ("caches", "copy", "hidden", "lock", "place")

    def __init__(self, call: Call) -> None:
        self.caches: list[Any] = [None] * (call.layers * call.directions)
        self.hidden: list[Array | None] = [None] * call.layers
        """Outputs of layers, which the next ones read."""
        self.lock = threading.Lock()
        self.copy: Tensor = None
        """Of the input, to which the first layer's cache points, or None where it points to the
        input's own memory, which is at `place`."""
        self.place: tuple[Any, ...] = ()

    def fits(self, x: Tensor) -> bool:
        """Whether an input that comes back from autograd is where that of forward was: hooks may
        have put it elsewhere, and who owns it may have given it other memory."""
        return self.copy is not None or self.place == place_of(x)


class State:
    """What a module of ours has besides what torch.nn's has; neither copied nor saved."""

    __slots__ = ("__weakref__", "known", "path", "spare")

    def __init__(self) -> None:
        self.path: str | None = None
        self.spare: list[Memory] = []
        """Memory of a forward that is over, for the next one, at most one."""
        self.known: tuple[Any, Any, list[int], Weights | None] = ((), None, [], None)
        """Of the weights of the last forward: sizes and dtype, a check of classes, devices, shapes
        and strides, and addresses, which alone say what kernels have of them, and that."""

    def __reduce__(self) -> Any:
        """A new one, for whoever copies all attributes of a module by himself."""
        return State, ()


class Owner:
    """Belongs to a tensor that is saved for backward. When autograd frees that, the module, if it
    is still there, has the memory for its next forward."""

    __slots__ = ("home", "memory")

    def __init__(self, call: Call) -> None:
        self.home, state = call.home, call.home()
        try:
            self.memory = state.spare.pop() if state else Memory(call)
        except IndexError:
            self.memory = Memory(call)
        if len(self.memory.caches) != call.layers * call.directions:
            self.memory = Memory(call)

    def __del__(self) -> None:
        self.memory.copy = None
        if state := self.home():
            state.spare[:] = [self.memory]


def reason_against(tensor: Any, like: Tensor) -> str:
    """Why our kernels cannot read what is given as a tensor, or "": it must be one of PyTorch's own
    class, in the memory of this process, and of the dtype of another one."""
    kind = type(tensor)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return f"is a {kind.__name__}"
    dtype = tensor.dtype
    if dtype not in DTYPES:
        return f"is {dtype}"
    if dtype is not like.dtype:
        return f"is {dtype}, and the input {like.dtype}"
    if not tensor.is_cpu:
        return f"is on the device {tensor.device}"
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_neg():
        return "is not plain memory"
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # of vmap, for one
        address = 0
    if not address and tensor.numel():
        return "has no memory"
    return "is not aligned" if address % dtype.itemsize else ""


def array_of(tensor: Tensor) -> Array:
    """The memory of a tensor, which who calls keeps.

    (After `Tensor.numpy` nobody could resize the tensor any more.)
    """
    dtype = DTYPES[tensor.dtype]
    memory: Any = ANYWHERE.from_address(tensor.data_ptr())
    strides = [dtype.itemsize * stride for stride in tensor.stride()]
    return np.ndarray(tensor.shape, dtype, memory, 0, strides)


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Address, shape and strides: where each number of a tensor is."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def with_rows(tensor: Tensor) -> Tensor:
    """A tensor whose last axis is contiguous."""
    contiguous = tensor.is_contiguous() or tensor.stride(-1) == 1
    return tensor if contiguous else tensor.contiguous()


def in_order(call: Call, tensor: Tensor, dtype: Any) -> Lent:
    """An input or output as kernels have it: (N, T, K), or (R, K) of packed sequences."""
    shape, strides = tensor.shape, tensor.stride()
    if not call.batched:
        shape, strides = (1, *shape), (0, *strides)
    elif call.batch_sizes is None and not call.batch_first:
        T, N, K = shape
        t, n, k = strides
        shape, strides = (N, T, K), (n, t, k)
    return Lent(tensor.data_ptr(), shape, strides, dtype)


def half(call: Call, outputs: Any, direction: int) -> Any:
    """The columns of a direction in outputs of a layer, or in their gradient, if there is any."""
    if outputs is None or call.directions == 1:
        return outputs
    columns = direction * call.hidden, (direction + 1) * call.hidden
    return outputs.columns(*columns) if type(outputs) is Lent else outputs[..., slice(*columns)]


def of_states(call: Call, tensor: Tensor, dtype: Any) -> Lent:
    """(L*D, N, H)"""
    shape, strides = tensor.shape, tensor.stride()
    if not call.batched:
        shape, strides = (shape[0], 1, shape[1]), (strides[0], 0, strides[1])
    return Lent(tensor.data_ptr(), shape, strides, dtype)


def of_layers(weights: Sequence[Tensor], bias: bool) -> Weights:
    """Contiguous weights as kernels have them."""
    lent = []
    for weight in weights:
        shape, dtype = tuple(weight.shape), DTYPES[weight.dtype]
        strides = (1, shape[-1]) if len(shape) == 2 else (1,)
        lent.append(Lent(weight.data_ptr(), shape[::-1], strides, dtype))
    each = 4 if bias else 2
    return [tuple(lent[k : k + each]) for k in range(0, len(lent), each)]


def of_weights(call: Call, weights: Sequence[Tensor]) -> tuple[Weights, Any]:
    """Weights as kernels have them, and what owns the memory."""
    if known := call.weights:
        return known, weights
    weights = [weight.contiguous() for weight in weights]
    return of_layers(weights, call.bias), weights


def empty(shape: Sequence[int], dtype: Any) -> Tensor:
    """`torch.empty`, which is twice as fast without a dtype, and with numbers of their own."""
    if dtype is torch.get_default_dtype():
        return torch.empty(*shape)
    return torch.empty(shape, dtype=dtype)


def new_output(call: Call, rows: int, dtype: Any) -> Tensor:
    """Memory for outputs with the strides that they have in PyTorch, where steps come first."""
    N, T, K = call.N, call.T, call.directions * call.hidden
    if call.batch_sizes is not None or not call.batched:
        return empty((rows, K), dtype)
    if call.batch_first:
        return torch.empty_strided((N, T, K), (K, N * K, 1), dtype=dtype)
    return empty((T, N, K), dtype)


def new_states(call: Call, dtype: Any) -> Tensor:
    """Memory for states of one kind, of all layers and directions."""
    count, H = call.layers * call.directions, call.hidden
    return empty((count, call.N, H) if call.batched else (count, H), dtype)


def new_hidden(call: Call, rows: int, dtype: Any, old: Array | None = None) -> Array:
    """Memory for what stands between two layers: that of before, if it fits."""
    N, T, K = call.N, call.T, call.directions * call.hidden
    shape = (N, T, K) if call.batch_sizes is None else (rows, K)
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    if call.batch_sizes is None:
        return np.empty((T, N, K), dtype).swapaxes(0, 1)
    return np.empty(shape, dtype)


def of_masks(call: Call, masks: Sequence[Tensor]) -> list[Array]:
    """Masks (T, N, K), or (R, K), in the order of kernels."""
    arrays = [array_of(mask) for mask in masks]
    return arrays if call.batch_sizes is not None else [array.swapaxes(0, 1) for array in arrays]


def forward(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor] = (),
    memory: Memory | None = None,
) -> tuple[Tensor, ...]:
    """Run all layers; -> outputs, last states h, and c where there are any.

    masks: what outputs of all layers but the last are multiplied with, or none; memory: where what
    backward needs is kept, or None.
    """
    given, x = x, with_rows(x)
    kind, threads, batch_sizes = x.dtype, torch.get_num_threads(), call.batch_sizes
    layers, directions, dtype = call.layers, call.directions, DTYPES[kind]
    rows = call.N * call.T if batch_sizes is None else x.shape[0]
    out = new_output(call, rows, kind)
    last = [new_states(call, kind) for _ in call.cell.states]
    Ws, _owners = of_weights(call, weights)
    factors = of_masks(call, masks) if masks else ()
    firsts = None
    if states:
        states = [with_rows(state) for state in states]
        firsts = [of_states(call, state, dtype) for state in states]
    lasts = [of_states(call, state, dtype) for state in last]
    xs: Any = in_order(call, x, dtype)
    if memory is not None:
        memory.copy, memory.place = None if x is given else x, place_of(x)
    for layer in range(layers):
        hs: Any
        if layer == layers - 1:
            hs = in_order(call, out, dtype)
        elif memory is not None:
            hs = memory.hidden[layer] = new_hidden(call, rows, dtype, memory.hidden[layer])
        else:
            hs = new_hidden(call, rows, dtype)
        for direction in range(directions):
            k = layer * directions + direction
            cache = recurrent_forward(
                call.cell,
                xs,
                Ws[k],
                firsts and [first[k] for first in firsts],
                batch_sizes=batch_sizes,
                reverse=direction == 1,
                need_gradient=memory is not None,
                cache=None if memory is None else memory.caches[k],
                copy_xs=False,
                out=half(call, hs, direction),
                last=[state[k] for state in lasts],
                threads=threads,
            )[2]
            if memory is not None:
                memory.caches[k] = cache
        if factors and layer < layers - 1:
            hs *= factors[layer]
        xs = hs
    return (out, *last)


def backward(
    call: Call,
    memory: Memory,
    dout: Tensor | None,
    dlast: Sequence[Tensor | None],
    x: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    need_x: bool,
    need_states: Sequence[bool],
    need_weights: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Gradients of `forward`: of x, of the initial states, of weights; None where not needed.

    dout, dlast: of the outputs and of the last states, None where there is none.
    """
    kind, dtype, threads = x.dtype, DTYPES[x.dtype], torch.get_num_threads()
    layers, directions = call.layers, call.directions
    rows = call.N * call.T if call.batch_sizes is None else x.shape[0]
    dx = empty(x.shape, kind) if need_x else None
    wants_states = True in need_states
    dfirst = [new_states(call, kind) for _ in need_states] if wants_states else []
    Ws, weights = of_weights(call, weights)
    dweights = [
        torch.empty_like(weight) if need else None
        for weight, need in zip(weights, need_weights, strict=True)
    ]
    factors = of_masks(call, masks) if masks else ()
    dhs: Any = None
    if dout is not None:
        dout = with_rows(dout)
        dhs = in_order(call, dout, dtype)
    dlasts = dfirsts = None
    if any(d is not None for d in dlast):
        dlast = [None if d is None else with_rows(d) for d in dlast]
        dlasts = [None if d is None else of_states(call, d, dtype) for d in dlast]
    if wants_states:
        dfirsts = [of_states(call, d, dtype) for d in dfirst]
    each = len(Ws[0])
    for layer in range(layers - 1, -1, -1):
        below = need_x or wants_states or True in need_weights[: layer * directions * each]
        need_dx = below if layer else need_x
        dxs: Any = None
        if need_dx:
            dxs = new_hidden(call, rows, dtype) if layer else in_order(call, dx, dtype)
        for direction in range(directions):
            k = layer * directions + direction
            recurrent_backward(
                call.cell,
                half(call, dhs, direction),
                dlasts and [d and d[k] for d in dlasts],
                memory.caches[k],
                Ws[k],
                [
                    None if dW is None else W.at(dW.data_ptr())
                    for W, dW in zip(Ws[k], dweights[k * each : (k + 1) * each], strict=True)
                ],
                need_dx=need_dx,
                dxs=dxs,
                dfirst=dfirsts and [d[k] for d in dfirsts],
                adds_dx=direction == 1,
                threads=threads,
            )
        if not below:
            break
        if factors and layer:
            dxs *= factors[layer - 1]
        dhs = dxs
    if not wants_states:
        return dx, [None] * len(need_states), dweights
    dstates = [d if need else None for d, need in zip(dfirst, need_states, strict=True)]
    return dx, dstates, dweights
