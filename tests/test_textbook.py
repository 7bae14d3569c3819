"""The namespace `rnnfast.textbook`: every name of the book's `common/`, each against its formula in
plain NumPy and, where it has gradients, central differences; and what it is lenient about.
"""

import copy
import os
import pickle
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from forms import SANITIZED
from problems import assert_close
from test_gradients import numeric_gradient

import rnnfast
from rnnfast.textbook import config, functions, layers, optimizer, time_layers, trainer, util

N, T, D, H, V = 3, 4, 5, 6, 7
TOLERANCE = 1e-8  # of central differences in float64
NAMES = {
    "config": "GPU",
    "np": "GPU np",
    "functions": "sigmoid relu softmax cross_entropy_error np GPU",
    "layers": "MatMul Affine Softmax SoftmaxWithLoss Sigmoid SigmoidWithLoss Dropout Embedding "
    "softmax cross_entropy_error np GPU",
    "time_layers": "RNN LSTM GRU TimeRNN TimeLSTM TimeGRU TimeBiLSTM TimeEmbedding TimeAffine "
    "TimeSoftmaxWithLoss TimeSigmoidWithLoss TimeDropout Simple_TimeSoftmaxWithLoss "
    "Simple_TimeAffine MatMul Affine Softmax SoftmaxWithLoss Sigmoid SigmoidWithLoss Dropout "
    "Embedding softmax sigmoid cross_entropy_error np GPU",
    "optimizer": "SGD Momentum Nesterov AdaGrad RMSprop Adam np GPU",
    "trainer": "Trainer RnnlmTrainer remove_duplicate clip_grads np GPU",
    "util": "preprocess create_co_matrix cos_similarity most_similar ppmi create_contexts_target "
    "convert_one_hot clip_grads eval_perplexity eval_seq2seq analogy normalize to_cpu to_gpu np "
    "GPU",
    "base_model": "BaseModel to_cpu to_gpu np GPU",
}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("module", NAMES)
def test_every_name_is_there(module):
    """And comes with a star."""
    found = {}
    exec(f"from rnnfast.textbook.{module} import *", found)
    assert {*NAMES[module].split()} == found.keys() - {"__builtins__"}
    assert found["GPU"] is False
    assert found.get("np", np) is np


def test_matplotlib_is_imported_by_plot_alone():
    code = "".join(f"import rnnfast.textbook.{module}\n" for module in NAMES)
    code += "import sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory"
)
@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer has a malloc of its own")
@pytest.mark.parametrize("chosen", [False, True])
def test_memory_is_kept_for_the_arrays_that_follow(chosen):
    """Unless somebody has chosen otherwise: pages that the system gave are counted."""
    code = """if 1:
        import resource
        import rnnfast.textbook
        import numpy as np
        for k in range(40):
            if k == 20:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arrays = [np.ones(750_000, "f") for _ in range(4)]
            del arrays
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {"MALLOC_TRIM_THRESHOLD_": "131072"} if chosen else {}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (int(done.stdout) < 2000) is not chosen  # of 20 * 4 * 732


def test_there_is_no_gpu():
    config.GPU = False
    with pytest.raises(ValueError, match=r"GPU: expected False, got True: .* CPU alone"):
        config.GPU = True
    assert config.GPU is False
    with pytest.raises(RuntimeError, match="CPU alone"):
        util.to_gpu(np.zeros(1))
    x = np.zeros(1)
    assert util.to_cpu(x) is x


# functions and layers without a time axis


def logistic(x):
    return 1 / (1 + np.exp(-x))


def softmaxed(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_functions(rng):
    x = rng.normal(size=(N, V))
    assert_close(functions.sigmoid(x), logistic(x))
    assert functions.sigmoid(0) == 0.5
    assert_close(functions.sigmoid(np.float32([-1000, 1000])), np.float32([0, 1]))
    assert_close(functions.relu(x), np.where(x > 0, x, 0))
    for logits in (x, x[0], x[None]):
        assert_close(functions.softmax(logits), softmaxed(logits))
    assert_close(functions.softmax(np.array([1000.0, 0.0])), np.array([1.0, 0.0]))
    y, t = softmaxed(x), np.array([2, 0, 6])
    loss = -np.log(y[[0, 1, 2], t] + 1e-7).mean()
    for targets in (t, t[:, None], np.eye(V)[t]):
        assert_close(functions.cross_entropy_error(y, targets), loss)
    first = -np.log(y[0, 2] + 1e-7)
    for target in (2, np.array(2), np.array([2]), np.eye(V)[2]):
        assert_close(functions.cross_entropy_error(y[0], target), first)


def check_layer(layer, forward, formula, *arrays):
    """Output, and gradients of the weights and of the first array, against a formula."""
    out = forward(*arrays)
    assert_close(out, formula(*arrays), 1e-13)
    weights = np.random.default_rng(0).normal(size=np.shape(out))

    def loss():
        return float(np.sum(forward(*arrays) * weights))

    expected = [numeric_gradient(loss, W) for W in layer.params]
    loss()
    returned = layer.backward(weights if np.ndim(out) else float(weights))
    if returned is not None:
        x = returned[0] if isinstance(returned, tuple) else returned
        assert_close(x, numeric_gradient(loss, arrays[0]), TOLERANCE)
    for dW, gradient in zip(layer.grads, expected, strict=True):
        assert_close(dW, gradient, TOLERANCE)
    loss()  # of the arrays as they are, for who asks further


def test_matmul_and_affine(rng):
    x, W, b = rng.normal(size=(N, D)), rng.normal(size=(D, H)), rng.normal(size=H)
    layer = layers.MatMul(W)
    check_layer(layer, layer.forward, lambda x: x @ W, x)
    assert layer.x is x
    layer = layers.Affine(W, b)
    check_layer(layer, layer.forward, lambda x: x @ W + b, x)
    assert layer.x is x
    assert layer.params[0] is W


def test_softmax_and_sigmoid(rng):
    x = rng.normal(size=(N, V))
    layer = layers.Softmax()
    check_layer(layer, layer.forward, softmaxed, x)
    assert_close(layer.out, softmaxed(x))
    layer = layers.Sigmoid()
    check_layer(layer, layer.forward, logistic, x)
    assert_close(layer.out, logistic(x))
    assert (layer.params, layer.grads) == ([], [])


@pytest.mark.parametrize("form", ["labels", "column", "one-hot"])
def test_softmax_with_loss(form, rng):
    x, t = rng.normal(size=(N, V)), np.array([2, 0, 6])
    targets = {"labels": t, "column": t[:, None], "one-hot": np.eye(V, dtype=int)[t]}[form]
    layer = layers.SoftmaxWithLoss()

    def formula(x):
        return -np.mean(np.log(softmaxed(x)[np.arange(N), t] + 1e-7))

    assert_close(layer.forward(x, targets), formula(x), 1e-13)
    gradient = layer.backward()
    # 1e-7 in the logarithm is not in the book's gradient
    assert_close(gradient, numeric_gradient(lambda: layer.forward(x, targets), x), 1e-5)
    layer.forward(x, targets)
    assert_close(layer.backward(2), 2 * gradient)
    assert_close(layer.y, softmaxed(x))
    assert [*layer.t] == [*t]


def test_sigmoid_with_loss(rng):
    x, t = rng.normal(size=N), np.array([1, 0, 1])
    layer = layers.SigmoidWithLoss()
    y = logistic(x)
    loss = -np.mean(t * np.log(y + 1e-7) + (1 - t) * np.log(1 - y + 1e-7))
    assert_close(layer.forward(x, t), loss, 1e-13)
    assert layer.loss == layer.forward(x, t)
    assert_close(layer.backward(3), 3 * (y - t) / N)
    x32 = x.astype("f")
    layer.forward(x32, t)
    assert layer.backward().dtype == np.float32
    with pytest.raises(ValueError, match=r"t: expected the shape \(3,\)"):
        layer.forward(x, t[:2])
    for wrong in (t - 1, t / 2, t + np.nan):
        with pytest.raises(ValueError, match="t: expected targets 0 and 1, got"):
            layer.forward(x, wrong)


def test_dropout_draws_from_the_global_generator():
    x = np.random.default_rng(0).normal(size=(N, V)).astype("f")
    np.random.seed(3)
    mask = np.random.rand(N, V) > 0.3
    np.random.seed(3)
    layer = layers.Dropout(0.3)
    assert_close(layer.forward(x), x * mask)
    assert_close(layer.backward(x), x * mask)
    assert (layer.mask == mask).all()
    assert_close(layer.forward(x, train_flg=False), x * np.float32(0.7))
    assert_close(layer.backward(x), x * np.float32(0.7))


def test_time_dropout_draws_from_the_global_generator():
    x = np.random.default_rng(0).normal(size=(N, T, H)).astype("f")
    np.random.seed(3)
    mask = (np.random.rand(N, T, H) > 0.3).astype("f") * (1 / 0.7)
    np.random.seed(3)
    layer = time_layers.TimeDropout(0.3)
    assert layer.train_flg
    assert_close(layer.forward(x), x * mask)
    assert_close(layer.backward(x), x * mask)
    assert_close(layer.mask, mask)
    layer.train_flg = False
    assert layer.forward(x) is x
    assert_close(layer.backward(x), x)


@pytest.mark.parametrize("Layer", [layers.Dropout, time_layers.TimeDropout])
@pytest.mark.parametrize("ratio", [1, -0.1, np.nan, "0.5"])
def test_dropout_ratios(Layer, ratio):
    with pytest.raises(ValueError, match="dropout_ratio: expected a number in 0 <="):
        Layer(ratio)


@pytest.mark.parametrize("shape", [(), (N,), (N, T), (2, 3, 2)])
def test_embedding(shape, rng):
    W, idx = rng.normal(size=(V, D)), rng.integers(0, V, shape)
    layer = layers.Embedding(W)
    out = layer.forward(idx)
    assert_close(out, W[idx])
    assert layer.idx is idx or layer.idx == idx
    dout = rng.normal(size=out.shape)
    assert layer.backward(dout) is None
    expected = np.zeros((V, D))
    np.add.at(expected, idx, dout)
    assert_close(layer.grads[0], expected)


# layers over time


def rnn(x, h, Wx, Wh, b):
    return (np.tanh(x @ Wx + h @ Wh + b),)


def lstm(x, h, c, Wx, Wh, b):
    f, g, i, o = np.split(x @ Wx + h @ Wh + b, 4, axis=1)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(c), c


def gru(x, h, Wx, Wh, b):
    (xz, xr, xg), (Wz, Wr, Wg) = np.split(x @ Wx + b, 3, axis=1), np.split(Wh, 3, axis=1)
    z, r = logistic(xz + h @ Wz), logistic(xr + h @ Wr)
    return ((1 - z) * h + z * np.tanh(xg + (r * h) @ Wg),)


STEPS = {"RNN": (rnn, 1, 1), "LSTM": (lstm, 4, 2), "GRU": (gru, 3, 1)}
cells = pytest.mark.parametrize("cell", STEPS)


def weights_of(cell, rng, dtype=float):
    G = STEPS[cell][1]
    shapes = (D, G * H), (H, G * H), (G * H,)
    return [rng.normal(size=shape).astype(dtype) / 2 for shape in shapes]


def unrolled(cell, xs, weights, states=None):
    """All h (N, T, H), and the last states."""
    step, _, S = STEPS[cell]
    states = [np.zeros((len(xs), H))] * S if states is None else states
    hs = []
    for x in xs.swapaxes(0, 1):
        states = step(x, *states, *weights)
        hs.append(states[0])
    return np.stack(hs, 1), states


@cells
def test_one_step(cell, rng):
    step, _, S = STEPS[cell]
    weights, x = weights_of(cell, rng), rng.normal(size=(N, D))
    states = rng.normal(size=(S, N, H))
    layer = getattr(time_layers, cell)(*weights)
    assert layer.cache is None

    def forward(x, *states):
        out = layer.forward(x, *states)
        return out[0] if S == 2 else out

    backward, layer_ = layer.backward, SimpleNamespace(params=layer.params, grads=layer.grads)
    layer_.backward = lambda dh: backward(dh, *[0] * (S - 1))
    check_layer(layer_, forward, lambda x, *states: step(x, *states, *weights)[0], x, *states)
    dstates = np.random.default_rng(0).normal(size=(N, H))
    for k in range(S):  # those of the states

        def loss():
            return float(np.sum(forward(x, *states) * dstates))

        forward(x, *states)
        found = layer_.backward(dstates)[1 + k]
        assert_close(found, numeric_gradient(loss, states[k]), TOLERANCE)


def test_caches_of_steps(rng):
    x, h, c = (rng.normal(size=(N, size)) for size in (D, H, H))
    weights = weights_of("RNN", rng)
    layer = time_layers.RNN(*weights)
    out = layer.forward(x, h)
    assert [*map(id, layer.cache)] == [id(x), id(h), id(out)]
    weights = Wx, Wh, b = weights_of("LSTM", rng)
    layer = time_layers.LSTM(*weights)
    out = layer.forward(x, h, c)
    f, g, i, o = np.split(x @ Wx + h @ Wh + b, 4, axis=1)
    expected = x, h, c, logistic(i), logistic(f), np.tanh(g), logistic(o), out[1]
    for found, wanted in zip(layer.cache, expected, strict=True):
        assert_close(found, wanted)
    layer = time_layers.GRU(*weights_of("GRU", rng))
    out = layer.forward(x, h)
    x_, h_, z, _, g = layer.cache
    assert x_ is x
    assert_close((1 - z) * h_ + z * g, out)


@cells
def test_blocks(cell, rng):
    weights, xs = weights_of(cell, rng), rng.normal(size=(N, T, D))
    layer = getattr(time_layers, f"Time{cell}")(*weights)
    assert layer.layers is None
    check_layer(layer, layer.forward, lambda xs: unrolled(cell, xs, weights)[0], xs)
    _, states = unrolled(cell, xs, weights)
    assert_close(layer.h, states[0])
    assert layer.dh.shape == (N, H)
    assert not layer.stateful
    steps = layer.layers
    assert len(steps) == T
    assert_close(steps[2].cache[0], xs[:, 2])
    assert_close(steps[2].cache[1], unrolled(cell, xs[:, :2], weights)[0][:, -1])
    assert layer.layers is steps
    layer.forward(xs[:, 1:])
    assert_close(layer.layers[1].cache[0], xs[:, 2])
    assert layer.params[0] is weights[0]


@cells
def test_stateful_blocks(cell, rng):
    """Carried, set, read, put back and reset; the gradient of the initial state."""
    S = STEPS[cell][2]
    weights, xs = weights_of(cell, rng), rng.normal(size=(N, T, D))
    layer = getattr(time_layers, f"Time{cell}")(*weights, stateful=True)
    layer.forward(xs)
    _, states = unrolled(cell, xs, weights)
    kept = [layer.h, layer.c][:S] if S == 2 else [layer.h]
    expected, _ = unrolled(cell, xs, weights, states)
    assert_close(layer.forward(xs), expected)
    layer.set_state(*kept)
    assert_close(layer.forward(xs), expected)
    layer.reset_state()
    assert layer.h is None
    assert_close(layer.forward(xs), unrolled(cell, xs, weights)[0])
    h = rng.normal(size=(N, H))
    layer.set_state(h)  # a c that is not given is 0
    zeros = [np.zeros((N, H))] * (S - 1)
    assert_close(layer.forward(xs), unrolled(cell, xs, weights, (h, *zeros))[0])

    def loss():
        layer.set_state(h)
        return float(np.sum(layer.forward(xs)))

    loss()
    layer.backward(np.ones((N, T, H)))
    dh = layer.dh
    assert_close(dh, numeric_gradient(loss, h), TOLERANCE)
    layer.h = h  # by its attribute, too
    if S == 2:
        layer.c = None
    assert_close(layer.forward(xs), unrolled(cell, xs, weights, (h, *zeros))[0])


def test_bidirectional_lstm(rng):
    first, second, xs = weights_of("LSTM", rng), weights_of("LSTM", rng), rng.normal(size=(N, T, D))
    layer = time_layers.TimeBiLSTM(*first, *second)

    def formula(xs):
        back, _ = unrolled("LSTM", xs[:, ::-1], second)
        return np.concatenate((unrolled("LSTM", xs, first)[0], back[:, ::-1]), axis=2)

    check_layer(layer, layer.forward, formula, xs)
    assert_close(layer.backward_lstm.h, unrolled("LSTM", xs[:, ::-1], second)[1][0])
    assert [*map(id, layer.params)] == [*map(id, first + second)]


def test_gru_without_a_bias(rng):
    """As in the book's earlier code, whose third argument is `stateful`."""
    Wx, Wh, _ = weights_of("GRU", rng)
    xs = rng.normal(size=(N, T, D))
    for layer in (time_layers.TimeGRU(Wx, Wh), time_layers.TimeGRU(Wx, Wh, True)):
        assert layer.stateful == (layer.forward(xs) is None or layer.stateful)
        layer.reset_state()
        check = time_layers.TimeGRU(Wx, Wh, np.zeros(3 * H))
        assert_close(layer.forward(xs), check.forward(xs))
        dhs = rng.normal(size=(N, T, H))
        assert_close(layer.backward(dhs), check.backward(dhs))
        for name in ("dWx", "dWh"):
            assert_close(getattr(layer, name), getattr(check, name))
        assert layer.Wx is Wx
        assert len(layer.params) == len(layer.grads) == 2
    assert time_layers.TimeGRU(Wx, Wh, True).stateful is True
    step = time_layers.GRU(Wx, Wh)
    assert_close(step.forward(xs[:, 0], np.zeros((N, H))), check.forward(xs)[:, 0])
    assert layer.layers[1].cache[1].shape == (N, H)


def test_time_embedding(rng):
    W, ids = rng.normal(size=(V, D)), rng.integers(0, V, (N, T))
    layer = time_layers.TimeEmbedding(W)
    check_layer(layer, layer.forward, lambda ids: W[ids], ids)
    assert layer.W is W
    assert [step.idx.tolist() for step in layer.layers] == ids.T.tolist()
    dout = rng.normal(size=(N, T, D))
    layer.backward(dout[:, :2])  # the first steps alone
    expected = np.zeros((V, D))
    np.add.at(expected, ids[:, :2], dout[:, :2])
    assert_close(layer.grads[0], expected)


@pytest.mark.parametrize("name", ["TimeAffine", "Simple_TimeAffine"])
def test_time_affine(name, rng):
    W, b, xs = rng.normal(size=(D, V)), rng.normal(size=V), rng.normal(size=(N, T, D))
    layer = getattr(time_layers, name)(W, b)
    check_layer(layer, layer.forward, lambda xs: xs @ W + b, xs)
    assert layer.x is xs
    dout = rng.normal(size=(N, T, V))
    assert_close(layer.backward(dout.reshape(N * T, V)), dout @ W.T)
    if name != "TimeAffine":
        assert [layer.W, layer.b] == layer.params
        assert [layer.dW, layer.db] == layer.grads


@pytest.mark.parametrize("form", ["ids", "flat", "column", "one-hot"])
def test_time_softmax_with_loss(form, rng):
    xs, ts = rng.normal(size=(N, T, V)), rng.integers(0, V, (N, T))
    counted = np.ones((N, T), bool)
    if form != "one-hot":
        ts[1, 2:] = -1
        counted[1, 2:] = False
    targets = {
        "ids": ts,
        "flat": ts.reshape(-1),
        "column": ts.reshape(-1, 1),
        "one-hot": np.eye(V, dtype=int)[ts],
    }[form]
    layer = time_layers.TimeSoftmaxWithLoss()
    assert layer.ignore_label == -1
    assert layer.cache is None
    p = np.take_along_axis(softmaxed(xs), ts[..., None], 2)[..., 0]
    loss = layer.forward(xs, targets)
    assert_close(loss, -np.log(p[counted]).mean(), 1e-13)
    gradient = layer.backward()
    assert_close(gradient, numeric_gradient(lambda: layer.forward(xs, targets), xs), TOLERANCE)
    layer.forward(xs, targets)
    assert_close(layer.backward(), gradient)
    assert_close(layer.backward(2.0), 2 * gradient)  # a second time, from the same probabilities
    flat, ys, mask, shape = layer.cache
    assert flat.tolist() == ts.reshape(-1).tolist()
    assert mask.tolist() == counted.reshape(-1).tolist()
    assert shape == (N, T, V)
    assert_close(ys, softmaxed(xs).reshape(-1, V))


def test_losses_stay_finite():
    """Where the book's are infinite, or NaN."""
    layer = time_layers.TimeSoftmaxWithLoss()
    assert layer.forward(np.float32([[[1000, 0]]]), [[1]]) == 1000
    assert layer.forward(np.zeros((1, 2, 2)), [[-1, -1]]) == 0
    assert not layer.backward().any()


def test_time_sigmoid_with_loss(rng):
    xs, ts = rng.normal(size=(N, T)), rng.integers(0, 2, (N, T))
    layer = time_layers.TimeSigmoidWithLoss()
    y = logistic(xs)
    loss = -np.mean(np.log(np.where(ts, y, 1 - y) + 1e-7))
    assert_close(layer.forward(xs, ts), loss, 1e-13)
    assert_close(layer.backward(2), 2 * (y - ts) / (N * T))
    assert layer.xs_shape == (N, T)
    with pytest.raises(ValueError, match=r"ts: expected an array of shape \(3, 4\)"):
        layer.forward(xs, ts[:, :2])


def test_simple_time_softmax_with_loss(rng):
    xs, ts = rng.normal(size=(N, T, V)), rng.integers(0, V, (N, T))
    layer = time_layers.Simple_TimeSoftmaxWithLoss()
    p = np.take_along_axis(softmaxed(xs), ts[..., None], 2)
    expected = (softmaxed(xs) - np.eye(V)[ts]) / (N * T)
    for targets in (ts, np.eye(V)[ts]):
        assert_close(layer.forward(xs, targets), -np.log(p + 1e-7).mean(), 1e-13)
        assert_close(layer.backward(), expected)


# what is lenient


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_a_bias_of_another_dtype(cell, rng):
    """np.zeros(H) beside float32 matrices: it is trained where it is."""
    Wx, Wh, b = weights_of(cell, rng, "f")
    xs, dhs = rng.normal(size=(N, T, D)).astype("f"), rng.normal(size=(N, T, H)).astype("f")
    mixed = getattr(time_layers, f"Time{cell}")(Wx, Wh, b.astype(float))
    plain = getattr(time_layers, f"Time{cell}")(Wx, Wh, b)
    for change in (0, 1):
        mixed.params[2] += change
        plain.params[2] += change
        assert_close(mixed.forward(xs), plain.forward(xs), dtype="f")
        assert_close(mixed.backward(dhs), plain.backward(dhs))
        assert_close(mixed.grads[2], plain.grads[2].astype(float))
        assert_close(mixed.grads[0], plain.grads[0])
    optimizer.Adam(0.1).update(mixed.params, mixed.grads)
    assert mixed.params[0] is Wx
    assert mixed.params[2].dtype == float
    again = copy.deepcopy(mixed)
    assert_close(again.forward(xs), mixed.forward(xs))


def test_an_affine_layer_with_a_bias_of_another_dtype(rng):
    W, xs = rng.normal(size=(D, V)).astype("f"), rng.normal(size=(N, T, D)).astype("f")
    layer = time_layers.TimeAffine(W, np.zeros(V))
    assert layer.forward(xs).dtype == np.float32
    layer.backward(np.ones((N, T, V)))
    assert_close(layer.grads[1], np.full(V, N * T, float))


def test_an_array_in_params_of_a_layer_with_stand_ins_may_be_replaced(rng):
    Wx, Wh, b = weights_of("RNN", rng, "f")
    layer = time_layers.TimeRNN(Wx, Wh, b.astype(float))
    layer.params[0] = 2 * Wx
    xs = rng.normal(size=(N, T, D)).astype("f")
    assert_close(layer.forward(xs), time_layers.TimeRNN(2 * Wx, Wh, b).forward(xs))
    layer.params[0] = np.zeros((D + 1, H), "f")
    with pytest.raises(ValueError, match="Wx: expected"):
        layer.forward(xs)


@cells
def test_the_gradient_of_the_first_steps_alone(cell, rng):
    weights, xs = weights_of(cell, rng), rng.normal(size=(N, T, D))
    layer = getattr(time_layers, f"Time{cell}")(*weights)
    dhs = rng.normal(size=(N, T, H))
    dhs[:, 2:] = 0
    layer.forward(xs)
    expected = layer.backward(dhs), *map(np.copy, layer.grads)
    assert_close(layer.backward(dhs[:, :2]), expected[0][:, :2])
    for dW, wanted in zip(layer.grads, expected[1:], strict=True):
        assert_close(dW, wanted)


@cells
def test_a_state_of_one_row_serves_for_a_batch(cell, rng):
    """As after `generate`; one of any other size is an error, and nothing changes."""
    weights, xs = weights_of(cell, rng), rng.normal(size=(N, T, D))
    layer = getattr(time_layers, f"Time{cell}")(*weights, stateful=True)
    layer.forward(xs[:1])
    _, states = unrolled(cell, xs[:1], weights)
    wide = [np.repeat(state, N, axis=0) for state in states]
    assert_close(layer.forward(xs), unrolled(cell, xs, weights, wide)[0])
    assert layer.backward(np.ones((N, T, H))).shape == xs.shape
    before = layer.h
    with pytest.raises(ValueError, match=r"h: expected .* \(2, 6\), got \(3, 6\).*reset_state"):
        layer.forward(xs[:2])
    assert layer.h is before


def test_numbers_as_gradients_and_states(rng):
    x, weights = rng.normal(size=(N, D)), weights_of("LSTM", rng)
    layer, zeros = time_layers.LSTM(*weights), np.zeros((N, H))
    h, c = layer.forward(x, 0, 0)
    for found, expected in zip((h, c), lstm(x, zeros, zeros, *weights), strict=True):
        assert_close(found, expected)
    dh = rng.normal(size=(N, H))
    for found, expected in zip(layer.backward(dh, 0), layer.backward(dh, zeros), strict=True):
        assert_close(found, expected)
    with pytest.raises(ValueError, match="c_prev: expected"):
        layer.forward(x, zeros, np.zeros((N + 1, H)))


# bad input


BAD_CALLS = {
    "negative id": (lambda: layers.Embedding(np.zeros((V, D))).forward([-1]), "in 0..6.* got -1"),
    "negative ids": (
        lambda: time_layers.TimeEmbedding(np.zeros((V, D))).forward([[0, -1]]),
        r"xs: .* got -1 at position \(0, 1\)",
    ),
    "label": (lambda: functions.cross_entropy_error(np.ones((1, V)), [V]), "t: .* got 7"),
    "one-hot of a negative id": (lambda: util.convert_one_hot([-1], V), "corpus: .* got -1"),
    "pairs with a negative id": (lambda: util.create_co_matrix([0, -1], V), "corpus: .* got -1"),
    "no window": (lambda: util.create_contexts_target(np.arange(5), 0), "window_size: .* got 0"),
    "learning rate": (lambda: optimizer.Adam(0), "lr: expected a finite number above 0"),
    "short text": (
        lambda: util.eval_perplexity(None, np.arange(10)),
        "corpus: expected at least 351 tokens, got 10",
    ),
    "large batch": (
        lambda: trainer.Trainer(None, None).fit(np.zeros(5), np.zeros(5), batch_size=6),
        "batch_size: expected a batch that the data fill",
    ),
    "large blocks": (
        lambda: trainer.RnnlmTrainer(None, None).fit(np.zeros(5), np.zeros(5), batch_size=6),
        "batch_size: expected a batch that the data fill",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input(name):
    call, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_backward_needs_forward():
    made = [
        *(layers.MatMul(np.ones((1, 1))), layers.Softmax(), layers.SoftmaxWithLoss()),
        *(layers.Sigmoid(), layers.SigmoidWithLoss(), layers.Dropout()),
        *(layers.Embedding(np.ones((1, 1))), time_layers.TimeDropout()),
        *(time_layers.TimeSigmoidWithLoss(), time_layers.TimeSoftmaxWithLoss()),
        *(time_layers.RNN(*[np.ones((1, 1))] * 2, np.ones(1)),),
        *(time_layers.TimeRNN(*[np.ones((1, 1))] * 2, np.ones(1)),),
    ]
    for layer in made:
        with pytest.raises(RuntimeError, match="forward"):
            layer.backward(np.ones((1, 1)))


# optimizers and gradients


def sgd(W, g, s, t):
    W -= 0.1 * g


def momentum(W, g, s, t):
    s["v"] = 0.9 * s["v"] - 0.1 * g
    W += s["v"]


def nesterov(W, g, s, t):
    s["v"] = 0.9 * s["v"] - 0.1 * g
    W += 0.9 * 0.9 * s["v"] - (1 + 0.9) * 0.1 * g


def adagrad(W, g, s, t):
    s["h"] = s["h"] + g**2
    W -= 0.1 * g / (np.sqrt(s["h"]) + 1e-7)


def rmsprop(W, g, s, t):
    s["h"] = 0.99 * s["h"] + 0.01 * g**2
    W -= 0.1 * g / (np.sqrt(s["h"]) + 1e-7)


def adam(W, g, s, t):
    s["m"] = s["m"] + 0.1 * (g - s["m"])
    s["v"] = s["v"] + 0.001 * (g**2 - s["v"])
    W -= 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * s["m"] / (np.sqrt(s["v"]) + 1e-7)


RULES = {
    "SGD": (sgd, ""),
    "Momentum": (momentum, "v"),
    "Nesterov": (nesterov, "v"),
    "AdaGrad": (adagrad, "h"),
    "RMSprop": (rmsprop, "h"),
    "Adam": (adam, "mv"),
}
optimizers = pytest.mark.parametrize("name", RULES)


@optimizers
def test_optimizers(name, rng):
    """Their formulas and lists; one is saved and carries on, one begins anew."""
    rule, slots = RULES[name]
    params = [rng.normal(size=(3, 2)), rng.normal(size=4), rng.normal(size=(2, 3)).T]
    expected = [W.copy() for W in params]
    states = [dict.fromkeys(slots, 0.0) for _ in params]
    ours = getattr(optimizer, name)(lr=0.1)
    assert [getattr(ours, slot) for slot in slots] == [None] * len(slots)
    for t in range(1, 7):
        grads = [rng.normal(size=W.shape) for W in params]
        ours.update(params, grads)
        for W, g, s in zip(expected, grads, states, strict=True):
            rule(W, g, s, t)
        for slot in slots:
            assert isinstance(getattr(ours, slot), list)
            for found, state in zip(getattr(ours, slot), states, strict=True):
                assert_close(found, state[slot])
        for found, W in zip(params, expected, strict=True):
            assert_close(found, W)
        if t == 2:  # another one, with what was kept
            kept = {slot: getattr(ours, slot) for slot in slots}
            ours = getattr(optimizer, name)(lr=0.1)
            if name == "Adam":
                ours.iter = t
            for slot in slots:
                setattr(ours, slot, kept[slot])
        if t == 4:  # as at the beginning
            for slot in slots:
                setattr(ours, slot, None)
            states = [dict.fromkeys(slots, 0.0) for _ in params]
    if name == "Adam":
        assert ours.iter == 6
    ours.lr /= 4  # as programs do


def test_optimizers_of_the_namespace_are_those_of_the_library(rng):
    """A trainer of the library may save and restore them."""
    W, dW = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    ours, library = optimizer.Adam(0.1), rnnfast.Adam(0.1)
    assert isinstance(ours, rnnfast.Adam)
    assert ours.state == []
    library.update([W], [dW])
    ours.state, ours.steps = [tuple(map(np.copy, library.state[0]))], library.steps
    assert ours.iter == 1
    assert_close(ours.v[0], library.state[0][1])
    other = W.copy()
    library.update([W], [dW])
    ours.update([other], [dW])
    assert_close(other, W)
    assert ours.m[0] is ours.state[0][0]


def test_clip_grads(rng):
    grads = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    before = [dW.copy() for dW in grads]
    norm = np.sqrt(sum((dW**2).sum() for dW in grads))
    util.clip_grads(grads, 2 * norm)
    assert all((dW == old).all() for dW, old in zip(grads, before, strict=True))
    assert util.clip_grads(grads, 1.0) is None
    for dW, old in zip(grads, before, strict=True):
        assert_close(dW, old / (norm + 1e-6))


def test_remove_duplicate(rng):
    E, W = rng.normal(size=(V, D)), rng.normal(size=(D, D))
    params = [E, W, E, E.T, W[:]]
    grads = [rng.normal(size=p.shape) for p in params]
    expected = grads[0] + grads[2] + grads[3].T, grads[1] + grads[4]
    found, sums = trainer.remove_duplicate(params, grads)
    assert [id(p) for p in found] == [id(E), id(W)]
    assert sums[0] is grads[0]
    for dW, wanted in zip(sums, expected, strict=True):
        assert_close(dW, wanted)
    assert len(params) == len(grads) == 5


@pytest.mark.parametrize("view", [False, True])
def test_one_memory_in_arrays_without_a_common_owner_is_one_parameter(view):
    W = np.ones((H, H))
    pair = [W, np.asarray(memoryview(W))]
    if view:
        pair[1] = pair[1][:]
    assert pair[0].base is not pair[1].base
    found, (dW,) = trainer.remove_duplicate(pair, [np.ones((H, H)), np.ones((H, H))])
    assert found[0] is W
    assert len(found) == 1
    assert (dW == 2).all()


@pytest.mark.parametrize("kind", ["TimeRNN", "TimeLSTM", "TimeGRU"])
def test_recurrent_layers_are_pickled_and_errors_name_them(kind, rng):
    gates = {"TimeRNN": 1, "TimeLSTM": 4, "TimeGRU": 3}[kind] * H
    arrays = rng.normal(size=(D, gates)), rng.normal(size=(H, gates)), rng.normal(size=gates)
    layer = getattr(time_layers, kind)(*arrays, stateful=True)
    xs = rng.normal(size=(N, T, D))
    layer.set_state(np.zeros((1, H)))
    hs = layer.forward(xs)
    again = pickle.loads(pickle.dumps(getattr(time_layers, kind)(*arrays)))
    assert_close(again.forward(xs), hs)
    layer.set_state(np.zeros((2, H)))
    with pytest.raises(ValueError, match=r"h: expected .* \(3, 6\), got \(2, 6\)"):
        layer.forward(xs)
    assert layer.h.shape == (2, H)
    layer._layer._kept = None
    with pytest.raises(RuntimeError, match=f"^{kind}.backward"):
        layer.backward(hs)


def test_equal_numbers_in_two_places_are_two_parameters():
    params = [np.zeros((H, H)), np.zeros((H, H))]
    found, _ = trainer.remove_duplicate(params, [np.ones((H, H)), np.ones((H, H))])
    assert len(found) == 2


# words


def test_preprocess_and_contexts():
    corpus, word_to_id, id_to_word = util.preprocess("You say goodbye and I say hello.")
    assert corpus.tolist() == [0, 1, 2, 3, 4, 1, 5, 6]
    assert word_to_id == {w: n for n, w in id_to_word.items()}
    assert [id_to_word[n] for n in range(7)] == [*word_to_id]
    assert [*word_to_id] == ["you", "say", "goodbye", "and", "i", "hello", "."]
    for size in (1, 2):
        contexts, target = util.create_contexts_target(corpus, size)
        rows = range(size, len(corpus) - size)
        assert target.tolist() == [corpus[k] for k in rows]
        assert contexts.tolist() == [
            [corpus[k + d] for d in range(-size, size + 1) if d] for k in rows
        ]


@pytest.mark.parametrize("window", [1, 2, 20])
def test_co_matrix_and_ppmi(window, capsys, rng):
    corpus = rng.integers(0, V - 1, 12)  # one word does not occur
    expected = np.zeros((V, V), int)
    for i, a in enumerate(corpus):
        for j, b in enumerate(corpus):
            expected[a, b] += 0 < abs(i - j) <= window
    C = util.create_co_matrix(corpus, V, window_size=window)
    assert C.dtype == np.int32
    assert C.tolist() == expected.tolist()
    M = util.ppmi(C)
    S = C.sum(axis=0)
    for i, j in np.ndindex(V, V):
        pmi = np.log2(C[i, j] * C.sum() / (S[i] * S[j]) + 1e-8) if S[i] and S[j] else 0
        assert abs(M[i, j] - max(0, pmi)) < 1e-6
    assert M.dtype == np.float32
    assert capsys.readouterr().out == ""
    assert util.ppmi(C, verbose=True).tolist() == M.tolist()
    assert capsys.readouterr().out.endswith("100% done\n")


def test_one_hot(rng):
    for shape in ((N,), (N, T)):
        ids = rng.integers(0, V, shape)
        one_hot = util.convert_one_hot(ids, V)
        assert one_hot.dtype == np.int32
        assert one_hot.tolist() == np.eye(V, dtype=int)[ids].tolist()


def test_similar_words(capsys):
    words = ["a", "b", "c", "d", "e"]
    word_to_id = {word: k for k, word in enumerate(words)}
    id_to_word = dict(enumerate(words))
    vectors = np.float32([[1, 0], [1, 1], [0, 1], [-1, 0], [2, 0.5]])
    assert_close(util.cos_similarity(vectors[0], vectors[1]), np.sqrt(0.5), 1e-6)
    assert util.cos_similarity(vectors[0], np.zeros(2)) == 0
    util.most_similar("a", word_to_id, id_to_word, vectors, top=2)
    lines = capsys.readouterr().out.split("\n")
    assert lines[:2] == ["", "[query] a"]
    assert [line.split(":")[0] for line in lines[2:]] == [" e", " b", ""]
    assert float(lines[3].split(":")[1]) == pytest.approx(0.5**0.5)
    util.most_similar("z", word_to_id, id_to_word, vectors)
    assert capsys.readouterr().out == "z is not found\n"
    before = vectors.copy()
    util.analogy("a", "b", "c", word_to_id, id_to_word, vectors, top=1, answer="e")
    lines = capsys.readouterr().out.split("\n")
    assert lines[1] == "[analogy] a:b = c:?"
    assert lines[2].startswith("==>e:")
    query = np.array([0, 2]) / 2
    assert float(lines[2].split(":")[1]) == pytest.approx(vectors[4] @ query)
    assert lines[3].split(":")[0] == " e"
    assert (vectors == before).all()
    util.analogy("a", "b", "z", word_to_id, id_to_word, vectors)
    assert capsys.readouterr().out == "z is not found\n"


def test_normalize_works_in_place(rng):
    for x in (rng.normal(size=D), rng.normal(size=(N, D))):
        expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
        assert util.normalize(x) is x
        assert_close(x, expected)
