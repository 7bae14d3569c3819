"""Subclasses of `torch.nn`'s recurrent modules with another forward."""

import sys
import weakref
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence
from torch.utils._device import DeviceContext

from .. import cells
from .._types import Array
from .function import compiler, run, undisturbed
from .stack import Call, State, Tensor, Weights, of_layers, reason_against

OURS = "rnnfast"
CELLS = {
    "RNN_TANH": cells.RNN,
    "RNN_RELU": cells.RNN_RELU,
    "LSTM": cells.LSTM_IFGO,
    "GRU": cells.GRU_RZN,
}
_C = torch._C
is_tracing, autocasts = _C._is_tracing, _C._is_any_autocast_enabled
is_compiling, Guards = torch.compiler.is_compiling, _C._dynamo.guards.TensorGuards
transforms = _C._functorch.peek_interpreter_stack
function_modes, dispatch_modes = _C._len_torch_function_stack, _C._len_torch_dispatch_stack


class Refused(Exception):
    """A call is not for our kernels; the reason."""


class Recurrent:
    """The forward of our modules, before that of torch.nn's in the order of methods."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """That of torch.nn's module, which does whatever our kernels do not."""
        if is_compiling():
            return super().forward(input, hx)  # type: ignore[misc]
        if compiler() is not None:
            return undisturbed(forward)(self, input, hx)
        return forward(self, input, hx)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        state.pop("_rnnfast", None)
        return state

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` takes instead: torch.nn's module with the same parameters."""
        base = TORCH_NN.get(type(self))
        if base is None:  # a subclass, whose forward may be another one
            return self
        module = base.__new__(base)
        module.__dict__.update(self.__dict__)
        module.__dict__.pop("_rnnfast", None)
        return module


class RNN(Recurrent, torch.nn.RNN):  # type: ignore[misc]
    """`torch.nn.RNN`, whose forward and backward are done by our kernels wherever they can."""


class LSTM(Recurrent, torch.nn.LSTM):  # type: ignore[misc]
    """`torch.nn.LSTM`, whose forward and backward are done by our kernels wherever they can."""


class GRU(Recurrent, torch.nn.GRU):  # type: ignore[misc]
    """`torch.nn.GRU`, whose forward and backward are done by our kernels wherever they can."""


TORCH_NN: dict[Any, Any] = {RNN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}
"""The class of torch.nn's for each of ours."""


def last_path(module: Any) -> str | None:
    """By what the last forward of a module was done: "rnnfast", or "torch: <reason>".

    None before the first one. Traced and exported calls do not count.
    """
    if not isinstance(module, torch.nn.RNNBase):
        raise TypeError(
            "module: expected a recurrent module of rnnfast.torch or torch.nn, got "
            f"{type(module).__name__}; of a model, ask each of its recurrent modules"
        )
    if not isinstance(module, Recurrent):
        return "torch: the module is torch.nn's own; accelerate() makes it one of ours"
    state: State | None = module.__dict__.get("_rnnfast")
    return None if state is None else state.path


def state_of(module: Any) -> State:
    state: State | None = module.__dict__.get("_rnnfast")
    return state or module.__dict__.setdefault("_rnnfast", State())


def forward(module: Any, input: Any, hx: Any) -> Any:
    state = state_of(module)
    try:
        result = by_kernels(module, state, input, hx)
    except Refused as reason:
        state.path = f"torch: {reason}"
    else:
        state.path = OURS
        return result
    if fx := sys.modules.get("torch.fx"):
        for given in (input, *hx) if type(hx) in (tuple, list) else (input, hx):
            if isinstance(given, fx.Proxy):
                return as_a_leaf(module, input, hx, given)
    return super(Recurrent, module).forward(input, hx)


def as_a_leaf(module: Any, input: Any, hx: Any, proxy: Any) -> Any:
    """What torch.fx makes of a module of torch.nn's: a step of its own."""
    arguments = (input,) if hx is None else (input, hx)
    name = proxy.tracer.path_of_module(module)
    return proxy.tracer.create_proxy("call_module", name, arguments, {})


def by_kernels(module: Any, state: State, input: Any, hx: Any) -> Any:
    """What forward returns; Refused where torch.nn's forward must do it, or say what is wrong."""
    if is_tracing():
        raise Refused("tracing")
    if autocasts():
        raise Refused("autocast")
    if transforms() is not None:
        raise Refused("a transform of torch.func")
    if function_modes() and not only_defaults():
        raise Refused("a mode of torch functions")
    if dispatch_modes():
        raise Refused("a mode of torch dispatch")
    if forward_ad._current_level >= 0:
        raise Refused("forward-mode differentiation")
    cell = CELLS.get(module.mode)
    if cell is None or module.proj_size:
        raise Refused("proj_size")
    layers, directions, H = module.num_layers, 1 + bool(module.bidirectional), module.hidden_size

    packed = type(input) is PackedSequence
    x: Tensor = input.data if packed else input
    check("the input", x, x)
    shape = x.shape
    batched, batch_sizes = packed or len(shape) == 3, None
    if packed:
        batch_sizes = checked_sizes(input.batch_sizes, shape)
        N, T = int(batch_sizes[0]), len(batch_sizes)
    elif batched:
        N, T = shape[:2] if module.batch_first else (shape[1], shape[0])
    else:
        N, T = 1, shape[0]
    if len(shape) != 3 - (packed or not batched) or shape[-1] != module.input_size or 0 in shape:
        raise Refused(f"the input has the shape {tuple(shape)}")

    count = layers * directions
    states: tuple[Tensor, ...] = ()
    if hx is not None:
        if cell.S > 1 and (type(hx) not in (tuple, list) or len(hx) != cell.S):
            raise Refused(f"initial states are a {type(hx).__name__}")
        states = tuple(hx) if cell.S > 1 else (hx,)
        for tensor in states:
            check("an initial state", tensor, x)
        if packed and input.sorted_indices is not None:
            states = tuple(tensor.index_select(1, input.sorted_indices) for tensor in states)
        expected = (count, N, H) if batched else (count, H)
        for tensor in states:
            if tensor.shape != expected:
                raise Refused(f"an initial state has the shape {tuple(tensor.shape)}")
    weights, addresses, arrays = checked_weights(
        module, state, x, (cell.G * H, shape[-1], H, layers, directions, bool(module.bias), x.dtype)
    )
    call = Call(
        *(cell, layers, directions, H, bool(module.bias), N, T, batched, module.batch_first),
        *(batch_sizes, addresses, arrays, weakref.ref(state)),
    )
    p, masks = module.dropout, ()
    if p and module.training and layers > 1:
        masks = draw_masks(call, p, x)
    out, *last = run(call, x, states, weights, masks)
    if packed:
        _, sizes, order, back = input
        out = PackedSequence(out, sizes, order, back)
        if back is not None:
            last = [tensor.index_select(1, back) for tensor in last]
    return out, tuple(last) if cell.S > 1 else last[0]


def check(what: str, tensor: Any, like: Tensor) -> None:
    """Refused unless our kernels can read a tensor, which is of the dtype of another one."""
    if reason := reason_against(tensor, like):
        raise Refused(f"{what} {reason}")


def only_defaults() -> bool:
    """Whether modes of torch functions do no more than `torch.set_default_device("cpu")` does."""
    modes = torch.overrides._get_current_function_mode_stack()
    return all(type(mode) is DeviceContext and mode.device.type == "cpu" for mode in modes)


def checked_sizes(batch_sizes: Tensor, shape: Sequence[int]) -> Array:
    """Rows of each step of packed sequences, which must be those of the data."""
    steps = batch_sizes.tolist() if batch_sizes.dtype == torch.int64 else []
    if (
        batch_sizes.dim() != 1
        or not steps
        or steps[-1] < 1
        or steps != sorted(steps, reverse=True)
        or sum(steps) != shape[0]
    ):
        raise Refused("batch_sizes are not those of the data")
    return np.array(steps, np.int64)


def checked_weights(
    module: Any, state: State, x: Tensor, sizes: tuple[Any, ...]
) -> tuple[Sequence[Tensor], list[int], Weights | None]:
    """The weights of all layers, of which parametrizations and the like may have made others;
    their addresses, and arrays of them unless one is not contiguous.

    sizes: G*H, K, H, L, D, whether there are biases, and the dtype.
    """
    weights, parameters = module._flat_weights, module._parameters
    if not all(map(is_, map(parameters.get, module._flat_weights_names), weights)):
        module._update_flat_weights()  # as torch.nn's forward begins
        weights = module._flat_weights
    known, guards, addresses, arrays = state.known
    if (
        known == sizes
        and len(weights) == len(addresses)
        and guards.check(*weights)
        and addresses == [weight.data_ptr() for weight in weights]
    ):
        return weights, addresses, arrays
    shapes = shapes_of(*sizes[:-1])
    if len(weights) != len(shapes):
        raise Refused("there are other weights than those of the module")
    for weight, shape in zip(weights, shapes, strict=True):
        check("a weight", weight, x)
        if weight.shape != shape:
            raise Refused(f"a weight has the shape {tuple(weight.shape)}")
    addresses = [weight.data_ptr() for weight in weights]
    if not all(weight.is_contiguous() for weight in weights):
        return weights, addresses, None
    guards = Guards(*weights, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    arrays = of_layers(weights, sizes[-2])
    state.known = sizes, guards, addresses, arrays
    return weights, addresses, arrays


def shapes_of(
    rows: int, K: int, H: int, layers: int, directions: int, bias: bool
) -> list[tuple[int, ...]]:
    """Shapes of the weights of all layers and directions."""
    return [
        shape
        for layer in range(layers)
        for _ in range(directions)
        for shape in ((rows, directions * H if layer else K), (rows, H), *[(rows,)] * (2 * bias))
    ]


def draw_masks(call: Call, p: float, x: Tensor) -> tuple[Tensor, ...]:
    """What dropout multiplies the outputs of all layers but the last with, by PyTorch's generator,
    in the order in which PyTorch draws."""
    if not 0 <= p <= 1:
        raise Refused(f"dropout is {p}")
    K = call.directions * call.hidden
    shape = (call.T, call.N, K) if call.batch_sizes is None else (len(x), K)
    return tuple(
        torch.zeros(shape, dtype=x.dtype)
        if p == 1
        else torch.empty(shape, dtype=x.dtype).bernoulli_(1 - p).div_(1 - p)
        for _ in range(call.layers - 1)
    )
