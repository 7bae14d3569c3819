"""Layers over a block of time steps with all their options but regularisation: lengths, resets,
reverse time, truncation, an index, two directions, blocks without gradient, all states.

What the options mean is tested in test_sequences.py, of the functions that a layer calls: here,
that a layer hands on what it is given, and keeps what it should.
"""

import copy

import numpy as np
import pytest
from problems import DTYPES, assert_all_close, assert_close, read_only, spaced
from sequences import (
    LAYER_CELLS,
    OPS,
    SHARED,
    both_directions,
    gradients_of,
    make_block,
    run,
    run_both,
)
from test_sequences import assert_identical

import rnnfast
from rnnfast import cells
from rnnfast.layers import TIME_LAYERS, time_layer
from rnnfast.layers.cell import CELL_OPTIONS

GIVEN = (*SHARED, "reverse", "truncate")
CHOICES = [(), *((name,) for name in GIVEN), ("lengths", "reverse"), ("index", "lengths"), GIVEN]

every_ops = pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.__name__)
every_cell = pytest.mark.parametrize("cell", LAYER_CELLS, ids=lambda cell: cell.name)
directions = pytest.mark.parametrize("directions", [1, 2], ids=["one way", "both ways"])


def make_blocks(cell, directions, names=(), dtype="float64", sizes=(4, 6, 3, 5)):
    """A block for each direction, all with the same input."""
    blocks = [make_block(cell, sizes, names, dtype, seed=k) for k in range(directions)]
    return both_directions(*blocks) if directions == 2 else blocks


def layer_of(blocks, ops, **options):
    """The layer of one or two directions that has the weights and the states of blocks."""
    cell = blocks[0].cell
    options = {"stateful": True, "truncate_size": blocks[0].truncate or None, "ops": ops} | options
    if len(blocks) == 1:
        reverse = blocks[0].options.get("reverse", False)
        layer = time_layer(cell.name, *blocks[0].weights, reverse=reverse, **options)
    else:
        named = {
            f"{name}{k}": W
            for k, block in enumerate(blocks, 1)
            for name, W in zip(cell.weights, block.weights, strict=True)
        }
        Layer = getattr(rnnfast, TIME_LAYERS[cell.name].__name__.replace("Time", "TimeBi"))
        layer = Layer(**named, **CELL_OPTIONS[cell.name], **options)
    set_states(layer, blocks)
    return layer


def of_layer(blocks, name):
    """Arrays of blocks (S, N, H), which a layer of both directions has as (S, 2, N, H)."""
    arrays = [getattr(block, name) for block in blocks]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)


def set_states(layer, blocks):
    layer.set_state(*of_layer(blocks, "states"))


def of_forward(blocks):
    """Keyword arguments of forward."""
    return {name: value for name, value in blocks[0].options.items() if name in SHARED}


def forward(layer, blocks):
    """What the functions return, by their names."""
    hs = layer.forward(blocks[0].xs, **of_forward(blocks))
    return {"hs": hs, "last": parts_of(layer, blocks, "{}")}


def infer(layer, blocks):
    """The same from the same states, but that nothing is set."""
    states = np.stack(of_layer(blocks, "states"))
    hs, last = layer.infer(blocks[0].xs, states, **of_forward(blocks))
    return {"hs": hs, "last": last if len(blocks) == 1 else last.swapaxes(0, 1)}


def parts_of(layer, blocks, names):
    parts = [getattr(layer, names.format(state)) for state in layer.cell.states]
    return np.stack(parts, axis=len(blocks) - 1)


def backward(layer, blocks):
    dhs = np.concatenate([block.dhs for block in blocks], axis=2)
    dlast = dict(zip(layer.cell.gradients, of_layer(blocks, "dlast"), strict=True))
    all_states = parts_of(layer, blocks, "{}s")
    results = {"all states": all_states, "dxs": layer.backward(dhs, **dlast)}
    results["dstates"] = parts_of(layer, blocks, "d{}")
    n = len(layer.cell.weights)
    grads = [dW.copy() for dW in layer.grads]
    if len(blocks) == 2:
        grads = map(np.stack, zip(grads[:n], grads[n:], strict=True))
    return results | dict(zip(gradients_of(layer.cell), grads, strict=True))


def run_layer(layer, blocks):
    return forward(layer, blocks) | backward(layer, blocks)


def run_functions(ops, blocks):
    return run(ops, *blocks) if len(blocks) == 1 else run_both(ops, blocks)


@every_ops
@every_cell
@directions
@pytest.mark.parametrize("names", CHOICES, ids=lambda names: "+".join(names) or "plain")
@pytest.mark.parametrize("dtype", DTYPES)
def test_options_reach_the_functions(names, directions, cell, dtype, ops):
    """Twice, since the memory of the first call is used again by the second."""
    blocks = make_blocks(cell, directions, names, dtype)
    expected = run_functions(ops, blocks)
    layer = layer_of(blocks, ops)
    for _ in range(2):
        set_states(layer, blocks)
        assert_identical(run_layer(layer, blocks), expected)


# What layers are said to be, from runs without options. ------------------------------------------


@every_ops
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_rows_of_their_own(reverse, cell, ops):
    (block,) = make_blocks(cell, 1, ("lengths", "reverse") if reverse else ("lengths",))
    block.options["lengths"] = np.array([4, 6, 0, 1])
    layer = layer_of([block], ops)
    results = run_layer(layer, [block])
    totals = [0] * len(layer.grads)
    for n, length in enumerate(block.lengths):
        row = np.s_[n : n + 1]
        assert not results["hs"][row, length:].any()
        assert not results["dxs"][row, length:].any()
        if length == 0:
            continue
        layer.set_state(*block.states[:, row])
        np.testing.assert_allclose(
            layer.forward(block.xs[row, :length]), results["hs"][row, :length], rtol=1e-12
        )
        for name, last in zip(cell.states, results["last"], strict=True):
            assert_close(getattr(layer, name), last[row])
        dlast = dict(zip(cell.gradients, block.dlast[:, row], strict=True))
        dxs = layer.backward(block.dhs[row, :length], **dlast)
        assert_close(dxs, results["dxs"][row, :length])
        for name, dfirst in zip(cell.gradients, results["dstates"], strict=True):
            assert_close(getattr(layer, name), dfirst[row])
        totals = [total + dW for total, dW in zip(totals, layer.grads, strict=True)]
    np.testing.assert_array_equal(results["last"][:, 2], block.states[:, 2])
    np.testing.assert_array_equal(results["dstates"][:, 2], block.dlast[:, 2])
    for name, total in zip(gradients_of(cell), totals, strict=True):
        assert_close(results[name], total)


@every_ops
@every_cell
def test_a_reset_splits_a_row(cell, ops):
    (block,) = make_blocks(cell, 1)
    reset = np.zeros((4, 6), bool)
    reset[:, 2] = True
    layer = layer_of([block], ops)
    hs = layer.forward(block.xs, reset=reset)
    dxs = layer.backward(block.dhs)
    grads = [dW.copy() for dW in layer.grads]
    set_states(layer, [block])
    first = layer.forward(block.xs[:, :2]), layer.backward(block.dhs[:, :2])
    totals = [dW.copy() for dW in layer.grads]
    layer.reset_state()
    second = layer.forward(block.xs[:, 2:]), layer.backward(block.dhs[:, 2:])
    for whole, parts in zip((hs, dxs), zip(first, second, strict=True), strict=True):
        assert_close(whole, np.concatenate(parts, axis=1))
    for dW, one, other in zip(grads, totals, layer.grads, strict=True):
        assert_close(dW, one + other)


@every_ops
@every_cell
def test_reverse_is_the_input_reversed(cell, ops):
    (block,) = make_blocks(cell, 1)
    ahead = layer_of([block], ops)
    back = time_layer(cell.name, *block.weights, stateful=True, reverse=True, ops=ops)
    back.set_state(*block.states)
    assert (ahead.reverse, back.reverse) == (False, True)
    np.testing.assert_array_equal(back.forward(block.xs), ahead.forward(block.xs[:, ::-1])[:, ::-1])
    dxs = back.backward(block.dhs)
    np.testing.assert_array_equal(dxs, ahead.backward(block.dhs[:, ::-1])[:, ::-1])
    with pytest.raises(AttributeError):
        ahead.reverse = True


@every_ops
@every_cell
def test_two_directions_are_two_layers(cell, ops):
    blocks = make_blocks(cell, 2, ("lengths", "reset", "truncate"))
    both = run_layer(layer_of(blocks, ops), blocks)
    one, other = (run_layer(layer_of([block], ops), [block]) for block in blocks)
    expected = {name: np.stack([one[name], other[name]]) for name in one}
    expected["hs"] = np.concatenate([one["hs"], other["hs"]], axis=2)
    expected["dxs"] = one["dxs"] + other["dxs"]
    assert_all_close(both, expected)


# States. -----------------------------------------------------------------------------------------


@every_ops
@every_cell
def test_states_of_both_directions(cell, ops):
    """(2, N, H) each, carried from block to block, set, reset and returned."""
    blocks = make_blocks(cell, 2)
    layer, xs = layer_of(blocks, ops), blocks[0].xs
    N, _, H = blocks[0].dhs.shape
    first = layer.forward(xs)
    assert layer.state_shape(N) == layer.h.shape == (2, N, H)
    carried = layer.get_state()
    assert [part.shape for part in carried] == [(2, N, H)] * cell.S
    second = layer.forward(xs)
    assert not np.allclose(first, second)
    layer.set_state(*carried)
    carried[0][...] = 9  # the layer has a copy
    np.testing.assert_array_equal(layer.forward(xs), second)
    layer.reset_state()
    assert layer.h is None
    from_zeros = layer.forward(xs)
    layer.stateful = False
    np.testing.assert_array_equal(layer.forward(xs), from_zeros)
    np.testing.assert_array_equal(layer.h[0], from_zeros[:, -1, :H])
    np.testing.assert_array_equal(layer.h[1], from_zeros[:, 0, H:])


@every_ops
@directions
@every_cell
def test_all_states_are_made_anew_and_read_only(cell, directions, ops):
    blocks = make_blocks(cell, directions)
    layer = layer_of(blocks, ops)
    hs = layer.forward(blocks[0].xs).copy()
    expected = layer.hs.copy()
    parts = [expected] if directions == 1 else list(expected)
    assert_identical({"hs": np.concatenate(parts, axis=2)}, {"hs": hs})
    for name in cell.states:
        states = getattr(layer, f"{name}s")
        with pytest.raises(ValueError, match="read-only"):
            states[...] = 0
        assert states is not getattr(layer, f"{name}s")
        assert states.shape == expected.shape
    if "c" not in cell.states:
        assert not hasattr(layer, "cs")
    backward(layer, blocks)
    np.testing.assert_array_equal(layer.hs, expected)
    before = layer.hs
    layer.forward(-blocks[0].xs)
    np.testing.assert_array_equal(before, expected)
    assert not np.array_equal(layer.hs, expected)


@every_ops
def test_all_cell_states_are_those_of_single_steps(ops):
    (block,) = make_blocks(cells.LSTM, 1)
    layer, step = layer_of([block], ops), rnnfast.LSTM(*block.weights, ops=ops)
    layer.forward(block.xs)
    h, c = block.states
    for t in range(6):
        h, c = step.forward(block.xs[:, t], h, c)
        assert_close(layer.hs[:, t], h)
        assert_close(layer.cs[:, t], c)


@every_ops
@directions
@every_cell
def test_states_of_no_forward(cell, directions, ops):
    blocks = make_blocks(cell, directions)
    layer = layer_of(blocks, ops)
    names = [f"{name}s" for name in cell.states]

    def require_refused(layer):
        for name in names:
            says = rf"^{type(layer).__name__}\.{name}: expected a forward call before it, with grad"
            with pytest.raises(RuntimeError, match=says):
                getattr(layer, name)

    require_refused(layer)
    layer.forward(blocks[0].xs)
    assert layer.hs.any()
    require_refused(copy.deepcopy(layer))
    layer.forward(blocks[0].xs, need_gradient=False)
    require_refused(layer)


# Without gradient. -------------------------------------------------------------------------------


@every_ops
@directions
@every_cell
def test_forward_without_gradient(cell, directions, ops):
    """Outputs and carried states as with it, and nothing for backward."""
    blocks = make_blocks(cell, directions, SHARED)
    layer, other = layer_of(blocks, ops), layer_of(blocks, ops)
    options = of_forward(blocks)
    expected = forward(other, blocks)
    for _ in range(2):
        set_states(layer, blocks)
        hs = layer.forward(blocks[0].xs, **options, need_gradient=False)
        results = {"hs": hs, "last": parts_of(layer, blocks, "{}")}
        assert_identical(results, expected)
        says = rf"^{type(layer).__name__}\.backward: expected a forward call before it, with gradi"
        with pytest.raises(RuntimeError, match=says):
            layer.backward(np.zeros_like(hs))
        assert not any(dW.any() for dW in layer.grads)
        assert layer.dh is None
        set_states(layer, blocks)
        run_layer(layer, blocks)
        for dW in layer.grads:
            dW[...] = 0
        layer.dh = None


@every_ops
@directions
@every_cell
def test_infer_with_every_option(cell, directions, ops):
    blocks = make_blocks(cell, directions, SHARED)
    layer = layer_of(blocks, ops)
    expected = forward(layer, blocks)
    before = layer.get_state()
    assert_identical(infer(layer, blocks), expected)
    assert all(a is b for a, b in zip(layer.get_state(), before, strict=True))
    gradients = backward(layer, blocks)
    layer.infer(-blocks[0].xs, **of_forward(blocks))
    assert_identical(backward(layer, blocks), gradients)


# What is handed over. ----------------------------------------------------------------------------


@every_ops
@directions
@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", ">i8", "list", "spaced"])
def test_lengths_and_resets_of_any_kind(kind, directions, ops):
    """Which are copied: what the caller does with them afterwards has no effect."""
    blocks = make_blocks(cells.GRU, directions, ("lengths", "reset"))
    expected = run_layer(layer_of(blocks, ops), blocks)
    options = of_forward(blocks)
    if kind == "list":
        given = {name: value.tolist() for name, value in options.items()}
    elif kind == "spaced":
        given = {name: spaced(value) for name, value in options.items()}
    else:
        given = {"lengths": options["lengths"].astype(kind), "reset": read_only(options["reset"])}
    layer = layer_of(blocks, ops)
    hs = layer.forward(blocks[0].xs, **given)
    np.testing.assert_array_equal(hs, expected["hs"])
    if kind == "spaced":
        for value in given.values():
            value[...] = 1
    assert_identical(backward(layer, blocks), {n: expected[n] for n in backward(layer, blocks)})


class Recorder:
    """The functions, and what they were called with."""

    def __init__(self, ops):
        self.ops, self.calls = ops, []

    def __getattr__(self, name):
        def function(*args, **options):
            self.calls.append((name, options))
            return getattr(self.ops, name)(*args, **options)

        return function


@every_ops
@directions
def test_kernels_get_plain_arrays(directions, ops):
    blocks = make_blocks(cells.LSTM, directions, SHARED)
    layer = layer_of(blocks, recorder := Recorder(ops))
    options = of_forward(blocks)
    options["index"][~blocks[0].exists] = -7
    given = {name: np.asfortranarray(spaced(value)) for name, value in options.items()}
    layer.forward(blocks[0].xs, **given)
    layer.infer(blocks[0].xs, **given)
    (name, forwarded), (_, inferred) = recorder.calls
    assert name == ("recurrent_forward" if directions == 1 else "bidirectional_forward")
    assert inferred["need_gradient"] is False
    dtypes = {"index": np.int64, "lengths": np.int64, "reset": np.bool_}
    for call in (forwarded, inferred):
        for name, dtype in dtypes.items():
            assert (call[name].dtype, call[name].flags.c_contiguous) == (dtype, True)
            assert not np.shares_memory(call[name], given[name])
        assert not call["index"][~blocks[0].exists].any()


@pytest.mark.parametrize("directions", [1, 2])
def test_kernels_get_nothing_that_was_not_given(directions):
    blocks = make_blocks(cells.RNN, directions)
    layer = layer_of(blocks, recorder := Recorder(OPS[-1]))
    layer.forward(blocks[0].xs)
    assert recorder.calls[0][1].keys() == {"cache"}


@every_ops
@directions
@pytest.mark.parametrize("padding", [-1, 10**9])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_ids_beyond_lengths_may_be_anything(dtype, padding, directions, ops):
    blocks = make_blocks(cells.RNN_RELU, directions, ("index", "lengths"))
    expected = run_layer(layer_of(blocks, ops), blocks)
    beyond = ~blocks[0].exists
    index = blocks[0].options["index"].astype(dtype)
    index[beyond] = np.array(padding).astype(dtype)
    blocks[0].options["index"] = index
    assert_identical(run_layer(layer_of(blocks, ops), blocks), expected)
    index[tuple(np.argwhere(~beyond)[0])] = 10**6
    with pytest.raises(ValueError, match=r"^index: expected rows of xs in 0\.\."):
        forward(layer_of(blocks, ops), blocks)


@every_ops
@directions
@every_cell
def test_padding_may_be_nan(cell, directions, ops):
    blocks = make_blocks(cell, directions, ("lengths",))
    expected = run_layer(layer_of(blocks, ops), blocks)
    for block in blocks:
        block.xs[~block.exists] = block.dhs[~block.exists] = np.nan
    assert_identical(run_layer(layer_of(blocks, ops), blocks), expected)


# Forms of a GRU, and the bias bh. ----------------------------------------------------------------


@every_ops
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_that_is_not_given_is_zeros_and_a_parameter(dtype, ops):
    (block,) = make_blocks(cells.GRU_RESET_AFTER, 1, dtype=dtype)
    *weights, bh = block.weights
    options = {"reset_after": True, "ops": ops}
    names = ["Wx1", "Wh1", "b1", "bh1", "Wx2", "Wh2", "b2", "bh2"]
    layers = [
        (rnnfast.GRU(*weights, **options), ["Wx", "Wh", "b", "bh"]),
        (rnnfast.TimeGRU(*weights, **options), ["Wx", "Wh", "b", "bh"]),
        (rnnfast.TimeBiGRU(*weights, *weights, **options, bh2=bh), names),
    ]
    for layer, names in layers:
        assert list(layer.named_params()) == names
        assert layer.cell is cells.GRU_RESET_AFTER
        named, grads = layer.named_params(), layer.named_grads()
        first = names[3]
        assert (named[first] == 0).all()
        assert grads[first].shape == named[first].shape == bh.shape
        assert grads[first].dtype == named[first].dtype == dtype
    layer = layers[1][0]
    layer.forward(block.xs)
    layer.backward(block.dhs)
    assert layer.grads[3].any()
    layer.params[3][...] = bh
    expected = time_layer("gru_reset_after", *block.weights, ops=ops).forward(block.xs)
    np.testing.assert_array_equal(layer.forward(block.xs), expected)
    both = layers[2][0]
    assert both.params[7] is bh


def test_forms_of_a_gru_agree_where_the_reset_gate_is_open():
    """r = 1 where its bias is large; and they differ where it is not."""
    (block,) = make_blocks(cells.GRU, 1)
    H = len(block.weights[1])
    forms = [rnnfast.TimeGRU(*block.weights, reset_after=after) for after in (False, True)]
    one, other = (layer.forward(block.xs) for layer in forms)
    assert not np.allclose(one, other)
    block.weights[2][H : 2 * H] = 50
    assert_close(*(layer.forward(block.xs) for layer in forms))


def test_cells_by_their_options():
    assert rnnfast.TimeRNN.cell is cells.RNN
    assert rnnfast.TimeGRU.cell is cells.GRU
    for cell in LAYER_CELLS:
        assert layer_of(make_blocks(cell, 1), OPS[-1]).cell is cell
        assert layer_of(make_blocks(cell, 2), OPS[-1]).cell is cell
    assert [*TIME_LAYERS] == [cell.name for cell in LAYER_CELLS]


# Not even an allocation that fails leaves anything half-done. ------------------------------------


@every_ops
@directions
def test_a_forward_that_fails_in_the_kernel(directions, ops):
    class Fails(Recorder):
        def __getattr__(self, name):
            if name.endswith("_forward") and self.calls:
                raise MemoryError
            return super().__getattr__(name)

    blocks = make_blocks(cells.GRU, directions)
    layer = layer_of(blocks, Fails(ops))
    expected = run_layer(layer, blocks)
    state = layer.get_state()
    for options in ({}, {"need_gradient": False}, {"lengths": [1, 2, 3, 4]}):
        with pytest.raises(MemoryError):
            layer.forward(blocks[0].xs, **options)
        assert all(a is b for a, b in zip(layer.get_state(), state, strict=True))
        found = backward(layer, blocks)
        assert_identical(found, {name: expected[name] for name in found})


@every_ops
@directions
@every_cell
def test_a_state_of_another_dtype_than_the_weights_of_now(cell, directions, ops):
    """Weights of a layer may be replaced by those of another dtype, all at once."""
    blocks = make_blocks(cell, directions, ())
    layer = layer_of(blocks, ops)
    layer.stateful = True
    layer.forward(blocks[0].xs)
    for arrays in (layer.params, layer.grads):
        arrays[:] = [array.astype(np.float32) for array in arrays]
    hs = layer.forward(blocks[0].xs)
    assert {array.dtype for array in (hs, *layer.get_state())} == {np.dtype(np.float32)}
