"""The five notebook systems against a second implementation (`notebook_oracles`), PyTorch where it
is installed, and numbers that the notebooks or the second implementation printed.

Letters: N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

import doctest
import importlib

import notebook_oracles as oracle
import numpy as np
import pytest
import threadpoolctl
from problems import assert_all_close, assert_close, make_problem

import rnnfast
from rnnfast import kernels, reference

SENTENCE = "I am learning RNN"
IDS = rnnfast.Vocabulary.from_text(SENTENCE).encode(SENTENCE)

everywhere = pytest.mark.parametrize(
    ("dtype", "ops"),
    [(d, o) for d in ("float64", "float32") for o in (kernels, reference.ops)],
    ids=lambda value: {kernels: "compiled", reference.ops: "numpy"}.get(value, value),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are small: more threads only wait for each other."""
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


def by_dtype(dtype, tolerance64, tolerance32):
    return tolerance64 if dtype == "float64" else tolerance32


@pytest.mark.parametrize(
    "name", ["perplexity_rnnlm", "char_rnn", "word_training", "sequence_regressor", "char_lstm"]
)
def test_examples_of_docstrings(name):
    module = importlib.import_module(f"rnnfast.systems.{name}")
    results = doctest.testmod(module)
    assert results.attempted >= 3
    assert results.failed == 0


SEEDED = {
    "CharLstm": lambda rng: rnnfast.CharLstm.random(5, 4, rng=rng),
    "PerplexityRnnlm": lambda rng: rnnfast.PerplexityRnnlm.random(5, 3, 4, batch_size=2, rng=rng),
}


@pytest.mark.parametrize("make", SEEDED.values(), ids=SEEDED)
def test_a_whole_number_seeds_a_generator(make):
    """And None draws from NumPy's global state, as the notebooks do."""
    expected = make(np.random.default_rng(0)).params
    for seed in (0, np.int64(0)):  # which must not be taken for None
        for ours, right in zip(make(seed).params, expected, strict=True):
            np.testing.assert_array_equal(ours, right)
    np.random.seed(3)
    drawn = make(None).params
    for ours, right in zip(drawn, make(np.random.RandomState(3)).params, strict=True):
        np.testing.assert_array_equal(ours, right)
    with pytest.raises(TypeError, match=r"rng: expected a numpy.random.Generator or RandomState"):
        make("3")
    with pytest.raises(ValueError, match="rng: expected a whole number of at least 0, got -1"):
        make(-1)


def test_001_seeds_are_whole_numbers():
    weights = rnnfast.CharRnn.seeded(5, 4, seed=np.int64(7)).weights
    expected = np.random.RandomState(7).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(weights["Wxh"], expected)
    for seed in (-1, 1.5, None, np.random.default_rng(0)):
        with pytest.raises(ValueError, match="seed: expected a whole number of at least 0, got"):
            rnnfast.CharRnn.seeded(5, 4, seed=seed)
    with pytest.raises(ValueError, match=r"seed: expected a whole number below 2\*\*32"):
        rnnfast.CharRnn.seeded(5, 4, seed=2**32)


def test_002_seeds_are_handed_on(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("b a b\nc d " * 20, encoding="utf-8")
    options = {"batch_size": 4, "hidden_size": 8, "wordvec_size": 8, "epochs": 1}
    a, b = (
        rnnfast.train_word_file(path, rng=rng, **options) for rng in (1, np.random.default_rng(1))
    )
    assert a.perplexities == b.perplexities


def test_002_optimizers_of_other_libraries():
    """The textbook's know neither steps nor ops."""

    class Textbook:
        def update(self, params, grads):
            for W, dW in zip(params, grads, strict=True):
                W -= 0.1 * dW

    results = []
    for optimizer in (Textbook(), rnnfast.SGD(0.1)):
        model = rnnfast.SimpleRnnlm(20, 3, 3, rng=0, dtype="float64")
        options = {"epochs": 2, "max_grad": 0.1}
        results.append(rnnfast.train_words(model, optimizer, words(60, 20), **options))
    assert_close(*results, 1e-12)
    model.params[0][...] = np.nan
    with pytest.raises(rnnfast.errors.TrainingDiverged, match="loss is nan"):
        rnnfast.train_words(model, Textbook(), words(60, 20))


# Truncation of the backward pass. -------------------------------------------------------------


def cell_problem(cell, dtype="float64"):
    N, T, D, H = 3, 17, 4, 5
    G = {"RNN": 1, "LSTM": 4}[cell]
    rng = np.random.default_rng(0)
    shapes = (D, G * H), (H, G * H), (G * H,), (N, T, D), (N, T, H)
    Wx, Wh, b, xs, dhs = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return (Wx, Wh / 2, b), xs, dhs


@everywhere
@pytest.mark.parametrize("k", [1, 3, 5, 10, 16, 17, 40])
@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_truncation_is_blocks_of_k_steps(cell, k, dtype, ops):
    """The gradients are those of blocks of k steps, each with the state of the one before."""
    weights, xs, dhs = cell_problem(cell, dtype)
    layer_class = getattr(rnnfast, f"Time{cell}")
    layer = layer_class(*weights, truncate_size=k, ops=ops)
    hs, dxs = layer.forward(xs), layer.backward(dhs)
    blocks = layer_class(*weights, stateful=True, ops=ops)
    grads = [0, 0, 0]
    tolerance = by_dtype(dtype, 1e-13, 1e-5)
    for start in range(0, xs.shape[1], k):
        steps = slice(start, start + k)
        assert_close(blocks.forward(xs[:, steps]), hs[:, steps], tolerance)
        assert_close(blocks.backward(dhs[:, steps]), dxs[:, steps], tolerance)
        grads = [total + dW for total, dW in zip(grads, blocks.grads, strict=True)]
        if start == 0:
            assert_close(layer.dh, blocks.dh, tolerance)
    for dW, total in zip(layer.grads, grads, strict=True):
        assert_close(dW, total, tolerance)


@pytest.mark.parametrize("k", [None, 1, 3, 5, 10, 17])
@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_truncation_is_detached_state_in_pytorch(cell, k):
    torch = pytest.importorskip("torch")
    weights, xs, dhs = cell_problem(cell)
    layer = getattr(rnnfast, f"Time{cell}")(*weights, truncate_size=k)
    layer.forward(xs)
    dxs = layer.backward(dhs)
    Wx, Wh, b, x = (torch.tensor(W, requires_grad=True) for W in (*weights, xs))
    h = c = torch.zeros(xs.shape[0], Wh.shape[0], dtype=torch.float64)
    loss = 0
    for t in range(xs.shape[1]):
        if k and t % k == 0:
            h, c = h.detach(), c.detach()
        a = x[:, t] @ Wx + h @ Wh + b
        if cell == "RNN":
            h = torch.tanh(a)
        else:
            f, g, i, o = a.split(Wh.shape[0], dim=1)
            c = torch.sigmoid(f) * c + torch.tanh(g) * torch.sigmoid(i)
            h = torch.sigmoid(o) * torch.tanh(c)
        loss = loss + (h * torch.tensor(dhs[:, t])).sum()
    loss.backward()
    for ours, theirs in zip((*layer.grads, dxs), (Wx, Wh, b, x), strict=True):
        assert_close(ours, theirs.grad.numpy(), 1e-13)


@pytest.mark.parametrize("size", [5, 6, 2**63, 2**70])
@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
@everywhere
def test_truncation_of_the_whole_block_or_more_is_none(cell, size, dtype, ops):
    problem = make_problem(f"Time{cell}", dtype, sizes=(3, 5, 4, 6, 7))
    results = []
    for truncate_size in (size, None):
        layer = problem.layer(rnnfast)
        layer.ops, layer.truncate_size = ops, truncate_size
        assert layer.truncate_size == truncate_size
        results.append(problem.forward(layer) | problem.backward(layer))
    assert_all_close(*results, 1e-300)


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_gradients_from_outside_are_not_truncated(cell):
    """Where blocks end with the truncation, the last state still gets the gradient it is given."""
    weights, xs, dhs = cell_problem(cell)
    layer = getattr(rnnfast, f"Time{cell}")(*weights, truncate_size=17)
    layer.forward(xs)
    layer.backward(dhs)
    alone = layer.grads[2].copy()
    layer.backward(dhs, dh=np.ones_like(dhs[:, 0]))
    assert np.abs(layer.grads[2] - alone).max() > 0.1


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3"])
@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
def test_truncation_below_one_is_an_error(cell, size):
    weights, _, _ = cell_problem(cell)
    with pytest.raises(ValueError, match=r"truncate_size: expected a whole number of at least 1.*"):
        getattr(rnnfast, f"Time{cell}")(*weights, truncate_size=size)


# 000: the word model with the mean of 1/p. ------------------------------------------------------


def perplexity_model(dtype="float64", ops=kernels, **options):
    rng = np.random.RandomState(0)
    return rnnfast.PerplexityRnnlm.random(
        12, 5, 6, batch_size=4, rng=rng, dtype=dtype, ops=ops, **options
    )


def perplexity_oracle(truncate=None):
    We, Wx, Wh, Br, Wa, Ba = (W.copy() for W in perplexity_model().weights.values())
    weights = {"Wx": Wx, "Wh": Wh, "b": Br[0], "Wy": Wa, "by": Ba[0]}
    X, T_id = rnnfast.cyclic_batch(IDS, 4)
    loss, grads, _ = oracle.embedded_rnn(
        X, T_id[:, :, 0], We, weights, oracle.inverse_probability, truncate=truncate
    )
    names = {"We": "W_embed", "Wx": "Wx", "Wh": "Wh", "Br": "b", "Wa": "Wy", "Ba": "by"}
    return loss, {name: grads[theirs] for name, theirs in names.items()}


def test_000_lanes_go_around_the_corpus():
    X, T_id = rnnfast.cyclic_batch(np.arange(10), 3)
    assert X.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [3, 4, 5, 6, 7, 8, 9, 0, 1, 2],
        [6, 7, 8, 9, 0, 1, 2, 3, 4, 5],
    ]
    assert T_id.shape == (3, 10, 1)
    assert (T_id[:, :, 0] == (X + 1) % 10).all()
    # more lanes than ids: each starts one id further on
    assert rnnfast.cyclic_batch([7, 8], 3)[0].tolist() == [[7, 8], [8, 7], [7, 8]]


@everywhere
@pytest.mark.parametrize("truncate", [None, 1, 3, 5, 10, 16, 17])
def test_000_gradients(truncate, dtype, ops):
    model = perplexity_model(dtype, ops, truncate_size=truncate)
    loss, gradients = perplexity_oracle(truncate)
    X, T_id = rnnfast.cyclic_batch(IDS, 4)
    for _ in range(2):  # nothing of the first run may get into the second
        assert model.forward(X, T_id) == pytest.approx(loss, rel=by_dtype(dtype, 1e-12, 1e-5))
        ours = model.backward()
        assert ours["Br"].shape == (1, 6)
        assert ours["Ba"].shape == (1, 12)
        for name, expected in gradients.items():
            tolerance = by_dtype(dtype, 1e-10, 1e-4)
            assert_close(ours[name], expected.reshape(ours[name].shape), tolerance, name)


@everywhere
@pytest.mark.parametrize(
    ("truncate", "losses"),
    [
        (None, (11.097102655371, 8.368339546603, 5.923857555740, 3.788670755455, 3.024606106820)),
        (1, (12.269794931405, 8.579796011040, 5.767313147997, 3.870593125821, 3.150222839924)),
        (3, (11.415070114078, 7.653917946100, 5.303693715201, 3.643602685224, 3.010693818899)),
        (5, (11.108183546853, 7.771877959718, 5.703342838900, 3.989842499816, 3.290559717511)),
        (10, (10.945431060926, 7.954672404757, 5.707381608986, 3.837896859573, 3.083444205811)),
    ],
)
def test_000_training(truncate, losses, dtype, ops):
    """Losses at iterations 10, 50, 100, 200 and 300, from the second implementation."""
    model = perplexity_model(dtype, ops, truncate_size=truncate)
    seen = []
    history = model.train(IDS, 301, on_record=seen.append)
    assert seen == history == model.history
    assert [record.iteration for record in history] == list(range(0, 301, 10))
    ours = [history[n // 10].loss for n in (10, 50, 100, 200, 300)]
    assert_close(ours, losses, by_dtype(dtype, 1e-8, 1e-4))
    assert all(record.perplexity <= record.loss for record in history)


def test_000_state_is_carried_where_asked_for():
    X, T_id = rnnfast.cyclic_batch(IDS, 4)
    model, carrying = perplexity_model(), perplexity_model(stateful=True)
    assert model.forward(X, T_id) == model.forward(X, T_id)
    assert carrying.forward(X, T_id) != carrying.forward(X, T_id)


def test_000_clipping_bounds_the_step():
    model = perplexity_model(lr=1.0)
    before = [W.copy() for W in model.params]
    model.train(IDS, 1, max_grad=0.5)
    moved = np.sqrt(sum(((W - V) ** 2).sum() for W, V in zip(model.params, before, strict=True)))
    assert moved == pytest.approx(0.5, rel=1e-5)


def test_000_copies_its_weights_and_takes_flat_biases():
    given = perplexity_model().weights
    flat = [given[name].reshape(-1) for name in ("Br", "Ba")]
    init_W = [given[name].copy() for name in ("We", "Wx", "Wh", "Wa")]
    kept = [W.copy() for W in init_W]
    model = rnnfast.PerplexityRnnlm(init_W, flat, 17, 4)
    expected = perplexity_model().train(IDS, 11)
    assert model.train(IDS, 11) == expected
    assert all((a == b).all() for a, b in zip(init_W, kept, strict=True))
    assert model.gradients["Br"].shape == (6,)
    model.weights["Br"][...] = 7
    assert (model.params[3] == 7).all()


def test_000_plot(tmp_path):
    pytest.importorskip("matplotlib")
    model = perplexity_model()
    model.train(IDS, 21)
    model.plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_000_bad_input():
    model = perplexity_model(time_T=10)
    with pytest.raises(ValueError, match="X: expected at most time_T = 10 time steps, got 17"):
        model.train(IDS)
    with pytest.raises(ValueError, match="corpus: expected at least 2 token ids, got 1"):
        model.train([3])
    with pytest.raises(ValueError, match=r"corpus: .* got \(0,\)"):
        model.train(np.array([], int))
    with pytest.raises(TypeError, match="corpus: expected token ids of an integer dtype"):
        model.train([0.5, 1.5])
    with pytest.raises(ValueError, match=r"xs: expected token ids in 0\.\.11, got 12"):
        model.train([0, 12])
    with pytest.raises(ValueError, match="iter_num: expected a whole number of at least 1, got 0"):
        model.train(IDS[:5], 0)
    with pytest.raises(ValueError, match=r"truncate_size: .* at least 1, got 0"):
        perplexity_model(truncate_size=0)
    W = model.weights
    init_W = [W[name] for name in ("We", "Wx", "Wh", "Wa")]
    with pytest.raises(ValueError, match="init_W, init_b: expected the arrays"):
        rnnfast.PerplexityRnnlm(init_W[:3], [W["Br"], W["Ba"]], 17, 4)
    with pytest.raises(ValueError, match=r"Ba: expected an array of shape \(12,\), got \(11,\)"):
        rnnfast.PerplexityRnnlm(init_W, [W["Br"], W["Ba"][:, 1:]], 17, 4)
    with pytest.raises(TypeError, match="Br: expected float64 as We has, got float32"):
        rnnfast.PerplexityRnnlm(init_W, [W["Br"].astype("f"), W["Ba"]], 17, 4)


def test_000_divergence_is_an_error():
    model = perplexity_model(stateful=True)
    model.train(IDS, 2)
    model.params[0][0, 0] = np.nan
    before, carried = [W.copy() for W in model.params], model.get_state()
    with pytest.raises(rnnfast.errors.TrainingDiverged, match=r"loss is nan .* smaller learning"):
        model.train(IDS, 10)
    for W, kept in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(W, kept)
    np.testing.assert_array_equal(model.get_state(), carried)


# 001: the character RNN with a published table of gradients. ------------------------------------

PUBLISHED_WXH = """\
[[-5.8980067e-03 -1.0567507e-03  5.3060856e-02  3.2835844e-01]
 [-2.1574606e-01 -4.6572205e-02 -1.2665960e-03 -2.1078084e-01]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 2.6740572e-01 -2.2931943e-04 -1.3003336e-01  3.1455082e-03]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [ 0.0000000e+00  0.0000000e+00  0.0000000e+00  0.0000000e+00]]"""
PUBLISHED_WHY = """\
[[ 8.50889087e-02  6.36707619e-03 -7.47825659e-04 -1.98840220e-02
   2.58626133e-01 -2.30374616e-02 -1.09052859e-01 -2.62917131e-02
   4.05798629e-02 -2.19466284e-01  3.74572002e-03  4.07243753e-03]
 [-1.46826804e-01  1.54953711e-02  2"""


def char_rnn(dtype="float64", ops=kernels):
    return rnnfast.CharRnn.seeded(12, 4, dtype=dtype, ops=ops)


@everywhere
def test_001_published_text(dtype, ops):
    """What the notebook printed, character for character."""
    gradients = char_rnn(dtype, ops).published_gradients(IDS[0:3], IDS[1:4])
    assert str(gradients["Wxh"]) == PUBLISHED_WXH
    assert str(gradients["Why"]).startswith(PUBLISHED_WHY)


@everywhere
@pytest.mark.parametrize("sample", range(14))
def test_001_gradients(sample, dtype, ops):
    xs, ts = IDS[sample : sample + 3], IDS[sample + 1 : sample + 4]
    W = char_rnn().weights
    weights = {"Wx": W["Wxh"], "Wh": W["Whh"], "b": W["bh"][0], "Wy": W["Why"], "by": W["by"][0]}
    loss, expected, _, _ = oracle.rnn(np.eye(12)[xs], ts, weights, oracle.cross_entropy)
    model = char_rnn(dtype, ops)
    assert model.forward(xs, ts) == pytest.approx(loss / 3, rel=by_dtype(dtype, 1e-12, 1e-6))
    ours = model.backward()
    for name, theirs in zip(("Wxh", "Whh", "bh", "Why", "by"), expected, strict=True):
        assert ours[name].dtype == dtype
        right = expected[theirs].reshape(W[name].shape) / 3
        difference = np.abs(ours[name] - right).max()
        # absolute for the published sample; others have larger gradients
        size = 1 if sample == 0 else max(1, 10 * np.abs(right).max())
        assert difference <= size * by_dtype(dtype, 1e-12, 2e-7), name


def test_001_input_as_ids_or_one_hot():
    xs, ts = IDS[0:3], IDS[1:4]
    model, eye = char_rnn(), np.eye(12)
    loss = model.forward(xs, ts)
    expected = model.backward()["Wxh"].copy()
    for x, t in ((eye[xs], eye[ts]), (xs[None], eye[ts][None].astype(int)), (eye[xs] == 1, ts)):
        assert model.forward(x, t) == loss
        assert (model.backward()["Wxh"] == expected).all()


def test_001_bad_input():
    model, one_hot = char_rnn(), np.eye(12)[[0, 1, 2]]
    for wrong, what in ((np.nan, "nan"), (2, "2."), (0, "0.")):
        one_hot[1, 1] = wrong
        with pytest.raises(ValueError, match=r"xs: expected one-hot vectors.*at position \(0, 1\)"):
            model.forward(one_hot, [0, 1, 2])
        assert what in str(one_hot[1, 1])
    with pytest.raises(ValueError, match=r"xs: .*shape \(N, T, 12\), got \(1, 3, 11\)"):
        model.forward(np.eye(11)[[0, 1, 2]], [0, 1, 2])
    with pytest.raises(ValueError, match=r"ts: .*shape \(1, 3\), got \(1, 2\)"):
        model.forward([0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"xs: .*\(sizes must be at least 1\)"):
        model.forward(np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match=r"xs: expected token ids in 0\.\.11, got 12"):
        model.forward([12], [0])
    with pytest.raises(ValueError, match=r"xs: .*\(1, T\), got \(2, 3\); give one sample"):
        model.published_gradients([[0, 1, 2]] * 2, [[0, 1, 2]] * 2)
    weights = model.weights
    with pytest.raises(ValueError, match=r"weights: .*missing or unknown: Whh"):
        rnnfast.CharRnn({name: W for name, W in weights.items() if name != "Whh"})
    with pytest.raises(ValueError, match=r"Whh: expected an array of shape \(4, 4\), got \(4, 5\)"):
        rnnfast.CharRnn(weights | {"Whh": np.zeros((4, 5))})
    with pytest.raises(TypeError, match="bh: expected dtype float32 or float64, got int64"):
        rnnfast.CharRnn(weights | {"bh": np.zeros((1, 4), np.int64)})


# 002: the textbook's training loop. --------------------------------------------------------------


def words(count, vocab_size, seed=0):
    return (vocab_size * np.random.RandomState(seed).random_sample(count) ** 2).astype(int)


@everywhere
@pytest.mark.parametrize(("N", "T", "count"), [(10, 5, 123), (3, 4, 40), (1, 7, 15)])
def test_002_loop(N, T, count, dtype, ops):
    """Perplexities of six epochs, in which all lanes go around the end of the text."""
    D, H, V = 6, 8, 20
    ids = words(count, V)
    rng = np.random.RandomState(1)
    model = rnnfast.SimpleRnnlm(V, D, H, rng=rng, dtype=dtype, ops=ops)
    W_embed, Wx, Wh, b, Wy, by = (W.astype(np.float64) for W in model.params)
    weights = {"Wx": Wx, "Wh": Wh, "b": b, "Wy": Wy, "by": by}
    seen = []
    perplexities = rnnfast.train_words(
        model, rnnfast.SGD(0.5), ids, batch_size=N, time_size=T, epochs=6,
        on_epoch=lambda epoch, perplexity: seen.append((epoch, perplexity)),
    )  # fmt: skip
    size, position, h, expected = count - 1, 0, None, []
    for _ in range(6):
        losses = []
        for _ in range(size // (N * T)):
            where = [
                [(lane * (size // N) + position + t) % size for t in range(T)] for lane in range(N)
            ]
            loss, grads, h = oracle.embedded_rnn(
                ids[where], ids[np.add(where, 1)], W_embed, weights, oracle.cross_entropy, h0=h
            )
            losses.append(loss)
            W_embed -= 0.5 * grads["W_embed"]
            oracle.descend(weights, grads, 0.5)
            position += T
        expected.append(np.exp(np.mean(losses)))
    # or else going around is not tested
    assert (N - 1) * (size // N) + position > size
    assert_close(perplexities, expected, by_dtype(dtype, 1e-10, 1e-4))
    assert seen == list(enumerate(perplexities, 1))


def test_002_word_file(tmp_path):
    """Words by first use, the ends of lines too; no more of them than asked for."""
    path = tmp_path / "words.txt"
    path.write_text("b a b\nc d " * 20, encoding="utf-8")
    run = rnnfast.train_word_file(
        path, corpus_size=60, batch_size=4, hidden_size=8, wordvec_size=8, epochs=2,
        rng=np.random.RandomState(0),
    )  # fmt: skip
    assert run.vocabulary.tokens == ["b", "a", "<eos>", "c", "d"]
    assert len(run.perplexities) == 2
    first = rnnfast.train_word_file(
        path, corpus_size=3, batch_size=1, time_size=1, hidden_size=8, wordvec_size=8, epochs=1
    )
    assert first.vocabulary.tokens == ["b", "a"]
    again = rnnfast.train_word_file(
        path, corpus_size=60, batch_size=4, hidden_size=8, wordvec_size=8, epochs=2,
        rng=np.random.RandomState(0),
    )  # fmt: skip
    assert again.perplexities == run.perplexities


def test_002_plot(tmp_path):
    pytest.importorskip("matplotlib")
    rnnfast.WordRun(None, None, [3.0, 2.0, 1.5]).plot(tmp_path / "perplexity.png")
    assert (tmp_path / "perplexity.png").read_bytes().startswith(b"\x89PNG")


def test_002_bad_input(tmp_path):
    model, optimizer = rnnfast.SimpleRnnlm(20, 3, 3), rnnfast.SGD(0.1)
    with pytest.raises(
        rnnfast.errors.InputError,
        match=r"ids: expected at least 51 words for 10 lanes of 5, got 50",
    ):
        rnnfast.train_words(model, optimizer, words(50, 20))
    with pytest.raises(rnnfast.errors.InputError, match="got 0"):
        rnnfast.train_words(model, optimizer, [])
    with pytest.raises(ValueError, match=r"ids: expected an array of shape \(M,\)"):
        rnnfast.train_words(model, optimizer, words(60, 20).reshape(6, 10))
    with pytest.raises(TypeError, match="ids: expected token ids of an integer dtype"):
        rnnfast.train_words(model, optimizer, np.full(60, np.nan))
    with pytest.raises(ValueError, match=r"ids: expected token ids in 0\.\.19, got 20"):
        rnnfast.train_words(model, optimizer, np.full(60, 20))
    for name in ("batch_size", "time_size", "epochs"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1"):
            rnnfast.train_words(model, optimizer, words(60, 20), **{name: 0})
    path = tmp_path / "words.txt"
    with pytest.raises(rnnfast.errors.InputError, match="does not exist"):
        rnnfast.train_word_file(path)
    path.write_text("too few words", encoding="utf-8")
    with pytest.raises(rnnfast.errors.InputError, match="ids: expected at least 51 words"):
        rnnfast.train_word_file(path)
    path.write_text(" ", encoding="utf-8")
    with pytest.raises(rnnfast.errors.InputError, match="no words"):
        rnnfast.train_word_file(path)


# 004: the character LSTM in per-gate form (003 is in test_sequence_regressor.py). -----------------

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak."
GATES = "fiCo"


def char_lstm(dtype="float64", ops=kernels, gate_mean=0.0, H=20):
    rng = np.random.RandomState(0)
    vocabulary = rnnfast.Vocabulary.from_text(TEXT)
    model = rnnfast.CharLstm.random(
        len(vocabulary), H, gate_mean=gate_mean, rng=rng, dtype=dtype, ops=ops
    )
    return model, vocabulary.encode(TEXT)


@everywhere
@pytest.mark.parametrize("gate_mean", [0.0, 0.5])
def test_004_gradients(gate_mean, dtype, ops):
    model, ids = char_lstm(dtype, ops, gate_mean)
    weights = char_lstm(gate_mean=gate_mean)[0].weights
    loss, expected, _ = oracle.lstm(ids[:25], ids[1:26], weights)
    for _ in range(2):  # every block starts from zeros
        ours = model.forward(ids[:25], ids[1:26])
        assert ours == pytest.approx(loss, rel=by_dtype(dtype, 1e-12, 1e-6))
    gradients = model.backward()
    assert gradients.keys() == expected.keys()
    for name in expected:
        assert gradients[name].dtype == dtype
        assert_close(gradients[name], expected[name], by_dtype(dtype, 1e-12, 1e-4), name)


@everywhere
def test_004_learning_curve_over_carried_blocks(dtype, ops):
    """Three blocks of a text in 40 epochs: state carried within an epoch, zero at its beginning."""
    model, ids = char_lstm(dtype, ops)
    weights = char_lstm()[0].weights
    seen, expected = [], []
    losses = model.fit(ids, 40, 0.05, on_epoch=lambda epoch, loss: seen.append((epoch, loss)))
    assert seen == list(enumerate(losses, 1))
    for _ in range(40):
        total, state = 0.0, None
        for start in range(0, len(ids) - 1, 25):
            block = slice(start, start + 25)
            loss, grads, state = oracle.lstm(ids[:-1][block], ids[1:][block], weights, state)
            total += loss
            oracle.descend(weights, grads, 0.05)
        expected.append(total)
    assert len(ids) > 51
    assert_close(losses, expected, by_dtype(dtype, 1e-9, 1e-3))


def test_004_clipping_bounds_the_step():
    model, ids = char_lstm()
    before = [W.copy() for W in model.params]
    model.fit(ids[:26], epochs=1, lr=2.0, max_grad=0.25)
    moved = np.sqrt(sum(((W - V) ** 2).sum() for W, V in zip(model.params, before, strict=True)))
    assert moved == pytest.approx(0.5, rel=1e-5)


def test_004_gates_are_columns_of_the_layer():
    """On z = [h; x], W[:, :H] is for h, W[:, H:] for x; the columns are f, C, i, o."""
    model, ids = char_lstm()
    W, H = model.weights, 20
    layer = rnnfast.TimeLSTM(
        np.hstack([W[f"W_{gate}"][:, H:].T for gate in "fCio"]),
        np.hstack([W[f"W_{gate}"][:, :H].T for gate in "fCio"]),
        np.hstack([W[f"b_{gate}"][:, 0] for gate in "fCio"]),
    )
    affine = rnnfast.TimeAffine(W["W_v"].T, W["b_v"][:, 0])
    loss_layer = rnnfast.TimeSoftmaxWithLoss()
    one_hot = np.eye(model.vocab_size)[ids[None, :25]]
    loss = 25 * loss_layer.forward(affine.forward(layer.forward(one_hot)), ids[None, 1:26])
    layer.backward(affine.backward(loss_layer.backward(25)))
    assert model.forward(ids[:25], ids[1:26]) == pytest.approx(loss, rel=1e-13)
    gradients = model.backward()
    for name, dW in rnnfast.unpack_gates(*layer.grads).items():
        assert_close(gradients[name], dW, 1e-13, name)


def test_004_weights_can_be_given_and_read_back():
    model, _ = char_lstm()
    weights = model.weights
    again = rnnfast.CharLstm(weights).weights
    assert weights.keys() == again.keys()
    for name in weights:
        assert (weights[name] == again[name]).all(), name
    assert weights["W_f"].shape == (20, 20 + model.vocab_size)
    assert weights["b_f"].shape == (20, 1)
    for ours, packed in zip(model.params, rnnfast.pack_gates(weights), strict=False):
        assert (ours == packed).all()


def test_004_sample_carries_the_state():
    model, ids = char_lstm()
    model.fit(ids, 150, 0.1, T_steps=30)
    vocabulary = rnnfast.Vocabulary.from_text(TEXT)
    assert vocabulary.decode(model.sample(ids[:1], len(ids) - 1, temperature=0)) == TEXT[1:]
    assert not model.recurrent_layers[0].stateful


def test_004_bad_input():
    model, ids = char_lstm()
    with pytest.raises(ValueError, match="ids: expected at least 2 characters, got 1"):
        model.fit(ids[:1])
    with pytest.raises(ValueError, match=r"ids: .*got \(0,\)"):
        model.fit(ids[:0])
    with pytest.raises(ValueError, match=r"ids: expected an array of shape \(M,\)"):
        model.fit(ids[None])
    with pytest.raises(TypeError, match="ids: expected token ids of an integer dtype"):
        model.fit(np.full(5, np.nan))
    with pytest.raises(ValueError, match="T_steps: expected a whole number of at least 1, got 0"):
        model.fit(ids, T_steps=0)
    weights = model.weights
    with pytest.raises(
        ValueError, match=r"W_f: expected .* \(20, 4\d\), got \(20, 30\); .*\[h; x\]"
    ):
        rnnfast.CharLstm(weights | {f"W_{gate}": np.zeros((20, 30)) for gate in GATES})
    with pytest.raises(ValueError, match="missing or unknown: W_o, b_o"):
        rnnfast.pack_gates({name: W for name, W in weights.items() if name[-1] != "o"})
    Wx, Wh, b = rnnfast.pack_gates(weights)
    with pytest.raises(
        ValueError, match=r"Wh: expected an array of shape \(H, 76\), got \(19, 80\)"
    ):
        rnnfast.unpack_gates(Wx, Wh[1:], b)
    with pytest.raises(ValueError, match=r"b: expected an array of shape \(80,\), got \(79,\)"):
        rnnfast.unpack_gates(Wx, Wh, b[1:])
    with pytest.raises(ValueError, match="missing or unknown: b_o"):
        rnnfast.CharLstm({name: W for name, W in weights.items() if name != "b_o"})


def test_a_block_with_a_wrong_target_has_not_been_read():
    model = rnnfast.SimpleRnnlm(5, 3, 4)
    model.forward([[0, 1]], [[1, 2]])
    (before,) = model.get_state()
    with pytest.raises(ValueError, match="ts:"):
        model.forward([[1, 2]], [[2, 5]])
    assert (model.get_state()[0][0] == before[0]).all()
