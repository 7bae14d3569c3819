"""What the tests share: random problems for every layer and kernel, and how results are compared.

Letters in sizes: N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

import math
from dataclasses import dataclass, field
from inspect import Parameter, signature

import numpy as np

from rnnfast import cells, kernels, training
from rnnfast.layers import TIME_LAYERS
from rnnfast.layers.cell import CELL_OPTIONS
from rnnfast.models import LANGUAGE_MODELS, saving

# Cells that an option gives to a layer: a problem has the name of the layer, and this behind it.
VARIANTS = {"relu": cells.RNN_RELU, "reset_after": cells.GRU_RESET_AFTER}
VARIED = {"relu": ("RNN", "TimeRNN", "TimeBiRNN"), "reset_after": ("GRU", "TimeGRU", "TimeBiGRU")}
# Stacks, of two layers: their cell, and how many directions they have.
STACKS = {
    "TimeStack": (cells.LSTM, 1),
    "TimeStack relu": (cells.RNN_RELU, 1),
    "TimeStack both ways": (cells.GRU_RESET_AFTER, 2),
}
# Other options, or other inputs.
OTHERS = ["Attention lengths", "TimeDropout locked", "TimeSigmoidWithLoss flat"]


def class_of(name):
    """The layer that a problem is for."""
    return saving.LAYERS[name.partition(" ")[0]]


def cell_of(name):
    """The cell of a problem, or None where there is none."""
    if name in STACKS:
        return STACKS[name][0]
    own = getattr(class_of(name), "cell", None)
    return VARIANTS.get(name.partition(" ")[2], own)


def is_compiled(name):
    """Whether there are kernels for a problem."""
    cell, both = cell_of(name), "Bi" in name or "both ways" in name
    directions = "bidirectional" if both else "recurrent"
    compiled = cell and cell.name in cells.KERNEL_CELLS
    return not cell or (compiled and hasattr(kernels, f"{directions}_forward"))


# All that there are: a new one reaches every test that takes them from here.
CELLS = list(cells.KERNEL_CELLS)
VARIETIES = [f"{name} {variant}" for variant, names in VARIED.items() for name in names]
EVERY_LAYER = list(dict.fromkeys((*saving.LAYERS, *VARIETIES, *STACKS, *OTHERS)))
LAYERS = list(filter(is_compiled, EVERY_LAYER))
RECURRENT = [name for name in LAYERS if class_of(name) in TIME_LAYERS.values()]
BIDIRECTIONAL = [name for name in LAYERS if "Bi" in name]
STEPS = [name.removeprefix("Time") for name in RECURRENT]
TIME_CLASSES = ["TimeRNN", "TimeGRU", "TimeLSTM", "TimeBiRNN", "TimeBiGRU", "TimeBiLSTM"]
LOSSES = [name for name in LAYERS if name.partition(" ")[0].endswith("Loss")]
MODELS = list(LANGUAGE_MODELS.values())
OPTIMIZERS = [cls for name in training.__all__ if hasattr(cls := getattr(training, name), "slots")]
DTYPES = ["float32", "float64"]
# Largest difference that rounding explains, relative to the largest value of an array.
TOLERANCES = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
# (N, T, D, H, V): all 1, each letter 1 in turn, and sizes on both sides of the unrolled loops
SIZES = [
    (1, 1, 1, 1, 1),
    (1, 6, 3, 5, 7),
    (4, 1, 3, 5, 7),
    (4, 6, 1, 5, 7),
    (4, 6, 3, 1, 7),
    (4, 6, 3, 5, 1),
    (2, 3, 4, 4, 8),
    (3, 5, 7, 11, 13),
    (5, 2, 17, 33, 19),
]


@dataclass
class Problem:
    """A layer's weights, and the arguments of one forward and one backward call."""

    name: str
    weights: list  # in the order of `params`
    inputs: list
    gradients: list
    state: list = field(default_factory=list)  # what set_state takes
    last: dict = field(default_factory=dict)  # gradients that arrive at the last state

    def arrays(self):
        """Every array of the problem, by name."""
        groups = ("weights", "inputs", "gradients", "state")
        named = {f"{g}[{k}]": a for g in groups for k, a in enumerate(getattr(self, g))}
        return {k: a for k, a in (named | self.last).items() if isinstance(a, np.ndarray)}

    def map(self, change):
        """The same problem with `change` applied to every array."""

        def changed(values):
            return [change(a) if isinstance(a, np.ndarray) else a for a in values]

        groups = (self.weights, self.inputs, self.gradients, self.state)
        last = {k: change(a) for k, a in self.last.items()}
        return Problem(self.name, *map(changed, groups), last)

    def make(self, module, **options):
        """The layer of that name from `module`."""
        name, _, variant = self.name.partition(" ")
        if self.name in STACKS:
            cell, directions = STACKS[self.name]
            options |= CELL_OPTIONS[cell.name] | {"bidirectional": directions == 2}
            kind = cell.name.partition("_")[0]
            return module.TimeStack.from_weights(kind, self.weights, **options)
        if variant in VARIANTS:
            options |= CELL_OPTIONS[VARIANTS[variant].name]
        if name == "TimeDropout":  # every layer of the problem draws the same
            options = {"locked": variant == "locked", "rng": 7} | options
        weights = list(self.weights)
        if variant == "reset_after":  # whose biases bh are no positional arguments
            biases = [weights.pop(k) for k in range(3, len(weights), 3)]
            names = ["bh"] if len(biases) == 1 else ["bh1", "bh2"]
            options |= dict(zip(names, biases, strict=True))
        return getattr(module, name)(*weights, **options)

    def layer(self, module, **options):
        """The same, ready for `forward`."""
        layer = self.make(module, **({"stateful": True} if self.state else {}), **options)
        if self.state:
            layer.set_state(*self.state)
        return layer

    def infer(self, layer):
        """What `infer` returns for those inputs that it must have."""
        parameters = signature(layer.infer).parameters.values()
        needed = [p for p in parameters if p.default is Parameter.empty]
        return layer.infer(*self.inputs[: len(needed)])

    def forward(self, layer):
        return named("output", layer.forward(*self.inputs)) | states_of(layer, "h", "c")

    def backward(self, layer):
        gradients = named("gradient", layer.backward(*self.gradients, **self.last))
        copies = [dW.copy() for dW in layer.grads]  # the next backward overwrites them
        return gradients | named("grads", copies) | states_of(layer, "dh", "dc")

    def run(self, module):
        """Results of forward and backward, by name."""
        layer = self.layer(module)
        return self.forward(layer) | self.backward(layer)


def named(stem, values):
    values = values if isinstance(values, (tuple, list)) else [values]
    return {f"{stem}[{k}]": value for k, value in enumerate(values) if value is not None}


def states_of(layer, *names):
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def make_problem(name, dtype="float64", sizes=(3, 5, 4, 6, 7), seed=0):
    """A random problem for the layer `name`; ids repeat and some targets are ignored."""
    N, T, D, H, V = sizes
    rng = np.random.default_rng([seed, *sizes])

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def weights(cell, D=D):
        columns = cell.G * H
        arrays = [normal(D, columns) / D**0.5, normal(H, columns) / H**0.5, normal(columns)]
        return arrays + [normal(columns) for _ in cell.weights[3:]]

    def block(cell, *directions, layers=1):
        """Of layers over time, `directions` being (2,) where each has two."""
        count = math.prod(directions)
        axis = (layers * count,) if layers * count > 1 else ()
        states, gradients = ([normal(*axis, N, H) for _ in cell.states] for _ in "12")
        rows = [D] * count + [count * H] * count * (layers - 1)
        arrays = [W for D in rows for W in weights(cell, D)]
        last = dict(zip(cell.gradients, gradients, strict=True))
        return Problem(name, arrays, [normal(N, T, D)], [normal(N, T, count * H)], states, last)

    ids, cell = rng.integers(0, V, (N, T)), cell_of(name)
    match name.partition(" ")[0]:
        case "RNN" | "GRU" | "LSTM":
            arrays, x = weights(cell), normal(N, D)
            states, gradients = ([normal(N, H) for _ in cell.states] for _ in "12")
            return Problem(name, arrays, [x, *states], gradients)
        case "TimeRNN" | "TimeGRU" | "TimeLSTM":
            return block(cell)
        case "TimeBiRNN" | "TimeBiGRU" | "TimeBiLSTM":
            return block(cell, 2)
        case "TimeStack":
            return block(cell, STACKS[name][1], layers=2)
        case "TimeEmbedding":
            return Problem(name, [normal(V, D)], [ids], [normal(N, T, D)])
        case "TimeAffine":
            return Problem(name, [normal(D, V), normal(V)], [normal(N, T, D)], [normal(N, T, V)])
        case "TimeSoftmaxWithLoss":
            ids[rng.random((N, T)) < 0.2] = -1
            return Problem(name, [], [5 * normal(N, T, V), ids], [0.7])
        case "TimeAffineWithLoss":
            ids[rng.random((N, T)) < 0.2] = -1
            return Problem(name, [normal(D, V), normal(V)], [normal(N, T, D), ids], [0.7])
        case "TimeSoftmax":
            return Problem(name, [], [5 * normal(N, T, V)], [normal(N, T, V)])
        case "TimeDropout":
            return Problem(name, [], [normal(N, T, D)], [normal(N, T, D)])
        case "Attention":  # to V steps; of the first row, all are used
            lengths = [(V - np.arange(N)) % (V + 1)] if name.endswith("lengths") else []
            return Problem(
                name, [], [normal(N, V, H), normal(N, T, H), *lengths], [normal(N, T, H)]
            )
        case "TimeSigmoidWithLoss":
            shape = (N, T) if name.endswith("flat") else (N, T, V)
            return Problem(name, [], [5 * normal(*shape), rng.integers(-1, 2, shape)], [0.7])
        case "TimePerplexityLoss":
            ps = rng.dirichlet(np.ones(V), (N, T)).astype(dtype)
            return Problem(name, [], [ps, ids], [0.7])
        case "TimeSquaredLoss":
            return Problem(name, [], [normal(N, T, V), normal(N, T, V)], [0.7])
        case _:
            raise NotImplementedError(f"a problem for the layer {name}")


WEIGHTED = [name for name in LAYERS if make_problem(name).weights]
WEIGHTLESS = [name for name in LAYERS if name not in WEIGHTED]  # their dtype is that of their input


def remade(layer, module):
    """The same layer from `module`, with copies of its weights, that has seen nothing."""
    weights = {name: W.copy() for name, W in layer.named_params().items()}
    return getattr(module, type(layer).__name__)(**weights, **layer.config())


def make_cell(cell, dtype="float64", sizes=(3, 5, 4, 6, 7), seed=0):
    """Inputs of the forward kernel of `cell`, by name, and gradients d* of what it returns."""
    cell = cells.KERNEL_CELLS[cell]
    name = next(name for name in RECURRENT if takes(cell_of(name)) == takes(cell))
    problem = make_problem(name, dtype, sizes, seed)
    weights = zip(cell.weights, problem.weights, strict=True)
    states = zip((f"{state}0" for state in cell.states), problem.state, strict=True)
    inputs = {"xs": problem.inputs[0], **dict(weights), **dict(states)}
    return inputs | {"dhs": problem.gradients[0]} | problem.last


def takes(cell):
    """On what the arrays depend that a cell takes; two that differ in their gates take the same."""
    return cell.G, cell.states, cell.weights


def forward_cell(ops, cell, arrays, **options):
    """(hs, last states), cache"""
    cell = cells.KERNEL_CELLS[cell]
    weights = tuple(arrays[name] for name in cell.weights)
    states = np.stack([arrays[f"{name}0"] for name in cell.states])
    *outputs, cache = ops.recurrent_forward(cell, arrays["xs"], weights, states, **options)
    return outputs, cache


def empty_grads(cell, arrays):
    """Arrays for gradients of weights; what they hold beforehand must not matter."""
    names = cells.KERNEL_CELLS[cell].weights
    return [np.full(arrays[name].shape, np.nan, arrays[name].dtype) for name in names]


def backward_cell(ops, cell, arrays, cache, grads, **options):
    """(dxs, gradients of the initial states); those of the weights are written to grads"""
    cell = cells.KERNEL_CELLS[cell]
    weights = arrays["Wx"], arrays["Wh"]
    dstates = np.stack([arrays[f"d{name}"] for name in cell.states])
    return ops.recurrent_backward(cell, arrays["dhs"], dstates, cache, weights, grads, **options)


def run_cell(ops, cell, arrays, *, cache=None, index=None, **options):
    """Results of both kernels of `cell`, by name."""
    (hs, last), cache = forward_cell(ops, cell, arrays, index=index, cache=cache)
    grads = empty_grads(cell, arrays)
    dxs, dfirst = backward_cell(ops, cell, arrays, cache, grads, **options)
    states, weights = cells.KERNEL_CELLS[cell].states, cells.KERNEL_CELLS[cell].weights
    results = {"hs": hs} | dict(zip(states, last, strict=True))
    results |= {f"d{name}0": d for name, d in zip(states, dfirst, strict=True)}
    results |= {f"d{name}": dW for name, dW in zip(weights, grads, strict=True)}
    return results | ({} if dxs is None else {"dxs": dxs})


def assert_close(actual, expected, tolerance=None, name="", *, dtype=None):
    """Equal shape, and a difference of at most `tolerance` of the largest expected value.

    Without a tolerance, it is that of rounding, and both must have one dtype: `dtype`, if given.
    With one, expected values may have another dtype, as those of an oracle in float64 have.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
    if tolerance is None:
        assert actual.dtype == expected.dtype == (dtype or actual.dtype), (
            f"{name}: {actual.dtype} and {expected.dtype}, not {dtype or 'one dtype'}"
        )
        tolerance = TOLERANCES[actual.dtype]
    difference, size = np.abs(actual - expected).max(), np.abs(expected).max()
    # a NaN is a difference, as is an infinity, beside which everything would be small
    assert difference <= tolerance * size < np.inf, f"{name}: {difference:.2e} of {size:.2e}"


def assert_all_close(actual, expected, tolerance=None):
    """`assert_close` for results by name, of which there must be the same."""
    assert actual.keys() == expected.keys(), f"{actual.keys()}, not {expected.keys()}"
    for name in actual:
        assert_close(actual[name], expected[name], tolerance, name)


# The same values with other strides. ----------------------------------------------------------


def fortran(array):
    return np.asfortranarray(array)


def flipped(array):
    """Negative strides along every axis."""
    return np.flip(np.flip(array).copy())


def swapped(array):
    """The first two axes exchanged in memory: time-major sequences, transposed matrices."""
    return array.swapaxes(0, 1).copy().swapaxes(0, 1) if array.ndim > 1 else array


def spaced(array):
    """Every second element of a larger array along every axis, garbage in between."""
    large = np.full([2 * size for size in array.shape], 99, array.dtype)
    view = large[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = [fortran, flipped, swapped, spaced, read_only]
