"""Language models: the initial weights of the textbook, params and grads, tied weights, state."""

import json
from operator import is_

import numpy as np
import pytest
from problems import MODELS, assert_close

import rnnfast
from rnnfast import kernels
from rnnfast.models import LANGUAGE_MODELS
from rnnfast.reference import ops as numpy_ops

models = pytest.mark.parametrize("Model", MODELS, ids=lambda Model: Model.__name__)
tied_or_not = pytest.mark.parametrize("tie_weights", [False, True], ids=["untied", "tied"])
V, D, H = 11, 6, 6


def batch(N=3, T=5, seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, N, T))


def draw(*shape, scale):
    return (np.random.randn(*shape) / scale).astype("f")  # as the textbook does


@models
def test_initial_weights_are_the_textbooks(Model):
    """Same seed, same draws: embedding, Wx, Wh, b, affine W, b; float32; sizes as positions."""
    D, H, G = 5, 7, Model.Cell.cell.G
    np.random.seed(3)
    model = Model(V, D, H)
    after = np.random.randn()
    np.random.seed(3)
    expected = [
        draw(V, D, scale=100),
        draw(D, G * H, scale=np.sqrt(D)),
        draw(H, G * H, scale=np.sqrt(H)),
        np.zeros(G * H, "f"),
        draw(H, V, scale=np.sqrt(H)),
        np.zeros(V, "f"),
    ]
    assert np.random.randn() == after
    for W, textbook in zip(model.params, expected, strict=True):
        np.testing.assert_array_equal(W, textbook, strict=True)


@models
def test_rng_is_where_weights_come_from(Model):
    """A generator of one's own leaves NumPy's global state alone."""
    np.random.seed(0)
    first, second, other = (
        Model(V, D, H, num_layers=2, rng=rng) for rng in (0, np.random.default_rng(0), 2)
    )
    at = np.random.randn()
    np.random.seed(0)
    assert np.random.randn() == at
    for a, b in zip(first.params, second.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.params[0], other.params[0])


@models
@tied_or_not
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_params_and_grads_are_aligned_and_stay(Model, tie_weights, num_layers, dtype):
    model = Model(V, D, H, num_layers=num_layers, tie_weights=tie_weights, dtype=dtype)
    assert len(model.params) == 1 + 3 * num_layers + (1 if tie_weights else 2)
    assert [W.shape for W in model.params] == [dW.shape for dW in model.grads]
    assert {array.dtype for array in model.params + model.grads} == {np.dtype(dtype)}
    members = [id(array) for array in model.params + model.grads]
    loss = model.forward(*batch())
    assert loss == pytest.approx(np.log(V), rel=0.2)
    model.backward()
    assert members == [id(array) for array in model.params + model.grads]
    assert all(dW.any() for dW in model.grads)
    for W in model.params:  # all of them are what the layers compute with
        W[...] = 0
    assert model.forward(*batch()) == pytest.approx(np.log(V), rel=1e-6)


@tied_or_not
def test_parameters_of_a_language_model_have_names(tie_weights):
    model = rnnfast.Rnnlm(V, D, H, num_layers=2, tie_weights=tie_weights)
    cells = [f"recurrent.{k}.{name}" for k in range(2) for name in ("Wx", "Wh", "b")]
    affine = ["affine.b"] if tie_weights else ["affine.W", "affine.b"]
    assert list(model.named_params()) == ["embedding.W", *cells, *affine]
    assert list(model.named_grads()) == list(model.named_params())
    assert all(map(is_, model.named_params().values(), model.params))
    assert all(map(is_, model.named_grads().values(), model.grads))


class Nameless:
    """A layer as in the textbook."""

    def __init__(self, W):
        self.params, self.grads = [W], [np.zeros_like(W)]

    def forward(self, xs):
        return xs * self.params[0]


def affine(rows, columns):
    return rnnfast.TimeAffine(np.ones((rows, columns)), np.zeros(columns))


def test_parameters_of_a_network_have_names():
    layers, W = [affine(2, 3), affine(3, 2), Nameless(np.ones(2))], np.ones((2, 4))
    loss = rnnfast.TimeAffineWithLoss(W, np.zeros(4))
    network = rnnfast.Network(layers, loss)
    names = ["0.W", "0.b", "1.W", "1.b", "2.0", "loss.W", "loss.b"]
    assert list(network.named_params()) == list(network.named_grads()) == names
    assert all(map(is_, network.named_params().values(), network.params))
    assert network.named_params()["loss.W"] is W
    network = rnnfast.Network(dict(zip(("in", "a.b", "out"), layers, strict=True)), loss)
    assert list(network.named_params())[:5] == ["in.W", "in.b", "a.b.W", "a.b.b", "out.0"]
    assert network.layer_names == ("in", "a.b", "out")


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("kind", ["params", "grads"])
def test_arrays_that_an_optimizer_would_miss(kind, tie_weights):
    """Training with them would change arrays that no layer computes with, or take old gradients."""
    ids = np.zeros((1, 2), int)
    for of_layer in (True, False):
        model = rnnfast.Rnnlm(5, 3, 3, tie_weights=tie_weights, rng=0)
        arrays = getattr(model.layers[1] if of_layer else model, kind)
        arrays[1] = arrays[1].copy()
        model.forward(ids, ids)
        name = "recurrent.0.Wh" if of_layer else "recurrent.0.Wx"
        with pytest.raises(
            RuntimeError, match=rf"expected in {kind} .*, got another one as {name};"
        ):
            model.backward()


def test_names_that_are_none():
    loss = rnnfast.TimeAffineWithLoss(np.ones((3, 4)), np.zeros(4))
    for other in (loss, rnnfast.TimeSquaredLoss()):
        with pytest.raises(ValueError, match="layers: expected no layer named loss"):
            rnnfast.Network({"loss": affine(2, 3)}, other)
    one, other = affine(2, 3), affine(3, 3)
    other.named_params = lambda: {"b.W": other.params[0], "b": other.params[1]}
    with pytest.raises(ValueError, match=r"every parameter a name of its own, got a\.b, a"):
        rnnfast.Network({"a.b": one, "a": other}, loss)
    for name in (1, ""):
        with pytest.raises(TypeError, match="layers: expected names"):
            rnnfast.Network({name: affine(2, 3)}, loss)
    for name in ("a\0b", "a\n", "\ud800", "a\\b"):  # NumPy and zipfile would cut or change them
        with pytest.raises(ValueError, match="layers: expected names of printable"):
            rnnfast.Network({name: affine(2, 3)}, loss)


def test_a_layer_stands_in_one_place():
    """Its backward knows the last forward only: gradients of the first would be lost."""
    layer, loss = affine(3, 3), rnnfast.TimeSquaredLoss()
    for layers in ([layer, affine(3, 3), layer], {"a": layer, "b": layer}):
        with pytest.raises(ValueError, match="layers: expected every layer in one place"):
            rnnfast.Network(layers, loss)
    with pytest.raises(ValueError, match="in one place, got the same one in two of 0, loss; make"):
        rnnfast.Network([loss], loss)
    rnnfast.Network([layer, rnnfast.TimeAffine(*layer.params)], loss)


@models
@tied_or_not
def test_compiled_equals_numpy(Model, tie_weights):
    options = {"num_layers": 2, "tie_weights": tie_weights, "dtype": np.float64}
    ours, twin = (
        Model(V, D, H, rng=np.random.default_rng(0), ops=ops, **options)
        for ops in (rnnfast.kernels, numpy_ops)
    )
    for seed in range(3):
        xs, ts = batch(seed=seed)
        assert ours.forward(xs, ts) == pytest.approx(twin.forward(xs, ts), rel=1e-12)
        ours.backward(0.5)
        twin.backward(0.5)
        for k, (a, b) in enumerate(zip(ours.grads, twin.grads, strict=True)):
            assert_close(a, b, name=f"grads[{k}]")
    assert_close(ours.predict(xs), twin.predict(xs))


@models
def test_tied_weights_share_memory_and_collect_both_gradients(Model):
    tied = Model(V, D, H, tie_weights=True, dtype=np.float64)
    assert np.shares_memory(tied.embedding.params[0], tied.affine.params[0])
    assert tied.params[0] is tied.embedding.params[0]

    untied = Model(V, D, H, dtype=np.float64)
    *others, affine_W, affine_b = untied.params
    for W, value in zip([*others, affine_b], tied.params, strict=True):
        W[...] = value
    affine_W[...] = tied.params[0].T
    for model in (tied, untied):
        model.forward(*batch())
        model.backward()
        model.backward()  # a second time changes nothing
    assert_close(tied.grads[0], untied.grads[0] + untied.grads[-2].T)
    for ours, theirs in zip(tied.grads[1:], untied.grads[1:-2] + untied.grads[-1:], strict=True):
        assert_close(ours, theirs)

    rnnfast.SGD(0.1).update(tied.params, tied.grads)
    np.testing.assert_array_equal(tied.affine.params[0], tied.embedding.params[0].T)


@models
@tied_or_not
def test_blocks_equal_one_long_run(Model, tie_weights):
    model = Model(V, D, H, num_layers=2, tie_weights=tie_weights, dtype=np.float64)
    xs, _ = batch(T=12)
    whole = model.predict(xs)
    assert not np.allclose(model.predict(xs), whole)  # carries on
    model.reset_state()
    blocks = [model.predict(block) for block in np.split(xs, [1, 5, 7], axis=1)]
    assert_close(np.concatenate(blocks, axis=1), whole)


@models
def test_states_that_do_not_fit(Model):
    model = Model(V, D, H, num_layers=2)
    model.predict(batch()[0])
    before = [part.copy() for layer in model.get_state() for part in layer]
    fits, unfit = (np.ones((2, H)),), (np.ones((2, H + 1)),)
    for states, message in (
        ([fits], "^states: expected 2, one for each recurrent layer, got 1"),
        (iter([fits] * 3), "^states: expected 2, one for each recurrent layer, got 3"),
        ([fits, unfit], "^h: expected an array of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model.set_state(states)
        for part, kept in zip(sum(model.get_state(), ()), before, strict=True):
            np.testing.assert_array_equal(part, kept)


@models
def test_get_state_and_set_state(Model):
    model = Model(V, D, H, num_layers=2)
    xs, ts = batch()
    assert all(part is None for layer in model.get_state() for part in layer)
    model.predict(xs)
    carried = model.get_state()
    assert [part.shape for layer in carried for part in layer] == [(3, H)] * len(sum(carried, ()))
    loss = model.forward(xs, ts)
    assert model.forward(xs, ts) != loss
    model.set_state(carried)
    assert model.forward(xs, ts) == loss
    model.reset_state()
    assert all(part is None for layer in model.get_state() for part in layer)


@models
@tied_or_not
def test_models_learn(Model, tie_weights):
    """A text of period 7, far below the entropy of guessing."""
    model = Model(V, 16, 16, tie_weights=tie_weights, rng=np.random.default_rng(0))
    optimizer = rnnfast.Adam(0.02)
    ids = np.resize([0, 1, 2, 0, 3, 2, 4], (4, 1401))
    for start in range(0, 1400, 7):
        loss = model.forward(ids[:, start : start + 7], ids[:, start + 1 : start + 8])
        model.backward()
        rnnfast.clip_grads(model.grads, 1)
        optimizer.update(model.params, model.grads)
    assert loss < 0.05


# Networks that are no chain. ----------------------------------------------------------------------


class Weightless:
    """What layers without weights have."""

    def __init__(self):
        self.params, self.grads = [], []


class Attention(Weightless):
    """Dot products of queries (N, T, H) with keys (N, U, H), and of the weights with the keys;
    keys where the mask (N, U) is False have no weight."""

    def forward(self, queries, keys, *, mask=None):
        scores = queries @ keys.swapaxes(1, 2)
        if mask is not None:
            scores = np.where(mask[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        self._cache = queries, keys, weights
        return weights @ keys

    def backward(self, dout):
        queries, keys, weights = self._cache
        dweights = dout @ keys.swapaxes(1, 2)
        dscores = weights * (dweights - (weights * dweights).sum(axis=2, keepdims=True))
        dkeys = weights.swapaxes(1, 2) @ dout + dscores.swapaxes(1, 2) @ queries
        return dscores @ keys, dkeys


class Concatenation(Weightless):
    """Of any number of inputs, along the last axis."""

    def forward(self, *parts):
        self._ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
        return np.concatenate(parts, axis=-1)

    def backward(self, dout):
        return tuple(np.split(dout, self._ends, axis=-1))


class Masked(Weightless):
    """Leaves out positions: x mask, the mask being an input without a gradient."""

    def forward(self, x, mask):
        self._mask = mask[:, :, None]
        return x * self._mask

    def backward(self, dout):
        return dout * self._mask, None


class WeightedLoss(Weightless):
    """Half the sum of squares of the outputs, each row with its weight."""

    def forward(self, ys, ts, *, weight=1.0):
        self._cache = (ys - ts) * weight, ys - ts
        return float((self._cache[0] * self._cache[1]).sum() / 2)

    def backward(self, dout=1):
        return self._cache[0] * dout


def recurrent(D, H, Layer=rnnfast.TimeLSTM, seed=0):
    rng = np.random.default_rng(seed)
    G = 4 if Layer is rnnfast.TimeLSTM else 1
    return Layer(*(rng.standard_normal(s) for s in ((D, G * H), (H, G * H), G * H)))


def dense(D, M, seed=0):
    rng = np.random.default_rng(seed)
    return rnnfast.TimeAffine(rng.standard_normal((D, M)), rng.standard_normal(M))


def attending():
    """Two recurrent layers on different inputs, the second looking back at the first."""
    layers = {
        "encoder": recurrent(3, 4, seed=1),
        "kept": Masked(),
        "decoder": recurrent(2, 4, rnnfast.TimeRNN, seed=2),
        "attention": Attention(),
        "both": Concatenation(),
        "out": dense(8, 2),
    }
    inputs = {
        "encoder": "source",
        "kept": ("encoder", "source_mask"),
        "decoder": ("xs",),
        "attention": ("decoder", "kept"),
        "both": ("attention", "decoder"),
    }
    rng = np.random.default_rng(3)
    options = {
        "source": rng.standard_normal((2, 5, 3)),
        "source_mask": rng.random((2, 5)) < 0.8,
        "mask": np.arange(5) < [[5], [3]],
        "weight": np.array([[[1.0]], [[0.5]]]),
    }
    return rnnfast.Network(layers, WeightedLoss(), inputs=inputs), options


def diamond():
    """An output that is used three times, twice of them by one layer, and the input once more."""
    layers = {
        "a": dense(2, 3, seed=1),
        "b": recurrent(3, 3, seed=2),
        "c": Concatenation(),
        "out": dense(11, 2, seed=3),
    }
    inputs = {"c": ("a", "b", "a", "xs")}
    return rnnfast.Network(layers, WeightedLoss(), inputs=inputs), {}


@pytest.mark.parametrize("make", [attending, diamond])
def test_gradients_of_a_network_that_is_no_chain(make):
    network, options = make()
    xs, ts = np.random.default_rng(4).standard_normal((2, 2, 4, 2))
    network.forward(xs, ts, **options)
    for _ in range(2):
        network.backward(0.5)
    for name, W in network.named_params().items():
        dW, expected = network.named_grads()[name], np.empty_like(W)
        for where in np.ndindex(W.shape):
            value, sides = W[where], []
            for W[where] in (value + 1e-5, value - 1e-5):
                sides.append(network.forward(xs, ts, **options))
            W[where] = value
            expected[where] = 0.5 * (sides[0] - sides[1]) / 2e-5
        assert np.abs(expected).max() > 1e-3
        assert_close(dW, expected, 1e-7, name)


def test_options_go_to_the_layers_and_the_loss_that_take_them():
    network, options = attending()
    xs, ts = np.random.default_rng(4).standard_normal((2, 2, 4, 2))
    without = {name: options[name] for name in ("source", "source_mask")}
    logits = network.predict(xs, **without)
    assert not np.allclose(logits, network.predict(xs, **without, mask=options["mask"]))
    states = [np.zeros((2, 2, 4)), np.zeros((1, 2, 4))]
    for given in (None, states, [None, states[1]]):
        inferred, after = network.infer(xs, given, **without)
        np.testing.assert_array_equal(inferred, logits)
        assert [state.shape for state in after] == [(2, 2, 4), (1, 2, 4)]
    losses = [network.forward(xs, ts, **without, weight=w) for w in (1.0, 2.0)]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-14)
    for call in (network.predict, network.infer, lambda xs, **o: network.forward(xs, ts, **o)):
        with pytest.raises(TypeError, match=r"^maks: expected no such keyword .* take .*mask, "):
            call(xs, **without, maks=1)
        with pytest.raises(TypeError, match=r"^source_mask: expected as keyword argument"):
            call(xs, source=options["source"])
    with pytest.raises(TypeError, match=r"^weight: expected no such keyword"):  # of the loss
        network.predict(xs, **without, weight=1)
    with pytest.raises(ValueError, match=r"states: expected 2 arrays, .* got 1"):
        network.infer(xs, states[:1], **without)


def test_the_fused_loss_takes_its_option_in_any_network():
    layers = {"embedding": rnnfast.TimeEmbedding(np.ones((V, 2))), "rnn": recurrent(2, 3)}
    fused = rnnfast.TimeAffineWithLoss(np.ones((3, V)), np.zeros(V))
    network = rnnfast.Network(layers, fused)
    network.forward(*batch(), need_gradient=False)
    with pytest.raises(RuntimeError, match="with gradient"):
        network.backward()
    says = r"^length: expected no such .* take index, lengths, need_gradient, reset"
    with pytest.raises(TypeError, match=says):
        network.forward(*batch(), length=[1])


def sequences(ops):
    """Recurrent layers of one and of two directions, of which all take the same options."""
    rn = np.random.default_rng(0).standard_normal
    gru = [rn(shape) for shape in ((2, 3 * H), (H, 3 * H), 3 * H)]
    lstm = [rn(shape) for shape in ((H, 4 * D), (D, 4 * D), 4 * D)]
    layers = {
        "embedding": rnnfast.TimeEmbedding(rn((V, 2)), ops=ops),
        "gru": rnnfast.TimeGRU(*gru, True, reset_after=True, ops=ops),
        "both": rnnfast.TimeBiLSTM(*lstm, *(-W for W in lstm), True, ops=ops),
        "affine": rnnfast.TimeAffine(rn((2 * D, V)), rn(V), ops=ops),
    }
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(ops=ops))


@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
def test_sequences_in_a_network(ops):
    """Lengths and resets reach every recurrent layer, as does that there will be no backward."""
    network, (xs, ts) = sequences(ops), batch()
    lengths, reset = np.array([5, 0, 3]), np.random.default_rng(2).random((3, 5)) < 0.3
    ts[np.arange(5) >= lengths[:, None]] = -1
    options = {"lengths": lengths, "reset": reset}
    loss = network.forward(xs, ts, **options)
    assert network.backward() is None
    carried = network.get_state()
    shapes = [[(3, H)], [(2, 3, D)] * 2]
    assert [[part.shape for part in parts] for parts in carried] == shapes

    network.reset_state()
    assert network.forward(xs, ts, **options, need_gradient=False) == loss
    for layer in network.recurrent_layers:
        with pytest.raises(RuntimeError, match=r"hs: expected a forward call before it, with grad"):
            _ = layer.hs
    for ours, theirs in zip(network.get_state(), carried, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(part, other)

    logits, states = network.infer(xs, **options)
    assert [state.shape for state in states] == [(1, 3, H), (2, 2, 3, D)]
    np.testing.assert_array_equal(states[1], np.stack(carried[1]))
    network.reset_state()
    np.testing.assert_array_equal(network.predict(xs, **options), logits)
    # what stands beyond a length, which is a token like another to the embedding, does not count
    xs[ts == -1] = (xs[ts == -1] + 1) % V
    np.testing.assert_array_equal(network.infer(xs, **options)[0], logits)
    # a row of its own length is a row of its own
    network.reset_state()
    alone = network.predict(xs[2:, :3], reset=reset[2:, :3])
    assert_close(alone, logits[2:, :3])
    network.set_state(carried)
    more = network.predict(xs, need_gradient=False)
    np.testing.assert_array_equal(more, network.infer(xs, states)[0])


@pytest.mark.parametrize("Model", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
@pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])
def test_language_models_take_lengths(Model, ops):
    """The loss of a padded batch is the mean over all tokens that count."""
    model, (xs, ts) = Model(V, D, H, num_layers=2, dtype=np.float64, rng=0, ops=ops), batch()
    lengths, total = [4, 1, 5], 0
    for x, t, length in zip(xs, ts, lengths, strict=True):
        model.reset_state()
        total += length * model.forward(x[None, :length], t[None, :length], need_gradient=False)
        t[length:] = -1
    model.reset_state()
    assert model.forward(xs, ts, lengths=lengths) == pytest.approx(total / 10, rel=1e-12)
    model.backward()
    assert all(dW.any() for dW in model.grads)
    states = model.read(xs, lengths=lengths)
    for ours, theirs in zip(model.get_state(), states, strict=True):
        np.testing.assert_array_equal(np.stack(ours), theirs)


class Index(Weightless):
    """Its output depends on the input in steps, so that there is no gradient."""

    def forward(self, x):
        return np.zeros(x.shape[:2], int)

    def backward(self, dout):
        return None


def test_a_layer_whose_output_has_no_gradient_gets_zeros():
    """And not what was in its gradients before."""
    layers = [dense(2, 3), Index(), rnnfast.TimeEmbedding(np.ones((1, 2)))]
    network = rnnfast.Network(layers, WeightedLoss())
    for dW in network.grads:
        dW[...] = 7
    network.forward(np.ones((1, 2, 2)), np.zeros((1, 2, 2)))
    network.backward()
    assert [dW.any() for dW in network.grads] == [False, False, True]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"d": "a"}, "expected names of layers .*, got 'd'"),
        ({"b": "c"}, "expected earlier layers as inputs of b, got 'c', which comes later"),
        ({"b": "b"}, "expected earlier layers as inputs of b, got 'b'"),
        ({"b": ("a", "a.0")}, "expected for b names of layers before it .*, got 'a.0'"),
        ({"b": ("a", 1)}, "expected for b names of layers before it .*, got 1"),
        ({"c": "a"}, "expected a layer that takes the output of b, got none"),
        ({"b": ()}, "expected at least one input of b, got none"),
    ],
)
def test_inputs_that_make_no_sense(inputs, message):
    layers = {name: Concatenation() for name in "abc"}
    with pytest.raises(ValueError, match=f"^inputs: {message}"):
        rnnfast.Network(layers, WeightedLoss(), inputs=inputs)


def test_other_mistakes_in_networks():
    with pytest.raises(ValueError, match="no layer named xs"):
        rnnfast.Network({"xs": Concatenation()}, WeightedLoss())
    with pytest.raises(ValueError, match="layers: expected at least one"):
        rnnfast.Network([], WeightedLoss())
    layers = {"a": Concatenation(), "b": Concatenation()}
    network = rnnfast.Network(layers, WeightedLoss(), inputs={"b": ("a", "xs")})
    layers["b"].backward = lambda dout: (dout,)
    network.forward(np.ones((1, 1, 2)), np.ones((1, 1, 4)))
    with pytest.raises(ValueError, match=r"backward of layer b: expected a tuple of .*, got 1"):
        network.backward()
    # as many rows as inputs: no gradients of both
    layers["b"].backward = lambda dout: np.ones((2, 1, 2))
    with pytest.raises(ValueError, match=r"backward of layer b: expected a tuple of .*, got none"):
        network.backward()


# Training and evaluation. -------------------------------------------------------------------------


class Dropout(Weightless):
    """Half of the numbers, in training."""

    training = True

    def __init__(self, rng):
        super().__init__()
        self.rng = np.random.Generator(rng)

    def forward(self, x):
        self._mask = 2 * self.rng.integers(0, 2, x.shape) if self.training else 1
        return x * self._mask

    def backward(self, dout):
        return dout * self._mask


GENERATORS = [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]


def dropping(Bits=np.random.PCG64):
    layers = {"a": dense(2, 30), "drop.0": Dropout(Bits(0)), "drop.1": Dropout(Bits(1))}
    return rnnfast.Network(layers, rnnfast.TimeSquaredLoss())


def test_train_and_eval_reach_every_layer_and_the_loss():
    network, xs = dropping(), np.ones((1, 1, 2))
    everyone = [network, *network.layers, network.loss_layer]
    assert network.training
    whole = network.layers[0].forward(xs)
    assert not np.array_equal(network.predict(xs), whole)
    network.eval()
    assert not any(layer.training for layer in everyone)
    np.testing.assert_array_equal(network.predict(xs), whole)
    np.testing.assert_array_equal(network.infer(xs)[0], whole)
    network.train()
    assert all(layer.training for layer in everyone)
    network.training = False
    assert not any(layer.training for layer in everyone)
    model = rnnfast.Rnnlm(V, D, H)
    model.eval()
    rnnfast.generate(model, [1], 3)
    model.predict(batch()[0])
    assert not any(layer.training for layer in (model, *model.layers, model.affine))


@pytest.mark.parametrize("Bits", GENERATORS)
def test_random_states_of_layers(Bits):
    network, xs = dropping(Bits), np.ones((1, 5, 2))
    network.predict(xs)
    states = json.loads(json.dumps(network.random_state()))
    assert list(states) == ["drop.0", "drop.1"]
    expected = [network.predict(xs) for _ in range(2)]
    assert not np.array_equal(*expected)
    other = dropping(Bits)
    for again in (network, other):
        again.set_random_state(states)
        np.testing.assert_array_equal([again.predict(xs) for _ in range(2)], expected)


def test_random_states_that_do_not_fit():
    network = dropping()
    states = network.random_state()
    other = dropping(np.random.MT19937).random_state()
    for wrong in ({}, {"drop.0": states["drop.0"]}, states | {"a": 1}):
        with pytest.raises(
            ValueError, match=r"states: expected those of the layers drop.0, drop.1"
        ):
            network.set_random_state(wrong)
    for wrong in (other["drop.1"], {}, None, 1, {"bit_generator": "PCG64", "state": 1}):
        with pytest.raises(ValueError, match=r"states\['drop.1'\]: expected the state of a PCG64"):
            network.set_random_state(
                {"drop.0": dropping().random_state()["drop.1"], "drop.1": wrong}
            )
    assert network.random_state() == states
    assert rnnfast.Rnnlm(V, D, H).random_state() == {}


def test_a_layer_of_ones_own_puts_its_states_back_by_itself():
    """Within `carrying_state`, and after an error."""
    seen = []

    class Own(rnnfast.TimeLSTM):
        def set_state(self, *states):
            seen.append(states)
            super().set_state(*states)

    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) for shape in ((3, 16), (4, 16), (16,))]
    network = rnnfast.Network([Own(*weights)], rnnfast.TimeSquaredLoss())
    xs = rng.standard_normal((2, 5, 3))
    network.predict(xs)
    with network.carrying_state():
        network.predict(xs)
    assert seen
    before = len(seen)
    with pytest.raises(ValueError, match="expected an array of shape"):
        network.forward(xs, np.ones((2, 5, 3)))
    assert len(seen) > before
