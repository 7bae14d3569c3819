"""Stacks: equal to their layers, run by hand; every gradient by differences; how they are made,
what they carry, how they are kept in files and copies, and their errors.

PyTorch judges them in test_torch_stack.py; parity, strides and replaced weights are in the tests of
all layers.
"""

import copy
import doctest
import inspect
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from problems import assert_all_close, assert_close
from test_gradients import TOLERANCE, dot, numeric_gradient

import rnnfast
from rnnfast import kernels, reference
from rnnfast.layers import stack
from rnnfast.layers.initial import INITS

N, T, D, H, LAYERS = 4, 6, 3, 5, 3
KINDS = [
    ("rnn", {}),
    ("rnn", {"activation": "relu"}),
    ("lstm", {}),
    ("gru", {}),
    ("gru", {"reset_after": True}),
]
# everything that a block may have, and everything that may be drawn
GIVEN = {
    "lengths": np.array([6, 0, 3, 5]),
    "reset": np.random.default_rng(2).random((N, T)) < 0.3,
}
MASKS = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.25}

modules = pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
every_kind = pytest.mark.parametrize(
    ("kind", "options"), KINDS, ids=[" ".join((kind, *options)) for kind, options in KINDS]
)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])


def make(module, kind, *, layers=LAYERS, dtype="float64", rng=0, **options):
    """A stack whose biases are no zeros."""
    sizes = (kind, D, H, layers)
    return module.TimeStack(*sizes, init="pytorch", dtype=dtype, rng=rng, **options)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def block_of(stack, rows=N):
    """xs, initial states, and gradients of outputs and of last states."""
    shape, outputs = stack.state_shape(rows), (1 + stack.bidirectional) * H
    states = [normal(*shape, seed=10 + k) for k in range(stack.cell.S)]
    dlast = [normal(*shape, seed=20 + k) for k in range(stack.cell.S)]
    gradients = dict(zip(stack.cell.gradients, dlast, strict=True))
    return normal(rows, T, D), states, normal(rows, T, outputs, seed=1), gradients


def results_of(layer, output, gradient=None):
    named = {"output": output, "dxs": gradient}
    named |= {name: getattr(layer, name, None) for name in ("h", "c", "dh", "dc")}
    return {name: np.array(value) for name, value in named.items() if value is not None}


def run(stack, xs, states, dhs, dlast, **given):
    """Results of forward and backward, by name, from these states."""
    stack.stateful = True
    stack.set_state(*states)
    output = stack.forward(xs, **given)
    results = results_of(stack, output, stack.backward(dhs, **dlast))
    return results | {name: dW.copy() for name, dW in stack.named_grads().items()}


def layers_of(stack, module=rnnfast, **more):
    """Its layers, one by one."""
    kind = stack.config()["cell"]
    Layer = getattr(module, f"Time{'Bi' if stack.bidirectional else ''}{kind.upper()}")
    known = inspect.signature(Layer).parameters
    options = {name: value for name, value in stack.config().items() if name in known}
    layers = []
    for k in range(stack.num_layers):
        own = {
            name.partition(".")[2]: W.copy()
            for name, W in stack.named_params().items()
            if name.startswith(f"{k}.")
        }
        layers.append(Layer(**own, **(options | more)))
    return layers


def run_by_hand(layers, xs, states, dhs, dlast, *, between=None, index=None, **given):
    """What `run` returns, layer by layer, with masks of the outputs between them."""
    between = between or [1] * (len(layers) - 1)

    def part(array, k):
        """Of layer k."""
        return array[2 * k : 2 * k + 2] if layers[0].state_shape(N)[0] == 2 else array[k]

    for k, layer in enumerate(layers):
        layer.stateful = True
        layer.set_state(*(part(state, k) for state in states))
        xs = layer.forward(xs, index=None if k else index, **given)
        if k < len(between):
            xs = xs * between[k]
    results = {"output": xs}
    for k, layer in reversed(list(enumerate(layers))):
        dhs = layer.backward(dhs, **{name: part(d, k) for name, d in dlast.items()})
        if k:
            dhs = dhs * between[k - 1]
    results["dxs"] = dhs
    for name in ("h", "c", "dh", "dc"):
        if hasattr(layers[0], name):
            parts = [getattr(layer, name) for layer in layers]
            results[name] = (np.concatenate if parts[0].ndim == 3 else np.stack)(parts)
    for k, layer in enumerate(layers):
        results |= {f"{k}.{name}": dW for name, dW in layer.named_grads().items()}
    return results


# Equal to its layers. -------------------------------------------------------------------------


@modules
@both_ways
@every_kind
@pytest.mark.parametrize("given", [{}, GIVEN], ids=["whole", "lengths, reset"])
def test_a_stack_is_its_layers(kind, options, bidirectional, given, module):
    stack = make(module, kind, bidirectional=bidirectional, truncate_size=2, **options)
    block = block_of(stack)
    expected = run_by_hand(layers_of(stack, module), *block, **given)
    assert_all_close(run(stack, *block, **given), expected, 1e-14)


@modules
@every_kind
def test_a_stack_in_reverse(kind, options, module):
    stack = make(module, kind, reverse=True, **options)
    assert (stack.reverse, stack.reads_ahead) == (True, True)
    block = block_of(stack)
    expected = run_by_hand(layers_of(stack, module), *block, **GIVEN)
    assert_all_close(run(stack, *block, **GIVEN), expected, 1e-14)


@modules
@both_ways
def test_an_index_is_for_the_first_layer(bidirectional, module):
    stack = make(module, "lstm", bidirectional=bidirectional)
    _, *block = block_of(stack)
    xs, index = normal(7, D), np.random.default_rng(0).integers(0, 7, (N, T))
    expected = run_by_hand(layers_of(stack, module), xs, *block, index=index)
    assert_all_close(run(stack, xs, *block, index=index), expected, 1e-14)
    xs, index = xs.astype("f"), [[1, 2, 1]]
    assert_close(stack.infer(xs, index=index)[0], stack.infer(xs[index])[0], 1e-12)


@modules
@both_ways
def test_one_layer(bidirectional, module):
    stack = make(module, "gru", layers=1, bidirectional=bidirectional)
    block = block_of(stack)
    (layer,) = layers_of(stack, module)
    assert stack.h is None
    expected = run_by_hand([layer], *block)
    assert stack.state_shape(N) == (1 + bidirectional, N, H)
    assert_all_close(run(stack, *block), expected, 1e-14)


def keys(rng):
    while True:
        yield int(rng.random() * 2**53)


@modules
@both_ways
@every_kind
def test_masks_are_drawn_layer_by_layer_and_then_between_them(kind, options, bidirectional, module):
    stack = make(module, kind, bidirectional=bidirectional, dropout=0.4, **MASKS, **options)
    block = block_of(stack)
    stack.rng = 7
    mine, of_layers = np.random.default_rng(7), np.random.default_rng(7)
    # recurrent dropout, zoneout of each state, weight drop, in each direction of each layer
    for _ in range(LAYERS * (1 + bidirectional) * (2 + stack.cell.S)):
        next(keys(mine))
    between = [np.empty((N, T, (1 + bidirectional) * H)) for _ in range(LAYERS - 1)]
    for mask, key in zip(between, keys(mine), strict=False):
        reference.ops.draw_mask(key, 1 - 0.4, 1 / (1 - 0.4), mask.reshape(-1))
    expected = run_by_hand(
        layers_of(stack, module, rng=of_layers), *block, between=between, **GIVEN
    )
    assert_all_close(run(stack, *block, **GIVEN), expected, 1e-14)
    assert stack.rng.bit_generator.state["state"] == mine.bit_generator.state["state"]


@modules
@both_ways
def test_evaluation_draws_nothing(bidirectional, module):
    stack = make(module, "lstm", bidirectional=bidirectional, dropout=0.4, **MASKS)
    xs, *block = block_of(stack)
    plain = make(module, "lstm", bidirectional=bidirectional)
    before = stack.rng.bit_generator.state
    stack.training = False
    assert_all_close(run(stack, xs, *block), run(plain, xs, *block), 1e-14)
    stack.training, stack.stateful = True, False
    assert_close(stack.infer(xs)[0], plain.infer(xs)[0])
    assert stack.rng.bit_generator.state == before
    first = stack.forward(xs)
    assert not np.allclose(stack.forward(xs), first)
    stack.rng.bit_generator.state = before
    np.testing.assert_array_equal(stack.forward(xs), first)

    stack.training, stack.zoneout_mean = False, True
    of_layers = layers_of(stack, module)
    for layer in of_layers:
        layer.training = False
    assert_all_close(run(stack, xs, *block), run_by_hand(of_layers, xs, *block), 1e-14)


class Recorder:
    """The compiled kernels, and what they were called with and have returned."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        function = getattr(kernels, name)

        def call(*arguments, **options):
            result = function(*arguments, **options)
            self.calls.append((name, arguments, result))
            return result

        return call


@both_ways
def test_arrays_go_from_layer_to_layer_without_a_copy(bidirectional):
    recorder = Recorder()
    stack = make(rnnfast, "lstm", bidirectional=bidirectional, ops=recorder)
    output = stack.forward(normal(N, T, D))
    dxs = stack.backward(np.ones_like(output))
    way = "bidirectional" if bidirectional else "recurrent"
    names = [f"{way}_forward"] * LAYERS + [f"{way}_backward"] * LAYERS
    assert [name for name, *_ in recorder.calls] == names
    returned = [result[0] for *_, result in recorder.calls]
    taken = [arguments[1] for _, arguments, _ in recorder.calls]
    for first in (0, LAYERS):  # forward, then backward
        for k in range(first, first + LAYERS - 1):
            assert taken[k + 1] is returned[k]
    assert output is returned[LAYERS - 1]
    assert dxs is returned[-1]


def test_share_of_what_is_dropped():
    recorder = Recorder()
    stack = rnnfast.TimeStack("rnn", 2, 50, 2, dropout=0.3, rng=0, ops=recorder, dtype="float64")
    stack.forward(normal(20, 30, 2))
    (below, *_), _ = (result for name, _, result in recorder.calls if name == "recurrent_forward")
    undropped = layers_of(stack)[0].forward(normal(20, 30, 2))
    dropped = below == 0
    assert abs(dropped.mean() - 0.3) < 4 * (0.3 * 0.7 / dropped.size) ** 0.5
    assert_close(below[~dropped], undropped[~dropped] / 0.7)


# Gradients by differences. --------------------------------------------------------------------


@modules
@both_ways
@every_kind
@pytest.mark.parametrize("masks", [{}, {"dropout": 0.4, **MASKS}], ids=["plain", "masks"])
def test_gradients_by_differences(kind, options, bidirectional, masks, module):
    """Of weights, inputs and all initial states, some arriving at all last states."""
    stack = module.TimeStack(
        kind, 2, 3, 2, bidirectional=bidirectional, dtype="float64", rng=0, **masks, **options
    )
    for W in stack.params:
        W *= 1.5
    rows, shape = 3, stack.state_shape(3)
    xs, dhs = normal(rows, 4, 2), normal(rows, 4, 3 * (1 + bidirectional), seed=1)
    states = [normal(*shape, seed=k) for k in range(2, 2 + stack.cell.S)]
    dlast = [normal(*shape, seed=k) for k in range(4, 4 + stack.cell.S)]
    given = {"lengths": [4, 0, 3], "reset": np.eye(3, 4, 1, dtype=bool)}
    before = stack.rng.bit_generator.state
    stack.stateful = True

    def loss():
        stack.rng.bit_generator.state = before  # the same masks
        stack.set_state(*states)
        output = stack.forward(xs, **given)
        return dot(output, dhs) + sum(map(dot, stack.get_state(), dlast))

    loss()
    dxs = stack.backward(dhs, **dict(zip(stack.cell.gradients, dlast, strict=True)))
    gradients = {"xs": dxs} | {name: dW.copy() for name, dW in stack.named_grads().items()}
    gradients |= {name: getattr(stack, f"d{name}") for name in stack.cell.states}
    arrays = {"xs": xs} | stack.named_params() | dict(zip(stack.cell.states, states, strict=True))
    for name, array in arrays.items():
        assert_close(gradients[name], numeric_gradient(loss, array), TOLERANCE, name)


@modules
@both_ways
def test_parts_of_gradients(bidirectional, module):
    stack = make(module, "lstm", bidirectional=bidirectional)
    xs, states, dhs, dlast = block_of(stack)
    expected = run(stack, xs, states, dhs, {"dc": dlast["dc"]})
    nothing = stack.backward(dhs, dh=None, dc=dlast["dc"], need_dx=False)
    assert nothing is None
    results = results_of(stack, expected["output"], expected["dxs"])
    results |= {name: dW.copy() for name, dW in stack.named_grads().items()}
    assert_all_close(results, expected, 1e-300)


# States. --------------------------------------------------------------------------------------


@modules
@both_ways
def test_states_in_and_out(bidirectional, module):
    stack = make(module, "lstm", bidirectional=bidirectional, stateful=True)
    xs, (h, c), *_ = block_of(stack)
    assert stack.get_state() == (None, None)
    from_zeros = stack.forward(xs)
    assert stack.h.shape == stack.c.shape == stack.state_shape(N)
    carried = stack.forward(xs)
    assert not np.allclose(carried, from_zeros)
    stack.set_state(h, c)
    h[...], c[...] = h + 0, c + 0
    output, last = stack.infer(xs, np.stack([h, c]))
    np.testing.assert_array_equal(stack.forward(xs), output)
    assert last.shape == (2, len(h), N, H)
    np.testing.assert_array_equal(last, stack.get_state())
    np.testing.assert_array_equal(stack.hs.shape, (len(h), N, T, H))
    for states, of_last in ((stack.hs, stack.h), (stack.cs, stack.c)):
        assert not states.flags.writeable
        ahead = slice(None, None, 2) if bidirectional else slice(None)
        np.testing.assert_array_equal(states[ahead, :, -1], of_last[ahead])
        if bidirectional:
            np.testing.assert_array_equal(states[1::2, :, 0], of_last[1::2])
    stack.h[...] = 0.5
    halves = np.full_like(h, 0.5), stack.c
    np.testing.assert_array_equal(stack.infer(xs, halves)[0], stack.forward(xs))
    stack.reset_state()
    np.testing.assert_array_equal(stack.forward(xs), from_zeros)
    stack.stateful = False
    np.testing.assert_array_equal(stack.forward(xs), from_zeros)


@modules
@every_kind
def test_blocks_equal_one_long_run(kind, options, module):
    stack = make(module, kind, stateful=True, **options)
    xs, *_ = block_of(stack)
    expected, states = stack.infer(xs)
    blocks = [stack.forward(block) for block in np.split(xs, [1, 4], axis=1)]
    assert_close(np.concatenate(blocks, axis=1), expected)
    assert_close(np.stack(stack.get_state()), states)


def test_states_that_a_cell_has_not():
    stack = make(rnnfast, "gru")
    stack.forward(normal(N, T, D))
    assert not any(hasattr(stack, name) for name in ("c", "dc", "cs"))
    with pytest.raises(TypeError, match="c: expected None, since a TimeStack has the states h "):
        stack.set_state(stack.h, stack.h)


@both_ways
def test_nothing_is_kept_without_gradient(bidirectional):
    stack = make(rnnfast, "lstm", bidirectional=bidirectional, dropout=0.5)
    xs = normal(N, T, D)
    before = stack.rng.bit_generator.state
    expected = stack.forward(xs)
    stack.rng.bit_generator.state = before
    np.testing.assert_array_equal(stack.forward(xs, need_gradient=False), expected)
    with pytest.raises(RuntimeError, match=r"TimeStack\.backward: .*call forward first"):
        stack.backward(expected)


# Making one. ----------------------------------------------------------------------------------


@every_kind
@both_ways
@pytest.mark.parametrize("init", INITS)
def test_initial_weights(init, bidirectional, kind, options):
    D, H, directions = 7, 30, 1 + bidirectional
    stack = rnnfast.TimeStack(
        kind, D, H, 2, init=init, dtype="float64", bidirectional=bidirectional, rng=0, **options
    )
    G = stack.cell.G
    for name, W in stack.named_params().items():
        layer, _, own = name.partition(".")
        rows = D if layer == "0" else directions * H
        match own.rstrip("12"):
            case "Wx":
                assert W.shape == (rows, G * H)
            case "Wh":
                assert W.shape == (H, G * H)
            case bias:
                assert bias in ("b", "bh")
                assert W.shape == (G * H,)
        match init, own.rstrip("12"):
            case "pytorch", _:
                bound = H**-0.5
                assert 0.9 * bound < np.abs(W).max() <= bound
                assert abs(W.std() - bound / 3**0.5) < 0.2 * bound
            case "textbook", "Wx" | "Wh":
                assert abs(W.std() * len(W) ** 0.5 - 1) < 5 / (2 * W.size) ** 0.5
                assert abs(W).max() > 2 / len(W) ** 0.5  # which no uniform numbers are
            case "keras", "Wx":
                bound = (6 / (rows + G * H)) ** 0.5
                assert 0.9 * bound < np.abs(W).max() <= bound
                assert abs(W.std() - bound / 3**0.5) < 0.2 * bound
            case "keras", "Wh":
                assert_close(W @ W.T, np.eye(H), 1e-13)
            case "keras", "b" if kind == "lstm":
                np.testing.assert_array_equal(W, np.repeat([1.0, 0, 0, 0], H))
            case _:
                assert not W.any()
    matrices = [W for W in stack.params if W.ndim == 2]
    for k, W in enumerate(matrices):  # no numbers twice
        assert not any(np.isin(W, other).any() for other in matrices[:k])


def test_orthonormal_rows_have_no_direction_that_is_preferred():
    """Without a sign for each, every first number would be negative, say."""
    draws = [
        rnnfast.TimeStack("rnn", 2, 6, init="keras", dtype="float64", rng=k).params[1]
        for k in range(400)
    ]
    assert np.abs(np.mean(np.sign(draws), axis=0)).max() < 4 / 400**0.5


@pytest.mark.parametrize("init", INITS)
def test_weights_follow_from_the_seed_alone(init):
    def params(rng, dtype="float64", module=rnnfast):
        sizes = ("lstm", D, H, 2)
        return module.TimeStack(*sizes, init=init, rng=rng, dtype=dtype, bidirectional=True).params

    expected = params(5)
    for same in (params(np.random.default_rng(5)), params(5, module=reference)):
        for W, other in zip(same, expected, strict=True):
            np.testing.assert_array_equal(W, other)
    for W, other in zip(params(5, "float32"), expected, strict=True):
        np.testing.assert_array_equal(W, other.astype("float32"), strict=True)
    for different in (params(6), params(None), params(np.random.RandomState(5))):
        assert not np.array_equal(different[0], expected[0])


def test_order_of_drawing():
    rng = np.random.default_rng(3)
    bound, columns = H**-0.5, 4 * H
    shapes = [(D, columns), (H, columns), (columns,), (H, columns), (H, columns), (columns,)]
    drawn = [rng.uniform(-bound, bound, shape) for shape in shapes]
    stack = rnnfast.TimeStack("lstm", D, H, 2, rng=3, dtype="float64")
    for W, expected in zip(stack.params, drawn, strict=True):
        np.testing.assert_array_equal(W, expected)
    assert stack.rng.bit_generator.state == rng.bit_generator.state  # masks follow

    normals = np.random.default_rng(3).standard_normal((D, H))
    textbook = rnnfast.TimeStack("rnn", D, H, init="textbook", rng=3, dtype="float64")
    np.testing.assert_array_equal(textbook.params[0], normals / np.sqrt(D))


def test_defaults():
    stack = rnnfast.TimeStack("gru", D, H)
    assert stack.dtype == np.float32
    assert (stack.num_layers, stack.bidirectional, stack.dropout) == (1, False, 0)
    assert (stack.stateful, stack.reverse, stack.reads_ahead) == (False, False, False)
    assert (stack.truncate_size, stack.recurrent_dropout, stack.weight_drop) == (None, 0, 0)
    assert stack.cell is rnnfast.cells.GRU
    assert list(stack.named_params()) == ["0.Wx", "0.Wh", "0.b"]
    assert 0.9 * H**-0.5 < max(np.abs(W).max() for W in stack.params) <= np.float32(H**-0.5)


def test_the_example():
    results = doctest.testmod(stack)
    assert results.attempted
    assert not results.failed


@modules
@both_ways
@every_kind
def test_made_of_arrays(kind, options, bidirectional, module):
    stack = make(module, kind, bidirectional=bidirectional, dropout=0.2, **options)
    again = module.TimeStack.from_weights(
        kind, iter(stack.params), bidirectional=bidirectional, dropout=0.2, **options
    )
    assert all(W is other for W, other in zip(again.params, stack.params, strict=True))
    assert list(again.named_params()) == list(stack.named_params())
    assert again.config() == stack.config()
    assert again.ops is stack.ops
    stack.training = again.training = False
    block = block_of(stack)
    assert_all_close(run(again, *block), run(stack, *block), 1e-300)


@modules
@both_ways
@every_kind
def test_made_of_layers(kind, options, bidirectional, module):
    stack = make(module, kind, bidirectional=bidirectional, truncate_size=2, **MASKS, **options)
    layers = layers_of(stack, module, rng=3)
    again = module.TimeStack.from_layers(layers, dropout=0.3)
    assert again.config() == stack.config() | {"dropout": 0.3}
    assert again.rng is layers[0].rng
    assert module.TimeStack.from_layers(layers, rng=layers[1].rng).rng is layers[1].rng
    params = [W for layer in layers for W in layer.params]
    assert all(W is other for W, other in zip(again.params, params, strict=True))
    assert not any(dW is other for layer in layers for other in layer.grads for dW in again.grads)
    in_reverse = layers_of(make(module, kind, reverse=True, **options), module)
    assert module.TimeStack.from_layers(in_reverse).reverse


def test_options_may_be_set():
    stack = make(rnnfast, "lstm")
    stack.dropout, stack.zoneout, stack.truncate_size = 0.5, (0.1, 0.2), 4
    config = stack.config()
    assert (config["dropout"], config["zoneout"], config["truncate_size"]) == (0.5, (0.1, 0.2), 4)
    xs = normal(N, T, D)
    assert not np.allclose(stack.forward(xs), stack.forward(xs))
    stack.dropout = stack.zoneout = 0
    np.testing.assert_array_equal(stack.forward(xs), stack.forward(xs))


# In networks, files and copies. ---------------------------------------------------------------


def stacks():
    made = [
        make(rnnfast, kind, bidirectional=bidirectional, **options)
        for kind, options in KINDS
        for bidirectional in (False, True)
    ]
    masks = MASKS | {"zoneout": (0.1, 0.2)}
    return [
        *made,
        make(rnnfast, "lstm", stateful=True, truncate_size=3, dtype="float32"),
        make(rnnfast, "lstm", layers=1, reverse=True),
        make(rnnfast, "lstm", stateful=True, dropout=0.3, zoneout_mean=True, **masks),
    ]


def network_of(stack):
    outputs = (1 + stack.bidirectional) * H
    out = rnnfast.TimeAffine(normal(outputs, 2).astype(stack.dtype), np.zeros(2, stack.dtype))
    return rnnfast.Network({"stack": stack, "out": out}, rnnfast.TimeSquaredLoss())


def losses_of(network, steps=3):
    """Losses and weights of a few steps."""
    optimizer, found = rnnfast.Momentum(0.01), []
    for step in range(steps):
        found.append(network.forward(normal(N, T, D, seed=step), normal(N, T, 2)))
        network.backward()
        optimizer.update(network.params, network.grads)
        found += [W.copy() for W in network.params]
    return found


def assert_equal(ours, others):
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stack", stacks(), ids=lambda stack: str(stack.cell.name))
def test_files(stack, tmp_path):
    stack = copy.deepcopy(stack)  # that of the list is every thread's
    network = network_of(stack)
    number = "1" if stack.bidirectional else ""
    assert next(iter(network.named_params())) == f"stack.0.Wx{number}"
    network.save(tmp_path / "a")
    loaded = rnnfast.Network.load(tmp_path / "a")
    again = loaded.layers[0]
    assert type(again) is rnnfast.TimeStack
    assert again.config() == stack.config()
    for (name, W), (other, expected) in zip(
        loaded.named_params().items(), network.named_params().items(), strict=True
    ):
        assert name == other
        np.testing.assert_array_equal(W, expected, strict=True)
    loaded.set_random_state(network.random_state())
    assert_equal(losses_of(loaded), losses_of(network))
    twin = rnnfast.Network.load(tmp_path / "a", ops=reference.ops)
    assert twin.layers[0].ops is reference.ops


def test_a_file_that_does_not_fit(tmp_path):
    stack = make(rnnfast, "lstm", dropout=0.3)
    network = network_of(stack)
    network.save(tmp_path / "a")
    _, arrays, meta = rnnfast.archive.load_archive(tmp_path / "a", "model")
    for change, says in (
        ({"cell": "gru"}, "0.Wx: expected an array of shape"),
        ({"cell": ["lstm"]}, "cell: expected one of"),
        ({"bidirectional": True}, "weights: expected 6 arrays"),
        ({"dropout": 1}, "dropout: expected a number"),
        ({"weights": []}, "weights"),
        ({"more": 1}, "more"),
    ):
        description = meta["config"]["layers"]["stack"]
        config = description["config"] | change
        layers = meta["config"]["layers"] | {"stack": description | {"config": config}}
        changed = meta | {"config": meta["config"] | {"layers": layers}}
        rnnfast.archive.save_archive(tmp_path / "b", "model", arrays, changed)
        with pytest.raises(rnnfast.InputError, match=f"b: layer stack.*{says}"):
            rnnfast.Network.load(tmp_path / "b")


class Own(rnnfast.Layer):
    """A layer of one's own that is not made of its weights."""

    def __init__(self, size):
        super().__init__(w=np.ones(size))

    @classmethod
    def from_params(cls, params, *, size):
        layer = cls(size)
        layer.params[0][...] = params["w"]
        return layer

    def config(self):
        return {"size": len(self.params[0])}

    def forward(self, xs):
        return xs * self.params[0]

    def backward(self, dout):
        return dout


def test_layers_of_ones_own_may_say_how_they_are_made(tmp_path):
    network = rnnfast.Network([Own(3)], rnnfast.TimeSquaredLoss())
    network.params[0][...] = 1, 2, 3
    network.save(tmp_path / "a")
    loaded = rnnfast.Network.load(tmp_path / "a", classes={"Own": Own})
    np.testing.assert_array_equal(loaded.params[0], [1, 2, 3])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
def test_copies(module, copied):
    stack = make(module, "lstm", stateful=True, bidirectional=True, dropout=0.4, **MASKS)
    network = network_of(stack)
    network.forward(normal(N, T, D), normal(N, T, 2))
    other = copied(network)
    assert type(other.layers[0]) is type(stack)
    assert other.layers[0].ops is stack.ops
    for W, its_copy in zip(network.params, other.params, strict=True):
        assert not np.may_share_memory(W, its_copy)
    assert_equal(losses_of(other), losses_of(network))


def test_networks_tell_stacks():
    stack = make(rnnfast, "lstm", dropout=0.4, **MASKS)
    network, xs = network_of(stack), normal(N, T, D)
    network.eval()
    assert not stack.training
    np.testing.assert_array_equal(network.predict(xs), network.predict(xs))
    np.testing.assert_array_equal(network.predict(xs), network.infer(xs)[0])
    network.train()
    assert not np.array_equal(network.predict(xs), network.predict(xs))
    short = network.predict(xs, lengths=[1, 2, 3, 4], reset=np.ones((N, T), bool))
    assert np.isfinite(short).all()
    assert list(network.random_state()) == ["stack"]


def test_ops_may_be_switched():
    stack = make(rnnfast, "gru", bidirectional=True)
    block = block_of(stack)
    expected = run(stack, *block)
    stack.ops = reference.ops
    with pytest.raises(RuntimeError, match="call forward first"):
        stack.backward(block[2])
    assert_all_close(run(stack, *block), expected)


def text_network(rng):
    stack = rnnfast.TimeStack("gru", 8, 8, 2, stateful=True, dropout=0.3, zoneout=0.1, rng=rng)
    layers = {
        "words": rnnfast.TimeEmbedding(normal(11, 8).astype("f")),
        "stack": stack,
        "out": rnnfast.TimeAffine(normal(8, 11).astype("f"), np.zeros(11, "f")),
    }
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())


def test_training_goes_on_from_a_checkpoint(tmp_path):
    """In the middle of an epoch: states, masks and all."""
    ids = np.random.default_rng(0).integers(0, 11, 400)

    def trainer(network):
        options = {"batch_size": 4, "time_size": 5}
        return rnnfast.Trainer(network, rnnfast.Adam(), ids, ids[:50], **options)

    stopped = trainer(text_network(0))
    with pytest.raises(rnnfast.TrainingInterrupted):
        stopped.fit(2, verbose=False, stop=lambda: stopped.step == 7)
    arrays, position = stopped.state()
    assert arrays["carried/stack/0"].shape == (2, 4, 8)
    text_network(1).save(tmp_path / "a")
    resumed, straight = trainer(rnnfast.Network.load(tmp_path / "a")), trainer(text_network(0))
    resumed.restore(arrays, position)
    for each in (resumed, straight):
        each.fit(2, verbose=False)
    assert_equal(resumed.model.params, straight.model.params)


def test_generate_refuses_what_reads_ahead():
    network = text_network(0)
    ids = rnnfast.generate(network, [1, 2], 5, rng=0)
    assert len(ids) == 5
    for options in ({"bidirectional": True}, {"reverse": True}):
        layers = dict(zip(network.layer_names, network.layers, strict=True))
        size = 16 if "bidirectional" in options else 8
        layers["stack"] = rnnfast.TimeStack("gru", 8, 8, 2, **options)
        layers["out"] = rnnfast.TimeAffine(np.ones((size, 11), "f"), np.zeros(11, "f"))
        ahead = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())
        with pytest.raises(TypeError, match="TimeStack stack, which reads ahead"):
            rnnfast.generate(ahead, [1, 2], 5)


# Errors. --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("lstn", 3, 4), {}, "cell: expected one of rnn, lstm, gru, got 'lstn'"),
        ((["lstm"], 3, 4), {}, r"cell: expected one of rnn, lstm, gru, got \['lstm'\]"),
        (("lstm", 0, 4), {}, "input_size: expected a whole number of at least 1, got 0"),
        (("lstm", 3, 4.0), {}, "hidden_size: expected a whole number of at least 1, got 4.0"),
        (("lstm", 3, 4, 0), {}, "num_layers: expected a whole number of at least 1, got 0"),
        (("lstm", 3, 4, True), {}, "num_layers: expected a whole number of at least 1, got True"),
        (("lstm", 3, 4), {"init": "glorot"}, "init: expected one of textbook, pytorch, keras, got"),
        (("lstm", 3, 4), {"init": None}, "init: expected one of textbook, pytorch, keras, got"),
        (("lstm", 3, 4), {"dtype": int}, "dtype: expected float32 or float64, got int64"),
        (("lstm", 3, 4, 2), {"dropout": 1}, r"dropout: expected a number in 0 <= dropout < 1, got"),
        (("lstm", 3, 4, 2), {"dropout": -0.1}, "dropout: expected a number in 0 <= dropout < 1"),
        (("lstm", 3, 4, 2), {"dropout": None}, "dropout: expected a number in 0 <= dropout < 1"),
        (("lstm", 3, 4), {"dropout": 0.5}, "dropout: expected 0 in a stack of one layer.* got 0.5"),
        (("lstm", 3, 4), {"bidirectional": 2}, "bidirectional: expected True or False, got 2"),
        (("lstm", 3, 4), {"bidirectional": True, "reverse": True}, "reverse: expected False with"),
        (("lstm", 3, 4), {"reverse": 1}, "reverse: expected True or False, got 1"),
        (("lstm", 3, 4), {"activation": "relu"}, "activation: expected 'tanh', .* cell 'lstm'"),
        (("gru", 3, 4), {"activation": "relu"}, "activation: expected 'tanh', .* cell 'gru'"),
        (("rnn", 3, 4), {"activation": "sin"}, "activation: expected one of tanh, relu, got 'sin'"),
        (("lstm", 3, 4), {"reset_after": True}, "reset_after: expected False, .* cell 'lstm'"),
        (("gru", 3, 4), {"reset_after": 1}, "reset_after: expected True or False, got 1"),
        (("gru", 3, 4), {"zoneout": (0.1, 0.2)}, "zoneout: .* the state h alone"),
        (("gru", 3, 4), {"weight_drop": 1}, "weight_drop: expected a number in"),
        (("gru", 3, 4), {"truncate_size": 0}, "truncate_size: expected a whole number"),
        (("gru", 3, 4), {"rng": "0"}, "rng: expected a numpy.random.Generator"),
        (("gru", 3, 4), {"droput": 0.1}, "droput"),
    ],
    ids=lambda value: "" if isinstance(value, (tuple, dict)) else value[:30],
)
@modules
def test_arguments(module, arguments, options, says):
    """Nothing has been drawn then."""
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises((TypeError, ValueError), match=says) as error:
        module.TimeStack(*arguments, **({"rng": rng} | options))
    assert says == "droput" or str(error.value).startswith(says.partition(":")[0])
    assert rng.bit_generator.state == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda ws: ws[:5], r"^weights: expected 3 arrays for each .*\(Wx, Wh, b\), got 5"),
        (lambda ws: [], r"^weights: expected 3 arrays for each .*\(Wx, Wh, b\), got 0"),
        (
            lambda ws: [*ws[:3], ws[0], *ws[4:]],
            r"^1\.Wx: expected an array of shape \(5, 20\), got \(3, 20\); .* the one before",
        ),
        (
            lambda ws: [*ws[:3], *rnnfast.TimeStack("lstm", 5, 4, dtype="f8").params],
            r"^1\.Wx: expected an array of shape \(5, 20\), got \(5, 16\); the layers have one H",
        ),
        (lambda ws: [*ws[:4], ws[4][:4], ws[5]], r"^1\.Wh: .*\(5, 20\), got \(4, 20\); the layers"),
        (lambda ws: [*ws[:5], ws[5].astype("f")], r"^1\.b: expected float64 as 0\.Wx has, got fl"),
        (
            lambda ws: [*ws[:4], 3.0, ws[5]],
            r"^1\.Wh: expected an array of .*, got \(\)",
        ),
        (lambda ws: [ws[0], 3.0, *ws[2:]], r"^0\.W[xh]: expected an array of shape"),
    ],
)
def test_weights_that_do_not_fit(change, says):
    weights = rnnfast.TimeStack("lstm", D, H, 2, dtype="float64").params
    with pytest.raises((TypeError, ValueError), match=says):
        rnnfast.TimeStack.from_weights("lstm", change(weights))


def test_weights_of_two_directions_that_do_not_fit():
    weights = rnnfast.TimeStack("gru", D, H, 2, bidirectional=True, reset_after=True).params
    options = {"bidirectional": True, "reset_after": True}
    with pytest.raises(ValueError, match=r"expected 8 arrays .*\(Wx1, Wh1, b1, bh1, Wx2, .*got 9"):
        rnnfast.TimeStack.from_weights("gru", [*weights[:8], weights[8]], **options)
    weights[12] = weights[12][:H]
    with pytest.raises(ValueError, match=r"^1\.Wx2: expected an array .*\(10, 15\), got \(5"):
        rnnfast.TimeStack.from_weights("gru", weights, **options)


def test_layers_that_do_not_fit():
    one, two = layers_of(make(rnnfast, "lstm", layers=2))
    other = make(rnnfast, "gru", layers=1)
    for layers, says in (
        ([], "layers: expected at least one layer, got none"),
        ([one, other], r"layers\[1\]: expected a layer such as TimeLSTM .*, got TimeStack"),
        ([one, *layers_of(other)], r"layers\[1\]: expected the class 'TimeLSTM' .* got 'TimeGRU'"),
        ([two, one], r"1\.Wx: expected an array of shape \(5, 20\), got \(3, 20\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            rnnfast.TimeStack.from_layers(layers)
    two.zoneout = 0.1
    with pytest.raises(ValueError, match=r"layers\[1\]: expected the zoneout 0\.0 .*, got 0\.1"):
        rnnfast.TimeStack.from_layers([one, two])


def everything_of(stack):
    states = [*stack.get_state(), *(getattr(stack, name) for name in stack.cell.gradients)]
    return [*map(np.copy, states), *map(np.copy, stack.grads), stack.config()]


@modules
@both_ways
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.forward(np.ones((N, T, D + 1))), r"^xs: .*\(N, T, 3\), got \(4, 6, 4\)"),
        (lambda s: s.forward(np.ones((2, T, D))), r"^h: .* got \(\d, 4, 5\); reset_state"),
        (lambda s: s.forward(np.ones((N, T, D)), lengths=[1, 2, 3, 7]), "^lengths: .* got 7"),
        (lambda s: s.forward(np.ones((N, T, D)), reset=np.ones((N, 1), bool)), "^reset: "),
        (lambda s: s.forward(np.ones((2, D)), index=np.full((N, T), 2)), "^index: "),
        (lambda s: s.infer(np.ones((N, T, D)), np.ones((2, N, H))), "^states: "),
        (lambda s: s.backward(np.ones((N, T, 4))), "^dhs: "),
        (lambda s: s.backward(np.ones(s.hs.shape[1:]), dh=np.ones((N, H))), "^d"),
        (lambda s: s.set_state(np.ones((N, H))), r"^h: .*\(\d, N, 5\), got \(4, 5\)"),
        (lambda s: s.set_state(s.h, np.ones((1, N, H))), r"^c: .*, N, 5\), got \(1, 4, 5\)"),
        (lambda s: setattr(s, "dropout", 2), "^dropout: expected a number in"),
        (lambda s: setattr(s, "zoneout", "a"), "^zoneout: expected a number in"),
    ],
)
def test_after_an_error_nothing_has_changed(call, says, bidirectional, module):
    options = {"bidirectional": bidirectional, "dropout": 0.3, "zoneout": 0.1}
    stack = make(module, "lstm", **options)
    block = block_of(stack)
    results = run(stack, *block)
    before, drawn = everything_of(stack), stack.rng.bit_generator.state
    with pytest.raises((TypeError, ValueError), match=says):
        call(stack)
    for now, then in zip(everything_of(stack), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert stack.rng.bit_generator.state == drawn
    np.testing.assert_array_equal(stack.backward(block[2], **block[3]), results["dxs"])


@both_ways
def test_an_error_in_the_second_layer_changes_nothing(bidirectional):
    """Neither states nor generator; backward, whose memory is written over, says so."""
    failing = SimpleNamespace(**{name: getattr(kernels, name) for name in kernels.__all__})
    stack = make(rnnfast, "lstm", bidirectional=bidirectional, dropout=0.3, ops=failing)
    block = block_of(stack)
    run(stack, *block)
    before, drawn = everything_of(stack), stack.rng.bit_generator.state
    name = "bidirectional_forward" if bidirectional else "recurrent_forward"
    calls = []

    def second_fails(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no more")
        return getattr(kernels, name)(*arguments, **options)

    setattr(failing, name, second_fails)
    for need_gradient in (False, True):
        calls.clear()
        with pytest.raises(MemoryError):
            stack.forward(normal(N, T, D, seed=5), need_gradient=need_gradient)
        for now, then in zip(everything_of(stack), before, strict=True):
            np.testing.assert_array_equal(now, then)
        assert stack.rng.bit_generator.state == drawn
        if not need_gradient:
            stack.backward(block[2])
            before = everything_of(stack)
    with pytest.raises(RuntimeError, match="call forward first"):
        stack.backward(block[2])


@modules
@both_ways
def test_an_error_in_backward_leaves_all_gradients(bidirectional, module):
    """Also those of the layers above the one that does not fit."""
    stack = make(module, "lstm", bidirectional=bidirectional)
    xs, _, dhs, _ = block_of(stack)
    stack.forward(xs)
    for dW in stack.grads:
        dW[...] = 7
    for arrays in (stack.params, stack.grads):
        shape = arrays[0].shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            arrays[0].shape = (1, arrays[0].size)
        with pytest.raises(ValueError, match="do not change the shape of an array"):
            stack.backward(dhs)
        assert all((dW == 7).all() for dW in stack.grads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            arrays[0].shape = shape
    stack.backward(dhs)
    assert not any((dW == 7).any() for dW in stack.grads)


def test_one_layer_has_nothing_to_drop():
    stack = make(rnnfast, "lstm", layers=1)
    with pytest.raises(ValueError, match="dropout: expected 0 in a stack of one layer"):
        stack.dropout = 0.1
    stack.dropout = 0
    assert stack.dropout == 0


def test_what_is_no_list():
    stack = make(rnnfast, "lstm")
    for weights in (stack.named_params(), None, stack.params[0]):
        with pytest.raises(TypeError, match=r"^weights: expected a list of arrays, as `params` is"):
            rnnfast.TimeStack.from_weights("lstm", weights)
    with pytest.raises(TypeError, match=r"^layers: expected a list of layers, got TimeStack"):
        rnnfast.TimeStack.from_layers(stack)
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got None"):
        rnnfast.TimeStack("lstm", 3, 4, dtype=None)
