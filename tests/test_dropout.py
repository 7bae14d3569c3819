"""TimeDropout: which masks it draws, and when; what it keeps, and in which dtype."""

import copy
import doctest
import json

import numpy as np
import pytest
from problems import DTYPES, assert_close

import rnnfast
from rnnfast import kernels, reference
from rnnfast.errors import InputError
from rnnfast.layers import dropout

N, T, D = 3, 5, 4
both_ops = pytest.mark.parametrize("ops", [kernels, reference.ops], ids=["compiled", "numpy"])
locks = pytest.mark.parametrize("locked", [False, True], ids=["each", "locked"])
shapes = pytest.mark.parametrize("shape", [(N, T), (N, T, D), (N, T, 2, 3), (1, 1, 1)], ids=str)


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def as_documented(rng, rate, shape, locked, dtype="float64"):
    """A mask as the docstring says, by the slow generator, for all steps."""
    own = (shape[0], *shape[2:]) if locked else shape
    mask = np.empty(own, dtype)
    key = int(rng.random() * 2**53)
    reference.ops.draw_mask(key, 1 - rate, 1 / (1 - rate), mask.reshape(-1))
    return np.broadcast_to(mask[:, None] if locked else mask, shape)


@both_ops
@locks
@shapes
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_those_documented(dtype, shape, locked, ops):
    """Drawn anew by every forward; backward has the mask of the last one, whenever it is asked."""
    layer = rnnfast.TimeDropout(0.3, locked=locked, rng=5, ops=ops)
    rng = np.random.default_rng(5)
    for seed in range(3):
        xs, dout = normal(*shape, dtype=dtype, seed=seed), normal(*shape, dtype=dtype, seed=9)
        mask = as_documented(rng, 0.3, shape, locked, dtype)
        np.testing.assert_array_equal(layer.forward(xs), xs * mask, strict=True)
        for _ in range(2):
            np.testing.assert_array_equal(layer.backward(dout), dout * mask, strict=True)
    assert layer.rng.bit_generator.state == rng.bit_generator.state


def test_one_mask_for_all_steps():
    """And another one for every row and every number."""
    out = rnnfast.TimeDropout(0.5, locked=True, rng=0).forward(np.ones((40, 6, 30)))
    assert (out == out[:, :1]).all()
    assert len(np.unique(out[:, 0], axis=0)) == 40
    assert len(np.unique(out[:, 0], axis=1)[0]) == 30


@both_ops
@locks
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_is_kept_makes_up_for_what_is_not(rate, locked, ops):
    layer = rnnfast.TimeDropout(rate, locked=locked, rng=1, ops=ops)
    out = layer.forward(np.ones((200, 3, 500), "f"))
    assert set(np.unique(out)) == {0, np.float32(1 / (1 - rate))}
    masks = out.size / (3 if locked else 1)
    spread = (rate / (1 - rate) / masks) ** 0.5  # of the mean of so many masks
    assert out.mean(dtype="f8") == pytest.approx(1, abs=5 * spread)


@both_ops
@locks
@pytest.mark.parametrize("how", ["evaluation", "rate", "infer"])
def test_nothing_is_dropped_nor_drawn_nor_copied(how, locked, ops):
    layer = rnnfast.TimeDropout(0 if how == "rate" else 0.5, locked=locked, rng=0, ops=ops)
    layer.training = how != "evaluation"
    before, xs = copy.deepcopy(layer.rng.bit_generator.state), normal(N, T, D)
    if how == "infer":
        assert layer.infer(xs) is xs
        with pytest.raises(RuntimeError, match=r"TimeDropout\.backward: expected a forward"):
            layer.backward(xs)
    else:
        assert layer.forward(xs) is xs
        assert layer.backward(xs) is xs
    assert layer.rng.bit_generator.state == before


def test_infer_changes_nothing_for_backward():
    xs, dout = normal(N, T, D), normal(N, T, D, seed=1)
    layer = rnnfast.TimeDropout(0.5, rng=0)
    out = layer.forward(xs)
    np.testing.assert_array_equal(layer.infer(-xs), -xs)
    np.testing.assert_array_equal(layer.backward(dout) * xs, dout * out)
    layer.training = False  # backward is that of the forward that was
    np.testing.assert_array_equal(layer.backward(dout) * xs, dout * out)


@pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
@pytest.mark.parametrize("given", ["f2", "f4", "f8", ">f8", "i8", "?"])
def test_dtypes(given, module):
    """float64 is kept, anything else is float32, in training and in evaluation."""
    xs = np.ones((N, T, D), given)
    layer, expected = module.TimeDropout(0.5, rng=0), "f8" if given[-2:] == "f8" else "f4"
    results = [layer.forward(xs), layer.backward(xs), layer.infer(xs)]
    layer.training = False
    results += [layer.forward(xs), layer.backward(xs)]
    assert {str(array.dtype) for array in results} == {str(np.dtype(expected))}
    assert set(np.unique(results[0])) == {0, 2}


# Options, which may be set, and random generators. ------------------------------------------------


def test_defaults_and_config():
    layer = rnnfast.TimeDropout()
    assert layer.config() == {"rate": 0.5, "locked": False}
    assert isinstance(layer.rng, np.random.Generator)
    layer = rnnfast.TimeDropout(np.float32(0.25), locked=np.True_)
    assert json.loads(json.dumps(layer.config())) == {"rate": 0.25, "locked": True}
    assert rnnfast.TimeDropout(**layer.config()).config() == layer.config()
    with pytest.raises(TypeError, match="positional"):
        rnnfast.TimeDropout(0.5, True)


@both_ops
def test_options_may_be_set(ops):
    xs = normal(N, T, D)
    for rate, locked in ((0.5, False), (0.2, True), (0, False)):
        layer = rnnfast.TimeDropout(0.9, locked=not locked, rng=9, ops=ops)
        layer.forward(xs)
        layer.rate, layer.locked, layer.rng = rate, locked, 3
        assert (layer.rate, layer.locked) == (rate, locked)
        again = rnnfast.TimeDropout(rate, locked=locked, rng=3, ops=ops)
        np.testing.assert_array_equal(layer.forward(xs), again.forward(xs))
        np.testing.assert_array_equal(layer.backward(xs), again.backward(xs))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        *[
            ("rate", value, ValueError, "expected a number in 0 <= rate < 1, got")
            for value in (1, -0.1, np.nan, "0.5", None, True)
        ],
        *[("locked", value, TypeError, "expected True or False, got") for value in (1, None, "")],
        ("rng", "0", TypeError, "expected a numpy.random.Generator or RandomState, a whole number"),
        ("rng", 1.5, TypeError, "expected a numpy.random.Generator"),
        ("rng", -1, ValueError, "expected a whole number of at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit(name, value, error, message):
    with pytest.raises(error, match=f"^{name}: {message}"):
        rnnfast.TimeDropout(**{name: value})
    layer = rnnfast.TimeDropout(0.25, locked=True, rng=0)
    before = layer.rate, layer.locked, layer.rng
    with pytest.raises(error, match=f"^{name}: {message}"):
        setattr(layer, name, value)
    assert (layer.rate, layer.locked, layer.rng) == before


@both_ops
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState, int])
def test_equal_seeds_equal_masks(make, ops):
    xs = np.ones((N, T, 20))
    one, same, other = (
        rnnfast.TimeDropout(rng=make(seed), ops=ops).forward(xs) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    fresh = [rnnfast.TimeDropout(ops=ops).forward(xs) for _ in "12"]
    assert (fresh[0] != fresh[1]).any()


def test_a_copy_draws_what_the_original_would():
    xs = np.ones((N, T, 20))
    layer = rnnfast.TimeDropout(rng=0)
    layer.forward(xs)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(layer.forward(xs), other.forward(xs))


class Fails:
    """Functions of which one raises an error, after it has drawn."""

    def __init__(self, ops):
        self.draw, self.failing = ops.draw_mask, False

    def draw_mask(self, *args):
        self.draw(*args)
        if self.failing:
            raise MemoryError


@both_ops
@pytest.mark.parametrize("rng", [np.random.default_rng(0), np.random.RandomState(0)])
def test_a_forward_that_fails_changes_nothing(rng, ops):
    xs = normal(N, T, D)
    layer = rnnfast.TimeDropout(rng=copy.deepcopy(rng), ops=Fails(ops))
    twin = rnnfast.TimeDropout(rng=copy.deepcopy(rng), ops=ops)
    layer.forward(xs), twin.forward(xs)
    layer.ops.failing = True
    with pytest.raises(MemoryError):
        layer.forward(xs)
    for wrong in (np.ones(3), np.ones((N, 0, D)), xs + 1j, [[1.0], [1.0, 2.0]]):
        with pytest.raises((TypeError, ValueError), match=r"^xs: expected an array"):
            layer.forward(wrong)
    layer.ops.failing = False
    np.testing.assert_array_equal(layer.backward(xs), twin.backward(xs))
    np.testing.assert_array_equal(layer.forward(xs), twin.forward(xs))


def test_gradients_that_do_not_fit():
    layer = rnnfast.TimeDropout(rng=0)
    layer.forward(normal(N, T, D))
    for training in (True, False):
        layer.training = training
        layer.forward(normal(N, T, D))
        with pytest.raises(ValueError, match=r"^dout: .* shape \(3, 5, 4\), got \(3, 5, 1\)"):
            layer.backward(np.ones((N, T, 1)))


# In a network. ------------------------------------------------------------------------------------


def network(**options):
    layers = {
        "in": rnnfast.TimeAffine(normal(D, 6, seed=1), normal(6)),
        "dropout": rnnfast.TimeDropout(0.5, **options),
        "out": rnnfast.TimeAffine(normal(6, 2, seed=2), normal(2)),
    }
    return rnnfast.Network(layers, rnnfast.TimeSquaredLoss())


def steps(model, count):
    """Losses of so many training steps; the data are always the same."""
    optimizer, losses = rnnfast.SGD(0.01), []
    for _ in range(count):
        losses.append(model.forward(normal(N, T, D, seed=3), normal(N, T, 2, seed=4)))
        model.backward()
        optimizer.update(model.params, model.grads)
    return losses


@locks
def test_a_network_trains_with_masks_and_predicts_without(locked):
    model, xs = network(locked=locked, rng=0), normal(N, T, D)
    first, _, last = model.layers
    hidden = xs @ first.params[0] + first.params[1]
    expected = hidden @ last.params[0] + last.params[1]
    assert_close(model.infer(xs)[0], expected)
    with model.in_evaluation():
        assert_close(model.predict(xs), expected)
    mask = as_documented(np.random.default_rng(0), 0.5, hidden.shape, locked)
    assert_close(model.predict(xs), (hidden * mask) @ last.params[0] + last.params[1])


def test_a_network_carries_on_where_it_was():
    """By the states of its generators, which checkpoints keep under the name of the layer."""
    model = network(locked=True, rng=0)
    losses = steps(model, 2)
    state = json.loads(json.dumps(model.random_state()))
    assert list(state) == ["dropout"]
    again = network(locked=True, rng=99)
    again.set_params({name: W.copy() for name, W in model.named_params().items()})
    again.set_random_state(state)
    assert steps(model, 3) == steps(again, 3)
    assert losses == steps(network(locked=True, rng=0), 2)


def test_a_network_in_a_file(tmp_path):
    model, xs = network(locked=True, rng=0), normal(N, T, D)
    model.layers[1].rate = 0.25
    model.save(tmp_path / "a.npz")
    again = rnnfast.Network.load(tmp_path / "a.npz")
    assert again.layers[1].config() == {"rate": 0.25, "locked": True}
    np.testing.assert_array_equal(again.infer(xs)[0], model.infer(xs)[0])
    config = model.config()
    config["layers"]["dropout"]["config"]["rate"] = 2
    with pytest.raises(InputError, match="layer dropout, a TimeDropout: rate: expected a number"):
        rnnfast.Network.from_params(model.named_params(), **config)


def test_the_example_in_the_docstring():
    results = doctest.testmod(dropout)
    assert (results.failed, results.attempted > 2) == (0, True)
