"""Parts of a batch: processes that each have some of its rows draw the masks of the whole."""

import copy
import pickle
from itertools import islice

import numpy as np
import pytest
from problems import DTYPES, assert_all_close, assert_close
from sequences import OPS
from test_recurrent_layers import directions, every_cell, layer_of, make_blocks
from test_sequences import drawn, splitmix64

import rnnfast
from rnnfast import kernels, reference
from rnnfast._random import state_of

N, T, D, H = 7, 4, 3, 5
PARTS = [[(0, 3), (3, 7)], [(0, 1), (1, 5), (5, 7)]]
RATES = {"recurrent_dropout": 0.3, "zoneout": 0.4, "weight_drop": 0.2}
CHOICES = [*({name: rate} for name, rate in RATES.items()), RATES]

every_ops = pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.__name__)
parts = pytest.mark.parametrize("parts", PARTS, ids=lambda parts: f"{len(parts)} parts")
rates = pytest.mark.parametrize("rates", CHOICES, ids="+".join)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# The kernel and its twin. -------------------------------------------------------------------------


def part_of(ops, key, n, first, of, dtype="float64"):
    """Numbers of a mask; those beside them are left alone."""
    out = np.full(n + 2, 99, dtype)
    assert ops.draw_mask(key, 0.4, 1.5, out[1:-1], first, of) is None
    assert out[0] == out[-1] == 99
    return out[1:-1]


@every_ops
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of", [0, 1, 2, 3, 8, 127, 128, 129, 256, 257, 1001])
def test_a_part_of_a_mask(of, dtype, ops):
    """From each number of some, to each: in the first half, in the second, in both, and empty."""
    whole, half = drawn(reference.ops, 2**63 + 5, 0.4, of, 1.5, dtype), (of + 1) // 2
    near = {place + k for place in (0, 64, half, half + 64, of) for k in (-1, 0, 1)}
    places = sorted(place for place in near if 0 <= place <= of)
    for first in places:
        for end in (place for place in places if place >= first):
            part = part_of(ops, 2**63 + 5, end - first, first, of, dtype)
            np.testing.assert_array_equal(part, whole[first:end], strict=True)


def test_a_part_of_a_mask_that_fits_into_no_memory():
    """Only the numbers asked for are drawn: those on both sides of the half."""
    key, of, n = 77, 2**62 - 1, 200
    half = 2**61
    state = (key + (half - n) * 0x9E3779B97F4A7C15) % 2**64
    bits = [word % 2**32 for word in islice(splitmix64(state), n)]
    bits += [word >> 32 for word in islice(splitmix64(key), n)]
    expected = np.where(np.array(bits) < round(0.4 * 2**32), 1.5, 0)
    np.testing.assert_array_equal(part_of(kernels, key, 2 * n, half - n, of), expected)


@every_ops
@pytest.mark.parametrize(
    ("first", "of"), [(-1, 9), (5, 9), (0, 4), (9, 9), (0, -1), (0, -(2**63)), (1, None)]
)
def test_parts_that_a_mask_does_not_have(first, of, ops):
    out = np.full(5, 99.0)
    with pytest.raises(ValueError, match=r"^first, of: expected 5 numbers that a mask of .* got"):
        ops.draw_mask(1, 0.5, 1, out, first=first, of=of)
    assert (out == 99).all()


# Layers. ------------------------------------------------------------------------------------------


def sliced(rows, named):
    """Rows of arrays by name, which states have next to their last axis."""
    of_states = ("h", "c", "dh", "dc")
    return {k: v[..., rows, :] if k in of_states else v[rows] for k, v in named.items()}


def run(layer, rows, xs, dout, states=None, dlast=None, **given):
    """Forward and backward of some rows, drawing from a fresh generator: what has rows, gradients
    of the weights, and the state of the generator."""
    layer.rng = 5
    if states:
        layer.set_state(**sliced(rows, states))
    results = {"output": layer.forward(xs[rows], **sliced(rows, given)).copy()}
    results["dxs"] = layer.backward(dout[rows], **sliced(rows, dlast or {}))
    for name in ("h", "c", "dh", "dc"):
        if hasattr(layer, name):
            results[name] = getattr(layer, name).copy()
    return results, [dW.copy() for dW in layer.grads], state_of(layer.rng)


def check(layer, parts, *block, **options):
    """Parts have the rows of the whole, and add up to its gradients of weights."""
    whole, grads, state = run(layer, np.s_[:], *block, **options)
    sums = [0] * len(grads)
    for first, end in parts:
        rows = np.s_[first:end]
        layer.batch_part = first, N
        results, of_part, after = run(layer, rows, *block, **options)
        assert_all_close(results, sliced(rows, whole), 1e-13)
        sums = [total + dW for total, dW in zip(sums, of_part, strict=True)]
        assert after == state
    for total, dW in zip(sums, grads, strict=True):
        assert_close(total, dW, 1e-13)
    layer.batch_part = None
    assert_all_close(run(layer, np.s_[:], *block, **options)[0], whole, 0)


def check_recurrent(layer, parts, width):
    shape = layer.state_shape(N)
    states = {name: normal(*shape, seed=k) for k, name in enumerate(layer.cell.states)}
    dlast = {name: normal(*shape, seed=9 + k) for k, name in enumerate(layer.cell.gradients)}
    given = {
        "lengths": np.array([4, 0, 3, 4, 1, 4, 2]),
        "reset": np.random.default_rng(2).random((N, T)) < 0.3,
    }
    check(layer, parts, normal(N, T, D), normal(N, T, width), states, dlast, **given)


@every_ops
@every_cell
@directions
@rates
@parts
def test_recurrent_layers(parts, rates, directions, cell, ops):
    layer = layer_of(make_blocks(cell, directions, sizes=(N, T, D, H)), ops, **rates)
    check_recurrent(layer, parts, directions * H)


@every_ops
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize(
    "dropout", [{"dropout": 0.4}, {"dropout": 0.4, **RATES}, RATES], ids="+".join
)
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@parts
def test_stacks(parts, kind, dropout, bidirectional, ops):
    options = {"bidirectional": bidirectional, "stateful": True, "dtype": "float64", "ops": ops}
    stack = rnnfast.TimeStack(kind, D, H, 3, rng=0, **options, **dropout)
    check_recurrent(stack, parts, (1 + bidirectional) * H)


@every_ops
@pytest.mark.parametrize("locked", [False, True], ids=["each", "locked"])
@pytest.mark.parametrize("shape", [(N, T), (N, T, D), (N, T, 2, 3)], ids=str)
@parts
def test_dropout(parts, shape, locked, ops):
    layer = rnnfast.TimeDropout(0.4, locked=locked, ops=ops)
    check(layer, parts, normal(*shape), normal(*shape, seed=1))


def test_rows_have_masks_of_their_own():
    """Or else parts would agree with the whole whatever they draw."""
    layer, xs = rnnfast.TimeDropout(0.5), np.ones((3, 40))
    layer.rng, layer.batch_part = 0, (4, 9)
    part = layer.forward(xs)
    layer.rng, layer.batch_part = 0, None
    assert (layer.forward(xs) != part).any(axis=1).all()


def layers_that_draw():
    weights = normal(D, H), normal(H, H), normal(H)
    return [
        rnnfast.TimeDropout(0.5, rng=0),
        rnnfast.TimeRNN(*weights, recurrent_dropout=0.5, rng=0),
        rnnfast.TimeRNN(*weights, zoneout=0.5, rng=0),
        rnnfast.TimeStack("rnn", D, H, 2, dropout=0.5, dtype="float64", rng=0),
    ]


@pytest.mark.parametrize("layer", layers_that_draw(), ids=lambda layer: type(layer).__name__)
def test_rows_that_are_not_in_the_batch(layer):
    """Where masks are drawn: evaluation draws none, and asks nothing."""
    layer = copy.deepcopy(layer)  # that of the list is every thread's
    layer.batch_part = 5, N
    layer.forward(normal(2, T, D))
    before, carried = state_of(layer.rng), getattr(layer, "h", None)
    with pytest.raises(ValueError, match=r"^batch_part: expected 3 rows, .* from row 5 on of 7; "):
        layer.forward(normal(3, T, D))
    assert state_of(layer.rng) == before
    assert getattr(layer, "h", None) is carried
    layer.infer(normal(3, T, D))
    layer.training = False
    layer.forward(normal(3, T, D))


WRONG = [0, (0,), (0, 1, 2), (-1, 4), (4, 4), (0, 0), (0.0, 4), (0, 4.0), (False, 4), "04", {0: 4}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_values_that_are_no_part(wrong):
    network = model_of(np.random.default_rng(0))
    for thing in (network, network.layers[0]):
        thing.batch_part = np.int64(2), np.int32(7)
        with pytest.raises(ValueError, match=r"^batch_part: expected None, or \(first row, .* got"):
            thing.batch_part = wrong
        assert thing.batch_part == (2, 7)
        assert {type(k) for k in thing.batch_part} == {int}
    assert {layer.batch_part for layer in network.layers} == {(2, 7)}


# Networks. ----------------------------------------------------------------------------------------

V = 11


def model_of(rng):
    options = {"dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.3, "dtype": "float64"}
    return rnnfast.LanguageModel(V, embedding=D, hidden=H, layers=2, rng=rng, **options)


def seq2seq_of(rng):
    model = rnnfast.AttentionSeq2seq(V, D, H, dtype="float64", rng=rng)
    for name, layer in zip(model.recurrent_names, model.recurrent_layers, strict=True):
        layer.recurrent_dropout, layer.rng = 0.4, len(name)
    return model


@pytest.mark.parametrize("make", [model_of, seq2seq_of])
@parts
def test_parts_add_up_to_a_model(parts, make):
    """Losses and gradients, two blocks long, of which the second carries a state."""
    rng = np.random.default_rng(3)
    blocks = [(rng.integers(0, V, (N, 6)), rng.integers(0, V, (N, 6))) for _ in range(2)]

    def losses_and_grads(rows, part):
        model = make(np.random.default_rng(0))
        model.batch_part = part
        share = len(range(N)[rows]) / N
        results = []
        for xs, ts in blocks:
            results.append(share * model.forward(xs[rows], ts[rows]))
            model.backward()
            results += [share * dW for dW in model.grads]
        return results, model.random_state()

    whole, state = losses_and_grads(np.s_[:], None)
    of_parts = [losses_and_grads(np.s_[first:end], (first, N)) for first, end in parts]
    assert all(after == state for _, after in of_parts)
    for results in zip(whole, *(results for results, _ in of_parts), strict=True):
        assert_close(sum(results[1:]), results[0], 1e-13)


class Own:
    """A layer that is no `Layer`."""

    params, grads = (), ()

    def forward(self, xs):
        return xs

    backward = forward


def test_a_network_tells_every_layer_and_the_loss():
    network = rnnfast.Network([Own(), rnnfast.TimeDropout(0.5)], rnnfast.TimeSquaredLoss())
    everyone = [network, *network.layers, network.loss_layer]
    assert network.batch_part is None
    for part in ((1, 3), None, (0, 1)):
        network.batch_part = part
        assert [thing.batch_part for thing in everyone] == [part] * 4


def test_copies_have_it_and_files_do_not(tmp_path):
    model = model_of(np.random.default_rng(0))
    model.batch_part = 1, 3
    xs = np.arange(8).reshape(2, 4)
    for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert {thing.batch_part for thing in (other, *other.layers)} == {(1, 3)}
    other = copy.deepcopy(model)
    np.testing.assert_array_equal(other.predict(xs), model.predict(xs))
    model.save(tmp_path / "model.npz")
    loaded = rnnfast.LanguageModel.load(tmp_path / "model.npz")
    assert {thing.batch_part for thing in (loaded, *loaded.layers)} == {None}
