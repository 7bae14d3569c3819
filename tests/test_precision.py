"""Products of operands that are rounded to bf16: the rounding, what the twins make of it, and the
option `precision` of layers, models and runs. (The kernels beside the twins: test_bf16.py.)"""

import copy
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from problems import BIDIRECTIONAL, RECURRENT, STACKS, STEPS, assert_all_close, make_problem
from rounded import from_bits, many_bits, nearest, require_rounded_alike

import rnnfast
from rnnfast import _ops, archive, reference
from rnnfast.cli import main
from rnnfast.errors import InputError
from rnnfast.layers.base import Multiplying
from rnnfast.models.saving import layer_from
from rnnfast.reference import ops as numpy_ops
from rnnfast.reference.rounding import product_in, rounded
from rnnfast.training import trainer

BF16 = {"precision": "bfloat16"}
MULTIPLYING = [*RECURRENT, *BIDIRECTIONAL, *STACKS, *STEPS, "TimeAffine", "TimeAffineWithLoss"]
multiplying = pytest.mark.parametrize("name", MULTIPLYING)
layers_and_twins = pytest.mark.parametrize("module", [rnnfast, reference])


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def bits_of(x):
    return np.asarray(x).view(np.uint32)


# The rounding. ----------------------------------------------------------------------------------


def test_rounding_takes_the_nearest_and_of_two_the_even_one():
    for bits in many_bits():
        x = from_bits(bits)
        result, number = rounded(x), ~np.isnan(x)
        np.testing.assert_array_equal(bits_of(result)[number], bits_of(nearest(x))[number])
        quiet = bits[~number] & 0xFFFF_0000 | 0x0040_0000  # the sign, and what is kept of the rest
        np.testing.assert_array_equal(bits_of(result)[~number], quiet)


def test_rounding_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    for bits in many_bits():
        theirs = torch.from_numpy(from_bits(bits)).bfloat16().float().numpy()
        np.testing.assert_array_equal(rounded(from_bits(bits)), theirs)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F80_0000, 0x3F80_0000),  # 1
        (0x3F80_8000, 0x3F80_0000),  # a tie, to the even one below
        (0x3F81_8000, 0x3F82_0000),  # and above
        (0x3F80_8001, 0x3F81_0000),
        (0x7F7F_7FFF, 0x7F7F_0000),
        (0x7F7F_8000, 0x7F80_0000),  # beyond the largest
        (0xFF80_0000, 0xFF80_0000),  # -inf
        (0x7F80_0001, 0x7FC0_0000),  # a NaN of which only the lower half tells that it is one
        (0xFFFF_FFFF, 0xFFFF_0000),
        (0x8000_0000, 0x8000_0000),  # -0
        (0x007F_FFFF, 0x0080_0000),  # the largest that is denormal
    ],
)
def test_rounding_of_some_numbers(bits, expected):
    assert bits_of(rounded(from_bits(bits))) == expected


def test_rounding_takes_any_strides_and_changes_nothing():
    x = normal(6, 8)
    before = x.copy()
    for view in (x.T, x[::-2, 1::3], x[0, 0], x[:0], np.broadcast_to(x[0], (3, 8))):
        result = rounded(view)
        assert (result.shape, result.dtype) == (np.shape(view), np.float32)
        np.testing.assert_array_equal(result, nearest(view))
        np.testing.assert_array_equal(rounded(result), result)
    np.testing.assert_array_equal(x, before)


# Products. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_a_product_is_within_the_bound_of_the_docs(K, seed):
    a, b = normal(7, K, seed=seed), normal(K, 5, seed=seed + 9)
    a *= np.float32(2) ** np.random.default_rng(seed).integers(-9, 9, a.shape)
    exact, size = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
    u, sums = 2.0**-8, K * 2.0**-24 / (1 - K * 2.0**-24)
    error = np.abs(product_in("bfloat16")(a, b) - exact)
    assert (error <= size * (2 * u + u**2 + sums * (1 + u) ** 2)).all()
    assert error.max() > 2.0**-13 * np.abs(exact).max()  # it is no product of float32


@pytest.mark.parametrize("K", [1, 3, 64, 257])
def test_products_are_those_of_pytorch(K):
    """Which adds them up in float32, and rounds the sum; those of whole numbers are exact."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(K)
    a, b = (rng.integers(-600, 601, shape).astype("f") for shape in ((33, K), (K, 40)))
    theirs = torch.from_numpy(a).bfloat16() @ torch.from_numpy(b).bfloat16()
    np.testing.assert_array_equal(rounded(product_in("bfloat16")(a, b)), theirs.float().numpy())


def test_another_precision_of_a_product_is_refused():
    for wrong in ("float16", "float32", "bf16", 16):
        with pytest.raises(ValueError, match="precision: expected None or 'bfloat16', got"):
            numpy_ops.affine_forward(normal(2, 3), normal(3, 4), normal(4), precision=wrong)


# Gradients. -------------------------------------------------------------------------------------


def results_of(problem, **options):
    """Of the twin."""
    layer = problem.layer(reference, **options)
    return problem.forward(layer) | problem.backward(layer)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_twins_are_pytorch_with_rounded_operands(name):
    """Automatic differentiation of the textbook's formulas, with a product that rounds."""
    torch = pytest.importorskip("torch")

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            a, b = a.bfloat16().float(), b.bfloat16().float()
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        def backward(ctx, d):
            a, b = ctx.saved_tensors
            d = d.bfloat16().float()
            return d @ b.T, a.T @ d

    product, sigmoid, tanh = Product.apply, torch.sigmoid, torch.tanh

    def step(x, states, Wx, Wh, b, bh=None):
        h, *c = states
        if "GRU" not in name:
            a = product(x, Wx) + b + product(h, Wh)
            if "RNN" in name:
                return (torch.relu(a) if "relu" in name else tanh(a),)
            f, g, i, o = a.chunk(4, 1)
            c = sigmoid(f) * c[0] + tanh(g) * sigmoid(i)
            return sigmoid(o) * tanh(c), c
        a_z, a_r, a_g = (product(x, Wx) + b).chunk(3, 1)
        if bh is None:
            Wh_z, Wh_r, Wh_g = Wh.chunk(3, 1)
            z, r = sigmoid(a_z + product(h, Wh_z)), sigmoid(a_r + product(h, Wh_r))
            g = tanh(a_g + product(r * h, Wh_g))
        else:
            u_z, u_r, u_g = (product(h, Wh) + bh).chunk(3, 1)
            z, r = sigmoid(a_z + u_z), sigmoid(a_r + u_r)
            g = tanh(a_g + r * u_g)
        return ((1 - z) * h + z * g,)

    def judged(problem):
        def tensor(array):
            return torch.tensor(array, requires_grad=True)

        weights, states = (list(map(tensor, group)) for group in (problem.weights, problem.state))
        xs, now, hs = tensor(problem.inputs[0]), states, []
        for t in range(xs.shape[1]):
            now = step(xs[:, t], now, *weights)
            hs.append(now[0])
        outputs = [torch.stack(hs, 1), *now]
        arriving = [*problem.gradients, *problem.last.values()]
        torch.autograd.backward(outputs, [torch.tensor(d) for d in arriving])
        results = {"output[0]": outputs[0], **dict(zip("hc", now, strict=False))}
        results |= {"gradient[0]": xs.grad}
        results |= {f"grads[{k}]": W.grad for k, W in enumerate(weights)}
        results |= {f"d{name}": s.grad for name, s in zip("hc", states, strict=False)}
        return {name: tensor.detach().numpy() for name, tensor in results.items()}

    def run(seed):
        problem = make_problem(name, "float32", (2, 3, 5, 4, 1), seed)
        return results_of(problem, **BF16), judged(problem), results_of(problem)

    require_rounded_alike(run)


def test_the_lstm_twin_is_its_formulas_by_hand():
    """One step, in float64 but for the operands."""

    def run(seed):
        x, h, c, dh, dc = (normal(2, n, seed=seed + k) for k, n in enumerate((5, 3, 3, 3, 3)))
        Wx, Wh, b = normal(5, 12, seed=seed), normal(3, 12, seed=seed), normal(12, seed=seed)
        results = []
        for options in (BF16, {}):
            layer = reference.LSTM(Wx, Wh, b, **options)
            names = ("h", "c", "dx", "dh", "dc", "dWx", "dWh", "db")
            values = (*layer.forward(x, h, c), *layer.backward(dh, dc), *layer.grads)
            results.append(dict(zip(names, values, strict=True)))

        def r(array):
            return nearest(array).astype(np.float64)

        a = r(x) @ r(Wx) + b + r(h) @ r(Wh)
        f, g, i, o = np.split(a, 4, axis=1)
        f, i, o = (1 / (1 + np.exp(-gate)) for gate in (f, i, o))
        g = np.tanh(g)
        c_new = f * c + g * i
        through = dc + dh * o * (1 - np.tanh(c_new) ** 2)
        da = np.hstack(
            (
                through * c * f * (1 - f),
                through * i * (1 - g**2),
                through * g * i * (1 - i),
                dh * np.tanh(c_new) * o * (1 - o),
            )
        )
        expected = {
            **{"h": o * np.tanh(c_new), "c": c_new, "dx": r(da) @ r(Wx).T},
            **{"dh": r(da) @ r(Wh).T, "dc": through * f},
            **{"dWx": r(x).T @ r(da), "dWh": r(h).T @ r(da), "db": da.sum(axis=0)},
        }
        return results[0], expected, results[1]

    require_rounded_alike(run)


def test_the_affine_twin_is_its_formulas():
    x, W, b, dout = normal(2, 3, 5), normal(5, 4), normal(4), normal(2, 3, 4)
    layer = reference.TimeAffine(W, b, **BF16)
    rows, drows = nearest(x).reshape(-1, 5), nearest(dout).reshape(-1, 4)
    actual = {"out": layer.forward(x), "infer": layer.infer(x), "dx": layer.backward(dout)}
    expected = {
        "out": (rows @ nearest(W) + b).reshape(2, 3, 4),
        "infer": (rows @ nearest(W) + b).reshape(2, 3, 4),
        "dx": (drows @ nearest(W).T).reshape(x.shape),
        **{"dW": rows.T @ drows, "db": dout.reshape(-1, 4).sum(axis=0)},
    }
    assert_all_close(actual | dict(zip(("dW", "db"), layer.grads, strict=True)), expected)


def test_the_twin_of_the_fused_loss_is_its_formulas():
    def run(seed):
        problem = make_problem("TimeAffineWithLoss", "float32", (3, 4, 5, 1, 6), seed)
        (W, b), (x, ts), (dout,) = problem.weights, problem.inputs, problem.gradients
        rows, count = x.reshape(-1, 5), (ts >= 0).sum()
        losses, dx = [], np.zeros_like(rows, np.float64)
        dW, db = np.zeros(W.shape), np.zeros(b.shape)
        for m, (row, target) in enumerate(zip(rows, ts.reshape(-1), strict=True)):
            if target < 0:
                continue
            logits = nearest(row).astype(np.float64) @ nearest(W) + b
            e = np.exp(logits - logits.max())
            losses.append(np.log(e.sum()) + logits.max() - logits[target])
            G, factor = e - e.sum() * (np.arange(6) == target), 1 / (e.sum() * count)
            dx[m] = factor * (nearest(G).astype(np.float64) @ nearest(W).T)
            dW += np.outer(nearest(factor * row).astype(np.float64), nearest(G))
            db += factor * G
        expected = {"output[0]": np.mean(losses), "gradient[0]": dout * dx.reshape(x.shape)}
        expected |= {"grads[0]": dout * dW, "grads[1]": dout * db}
        return results_of(problem, **BF16), expected, results_of(problem)

    require_rounded_alike(run)


def test_with_an_index_what_reaches_a_row_is_summed_before_it_is_rounded():
    """A row that two steps use, beside the same steps with a row each."""
    Wx, Wh, b, xs = normal(3, 4), np.zeros((4, 4), np.float32), normal(4), normal(1, 3)
    layer = reference.TimeRNN(Wx, Wh, b, **BF16)
    dhs = normal(1, 2, 4)
    hs = layer.forward(xs, index=[[0, 0]])
    dx = layer.backward(dhs)
    da = (dhs * (1 - hs**2)).sum(axis=1)
    np.testing.assert_allclose(dx, nearest(da) @ nearest(Wx).T, rtol=1e-5)
    np.testing.assert_allclose(layer.grads[0], nearest(xs).T @ nearest(da), rtol=1e-5)
    layer.forward(xs, index=[[0, 0]])
    each = layer.backward(dhs * [[[1], [0]]]) + layer.backward(dhs * [[[0], [1]]])
    assert np.abs(each - dx).max() > 1e-4


@pytest.mark.parametrize("name", [name for name in MULTIPLYING if "relu" not in name])
def test_rounding_explains_the_difference_to_float64(name):
    """Some hundredths of the largest, where it is some thousandths of each operand. (With relu, a
    gradient is there or not.)"""
    problem = make_problem(name, "float32", (3, 5, 16, 16, 16))
    exact = problem.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a)
    assert_all_close(results_of(problem, **BF16), results_of(exact), 0.06)
    with pytest.raises(AssertionError):
        assert_all_close(results_of(problem, **BF16), results_of(exact), 2e-4)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_generation_reads_rounded_weights(cell):
    """The likeliest tokens are those of `predict`, and need not be those in float32."""
    options = {"cell": cell, "embedding": 8, "hidden": 16, "rng": 3, "ops": numpy_ops}
    model = rnnfast.LanguageModel(50, **options, **BF16)
    for W in model.params:
        W *= 3
    ids = rnnfast.generate(model, [1], 12, temperature=0)
    logits = model.infer(np.append(1, ids)[None, :-1])[0]
    assert ids.tolist() == logits[0].argmax(axis=1).tolist()


# The option. ------------------------------------------------------------------------------------


@layers_and_twins
@multiplying
def test_a_layer_knows_its_precision(name, module):
    for dtype in ("float32", "float64"):
        problem = make_problem(name, dtype)
        for given in (None, dtype):
            layer = problem.make(module, precision=given)
            assert layer.precision == dtype
            assert "precision" not in layer.config()
    layer = make_problem(name, "float32").make(module, **BF16)
    assert (layer.precision, layer.config()["precision"]) == ("bfloat16", "bfloat16")
    assert {W.dtype.name for W in (*layer.params, *layer.grads)} == {"float32"}
    with pytest.raises(AttributeError):
        layer.precision = "float32"


@layers_and_twins
@multiplying
def test_a_layer_refuses_other_precisions(name, module):
    problem, double = make_problem(name, "float32"), make_problem(name, "float64")
    with pytest.raises(ValueError, match=r"^precision: expected float32 with 'bfloat16'"):
        double.make(module, **BF16)
    for wrong in ("float64", "bf16", "float16", "", 32, ["bfloat16"], np.float32, np.ones(2)):
        with pytest.raises(ValueError, match=r"^precision: expected 'bfloat16', or 'float32' as"):
            problem.make(module, precision=wrong)
    with pytest.raises(ValueError, match="or 'float64' as the weights have, or None, got 'float3"):
        double.make(module, precision="float32")


@multiplying
def test_weights_of_another_dtype_are_refused_later_too(name):
    problem = make_problem(name, "float32")
    layer = problem.layer(reference, **BF16)
    layer.params[:] = [W.astype(np.float64) for W in layer.params]
    layer.grads[:] = [W.astype(np.float64) for W in layer.grads]
    with pytest.raises(ValueError, match=r"and dtype float32 as when the layer was made, got .* f"):
        layer.forward(*problem.inputs)


@multiplying
def test_copies_and_other_ops_keep_it(name):
    problem = make_problem(name, "float32", (2, 3, 4, 5, 6))
    layer = problem.layer(reference, **BF16)
    expected = problem.forward(layer) | problem.backward(layer)
    for make in (copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        other = make(problem.layer(reference, **BF16))
        assert other.precision == "bfloat16"
        assert_all_close(problem.forward(other) | problem.backward(other), expected, 0)
    layer.ops = rnnfast.kernels
    assert layer.precision == "bfloat16"


class Recorder:
    """Ops that note the precision that each function was given."""

    def __init__(self):
        self.given = {}

    def __getattr__(self, name):
        def function(*args, **options):
            self.given.setdefault(name, set()).add(options.get("precision"))
            return getattr(numpy_ops, name)(*args, **options)

        return function


@multiplying
def test_every_function_with_products_is_told(name):
    problem = make_problem(name, "float32")
    for options in ({}, BF16):
        recorder = Recorder()
        layer = problem.layer(rnnfast, ops=recorder, **options)
        problem.forward(layer)
        problem.backward(layer)
        problem.infer(layer) if hasattr(layer, "infer") else None
        told = {n for n in recorder.given if n.endswith("_forward") or n == "affine_backward"}
        assert told
        for function in told:
            assert recorder.given[function] == {options.get("precision")}, function


def test_old_pickles_have_none():
    layer = reference.TimeAffine(normal(2, 3), normal(3))
    state = layer.__getstate__()
    del state["_products"]
    other = reference.TimeAffine.__new__(reference.TimeAffine)
    other.__setstate__(state)
    assert other.precision == "float32"


def test_a_stack_takes_the_precision_of_its_layers():
    weights = [normal(4, 16), normal(4, 16), normal(16)]
    layers = [reference.TimeLSTM(*weights, **BF16) for _ in range(2)]
    assert reference.TimeStack.from_layers(layers).precision == "bfloat16"
    for mixed in (layers[:1], layers[:0]):
        mixed = [*mixed, reference.TimeLSTM(*weights), *layers[:1]]
        with pytest.raises(ValueError, match=r"^layers\[1\]: expected the precision .* that lay"):
            reference.TimeStack.from_layers(mixed)


# Models and their files. ------------------------------------------------------------------------

MODELS = {
    "LanguageModel": lambda **o: rnnfast.LanguageModel(9, embedding=4, hidden=4, layers=2, **o),
    "tied": lambda **o: rnnfast.LanguageModel(
        9, cell="gru", embedding=4, hidden=4, tie_weights=True, dropout=0.2, **o
    ),
    "SimpleRnnlm": lambda **o: rnnfast.SimpleRnnlm(9, 4, 5, **o),
    "Rnnlm": lambda **o: rnnfast.Rnnlm(9, 4, 5, **o),
    "GruRnnlm": lambda **o: rnnfast.GruRnnlm(9, 4, 5, **o),
    "BetterRnnlm": lambda **o: rnnfast.BetterRnnlm(9, 4, 4, **o),
    "Seq2seq": lambda **o: rnnfast.Seq2seq(9, 4, 5, **o),
    "PeekySeq2seq": lambda **o: rnnfast.PeekySeq2seq(9, 4, 5, cell="gru_reset_after", **o),
    "AttentionSeq2seq": lambda **o: rnnfast.AttentionSeq2seq(9, 4, 5, **o),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def layers_with_products(model):
    return [x for x in (*model.layers, model.loss_layer) if isinstance(x, Multiplying)]


@models
def test_all_layers_of_a_model_have_its_precision(make):
    model = make(rng=0, **BF16)
    assert model.precision == "bfloat16"
    assert {layer.precision for layer in layers_with_products(model)} == {"bfloat16"}
    assert {W.dtype.name for W in model.params} == {"float32"}
    for dtype in ("float32", "float64"):
        assert make(rng=0, dtype=dtype).precision == dtype
        assert make(rng=0, dtype=dtype, precision=dtype).precision == dtype
    with pytest.raises(ValueError, match=r"^precision: expected float32 with"):
        make(rng=0, dtype="float64", **BF16)
    with pytest.raises(ValueError, match=r"^precision: expected 'bfloat16', or 'float32'"):
        make(rng=0, precision="half")


@models
@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_a_file_has_the_precision(make, format, tmp_path):
    if format == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / "model"
    model = make(rng=0, ops=numpy_ops, **BF16)
    model.save(path, format=format)
    loaded = type(model).load(path, ops=numpy_ops)
    model.training = loaded.training = False
    assert {layer.precision for layer in layers_with_products(loaded)} == {"bfloat16"}
    xs = np.array([[1, 2, 3], [4, 5, 6]])
    options = {"decoder_xs": xs} if isinstance(model, rnnfast.Seq2seq) else {}
    np.testing.assert_array_equal(loaded.predict(xs, **options), model.predict(xs, **options))


@models
def test_a_file_in_float32_says_nothing_of_it(make, tmp_path):
    """As those of versions that know of no other."""
    assert "precision" not in json.dumps(make(rng=0).config())
    assert "precision" not in json.dumps(make(rng=0, precision="float32").config())


def test_a_network_keeps_the_precision_of_each_layer(tmp_path):
    layers = [
        reference.TimeLSTM(normal(3, 16), normal(4, 16), normal(16), **BF16),
        reference.TimeAffine(normal(4, 2), normal(2)),
    ]
    rnnfast.Network(layers, reference.TimeSquaredLoss()).save(tmp_path / "a")
    loaded = rnnfast.Network.load(tmp_path / "a")
    assert [layer.precision for layer in loaded.layers] == ["bfloat16", "float32"]


@models
@pytest.mark.parametrize("precision", [None, "float32"])
def test_a_config_may_name_the_dtype(make, precision):
    """As who edits one does: only "bfloat16" is written."""
    model = make(rng=0)
    config = json.loads(json.dumps(model.config()))
    parts = [config["affine"], *config.get("recurrent", [])]
    parts += [config[name] for name in ("encoder", "decoder") if name in config]
    for part in parts:
        part["precision"] = precision
    made = type(model).from_params(model.named_params(), **config)
    assert made.precision == "float32"
    assert made.config() == model.config()


@multiplying
def test_a_config_of_a_layer_may_name_the_dtype(name):
    layer = make_problem(name, "float32").make(rnnfast)
    for given in (None, "float32"):
        config = layer.config() | {"precision": given}
        again = layer_from("a", type(layer), layer.named_params(), config, None)
        assert (again.precision, again.config()) == ("float32", layer.config())
    with pytest.raises(InputError, match="precision: expected 'bfloat16', or 'float32' as"):
        layer_from("a", type(layer), layer.named_params(), config | {"precision": "float64"}, None)


@pytest.mark.parametrize("name", ["LanguageModel", "Seq2seq"])
def test_a_file_of_layers_that_do_not_agree_is_refused(name, tmp_path):
    MODELS[name](rng=0, **BF16).save(tmp_path / "a")
    _, arrays, meta = archive.load_archive(tmp_path / "a", "model")
    del meta["config"]["affine"]["precision"]
    archive.save_archive(tmp_path / "a", "model", arrays, meta)
    with pytest.raises(InputError, match="precision: expected one of all layers, got bfloat16 and"):
        rnnfast.Network.load(tmp_path / "a")


# Runs. ------------------------------------------------------------------------------------------

TINY = {"hidden": 8, "embedding": 4, "batch": 4, "time": 10, "epochs": 2}


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A text, to be learned by twins, whatever the kernels can do."""
    monkeypatch.setattr(_ops.HasOps, "default_ops", numpy_ops)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return path


def settings_in(folder):
    _, _, meta = archive.load_archive(folder / "last.npz", "checkpoint")
    return meta["settings"]


def test_settings_have_it():
    assert rnnfast.Settings().precision is None
    assert rnnfast.Settings(precision="float32").precision is None
    assert rnnfast.Settings(dtype="float64", precision="float64").precision is None
    assert rnnfast.Settings(**BF16).precision == "bfloat16"
    with pytest.raises(InputError, match=r"^precision: expected float32 with"):
        rnnfast.Settings(dtype="float64", **BF16)
    for wrong in ("", "float64", 3, [], {}, b"bfloat16", True):
        with pytest.raises(InputError, match=r"^precision: expected 'bfloat16', or 'float32'"):
            rnnfast.Settings(precision=wrong)


def test_a_run_notes_it_and_is_resumed_with_it(text, tmp_path):
    whole = rnnfast.Run.start("whole", rnnfast.Settings(text, **TINY, **BF16))
    whole.fit(verbose=False)
    first = rnnfast.Run.start("parts", rnnfast.Settings(text, **TINY, **BF16))
    first.fit(1, verbose=False)
    again = rnnfast.Run.resume("parts")
    again.fit(verbose=False)
    plain = rnnfast.Run.start("plain", rnnfast.Settings(text, **TINY))
    plain.fit(verbose=False)
    for run in (whole, again, rnnfast.Run.load("parts")):
        assert (run.model.precision, run.settings.precision) == ("bfloat16", "bfloat16")
    for ours, theirs in zip(whole.model.params, again.model.params, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [run.trainer.history[-1].train_loss for run in (whole, plain)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert settings_in(whole.folder)["precision"] == "bfloat16"
    assert "precision" not in settings_in(plain.folder)


@pytest.mark.parametrize(
    ("options", "level", "told"),
    [
        ({}, "avx512_bf16", "avx512"),  # which give the same bits
        ({}, "avx512", "avx512"),
        ({}, "avx2", "avx2"),
        (BF16, "avx512_bf16", "avx512_bf16"),
        (BF16, "avx512", "avx512"),
    ],
)
def test_ranks_share_the_instruction_set_that_matters(options, level, told, monkeypatch):
    model, ids = rnnfast.Rnnlm(9, 4, 5, rng=0, **options), np.arange(90) % 9
    training = rnnfast.Trainer(model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=5)
    monkeypatch.setattr(trainer, "engine", SimpleNamespace(CPU_LEVEL=level))
    training.ranks = SimpleNamespace(size=2)
    assert training._what_ranks_share(1)["instruction set (RNNFAST_CPU sets it)"] == told


def test_a_checkpoint_whose_parts_do_not_agree_is_refused(text):
    run = rnnfast.Run.start("run", rnnfast.Settings(text, **TINY))
    path = run.folder / "last.npz"
    _, arrays, meta = archive.load_archive(path, "checkpoint")
    for wrong, message in (
        ("bfloat16", r"settings\.precision: expected that of the model"),
        ("half", "precision: expected 'bfloat16'"),
        (7, "precision: expected 'bfloat16'"),
    ):
        meta["settings"]["precision"] = wrong
        archive.save_archive(path, "checkpoint", arrays, meta)
        with pytest.raises(InputError, match=message):
            rnnfast.Run.resume("run")
    meta["settings"]["precision"] = None
    archive.save_archive(path, "checkpoint", arrays, meta)
    assert rnnfast.Run.resume("run").model.precision == "float32"


def test_the_command_takes_it(text, capsys):
    sizes = [f"--{name}={size}" for name, size in {**TINY, "epochs": 1}.items()]
    train = ["train", "--text", str(text), *sizes]
    assert main([*train, "--precision", "bfloat16", "--out", "run"]) == 0
    assert " parameters, products in bfloat16\n" in capsys.readouterr().out
    assert main([*train, "--precision", "float32", "--out", "plain"]) == 0
    assert "products in" not in capsys.readouterr().out
    for precision in ("float32", "bfloat16"):
        command = ["train", "--resume", "--out", "run", "--precision", precision]
        assert main([*command, "--epochs", "2"]) == 1
        assert "--precision: a resumed run keeps its settings" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "run", "--epochs", "2"]) == 0
    assert "products in bfloat16" in capsys.readouterr().out
    assert main([*train, "--dtype", "float64", "--precision", "bfloat16", "--out", "no"]) == 1
    assert "precision: expected float32 with" in capsys.readouterr().err


def test_info_says_who_multiplies(capsys):
    assert main(["info"]) == 0
    fast = rnnfast.kernels.engine.BF16
    expected = "by the processor" if fast else "rounded first, slower than float32"
    assert f"bf16 products  {expected}\n" in capsys.readouterr().out
