"""Generation draws from the model's own distribution, and leaves its state alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sequences import CELLS

import rnnfast
from rnnfast.layers import time_layer
from rnnfast.reference import ops as numpy_ops
from rnnfast.reference.generation import Choice


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


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
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
        (([1], 3), {"temperature": float("nan")}, "temperature: expected"),
        (([1], True), {}, "length: expected"),
        (([1], 3), {"temperature": True}, "temperature: expected"),
        (([1], 3), {"skip_ids": [9]}, "skip_ids: expected"),
        (([1], 3), {"skip_ids": 2}, r"skip_ids: expected an array of shape \(M,\), got \(\)"),
        (([1], 3), {"skip_ids": [[2]]}, r"skip_ids: expected an array of shape \(M,\), got"),
        (([1], 3), {"skip_ids": [0, 1, 2, 3, 4]}, "skip_ids: expected to leave"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.generate(_model(), *arguments, **options)
