"""Generation draws from the model's own distribution, and leaves its state alone."""

import copy
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sequences import LAYER_CELLS

import rnnfast
from rnnfast import InputError, _random, kernels
from rnnfast.kernels import engine
from rnnfast.layers import time_layer
from rnnfast.reference import ops as numpy_ops
from rnnfast.reference.generation import BROKEN, ENDED, Choice
from rnnfast.text.lanes import PADDING


def _model(rng=0):
    return rnnfast.Rnnlm(5, 4, 6, rng=rng, dtype=np.float64)


class _Biased:
    """Stands in for a model: the same logits whatever came before."""

    vocab_size = 3

    def __init__(self, logits):
        self.logits = np.array(logits)

    def predict(self, xs):
        return np.broadcast_to(self.logits, (*np.shape(xs), 3))

    def reset_state(self):
        pass

    get_state = set_state = lambda self, *_: None


def test_temperature_zero_follows_the_likeliest_token():
    model = _model()
    generated = rnnfast.generate(model, [1, 2], 6, temperature=0)
    text = [1, 2]
    for _ in range(6):
        model.reset_state()
        text.append(int(model.predict(np.array([text]))[0, -1].argmax()))
    assert generated.tolist() == text[2:]


@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["kernels", "reference"])
def test_of_tokens_that_are_as_likely_the_first_is_taken(ops):
    model = rnnfast.Rnnlm(5, 4, 6, rng=0, ops=ops)
    for W in model.params:
        W[...] = 0
    assert rnnfast.generate(model, [3], 4, temperature=0).tolist() == [0] * 4
    model.named_params()["affine.b"][[1, 4]] = 2
    assert rnnfast.generate(model, [3], 4, temperature=0).tolist() == [1] * 4


def test_frequencies_are_the_softmax_at_that_temperature():
    logits, temperature, n = [0.0, 1.0, 2.0], 0.5, 20_000
    ids = rnnfast.generate(
        _Biased(logits), [0], n, temperature=temperature, rng=np.random.default_rng(1)
    )
    p = np.exp(np.array(logits) / temperature)
    p /= p.sum()
    error = np.sqrt(p * (1 - p) / n)
    np.testing.assert_array_less(np.abs(np.bincount(ids, minlength=3) / n - p), 5 * error)


def test_skipped_ids_never_come():
    ids = rnnfast.generate(_Biased([0.0, 50.0, 0.0]), [0], 200, skip_ids=[1])
    assert set(ids.tolist()) == {0, 2}
    assert set(rnnfast.generate(_Biased([0.0, 1.0, 0.0]), [0], 9, skip_ids=[1, 2])) == {0}


@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
def test_where_all_tokens_are_skipped_none_is_found(ops):
    """Not even beside the logits, which begin at a page of their own in `test_guard_pages`."""
    one, cell = np.ones((1, 1)), rnnfast.cells.RNN
    layers = [(cell, one, one, np.ones(1))]
    for choice in (Choice(skip_ids=[0]), Choice(temperature=0, skip_ids=[0])):
        writer = ops.writer(one, layers, one, np.ones(1), [None], np.zeros(1, int), 2, choice)
        assert writer.write(np.zeros((1, 2))).tolist() == [[BROKEN, ENDED]]


@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["kernels", "reference"])
@pytest.mark.parametrize("likeliest", range(5))
def test_the_likeliest_of_all_is_skipped_too(ops, likeliest):
    """Whichever it is, the next one is taken."""
    model = rnnfast.Rnnlm(5, 4, 6, rng=0, ops=ops)
    model.named_params()["affine.b"][...] = 1000 * (np.arange(5) == likeliest)
    model.named_params()["affine.b"][likeliest - 1] = 500
    for temperature in (0, 1):
        options = {"temperature": temperature, "skip_ids": [likeliest], "rng": 0}
        assert set(rnnfast.generate(model, [0], 9, **options)) == {(likeliest - 1) % 5}


def test_a_tiny_temperature_does_not_overflow():
    ids = rnnfast.generate(_Biased([3.0, 50.0, -50.0]), [0], 5, temperature=1e-310)
    assert ids.tolist() == [1] * 5


def test_the_same_seed_gives_the_same_text_and_the_state_is_kept():
    model = _model()
    model.predict(np.array([[1, 2], [3, 4]]))
    before = [array.copy() for state in model.get_state() for array in state]
    a = rnnfast.generate(model, [3], 20, rng=np.random.default_rng(7))
    b = rnnfast.generate(model, [3], 20, rng=np.random.default_rng(7))
    assert np.array_equal(a, b)
    after = [array for state in model.get_state() for array in state]
    for x, y in zip(before, after, strict=True):
        assert np.array_equal(x, y)


def _network():
    """A language model of somebody's own making, with random weights."""
    random = np.random.default_rng(0).standard_normal
    weights = (random(shape) for shape in ((5, 4), (4, 24), (6, 24), 24, (6, 5), 5))
    embed_W, Wx, Wh, b, W, affine_b = weights
    layers = {
        "embedding": rnnfast.TimeEmbedding(embed_W),
        "lstm": rnnfast.TimeLSTM(Wx, Wh, b),
        "affine": rnnfast.TimeAffine(W, affine_b),
    }
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())


MODELS = {
    "rnn": lambda: rnnfast.SimpleRnnlm(5, 4, 6, num_layers=2, rng=0),
    "lstm": _model,
    "network": _network,
    "char_lstm": lambda: rnnfast.CharLstm.random(5, 6, rng=np.random.default_rng(0)),
}


def _carried(model):
    return [array for state in model.get_state() for array in state]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_threads_may_sample_from_one_model_at_once(make):
    model = make()
    model.predict(np.array([[1, 2], [3, 4]]))
    carried = _carried(model)

    def text(seed):
        prime = [seed % 5, *[1, 2, 3][: seed % 3]]
        return rnnfast.generate(model, prime, 12, rng=seed).tolist()

    alone = [text(seed) for seed in range(200)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(text, range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert together == alone
    assert all(a is b for a, b in zip(_carried(model), carried, strict=True))


def test_sampling_beside_training_of_the_state():
    """What is sampled does not depend on the state carried, nor changes it while it is made."""
    model = _model()
    xs = np.array([[1, 2, 3, 4]])
    expected = [model.predict(xs) for _ in range(50)]
    text = rnnfast.generate(model, [1, 2], 12, rng=0).tolist()
    model.reset_state()
    with ThreadPoolExecutor(1) as pool:
        texts = [pool.submit(rnnfast.generate, model, [1, 2], 12, rng=0) for _ in range(100)]
        logits = [model.predict(xs) for _ in range(50)]
    np.testing.assert_array_equal(logits, expected)
    assert all(future.result().tolist() == text for future in texts)


def test_a_network_of_ones_own_continues_as_predict_says():
    model = _network()
    text = [1, 2]
    generated = rnnfast.generate(model, text, 6, temperature=0)
    for _ in range(6):
        text.append(int(model.predict(np.array([text]))[0, -1].argmax()))
    assert generated.tolist() == text[2:]
    with pytest.raises(ValueError, match=r"token ids in 0\.\.4, got 5"):
        rnnfast.generate(model, [5], 1)


def test_reading_and_continuing_take_states_and_return_them():
    model, xs = _model(), np.array([[1, 2, 3]])
    for W in model.params:
        W *= 8  # so that what was read matters
    logits, states = model.infer(xs)
    assert [state.shape for state in states] == [(2, 1, 6)]
    for given in (model.read(xs), model.read(xs[:, 1:], model.read(xs[:, :1]))):
        np.testing.assert_allclose(given, states, rtol=1e-13)
    assert model.get_state() == [(None, None)]
    np.testing.assert_array_equal(logits, model.predict(xs))
    uniforms = np.random.default_rng(0).random((1, 9))
    first = np.array([4])
    ids = model.writer(first, states, 9, Choice()).write(uniforms)
    expected = rnnfast.generate(model, [1, 2, 3, 4], 9, rng=np.random.default_rng(0))
    assert ids.tolist() == [expected.tolist()]
    assert ids.tolist() != model.writer(first, None, 9, Choice()).write(uniforms).tolist()


@pytest.mark.parametrize(
    ("seed", "same"),
    [
        (0, np.random.default_rng(0)),
        (np.int64(7), np.random.default_rng(7)),
        (np.random.RandomState(1), np.random.RandomState(1)),
    ],
)
def test_a_seed_is_an_int_or_a_generator(seed, same):
    seed, same = copy.deepcopy((seed, same))  # those of the list are every thread's
    given, expected = (rnnfast.generate(_model(), [3], 50, rng=rng) for rng in (seed, same))
    assert np.array_equal(given, expected)
    assert not np.array_equal(expected, rnnfast.generate(_model(), [3], 50))


@pytest.mark.parametrize("rng", [True, 0.0, 1.5, "0", -1])
def test_seeds_that_are_none(rng):
    for call in (lambda: rnnfast.generate(_model(), [3], 5, rng=rng), lambda: _model(rng)):
        with pytest.raises(ValueError if rng == -1 else TypeError, match="rng: expected"):
            call()


def test_outputs_that_are_no_logits():
    table, W, b = np.eye(4), np.eye(4), np.zeros(4)
    embedding, fused = rnnfast.TimeEmbedding(table), rnnfast.TimeAffineWithLoss(W, b)
    for model, what in (
        (rnnfast.Network([embedding], fused), "what its TimeAffineWithLoss makes logits of"),
        (rnnfast.PerplexityRnnlm.random(4, 3, 3, batch_size=1, rng=0), "probabilities"),
    ):
        with pytest.raises(TypeError, match=f"^model: expected a network .* logits, got .* {what}"):
            rnnfast.generate(model, [1], 3)
    affine = rnnfast.TimeAffine(*fused.params)
    sound = rnnfast.Network([embedding, affine], rnnfast.TimeSoftmaxWithLoss())
    assert rnnfast.generate(sound, [1], 3, temperature=0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("cell", LAYER_CELLS, ids=lambda cell: cell.name)
def test_generation_with_every_cell(cell):
    """Against layers that are called token by token; the compiled one has its parity test."""
    rng = np.random.default_rng(0)
    embed_W, affine_W, affine_b, Wx = (
        rng.standard_normal(shape) for shape in ((5, 3), (6, 5), 5, (3, cell.G * 6))
    )
    shapes = {"Wx": (6, cell.G * 6), "Wh": (6, cell.G * 6)}
    weights = [
        [2 * rng.standard_normal(shapes.get(name, cell.G * 6)) for name in cell.weights]
        for _ in "12"
    ]
    weights[0][0] = Wx
    states = [rng.standard_normal((cell.S, 1, 6)), None]
    layers = [(cell, *own) for own in weights]
    uniforms = rng.random((1, 40))
    arguments = embed_W, layers, affine_W, affine_b, states, np.array([2]), 40
    ids = numpy_ops.writer(*arguments, Choice(skip_ids=[3])).write(uniforms)
    made = [time_layer(cell.name, *own, stateful=True, ops=numpy_ops) for own in weights]
    made[0].set_state(*states[0])
    expected, token = [], 2
    for u in uniforms[0]:
        hs = embed_W[None, None, token]
        for layer in made:
            hs = layer.forward(hs)
        logits = hs[0, 0] @ affine_W + affine_b
        logits[3] = -np.inf
        expected.append(token := numpy_ops.draw(logits, 1.0, u))
    assert ids.tolist() == [expected]
    assert len(set(expected)) > 2


def test_a_model_on_a_gru_hands_over_its_weights():
    model = rnnfast.GruRnnlm(5, 4, 6, num_layers=2, rng=0, dtype="float64", ops=numpy_ops)
    for W in model.params:
        W *= 8
    text, generated = [1, 2], rnnfast.generate(model, [1, 2], 6, temperature=0)
    for _ in range(6):
        text.append(int(model.infer([text])[0][0, -1].argmax()))
    assert generated.tolist() == text[2:]


def test_layers_that_read_ahead():
    """What they read is still to be generated."""
    rn = np.random.default_rng(0).standard_normal
    weights = rn((5, 5)), rn((5, 5)), rn(5)
    affine = rnnfast.TimeAffine(rn((5, 5)), rn(5))
    wide = rnnfast.TimeAffine(rn((10, 5)), rn(5))
    embedding = rnnfast.TimeEmbedding(rn((5, 5)))
    for layer, last in (
        (rnnfast.TimeRNN(*weights, reverse=True), affine),
        (rnnfast.TimeBiRNN(*weights, *weights), wide),
    ):
        layers = {"in": embedding, "ahead": layer, "out": last}
        network = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())
        says = f"^model: expected layers that read from .* got the {type(layer).__name__} ahead"
        with pytest.raises(TypeError, match=says):
            rnnfast.generate(network, [1], 3)


def test_the_mean_of_zoneout_counts():
    """As in evaluation, and other regularisation does not."""
    model = _model()
    for W in model.params:
        W *= 8
    plain = rnnfast.generate(model, [1, 2], 60, rng=0)
    (layer,) = model.recurrent_layers
    layer.zoneout, layer.weight_drop = (0.25, 0.75), 0.5
    assert rnnfast.generate(model, [1, 2], 60, rng=0).tolist() == plain.tolist()
    layer.zoneout_mean = True
    text, found = [1, 2], rnnfast.generate(model, [1, 2], 60, rng=0)
    with model.in_evaluation():
        for u in np.random.default_rng(0).random(60):
            model.reset_state()
            logits = model.predict(np.array([text]))[0, -1]
            text.append(numpy_ops.draw(logits, 1.0, u))
    assert found.tolist() == text[2:]
    assert found.tolist() != plain.tolist()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], 3), {}, r"prime: expected an array of shape \(M,\), got \(0,\)"),
        (([5], 3), {}, r"prime: .*0\.\.4.*got 5"),
        (([1], -1), {}, "length: expected"),
        (([1], 3), {"temperature": -1.0}, "temperature: expected"),
        (([1], 3), {"temperature": 10**400}, "temperature: expected"),
        (([1], 3), {"temperature": float("nan")}, "temperature: expected"),
        (([1], True), {}, "length: expected"),
        (([1], 3), {"temperature": True}, "temperature: expected"),
        (([1], 3), {"skip_ids": [9]}, "skip_ids: expected"),
        (([1], 3), {"skip_ids": 2}, r"skip_ids: expected an array of shape \(M,\), got \(\)"),
        (([1], 3), {"skip_ids": [[2]]}, r"skip_ids: expected an array of shape \(M,\), got"),
        (([1], 3), {"skip_ids": [0, 1, 2, 3, 4]}, "skip_ids: expected to leave"),
        (([1], 3), {"stop_ids": [5]}, r"stop_ids: expected token ids in 0\.\.4, got 5"),
        (([1], 3), {"stop_ids": [-1]}, "stop_ids: expected"),
        (([1], 3), {"stop_ids": 2}, r"stop_ids: expected an array of shape \(M,\), got \(\)"),
        (([1], 3), {"top_k": 0}, "top_k: expected .* at least 1, got 0; None keeps all tokens"),
        (([1], 3), {"top_k": 2.0}, "top_k: expected"),
        (([1], 3), {"top_k": True}, "top_k: expected"),
        (([1], 3), {"top_p": 0}, "top_p: expected a number in 0 < top_p <= 1, got 0; None keeps"),
        (([1], 3), {"top_p": 1.5}, "top_p: expected"),
        (([1], 3), {"top_p": float("nan")}, "top_p: expected"),
        (([1], 3), {"top_p": True}, "top_p: expected"),
        (([1], 3), {"samples": 0}, "samples: expected a whole number of at least 1, got 0"),
        (([1], 3), {"samples": 1.0}, "samples: expected"),
        (([[1], [2]], 3), {"samples": 2}, r"prime: expected an array of shape \(M,\)"),
    ],
)
@pytest.mark.parametrize("call", [rnnfast.generate, rnnfast.stream])
def test_bad_arguments(arguments, options, message, call):
    """`stream` too says so at once; the generator has drawn nothing."""
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match=message):
        call(_model(), *arguments, **options, rng=rng)
    assert rng.random() == np.random.default_rng(3).random()


# What may come, and how often. --------------------------------------------------------------------

LOGITS = [1.0, 3.0, 2.0, 1.0, 3.0, -4.0, 2.5, 1.0]  # with equals


def drawn(ops, logits, us, choice):
    """The tokens that numbers u draw from logits, each in a row of its own."""
    model = rnnfast.Rnnlm(len(logits), 2, 2, rng=0, dtype="float64", ops=ops)
    model.affine.params[0][...] = 0
    model.affine.params[1][...] = logits
    first = np.zeros(len(us), np.int64)
    return model.writer(first, None, 1, choice).write(np.array(us)[:, None])[:, 0]


def allowed(logits, choice):
    """Probabilities by the definition: a token may come if fewer than `top_k` are likelier, and
    those that are have less than `top_p` of the probability of the `top_k` likeliest."""
    p = np.exp(np.array(logits) / choice.temperature)
    p[[*choice.skip_ids]] = 0
    ranks = sorted(set(range(len(p))) - {*choice.skip_ids}, key=lambda v: (-logits[v], v))
    ranks = ranks[: choice.top_k]
    total = sum(p[v] for v in ranks)
    sums = [sum(p[v] for v in ranks[:k]) for k in range(len(ranks))]
    kept = [v for v, so_far in zip(ranks, sums, strict=True) if so_far < choice.top_p * total]
    p[[v for v in range(len(p)) if v not in kept]] = 0
    return p / p.sum()


OPS = pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["kernels", "reference"])
CHOICES = [
    Choice(temperature, top_k, top_p, skip_ids)
    for temperature in (1.0, 0.3, 5.0)
    for top_k in (None, 1, 2, 3, 5, 8, 100)
    for top_p in (1.0, 0.9, 0.5, 0.2, 1e-9)
    for skip_ids in ([], [1], [5, 4])
]


@OPS
def test_top_k_and_top_p_leave_what_their_definition_says(ops):
    """Counted exactly: of n equally spaced u, a token of probability p has n p, but for one."""
    n = 300
    us = (np.arange(n) + 0.5) / n
    for choice in CHOICES:
        counts = np.bincount(drawn(ops, LOGITS, us, choice), minlength=len(LOGITS))
        expected = allowed(LOGITS, choice)
        np.testing.assert_array_less(abs(counts - n * expected), 1 + 1e-6, err_msg=str(choice))
        assert (counts[expected == 0] == 0).all(), choice


@OPS
@pytest.mark.parametrize(
    ("logits", "choice", "kept"),
    [
        ([0, 0, 0, 0], Choice(top_k=3), {0, 1, 2}),  # of equals the first
        ([0, 0, 0, 0], Choice(top_p=0.5), {0, 1}),  # reaches it, to the bit
        ([0, 0, 0, 0], Choice(top_p=np.nextafter(0.5, 1)), {0, 1, 2}),
        ([0, 0, 0, 0], Choice(top_k=2, top_p=0.5), {0}),  # of what top_k has left
        ([0, 1, 0, 1], Choice(top_k=3), {0, 1, 3}),
        ([5, 5, 0, 0], Choice(top_k=2, skip_ids=[0]), {1, 2}),  # skipped first
        ([9, 0, 0, -9], Choice(temperature=100.0, top_p=0.3), {0, 1}),  # temperature first
        ([9, 0, 0, -9], Choice(temperature=0.1, top_p=0.9), {0}),
        ([0, -np.inf, 1, -np.inf], Choice(top_k=4), {0, 2}),
        ([0, 1, 2, 3], Choice(temperature=0, top_k=2, top_p=0.9), {3}),
    ],
)
def test_edges_of_top_k_and_top_p(ops, logits, choice, kept):
    us = [*np.linspace(0, 1, 200, endpoint=False), np.nextafter(1, 0)]
    assert set(drawn(ops, logits, us, choice).tolist()) == kept


def test_kernel_and_twin_draw_the_same_from_many_tokens():
    """Heaps of all sizes, with many equals."""
    rng = np.random.default_rng(0)
    for V in (2, 3, 5, 16, 17, 100, 1000):
        logits, us = rng.integers(-8, 5, V) / 2, rng.random(50)
        for choice in CHOICES[::7]:
            choice = choice._replace(skip_ids=[k for k in choice.skip_ids if k < V - 1])
            found = [drawn(ops, logits, us, choice) for ops in (kernels, numpy_ops)]
            np.testing.assert_array_equal(*found)


def test_settings_that_change_nothing():
    model = _model()
    plain = rnnfast.generate(model, [1], 40, rng=0).tolist()
    for options in ({"top_k": 5}, {"top_k": 10**30}, {"top_p": 1}, {"stop_ids": []}):
        assert rnnfast.generate(model, [1], 40, rng=0, **options).tolist() == plain
    greedy = rnnfast.generate(model, [1], 40, temperature=0).tolist()
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 0, "top_k": 3}):
        assert rnnfast.generate(model, [1], 40, rng=0, **options).tolist() == greedy
    rng = np.random.default_rng(0)
    rnnfast.generate(model, [1], 40, temperature=0, rng=rng)  # needs no random numbers
    assert rng.random() == np.random.default_rng(0).random()


# Several samples, their ends, and streams. --------------------------------------------------------


class _Opaque:
    """A language model that has no `infer`."""

    def __init__(self):
        self.model = _sharp()
        self.vocab_size = self.model.vocab_size
        for name in ("predict", "get_state", "set_state", "reset_state"):
            setattr(self, name, getattr(self.model, name))


def _sharp():
    model = _model()
    for W in model.params:
        W *= 8  # so that what was read matters
    return model


SEVERAL = MODELS | {
    "sharp": _sharp,
    "opaque": _Opaque,
    "tied": lambda: rnnfast.GruRnnlm(5, 6, 6, tie_weights=True, rng=0),
    "numpy": lambda: rnnfast.GruRnnlm(5, 4, 6, num_layers=2, rng=0, ops=numpy_ops),
}
several = pytest.mark.parametrize("make", SEVERAL.values(), ids=SEVERAL)


@several
@pytest.mark.parametrize("length", [7, 30])
def test_samples_are_those_of_as_many_calls(make, length):
    """Whatever their number; with weights packed and read where they stand."""
    model, options = make(), {"temperature": 0.7, "top_k": 4, "stop_ids": [2]}
    rng = np.random.default_rng(5)
    calls = [rnnfast.generate(model, [1, 3], length, rng=rng, **options).tolist() for _ in range(9)]
    for samples in (1, 2, 9):
        ids = rnnfast.generate(model, [1, 3], length, samples=samples, rng=5, **options)
        assert ids.dtype == np.int64
        assert ids.shape == (samples, max(map(len, calls[:samples])))
        assert [row[row != PADDING].tolist() for row in ids] == calls[:samples]


@several
def test_a_sample_ends_with_a_stop_token(make):
    model, seeds = make(), range(20)
    for seed in seeds:
        whole = rnnfast.generate(model, [1], 30, rng=seed).tolist()
        stops = [min(whole.index(k) for k in (2, 4) if k in whole)] if {2, 4} & {*whole} else []
        expected = whole[: stops[0] + 1] if stops else whole
        found = rnnfast.generate(model, [1], 30, rng=seed, stop_ids=[2, 4])
        assert found.tolist() == expected
    ids = rnnfast.generate(model, [1], 30, samples=6, stop_ids=range(5), rng=0)
    assert ids.shape == (6, 1)
    assert rnnfast.generate(model, [1], 0).shape == (0,)
    assert rnnfast.generate(model, [1], 0, samples=3, stop_ids=[1]).shape == (3, 0)


@several
@pytest.mark.parametrize("samples", [None, 1, 4])
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_p": 0.8, "stop_ids": [2]}])
def test_streams_are_what_generate_returns(make, samples, options):
    model, options = make(), options | {"samples": samples, "skip_ids": [0]}
    for length in (1, 7, 30):
        parts = [*rnnfast.stream(model, [1, 3], length, rng=0, **options)]
        assert {part.shape for part in parts} == {(1,) if samples is None else (samples, 1)}
        whole = rnnfast.generate(model, [1, 3], length, rng=0, **options)
        np.testing.assert_array_equal(np.concatenate(parts, -1), whole)
    assert [*rnnfast.stream(model, [1], 0)] == []


@several
def test_streams_keep_to_themselves(make):
    """Two at once, one closed early; the model computes and samples meanwhile."""
    model = make()
    model.predict(np.array([[1, 2], [3, 4]]))
    carried = _carried(model)
    a, b = (rnnfast.stream(model, [1], 20, rng=seed) for seed in (0, 1))
    texts = [[], []]
    for _ in range(20):
        for text, stream in zip(texts, (a, b), strict=True):
            if len(texts[1]) < 10 or stream is a:
                text.extend(next(stream).tolist())
        rnnfast.generate(model, [2], 2)
        assert all(map(np.array_equal, _carried(model), carried))
    b.close()
    assert next(a, None) is None
    assert texts[0] == rnnfast.generate(model, [1], 20, rng=0).tolist()
    assert texts[1] == rnnfast.generate(model, [1], 20, rng=1).tolist()[:10]


def test_a_stream_draws_its_numbers_at_once():
    rng = np.random.default_rng(0)
    stream = rnnfast.stream(_sharp(), [1], 20, rng=rng)
    rng.random(100)
    ids = np.concatenate([*stream])
    assert ids.tolist() == rnnfast.generate(_sharp(), [1], 20, rng=0).tolist()


KINDS = [
    *(np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64),
    np.random.RandomState,
]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_drawn_in_parts(kind, monkeypatch):
    """They and the generator are as if all were drawn at once."""
    rng = kind(3) if kind is np.random.RandomState else np.random.Generator(kind(3))
    if kind is not np.random.RandomState:
        rng.integers(9, dtype=np.uint32)  # half a word is left
    expected = copy.deepcopy(rng)
    monkeypatch.setattr(_random, "AT_ONCE", 7)
    for rows, length in ((1, 20), (3, 20), (9, 5), (1, 7), (2, 0)):
        found = [*_random.uniforms(rng, rows, length)]
        assert all(part.size <= max(7, rows) for part in found)
        np.testing.assert_array_equal(np.hstack(found), expected.random((rows, length)))
        assert str(_random.state_of(rng)) == str(_random.state_of(expected))


@several
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"stop_ids": [2]}])
def test_a_long_text_in_parts(make, options, monkeypatch):
    for samples in (None, 4):
        arguments = make(), [1, 3], 30
        expected = rnnfast.generate(*arguments, samples=samples, rng=0, **options)
        with monkeypatch.context() as patch:
            patch.setattr(_random, "AT_ONCE", 12)
            for rng in (0, np.random.RandomState(np.random.PCG64(0))):
                found = rnnfast.generate(*arguments, samples=samples, rng=rng, **options)
                np.testing.assert_array_equal(found, expected)
            parts = [*rnnfast.stream(*arguments, samples=samples, rng=0, **options)]
            np.testing.assert_array_equal(np.concatenate(parts, -1), expected)


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_a_text_without_end_takes_no_memory(temperature):
    length = 5 * 10**7
    options = {"temperature": temperature, "rng": 0}
    tracemalloc.start()
    try:
        stream = rnnfast.stream(_model(), [1], length, **options)
        begun = [int(next(stream)[0]) for _ in range(5)]
        stops = rnnfast.generate(_model(), [1], length, stop_ids=begun[-1:], **options)
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()
    assert begun == rnnfast.generate(_model(), [1], 20, **options).tolist()[:5]
    assert len(stops) <= 5


@pytest.mark.usefixtures("threads_for_small_calls")
@pytest.mark.parametrize("samples", [5, 40])
def test_samples_in_threads(samples):
    """Rows are dealt out to threads, and their numbers stay."""
    model = rnnfast.Rnnlm(300, 33, 40, num_layers=2, rng=0)
    results = []
    for threads in (1, 2, 3, 7):
        engine.set_num_threads(threads)
        results.append(
            rnnfast.generate(model, [1, 2], 30, samples=samples, top_k=9, stop_ids=[3], rng=0)
        )
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


# Logits that are no numbers. ----------------------------------------------------------------------


@several
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers(make, temperature):
    model, rng = make(), np.random.default_rng(0)
    params = getattr(model, "model", model).params
    sound = params[-1].copy()
    for bad in (np.nan, np.inf):
        params[-1][...] = sound
        params[-1][3] = bad
        for samples in (None, 3):
            options = {"temperature": temperature, "samples": samples, "rng": rng}
            with pytest.raises(InputError, match="model: expected logits that are finite numbers"):
                rnnfast.generate(model, [1], 3, **options)
            assert rng.random() == np.random.default_rng(0).random()
            rng = np.random.default_rng(0)
            stream = rnnfast.stream(model, [1], 3, **options)
            with pytest.raises(InputError, match="model: expected logits that are finite numbers"):
                next(stream)
            rng = np.random.default_rng(0)
    params[-1][3] = -np.inf  # a token that cannot come
    assert 3 not in rnnfast.generate(model, [1], 50, temperature=temperature)


@OPS
def test_broken_rows_do_not_reach_others(ops):
    """Below `generate`, which raises an error."""
    model = rnnfast.Rnnlm(5, 4, 6, rng=0, ops=ops)
    model.embedding.params[0][2] = np.nan
    ids = model.writer(np.array([1, 2, 3]), None, 4, Choice(skip_ids=[2])).write(
        np.full((3, 4), 0.5)
    )
    assert ids[1].tolist() == [BROKEN, ENDED, ENDED, ENDED]
    assert (ids[[0, 2]] >= 0).all()
    assert ENDED == PADDING


@pytest.mark.parametrize("part", ["embedding", "recurrent", "affine"])
@pytest.mark.parametrize(("dtype", "other"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_layers_of_two_dtypes(part, dtype, other):
    """A layer may get weights of another dtype; what writes reads all as one."""
    model = rnnfast.Rnnlm(50, 16, 64, rng=0, dtype=dtype)
    layer = model.recurrent_layers[0] if part == "recurrent" else getattr(model, part)
    for arrays in (layer.params, layer.grads):
        arrays[:] = [array.astype(other) for array in arrays]
    for length in (5, 200):
        generator = np.random.default_rng(0)
        with pytest.raises(TypeError, match="give all layers of the model one dtype"):
            rnnfast.generate(model, [1], length, samples=3, rng=generator)
        assert generator.random() == np.random.default_rng(0).random()


def test_what_a_writer_is_asked_for():
    model = _model()
    with pytest.raises(ValueError, match=r"^first: expected token ids in 0..4, got 5 at"):
        model.writer(np.array([1, 5]), None, 3, Choice())
    writer = model.writer(np.array([1, 2]), None, 3, Choice())
    for shape in ((1, 3), (3, 3), (2,)):
        with pytest.raises(
            ValueError, match=r"^uniforms: expected random numbers of shape \(2, K\)"
        ):
            writer.write(np.zeros(shape))
    assert writer.write(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("wrong", range(5))
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_after"])
def test_a_writer_is_made_of_weights_that_fit(cell, wrong):
    V, D, H = 5, 3, 4
    cell = rnnfast.cells.CELLS[cell]
    columns = cell.G * H
    shapes = [(D, columns), (H, columns), (columns,), (columns,)][: len(cell.weights)]
    states = [np.zeros((cell.S, 2, H))]

    def make(shapes, states):
        layer = (cell, *map(np.ones, shapes))
        ids = np.zeros(2, int)
        return kernels.writer(
            np.ones((V, D)), [layer], np.ones((H, V)), np.ones(V), states, ids, 2, Choice()
        )

    assert make(shapes, states).write(np.full((2, 2), 0.5)).shape == (2, 2)
    if wrong < len(shapes):
        *rows, last = shapes[wrong]
        shapes[wrong] = (*rows, last - 1)
    else:
        states = [np.zeros((cell.S, 2, H + 1))]
    with pytest.raises(ValueError, match="expected the shapes"):
        make(shapes, states)
