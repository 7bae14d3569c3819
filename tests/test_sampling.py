"""Generation draws from the model's own distribution, and leaves its state alone."""

import numpy as np
import pytest

import rnnfast


def _model():
    return rnnfast.Rnnlm(5, 4, 6, rng=np.random.default_rng(0), dtype=np.float64)


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


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], 3), {}, "prime: expected"),
        (([5], 3), {}, r"prime: .*0\.\.4.*got 5"),
        (([1], -1), {}, "length: expected"),
        (([1], 3), {"temperature": -1.0}, "temperature: expected"),
        (([1], 3), {"temperature": float("nan")}, "temperature: expected"),
        (([1], 3), {"skip_ids": [9]}, "skip_ids: expected"),
        (([1], 3), {"skip_ids": [0, 1, 2, 3, 4]}, "skip_ids: expected to leave"),
    ],
)
def test_bad_arguments(arguments, options, message):
    error = TypeError if arguments[0] == [] else ValueError
    with pytest.raises(error, match=message):
        rnnfast.generate(_model(), *arguments, **options)
