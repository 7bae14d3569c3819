"""Attention: its formula, step by step; lengths; what it keeps; how its products are computed."""

import copy
import doctest
import math

import numpy as np
import pytest
from problems import DTYPES, assert_all_close, assert_close, make_problem
from test_gradients import TOLERANCE, dot, numeric_gradient
from test_threads import same_bits

import rnnfast
from rnnfast import kernels, reference
from rnnfast.layers import attention
from rnnfast.reference import ops as twins

N, S, T, H = 3, 7, 5, 6
both = pytest.mark.parametrize("module", [rnnfast, reference], ids=["compiled", "numpy"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def arrays(N=N, S=S, T=T, H=H, dtype="float64", seed=0):
    """States of encoder and decoder, and the gradient of contexts."""
    rng = np.random.default_rng([seed, N, S, T, H])
    shapes = (N, S, H), (N, T, H), (N, T, H)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def slow(enc, dec, lengths=None):
    """Contexts and weights, number by number."""
    (N, S, H), T = enc.shape, dec.shape[1]
    contexts, weights = np.zeros((N, T, H)), np.zeros((N, T, S))
    for n in range(N):
        steps = S if lengths is None else lengths[n]
        for t in range(T):
            scores = [sum(enc[n, s, h] * dec[n, t, h] for h in range(H)) for s in range(steps)]
            powers = [math.exp(score - max(scores)) for score in scores]
            for s in range(steps):
                weights[n, t, s] = powers[s] / math.fsum(powers)
                contexts[n, t] += weights[n, t, s] * enc[n, s]
    return contexts, weights


def run(layer, enc, dec, dout, lengths=None):
    """All that there is, by name."""
    results = {"contexts": layer.forward(enc, dec, lengths), "weights": layer.weights}
    return results | dict(zip(("denc", "ddec"), layer.backward(dout), strict=True))


@both
@pytest.mark.parametrize("lengths", [None, [7, 0, 3], [1, 7, 7]], ids=str)
def test_the_formula(lengths, module):
    enc, dec, _ = arrays()
    layer = module.Attention()
    contexts, weights = slow(enc, dec, lengths)
    assert_close(layer.forward(enc, dec, lengths), contexts)
    assert_close(layer.weights, weights)
    assert_close(layer.infer(enc, dec, lengths), contexts)


@both
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=str)
def test_gradients_by_differences(lengths, module):
    enc, dec, dout = arrays(S=4, T=3, H=3)
    layer = module.Attention()
    found = run(layer, enc, dec, dout, lengths)

    def loss():
        return dot(layer.infer(enc, dec, lengths), dout)

    assert_close(found["denc"], numeric_gradient(loss, enc), TOLERANCE)
    assert_close(found["ddec"], numeric_gradient(loss, dec), TOLERANCE)


# (N, S, T, H), by which the kernel reads states as they are, or packs them: few and many steps,
# units that fill whole vectors and panels or do not, rows that share few places of a cache
SHAPES = [
    *[(1, 1, 1, 1), (2, 1, 9, 3), (2, 9, 1, 3), (3, 2, 2, 130), (1, 300, 1, 64), (2, 70, 48, 33)],
    *[(2, 65, 49, 67), (1, 40, 100, 16), (2, 17, 3, 1024), (1, 9, 60, 1024), (9, 29, 10, 40)],
    *[(1, 1200, 2, 5), (1, 3, 1200, 5), (1, 5, 4, 1300)],
]


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes(shape, dtype):
    """The kernel is that of the twin; a second call of other sizes is too."""
    layer, twin = rnnfast.Attention(), reference.Attention()
    batch, most = shape[:2]
    enc, dec, dout = arrays(*shape, dtype=dtype)
    enc, dec = enc / shape[3] ** 0.5, dec * 2
    for lengths in (None, (most - np.arange(batch) * 3) % (most + 1)):
        ours, theirs = (run(each, enc, dec, dout, lengths) for each in (layer, twin))
        assert_all_close(ours, theirs, 5e-5 if dtype == "float32" else 1e-12)
        assert {array.dtype for array in (ours | theirs).values()} == {np.dtype(dtype)}
    small = arrays(1, 2, 3, 4, dtype)
    assert_all_close(run(layer, *small), run(twin, *small))


# Lengths. -----------------------------------------------------------------------------------------


@both
@dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_steps_beyond_lengths_do_not_matter(value, dtype, module):
    """Whatever stands there; their weights and gradients are 0, also where no step is left."""
    lengths = np.array([4, 0, 7])
    enc, dec, dout = arrays(dtype=dtype)
    beyond = np.arange(S) >= lengths[:, None]
    expected = run(module.Attention(), enc, dec, dout, lengths)
    enc[beyond] = value
    found = run(module.Attention(), enc, dec, dout, lengths)
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name, strict=True)
    assert not found["denc"][beyond].any()
    assert not found["weights"].swapaxes(1, 2)[beyond].any()
    assert not found["contexts"][1].any()
    assert not found["ddec"][1].any()
    assert found["ddec"][0].any()


@both
def test_a_row_with_lengths_is_that_of_a_shorter_block(module):
    enc, dec, dout = arrays()
    lengths = [3, 7, 5]
    found = run(module.Attention(), enc, dec, dout, lengths)
    for n, steps in enumerate(lengths):
        alone = run(module.Attention(), enc[n : n + 1, :steps], dec[n : n + 1], dout[n : n + 1])
        assert_close(found["contexts"][n : n + 1], alone["contexts"])
        assert_close(found["weights"][n : n + 1, :, :steps], alone["weights"])
        assert_close(found["denc"][n : n + 1, :steps], alone["denc"])
        assert_close(found["ddec"][n : n + 1], alone["ddec"])


@both
def test_lengths_are_those_of_the_call(module):
    """Backward has a copy of them, and full ones are none."""
    enc, dec, dout = arrays()
    layer, lengths = module.Attention(), np.array([2, 3, 4])
    expected = run(layer, enc, dec, dout, lengths.copy())
    layer.forward(enc, dec, lengths)
    lengths[:] = S
    assert_close(layer.backward(dout)[0], expected["denc"])
    full, none = run(layer, enc, dec, dout, lengths), run(layer, enc, dec, dout)
    for name in none:
        np.testing.assert_array_equal(full[name], none[name], err_msg=name)


# Numbers. -----------------------------------------------------------------------------------------


@both
@dtypes
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_scores(sign, dtype, module):
    """Whose powers would be infinite, or all 0."""
    enc = np.array([[[100.0], [101.0], [100.0]]], dtype)
    dec = np.array([[[sign * 100.0], [0.0]]], dtype)
    layer = module.Attention()
    contexts = layer.forward(enc, dec)
    expected = [[0, 1, 0] if sign == 1 else [0.5, 0, 0.5], [1 / 3] * 3]
    assert_close(layer.weights, [expected], 1e-6)
    assert_close(contexts, [[[101.0 if sign == 1 else 100.0], [301 / 3]]], 1e-6)
    denc, ddec = layer.backward(np.ones_like(dec))
    assert np.isfinite(denc).all()
    assert ddec[0, :, 0] == pytest.approx([0, 2 / 9], abs=2e-3)  # the variance of enc


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden_and_reaches_its_own_row_alone(value, module):
    enc, dec, dout = arrays()
    layer = module.Attention()
    expected = run(layer, enc, dec, dout)
    enc[1, 3] = value
    with np.errstate(invalid="ignore"):
        found = run(layer, enc, dec, dout)
    for name in found:
        assert np.isnan(found[name][1]).any()
        np.testing.assert_array_equal(found[name][[0, 2]], expected[name][[0, 2]])


@both
@pytest.mark.parametrize(
    ("of_enc", "of_dec", "expected"),
    [("f4", "f4", "f4"), ("f8", "f4", "f8"), ("f4", "f8", "f8"), ("f2", "i8", "f4")],
)
def test_dtypes(of_enc, of_dec, expected, module):
    enc, dec, dout = arrays()
    found = run(
        module.Attention(), np.round(enc).astype(of_enc), np.round(dec).astype(of_dec), dout
    )
    assert {array.dtype for array in found.values()} == {np.dtype(expected)}
    exact = run(module.Attention(), np.round(enc), np.round(dec), dout)
    assert_all_close(found, exact, 1e-5 if expected == "f4" else 1e-12)


# What is kept. ------------------------------------------------------------------------------------


@both
def test_weights_may_be_read_after_forward(module):
    enc, dec, dout = arrays()
    layer = module.Attention()
    with pytest.raises(RuntimeError, match=r"^Attention\.weights: expected a forward call before"):
        _ = layer.weights
    layer.infer(enc, dec)
    with pytest.raises(RuntimeError, match=r"^Attention\.backward: expected a forward call before"):
        layer.backward(dout)
    layer.forward(enc, dec)
    weights = layer.weights
    assert weights.shape == (N, T, S)
    np.testing.assert_allclose(weights.sum(axis=2), 1, rtol=1e-14)
    with pytest.raises(ValueError, match="read-only"):
        weights[...] = 0
    kept = weights.copy()
    layer.backward(dout)
    layer.infer(-enc, dec)
    np.testing.assert_array_equal(layer.weights, kept)
    layer.forward(-enc, dec)
    assert (layer.weights != kept).any()
    np.testing.assert_array_equal(weights, kept)  # those of then are the caller's


@pytest.mark.parametrize("ops", [kernels, twins], ids=["compiled", "numpy"])
def test_one_call_for_all_steps(ops):
    calls = []

    class Recorder:
        def __getattr__(self, name):
            def function(*args):
                calls.append(name)
                return getattr(ops, name)(*args)

            return function

    run(rnnfast.Attention(ops=Recorder()), *arrays())
    assert calls == ["attention_forward", "attention_backward"]


def test_copies_need_a_forward_of_their_own():
    enc, dec, dout = arrays()
    layer = rnnfast.Attention()
    expected = run(layer, enc, dec, dout)
    other = copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match="call forward first"):
        other.backward(dout)
    assert_all_close(run(other, enc, dec, dout), expected, 1e-300)
    layer.ops = twins
    with pytest.raises(RuntimeError, match="call forward first"):
        layer.backward(dout)


# Bad inputs. --------------------------------------------------------------------------------------

A = np.zeros
BAD = [
    ([A((S, H)), A((N, T, H))], ValueError, r"hs_enc: .* \(N, S, H\), got \(7, 6\)"),
    ([A((N, 0, H)), A((N, T, H))], ValueError, r"hs_enc: .* got \(3, 0, 6\) \(sizes must be"),
    ([A((N, S, H)), A((N, T, H + 1))], ValueError, r"hs_dec: .* \(3, T, 6\), got \(3, 5, 7\); it"),
    ([A((N, S, H)), A((1, T, H))], ValueError, r"hs_dec: .* got \(1, 5, 6\); .* batch and the H"),
    ([A((N, S, H)), A((N, H))], ValueError, r"hs_dec: .* \(3, T, 6\), got \(3, 6\)"),
    ([A((N, S, H)) + 1j, A((N, T, H))], TypeError, r"hs_enc: expected an array of real numbers"),
    ([A((N, S, H)), "text"], TypeError, r"hs_dec: expected an array of real numbers, got dtype <U"),
    ([[[[1.0], [1.0, 2.0]]], A((N, T, H))], ValueError, r"hs_enc: .* rows of different shapes"),
    ([A((N, S, H)), A((N, T, H)), [8, 1, 1]], ValueError, r"lengths: .* 0\.\.7, got 8 at .*\(0,\)"),
    ([A((N, S, H)), A((N, T, H)), [1, -1, 1]], ValueError, r"lengths: .* got -1 at position \(1,"),
    ([A((N, S, H)), A((N, T, H)), [1, 1]], ValueError, r"lengths: .*\(3,\), got \(2,\); a length"),
    ([A((N, S, H)), A((N, T, H)), [1.0] * 3], TypeError, r"lengths: .* integer dtype, got float64"),
]


@both
@pytest.mark.parametrize(("args", "error", "message"), BAD)
def test_what_does_not_fit_changes_nothing(args, error, message, module):
    enc, dec, dout = arrays()
    layer = module.Attention()
    expected = run(layer, enc, dec, dout)
    for call in (layer.forward, layer.infer):
        with pytest.raises(error, match=f"^{message}"):
            call(*args)
    with pytest.raises(ValueError, match=r"^dout: .* shape \(3, 5, 6\), got \(3, 7, 6\)"):
        layer.backward(A((N, S, H)))
    np.testing.assert_array_equal(layer.weights, expected["weights"])
    assert_close(layer.backward(dout)[0], expected["denc"], 1e-300)


# Threads, and networks. ---------------------------------------------------------------------------


@pytest.mark.usefixtures("threads_for_small_calls")
@pytest.mark.parametrize("batch", [1, 2, 40])
def test_any_number_of_threads_gives_the_same_bits(batch):
    inputs = arrays(batch, 70, 60, 130, "float32")
    lengths = (70 - 3 * np.arange(batch)) % 71

    def everything():
        layer = rnnfast.Attention()
        return [*run(layer, *inputs).values(), *run(layer, *inputs, lengths).values()]

    same_bits(everything)


def network(module=rnnfast):
    encoder, decoder = (make_problem("TimeLSTM", seed=seed) for seed in (1, 2))
    (affine,) = (make_problem("TimeAffine", sizes=(1, 1, 6, 1, 2)),)
    layers = {
        "encoder": encoder.make(module),
        "decoder": decoder.make(module),
        "attention": module.Attention(),
        "out": affine.make(module),
    }
    inputs = {"encoder": "xs", "decoder": "ys", "attention": ("encoder", "decoder")}
    return rnnfast.Network(layers, rnnfast.TimeSquaredLoss(), inputs=inputs)


@both
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=str)
def test_a_network_with_an_encoder_and_a_decoder(lengths, module):
    """Gradients reach both; a file brings the network back."""
    rng, model = np.random.default_rng(0), network(module)
    xs, ys, ts = (rng.standard_normal(shape) for shape in ((3, 5, 4), (3, 5, 4), (3, 5, 2)))
    options = {"ys": ys} | ({} if lengths is None else {"lengths": lengths})
    model.forward(xs, ts, **options)
    model.backward()
    grads = {name: dW.copy() for name, dW in model.named_grads().items()}

    def loss():
        return model.forward(xs, ts, need_gradient=False, **options)

    for name in ("encoder.b", "decoder.b", "out.b"):
        expected = numeric_gradient(loss, model.named_params()[name])
        assert_close(grads[name], expected, 1e-6, name)  # far smaller than the loss
    assert_close(model.infer(xs, **options)[0], model.predict(xs, **options))


def test_a_network_in_a_file(tmp_path):
    model, rng = network(), np.random.default_rng(0)
    xs, ys = rng.standard_normal((3, 5, 4)), rng.standard_normal((3, 2, 4))
    model.save(tmp_path / "a.npz")
    for ops in (None, twins):
        again = rnnfast.Network.load(tmp_path / "a.npz", ops=ops)
        assert_close(again.predict(xs, ys=ys), model.predict(xs, ys=ys))
        np.testing.assert_allclose(again.layers[2].weights, model.layers[2].weights, rtol=1e-12)


def test_the_example_in_the_docstring():
    results = doctest.testmod(attention)
    assert (results.failed, results.attempted > 2) == (0, True)
