"""Copies and pickles of models: they compute the same, and share nothing with what they are of."""

import copy
import pickle

import numpy as np
import pytest
from problems import BIDIRECTIONAL, RECURRENT, make_problem
from problems import MODELS as LANGUAGE_MODELS

import rnnfast
from rnnfast import kernels
from rnnfast.layers import Layer
from rnnfast.reference import ops as numpy_ops

V, H = 11, 6
IDS = np.random.default_rng(9).integers(0, V, (2, 3, 5))

copied = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def network(ops):
    """A table that is used as it is, and transposed, by two layers and the loss."""
    W = normal(V, H)
    weights = normal(H, 4 * H), normal(H, 4 * H), normal(4 * H)
    layers = {
        "words": rnnfast.TimeEmbedding(W, ops=ops),
        "lstm": rnnfast.TimeLSTM(*weights, stateful=True, ops=ops),
        "there": rnnfast.TimeAffine(W.T, normal(V), ops=ops),
        "back": rnnfast.TimeAffine(W, normal(H), ops=ops),
    }
    return rnnfast.Network(layers, rnnfast.TimeAffineWithLoss(W.T, normal(V), ops=ops))


MODELS = {
    "network": network,
    **{
        f"{Model.__name__}{' tied' * tied}": lambda ops, Model=Model, tied=tied: Model(
            V, H, H, num_layers=2, tie_weights=tied, rng=0, ops=ops
        )
        for Model in LANGUAGE_MODELS
        for tied in (False, True)
    },
    **{
        Model.__name__: lambda ops, Model=Model: Model(V, H, H, rng=0, ops=ops)
        for Model in (rnnfast.Seq2seq, rnnfast.PeekySeq2seq, rnnfast.AttentionSeq2seq)
    },
    "CharRnn": lambda ops: rnnfast.CharRnn.seeded(V, H, ops=ops),
    "CharLstm": lambda ops: rnnfast.CharLstm.random(V, H, rng=0, ops=ops),
    "PerplexityRnnlm": lambda ops: rnnfast.PerplexityRnnlm.random(
        V, H, H, batch_size=2, stateful=True, rng=0, ops=ops
    ),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
both_ops = pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])


def train(model):
    """Losses and weights of three steps, of which each starts where the one before ended."""
    optimizer, results = rnnfast.Momentum(0.1), []
    for _ in range(3):
        results.append(model.forward(*IDS))
        model.backward()
        optimizer.update(model.params, model.grads)
        results += [W.copy() for W in (*model.params, *model.grads)]
    return results


def layers_of(model):
    return [x for x in (*model.layers, model.loss_layer) if isinstance(x, Layer)]


@copied
@both_ops
@every_model
def test_a_copy_computes_the_same_and_shares_nothing(make, ops, copied):
    model = make(ops)
    model.forward(*IDS)  # a state is carried, and something kept for backward
    other = copied(model)
    assert type(other) is type(model)
    for layer, its_copy in zip(layers_of(model), layers_of(other), strict=True):
        assert its_copy.ops is layer.ops
    for array, its_copy in zip(
        (*model.params, *model.grads), (*other.params, *other.grads), strict=True
    ):
        assert not np.may_share_memory(array, its_copy)
    before = [W.copy() for W in model.params]
    learnt = train(other)
    for W, old in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(W, old)
    for ours, others in zip(train(model), learnt, strict=True):
        np.testing.assert_array_equal(ours, others)


@copied
@every_model
def test_lists_of_a_copy_hold_the_arrays_of_its_layers(make, copied):
    other = copied(make(kernels))
    for kind in ("params", "grads"):
        named = getattr(other, f"named_{kind}")().values()
        for listed, array in zip(getattr(other, kind), named, strict=True):
            assert listed is array
        own = [array for layer in layers_of(other) for array in getattr(layer, kind)]
        assert all(any(array is its for its in own) for array in getattr(other, kind))


@copied
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("make", "table", "uses"),
    [
        (network, "words.W", ["there.W", "back.W", "loss.W"]),
        *((MODELS[f"{Model.__name__} tied"], "embedding.W", []) for Model in LANGUAGE_MODELS),
    ],
    ids=["network", *(Model.__name__ for Model in LANGUAGE_MODELS)],
)
def test_tied_weights_stay_tied(make, table, uses, copied, times):
    model = make(kernels)
    for _ in range(times):
        model = copied(model)
    named = model.named_params()
    tied = [*(named[name] for name in uses), model.loss_layer.params[0]]
    assert all(np.shares_memory(named[table], W) for W in tied)
    named[table][2, 3] = 5
    assert tied[-1][3, 2] == 5
    changed = model.predict(IDS[0])
    for layer in layers_of(model):
        layer.params[:] = [W.copy() for W in layer.params]
    model.reset_state()
    np.testing.assert_array_equal(model.predict(IDS[0]), changed)


def test_a_shallow_copy_shares_its_layers_and_changes_nothing():
    model = network(kernels)
    model.forward(*IDS)
    params = list(model.params)
    other = copy.copy(model)
    assert other.layers is model.layers
    for W, before in zip(model.named_params().values(), params, strict=True):
        assert W is before
    model.backward()


@copied
@pytest.mark.parametrize("name", [*RECURRENT, *BIDIRECTIONAL])
def test_a_state_that_is_changed_in_a_copy_counts(name, copied):
    problem = make_problem(name)
    layer = problem.layer(rnnfast)
    problem.forward(layer)
    other = copied(layer)
    other.h[...] = 0.5
    layer.h[...] = 0.5
    np.testing.assert_array_equal(problem.forward(other)["h"], problem.forward(layer)["h"])


@copied
def test_weights_of_a_copied_estimator_are_those_of_its_network(copied):
    model = rnnfast.SequenceRegressor(5, epochs=2, random_state=0).fit([1, 2, 3], [2, 3, 4])
    other = copied(model)
    for W in other.weights_.values():
        W[...] = 0
    assert other.predict([1, 2, 3]).tolist() == [0, 0, 0]
    assert (model.predict([1, 2, 3]) != 0).all()


@pytest.mark.parametrize("Model", LANGUAGE_MODELS)
def test_setting_ops_of_a_language_model_reaches_its_layers(Model):
    model = Model(V, H, H, rng=0)
    assert model.ops is kernels
    model.ops = numpy_ops
    assert model.ops is numpy_ops
    assert all(layer.ops is numpy_ops for layer in layers_of(model))
