"""Recurrent dropout, zoneout and weight drop: what is drawn, when, and its gradients."""

import copy
import sys

import numpy as np
import pytest
from problems import assert_close
from sequences import LAYER_CELLS, OPS, SHARED, run, run_both
from test_gradients import TOLERANCE, dot, numeric_gradient
from test_recurrent_layers import (
    Recorder,
    backward,
    directions,
    every_cell,
    every_ops,
    forward,
    infer,
    layer_of,
    make_blocks,
    of_forward,
    of_layer,
    run_layer,
    set_states,
)
from test_sequences import assert_identical

import rnnfast
from rnnfast import cells, reference

RATES = {"recurrent_dropout": 0.3, "zoneout": 0.4, "weight_drop": 0.2}
ALONE = [{name: rate} for name, rate in RATES.items()]
CHOICES = [*ALONE, RATES]
rates = pytest.mark.parametrize("rates", CHOICES, ids="+".join)


def as_documented(layer, blocks, rng, rates):
    """The blocks with the masks that a layer draws from a generator, in this order, and with
    products of weights; and the masks of weights."""
    N, T, _ = blocks[0].dhs.shape
    H = len(blocks[0].weights[1])

    def mask(probability, value, *shape):
        out = np.empty(shape)
        key = int(rng.random() * 2**53)
        reference.ops.draw_mask(key, probability, value, out.reshape(-1))
        return out

    of_weights = []
    for block in blocks:
        Wx, Wh, *biases = block.weights
        if p := rates.get("recurrent_dropout"):
            block.options["recurrent_mask"] = mask(1 - p, 1 / (1 - p), N, H)
        if p := rates.get("zoneout"):
            each = p if isinstance(p, tuple) else (p,) * block.cell.S
            block.options["zoneouts"] = tuple(mask(p, 1, N, T, H) if p else None for p in each)
        of_weights.append(np.ones_like(Wh))
        if p := rates.get("weight_drop"):
            of_weights[-1] = mask(1 - p, 1 / (1 - p), *Wh.shape)
        block.weights = [Wx, Wh * of_weights[-1], *biases]
    return blocks, of_weights


@every_ops
@every_cell
@directions
@rates
def test_masks_are_those_documented(rates, directions, cell, ops):
    """Drawn anew by every forward, from `rng`; the gradient of Wh is multiplied by its mask."""
    names = ("lengths", "reset", "truncate")
    layer = layer_of(make_blocks(cell, directions, names), ops, rng=5, **rates)
    rng = np.random.default_rng(5)
    for _ in range(2):
        blocks = make_blocks(cell, directions, names)
        results = run_layer(layer, blocks)
        blocks, masks = as_documented(layer, blocks, rng, rates)
        expected = run(ops, *blocks) if directions == 1 else run_both(ops, blocks)
        expected["dWh"] *= masks[0] if directions == 1 else np.stack(masks)
        assert_identical(results, expected)
        assert layer.rng.bit_generator.state == rng.bit_generator.state
        set_states(layer, blocks)


@every_ops
@directions
@pytest.mark.parametrize("zoneout", [(0.4, 0.0), (0.0, 0.4), (0.2, 0.7)])
def test_zoneout_of_each_state(zoneout, directions, ops):
    """A rate of 0 draws nothing."""
    layer = layer_of(make_blocks(cells.LSTM, directions), ops, rng=5, zoneout=zoneout)
    assert layer.zoneout == zoneout
    blocks = make_blocks(cells.LSTM, directions)
    results = run_layer(layer, blocks)
    blocks, _ = as_documented(layer, blocks, np.random.default_rng(5), {"zoneout": zoneout})
    expected = run(ops, *blocks) if directions == 1 else run_both(ops, blocks)
    assert_identical(results, expected)


@every_ops
@every_cell
@directions
@rates
def test_gradients_by_differences(rates, directions, cell, ops):
    """Exact for the masks that were drawn, of whatever goes in."""
    blocks = make_blocks(cell, directions, ("lengths", "reset"), sizes=(3, 4, 2, 3))
    hidden = np.concatenate([block.dhs for block in blocks], axis=2)
    dlast = of_layer(blocks, "dlast")

    def make():
        return layer_of(blocks, ops, rng=3, **rates)

    def loss():
        layer = make()
        hs = layer.forward(blocks[0].xs, **of_forward(blocks))
        return dot(hs, hidden) + dot(np.stack(layer.get_state()), dlast)

    layer = make()
    results = run_layer(layer, blocks)
    grads = [dW.copy() for dW in layer.grads]
    weights = [W for block in blocks for W in block.weights]
    for name, W, dW in zip(layer.named_params(), weights, grads, strict=True):
        assert_close(dW, numeric_gradient(loss, W), TOLERANCE, name)
    assert_close(results["dxs"], numeric_gradient(loss, blocks[0].xs), TOLERANCE, "xs")
    for k, block in enumerate(blocks):
        found = results["dstates"][k] if directions == 2 else results["dstates"]
        assert_close(found, numeric_gradient(loss, block.states), TOLERANCE, "states")


@every_ops
@every_cell
@directions
def test_evaluation_drops_nothing(cell, directions, ops):
    blocks = make_blocks(cell, directions, SHARED)
    plain = run_layer(layer_of(blocks, ops), blocks)
    layer = layer_of(blocks, ops, rng=0, **RATES)
    before = layer.rng.bit_generator.state
    layer.training = False
    assert_identical(run_layer(layer, blocks), plain)
    layer.training = True
    assert_identical(infer(layer, blocks), {name: plain[name] for name in ("hs", "last")})
    assert layer.rng.bit_generator.state == before
    set_states(layer, blocks)
    assert not np.allclose(forward(layer, blocks)["hs"], plain["hs"])


@every_ops
@every_cell
@directions
def test_evaluation_with_the_mean_of_zoneout(cell, directions, ops):
    zoneout = 0.4 if cell.S == 1 else (0.4, 0.25)
    blocks = make_blocks(cell, directions, ("lengths", "reset"))
    layer = layer_of(blocks, ops, **RATES | {"zoneout": zoneout}, zoneout_mean=True)
    layer.training = False
    results = run_layer(layer, blocks)
    inferred = infer(layer, blocks)
    for block in blocks:
        each = (zoneout,) if cell.S == 1 else zoneout
        N, T, H = block.dhs.shape
        block.options["zoneouts"] = tuple(np.full((N, T, H), p) for p in each)
    expected = run(ops, *blocks) if directions == 1 else run_both(ops, blocks)
    assert_identical(results, expected)
    assert_identical(inferred, {name: expected[name] for name in ("hs", "last")})
    layer.zoneout_mean = False
    set_states(layer, blocks)
    plain = layer_of(blocks, ops)
    assert_identical(forward(layer, blocks), forward(plain, blocks))


def test_the_mean_is_that_of_many_masks():
    """Of a single step, in which nothing else is between state and output."""
    (block,) = make_blocks(cells.RNN, 1, sizes=(20000, 1, 2, 1))
    block.xs[...], block.states[...] = block.xs[0], block.states[:, :1]
    layer = layer_of([block], OPS[0], zoneout=0.3, zoneout_mean=True, rng=1)
    drawn = forward(layer, [block])["hs"]
    layer.training = False
    set_states(layer, [block])
    mean = forward(layer, [block])["hs"]
    assert np.ptp(mean) == 0
    assert len(np.unique(drawn)) == 2
    assert drawn.mean() == pytest.approx(mean[0, 0, 0], abs=4 * drawn.std() / 20000**0.5)


# Random generators. ------------------------------------------------------------------------------


@every_ops
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, int])
def test_equal_seeds_equal_masks(make, ops):
    blocks = make_blocks(cells.LSTM, 1)
    results = [run_layer(layer_of(blocks, ops, rng=make(7), **RATES), blocks) for _ in range(2)]
    assert_identical(*results)
    other = run_layer(layer_of(blocks, ops, rng=make(8), **RATES), blocks)
    assert not np.array_equal(other["hs"], results[0]["hs"])


def test_fresh_generators_differ():
    blocks = make_blocks(cells.LSTM, 1)
    one, other = (layer_of(blocks, OPS[0], **RATES) for _ in range(2))
    assert isinstance(one.rng, np.random.Generator)
    assert not np.array_equal(forward(one, blocks)["hs"], forward(other, blocks)["hs"])


@directions
def test_a_generator_is_made_where_there_is_something_to_draw(directions):
    """Else checkpoints would have one to keep for every recurrent layer."""
    blocks = make_blocks(cells.LSTM, directions)
    for name, rate in RATES.items():
        layer = layer_of(blocks, OPS[0])
        assert layer.rng is None
        setattr(layer, name, 0)
        assert layer.rng is None
        layer.rng = 3
        layer.rng = None
        assert layer.rng is None
        setattr(layer, name, rate)
        assert isinstance(layer.rng, np.random.Generator)
        assert layer.config()[name] == getattr(layer, name) == rate
        given = np.random.RandomState(3)
        layer.rng = given
        assert layer.rng is given
        layer.rng = 3
        assert isinstance(layer.rng, np.random.Generator)
        layer.rng = None
        assert isinstance(layer.rng, np.random.Generator)
    assert isinstance(layer_of(blocks, OPS[0], rng=0).rng, np.random.Generator)


@directions
def test_rates_may_be_set(directions):
    """And computing follows, as if the layer had been made with them."""
    blocks = make_blocks(cells.LSTM, directions)
    for rates in (*CHOICES, {"zoneout": (0.2, 0.0)}):
        layer = layer_of(blocks, OPS[0], rng=0)
        for name, rate in rates.items():
            setattr(layer, name, rate)
        expected = run_layer(layer_of(blocks, OPS[0], rng=0, **rates), blocks)
        assert_identical(run_layer(layer, blocks), expected)
        for name in rates:
            setattr(layer, name, 0.0)
        set_states(layer, blocks)
        assert_identical(run_layer(layer, blocks), run_layer(layer_of(blocks, OPS[0]), blocks))


def test_a_copy_draws_what_the_original_would():
    blocks = make_blocks(cells.GRU, 2)
    layer = layer_of(blocks, OPS[0], rng=0, **RATES)
    forward(layer, blocks)
    other = copy.deepcopy(layer)
    assert_identical(run_layer(layer, blocks), run_layer(other, blocks))


@every_ops
@directions
@pytest.mark.parametrize("rng", [np.random.default_rng(0), np.random.RandomState(0)])
def test_a_forward_that_fails_has_drawn_nothing(rng, directions, ops):
    class Fails(Recorder):
        failing = True

        def __getattr__(self, name):
            if name.endswith("_forward") and self.failing:
                raise MemoryError
            return super().__getattr__(name)

    blocks = make_blocks(cells.LSTM, directions)
    layer = layer_of(blocks, Fails(ops), rng=copy.deepcopy(rng), **RATES)
    expected = run_layer(layer_of(blocks, ops, rng=copy.deepcopy(rng), **RATES), blocks)
    for options in ({}, {"lengths": [9]}, {"need_gradient": False}):
        with pytest.raises((MemoryError, ValueError)):
            layer.forward(blocks[0].xs, **options)
    layer.ops.failing = False
    assert_identical(run_layer(layer, blocks), expected)


# What is kept for backward. ----------------------------------------------------------------------


@every_ops
@directions
def test_backward_has_the_product_that_forward_had(directions, ops):
    """Weights that change in between are seen only where they are not dropped: those of x."""
    blocks = make_blocks(cells.GRU_RESET_AFTER, directions)
    layer, other = (layer_of(blocks, ops, rng=0, weight_drop=0.5) for _ in range(2))
    expected = run_layer(other, blocks)
    forward(layer, blocks)
    for k in range(1, len(layer.params), 4):
        layer.params[k][...] = np.nan
    found = backward(layer, blocks)
    assert_identical(found, {name: expected[name] for name in found})
    again = backward(layer, blocks)  # the gradient is multiplied by the mask once
    assert_identical(again, found)
    share = np.mean(found["dWh"] == 0)
    assert 0.3 < share < 0.7


@every_ops
def test_without_gradient_in_training_masks_are_drawn_too(ops):
    blocks = make_blocks(cells.LSTM, 1)
    one, other = (layer_of(blocks, ops, rng=0, **RATES) for _ in range(2))
    hs = one.forward(blocks[0].xs, need_gradient=False)
    np.testing.assert_array_equal(hs, forward(other, blocks)["hs"])


def test_two_forwards_leave_the_masks_of_one():
    """Of one layer, whatever line of the one it is before which the other happens."""
    blocks, others = make_blocks(cells.RNN, 1), make_blocks(cells.RNN, 1, sizes=(2, 3, 3, 5))
    weights = [W.copy() for W in blocks[0].weights]
    layer = rnnfast.TimeRNN(*weights, weight_drop=0.5, rng=0)
    shapes = set()
    for at in range(1, 200):
        lines = 0

        def trace(frame, event, _, at=at):
            nonlocal lines
            if "rnnfast" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            if event == "line" and lines == at:
                layer.forward(others[0].xs)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            layer.forward(blocks[0].xs)
        finally:
            sys.settrace(before)
        if lines < at:
            break
        (_, shape, drops), _ = layer._kept
        product, mask = drops[1]
        np.testing.assert_array_equal(product, weights[1] * mask)
        (own,) = (some for some in (blocks, others) if some[0].dhs.shape == shape)
        plain = rnnfast.TimeRNN(weights[0], product, weights[2])
        plain.forward(own[0].xs)
        np.testing.assert_array_equal(layer.backward(own[0].dhs), plain.backward(own[0].dhs))
        np.testing.assert_array_equal(layer.grads[1], plain.grads[1] * mask)
        shapes.add(shape)
    assert at > 30
    assert len(shapes) == 2


@pytest.mark.parametrize("cell", LAYER_CELLS, ids=lambda cell: cell.name)
def test_float32_masks(cell):
    """Numbers of the layer's dtype; both modules draw the same."""
    for directions_ in (1, 2):
        blocks = make_blocks(cell, directions_, dtype="float32")
        results = [run_layer(layer_of(blocks, ops, rng=0, **RATES), blocks) for ops in OPS]
        for ours in results:
            assert {array.dtype for array in ours.values()} == {np.dtype("float32")}
        for ours in results[1:]:
            for name in ours:
                assert_close(ours[name], results[0][name], 1e-4, name)
