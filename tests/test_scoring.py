"""Log probabilities are those that the softmax of the logits says, token by token."""

import doctest

import numpy as np
import pytest
from problems import MODELS

import rnnfast
from rnnfast import InputError
from rnnfast.reference import ops as numpy_ops
from rnnfast.text import sampling, scoring

IDS = np.random.default_rng(0).integers(0, 5, 60)


def _model(Model=rnnfast.Rnnlm, **options):
    model = Model(5, 6, 6, rng=0, dtype="float64", **options)
    for W in model.params:
        W *= 4  # so that what was read matters
    return model


def by_hand(model, prime, ids):
    """One prefix after the other, from zeros."""
    found = []
    for k, token in enumerate(ids):
        logits = model.infer([[*prime, *ids[:k]]])[0][0, -1]
        p = np.exp(logits - logits.max())
        found.append(np.log(p[token] / p.sum()))
    return found


@pytest.mark.parametrize("block", [1, 7, 35, 2**20])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2}, {"tie_weights": True}, {"ops": numpy_ops}]
)
@pytest.mark.parametrize("Model", MODELS)
def test_log_probabilities_by_hand(Model, options, block, monkeypatch):
    """In blocks of any length, the state carried from one to the next."""
    monkeypatch.setattr(scoring, "BLOCK", block)
    model = _model(Model, **options)
    model.predict(IDS[None, :3])
    carried = [*model.get_state()]
    for prime, ids in ((IDS[:1], IDS[1:]), (IDS[:9], IDS[9:10]), (IDS[:9], IDS[9:30])):
        found = rnnfast.log_probabilities(model, prime, ids)
        assert (found.shape, found.dtype) == (ids.shape, np.float64)
        np.testing.assert_allclose(found, by_hand(model, prime, ids), rtol=1e-11, atol=1e-13)
    assert model.get_state() == carried


def test_a_network_of_ones_own():
    model = _model()
    affine = rnnfast.TimeAffine(*model.affine.params)
    layers = [model.embedding, *model.recurrent_layers, affine]
    network = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())
    given = [1, 2], IDS[:20]
    expected = rnnfast.log_probabilities(model, *given)
    np.testing.assert_allclose(rnnfast.log_probabilities(network, *given), expected, rtol=1e-11)
    with pytest.raises(TypeError, match="logits, got one with probabilities"):
        rnnfast.log_probabilities(
            rnnfast.PerplexityRnnlm.random(5, 3, 3, batch_size=1, rng=0), *given
        )
    with pytest.raises(TypeError, match="model: expected a Network, or what has a method infer"):
        rnnfast.log_probabilities(type("Table", (), {"vocab_size": 5})(), *given)


def test_their_mean_is_the_loss():
    model = _model()
    loss = -rnnfast.log_probabilities(model, IDS[:1], IDS[1:]).mean()
    assert loss == pytest.approx(rnnfast.evaluate(model, IDS, batch_size=1), rel=1e-12)


def test_rows_that_end_early():
    """What `generate` returns may be scored as it is."""
    model = _model()
    rows = rnnfast.generate(model, [1, 2], 30, samples=8, stop_ids=[3, 4], rng=1)
    lengths = (rows >= 0).sum(1)
    assert lengths.min() < lengths.max()
    found = rnnfast.log_probabilities(model, [1, 2], rows)
    for row, log_p, length in zip(rows, found, lengths, strict=True):
        alone = rnnfast.log_probabilities(model, [1, 2], row[:length])
        np.testing.assert_allclose(log_p[:length], alone, rtol=1e-11)
        assert (log_p[length:] == 0).all()


def test_float32_is_summed_in_float64():
    """A probability that float32 cannot hold."""
    model = rnnfast.SimpleRnnlm(3, 2, 2, rng=0)
    model.affine.params[0][...] = 0
    model.affine.params[1][...] = [0, 200, -200]
    found = rnnfast.log_probabilities(model, [0], [1, 0, 2])
    np.testing.assert_allclose(found, [0, -200, -400], rtol=1e-15, atol=1e-80)


def test_logits_that_are_no_numbers():
    model = _model()
    model.embedding.params[0][2] = np.nan
    with pytest.raises(InputError, match="model: expected logits that are finite numbers, got NaN"):
        rnnfast.log_probabilities(model, [1], [1, 2, 1])
    assert np.isfinite(rnnfast.log_probabilities(model, [1], [1, 2])).all()


@pytest.mark.parametrize(
    ("prime", "ids", "message"),
    [
        ([], [1], r"prime: expected an array of shape \(M,\), got \(0,\)"),
        ([5], [1], r"prime: expected token ids in 0\.\.4, got 5"),
        ([-1], [1], "prime: expected token ids"),
        ([[1]], [1], r"prime: expected an array of shape \(M,\)"),
        ([1], [], r"ids: expected an array of shape \(M,\) or \(N, M\), got \(0,\)"),
        ([1], 2, r"ids: expected an array of shape \(M,\) or \(N, M\), got \(\)"),
        ([1], [[[2]]], r"ids: expected .* got \(1, 1, 1\)"),
        ([1], [2, 5], r"ids: expected token ids in 0\.\.4 .* got 5 at position \(1,\)"),
        ([1], [[2, -1, 2]], "ids: expected -1 at the end of a row only"),
        ([1], [[1], [1, 2]], "ids: expected an array, got rows of different shapes"),
    ],
)
def test_bad_arguments(prime, ids, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.log_probabilities(_model(), prime, ids)
    with pytest.raises(TypeError, match="ids: expected token ids of an integer dtype"):
        rnnfast.log_probabilities(_model(), [1], [1.5])


@pytest.mark.parametrize("module", [sampling, scoring])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
