"""Row-sparse gradients of embeddings: the same bits as dense ones, whatever came before."""

import copy
import math
import pickle

import numpy as np
import pytest
from problems import DTYPES, OPTIMIZERS

import rnnfast
from rnnfast import reference
from rnnfast.errors import TrainingDiverged
from rnnfast.kernels import engine
from rnnfast.training.optimizers import gradient_norm
from rnnfast.training.steps import take_step, take_step_of_blocks

V, D, H, N, T = 23, 5, 4, 2, 3
both_ops = pytest.mark.parametrize("ops", [None, reference.ops], ids=["compiled", "numpy"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)
# ids of five steps: what occurs, then does not, then again; all of them; one alone
BLOCKS = [
    np.array(ids).reshape(N, T)
    for ids in ([3, 3, 7, 0, 22, 7], [1] * 6, [7, 3, 2, 2, 2, 9], range(6), [22, 21, 0, 3, 3, 3])
]


def dense(Optimizer):
    """The same optimizer, which takes no rows."""
    return type("Dense", (Optimizer,), {"takes_rows": False})


EXACT = [rnnfast.SGD, rnnfast.AdaGrad]
LAZY = [cls for cls in OPTIMIZERS if cls is not rnnfast.AdaGrad]


def network_of(table, ops=None, **more):
    rng = np.random.default_rng(1)
    dtype = table.dtype

    def weights(*shape):
        return rng.standard_normal(shape).astype(dtype)

    width = table.shape[1]
    layers = {
        "embedding": rnnfast.TimeEmbedding(table, ops=ops),
        "recurrent": rnnfast.TimeRNN(weights(width, H), weights(H, H), weights(H), ops=ops),
        "affine": rnnfast.TimeAffine(weights(H, 6), weights(6), ops=ops),
    }
    return rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(ops=ops), **more)


def table_of(dtype="float32", rows=V, width=D):
    return np.random.default_rng(0).standard_normal((rows, width)).astype(dtype)


def steps(model, optimizer, blocks=BLOCKS, max_grad=0.3):
    return [take_step(model, optimizer, xs, xs % 6, max_grad=max_grad) for xs in blocks]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@dtypes
@both_ops
@pytest.mark.parametrize("max_grad", [None, 0.3])
@pytest.mark.parametrize("Optimizer", EXACT)
@pytest.mark.parametrize("width", [1, D, 40])
def test_sparse_steps_are_dense_steps(width, Optimizer, max_grad, ops, dtype):
    models, losses = [], []
    for cls in (Optimizer, dense(Optimizer)):
        model, optimizer = network_of(table_of(dtype, width=width), ops), cls(0.1, ops=ops)
        assert optimizer.takes_rows == (cls is Optimizer)
        losses.append(steps(model, optimizer, max_grad=max_grad))
        models.append((model, optimizer))
    (ours, sparse), (theirs, whole) = models
    assert losses[0] == losses[1]
    assert_same(ours.params, theirs.params)
    assert_same(ours.grads, theirs.grads)  # all of it
    for slots, others in zip(sparse.state, whole.state, strict=True):
        assert_same(slots, others)
    rows = ours.grad_rows()
    np.testing.assert_array_equal(rows[0], [0, 3, 21, 22])
    assert rows[1:] == [None] * 5
    assert theirs.grad_rows() == [None] * 6


@pytest.mark.parametrize("Model", [rnnfast.SimpleRnnlm, rnnfast.Rnnlm])
@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("Optimizer", EXACT)
def test_language_models(Optimizer, tie_weights, Model):
    results = []
    for cls in (Optimizer, dense(Optimizer)):
        model = Model(V, D, D, tie_weights=tie_weights, rng=0)
        for xs in BLOCKS:
            take_step(model, optimizer := cls(0.1), xs, xs[:, ::-1], max_grad=0.3)
        assert (model.grad_rows()[0] is None) == (tie_weights or not optimizer.takes_rows)
        assert len(model.grad_rows()) == len(model.params)
        results.append([*model.params, *model.grads])
    assert_same(*results)


@both_ops
def test_only_rows_that_occur_are_touched(ops):
    """Neither by backward, the norm, clipping nor the step."""
    model, optimizer = network_of(table_of(), ops), rnnfast.AdaGrad(0.1, ops=ops)
    steps(model, optimizer, BLOCKS[:2])
    for array in (model.grads[0], model.params[0], optimizer.state[0][0]):
        array[10:20] = np.nan
    steps(model, optimizer, BLOCKS[2:])
    for array in (model.grads[0], model.params[0], optimizer.state[0][0]):
        assert np.isnan(array[10:20]).all()
        assert np.isfinite(array[:10]).all()
        assert np.isfinite(array[20:]).all()
    model.forward(BLOCKS[0], BLOCKS[0] % 6)
    model.backward()  # for who reads all of it
    assert np.isfinite(model.grads[0]).all()


@both_ops
def test_any_order_of_backwards(ops):
    """Sparse and dense, with gradients that somebody has written into, or replaced."""
    layer, plain = (rnnfast.TimeEmbedding(table_of(), ops=ops) for _ in range(2))
    rng = np.random.default_rng(0)

    def check(sparse, rows="known"):
        ids, dout = rng.integers(0, V, (N, T)), rng.standard_normal((N, T, D))
        for each, options in ((layer, {"sparse": sparse}), (plain, {})):
            each.forward(ids)
            each.backward(dout, **options)
        np.testing.assert_array_equal(layer.grads[0], plain.grads[0])
        (found,) = layer.grad_rows()
        if rows == "known" and sparse:
            np.testing.assert_array_equal(found, np.unique(ids))
            assert not found.flags.writeable
        else:
            assert found is None

    for sparse in (True, True, False, False, True, True):
        check(sparse)
    for sparse in (False, True):
        layer.grads[0][...] = 9
        check(False)
        layer.grads[0][...] = 9
        check(sparse)
    layer.grads[0] = np.full_like(layer.grads[0], 9)
    assert layer.grad_rows() == [None]
    check(True)
    layer.grads[0] = np.full((D, V), 9, "f").T  # columns follow each other
    check(True, rows="unknown")
    check(True, rows="unknown")


def test_what_forward_distinct_has_seen():
    layer, plain = (rnnfast.TimeEmbedding(table_of()) for _ in range(2))
    for ids in BLOCKS:
        for each, sparse in ((layer, True), (plain, False)):
            vectors, _ = each.forward_distinct(ids)
            each.backward(np.ones_like(vectors), sparse=sparse)
        np.testing.assert_array_equal(layer.grads[0], plain.grads[0])
        np.testing.assert_array_equal(layer.grad_rows()[0], np.unique(ids))


def test_a_backward_that_fails_leaves_nothing_that_later_ones_trust():
    layer, plain = (rnnfast.TimeEmbedding(table_of()) for _ in range(2))
    layer.forward(BLOCKS[0])
    layer.backward(np.ones((N, T, D)), sparse=True)
    kernel = layer.ops.embedding_backward

    class Failing:
        def __getattr__(self, name):
            return getattr(rnnfast.kernels, name)

        def embedding_backward(self, *arguments):
            kernel(*arguments)
            arguments[2][11] = 9
            raise MemoryError

    layer.forward(BLOCKS[1])
    layer._ops = Failing()
    with pytest.raises(MemoryError):
        layer.backward(np.ones((N, T, D)), sparse=True)
    layer._ops = rnnfast.kernels
    assert layer.grad_rows() == [None]
    for each in (layer, plain):
        each.forward(BLOCKS[2])
        each.backward(np.ones((N, T, D)), sparse=each is layer)
    np.testing.assert_array_equal(layer.grads[0], plain.grads[0])


@both_ops
@pytest.mark.parametrize("sparse", [True, False])
def test_rows_that_somebody_has_written(sparse, ops):
    """The next sparse backward clears them, and no others; None: all."""
    layer, plain = (rnnfast.TimeEmbedding(table_of(), ops=ops) for _ in range(2))
    written = np.array([0, 4, 9, V - 1])
    for rows in (written, None):
        layer.forward(BLOCKS[0])
        layer.backward(np.ones((N, T, D)), sparse=sparse)
        layer.grads[0][...] = 0
        layer.grads[0][written] = 9
        layer.set_grad_rows([rows])
        assert layer.grad_rows() == [rows]
        untold = 11  # by who promises that nothing else was written
        layer.grads[0][untold] = 7
        for each in (layer, plain):
            each.forward(BLOCKS[2])
            each.backward(np.ones((N, T, D)), sparse=each is layer)
        assert (layer.grads[0][untold] == (0 if rows is None else 7)).all()
        layer.grads[0][untold] = 0
        np.testing.assert_array_equal(layer.grads[0], plain.grads[0])
        np.testing.assert_array_equal(layer.grad_rows()[0], np.unique(BLOCKS[2]))


def test_rows_of_a_network():
    """Each layer is told its own, by its gradients, in whatever order they are listed."""
    ids, tables = BLOCKS[0], [table_of(), table_of(rows=V + 1, width=D)]

    class Sum:
        params, grads = [], []

        def forward(self, a, b):
            return a + b

        def backward(self, dout):
            return dout, dout

    layers = {
        "a": rnnfast.TimeEmbedding(tables[0]),
        "b": rnnfast.TimeEmbedding(tables[1]),
        "sum": Sum(),
        "affine": rnnfast.TimeAffine(np.ones((D, 6), "f"), np.zeros(6, "f")),
    }
    inputs = {"a": "xs", "b": "xs", "sum": ("a", "b")}
    model = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(), inputs=inputs)
    model.forward(ids, ids % 6)
    model.backward(sparse=True)
    given = [np.array([1, 2]), np.array([5]), None, None]
    model.set_grad_rows(given)
    assert model.grad_rows() == given
    assert layers["a"].grad_rows() == given[:1]
    assert layers["b"].grad_rows() == given[1:2]
    model.set_grad_rows([None, given[1], None, None])
    assert model.grad_rows() == [None, given[1], None, None]
    with pytest.raises(ValueError, match="zip"):
        model.set_grad_rows(given[:3])
    assert model.grad_rows() == [None, given[1], None, None]


@dtypes
@both_ops
@pytest.mark.parametrize("max_grad", [None, 0.3])
@pytest.mark.parametrize("Optimizer", EXACT)
def test_steps_of_several_blocks(Optimizer, max_grad, ops, dtype):
    """Rows of all blocks of a step are those of its gradient; the next step knows them too."""
    results = []
    for cls in (Optimizer, dense(Optimizer)):
        model, optimizer = network_of(table_of(dtype), ops), cls(0.1, ops=ops)
        losses = []
        for numbers in ([0, 1, 2], [3], [4, 0], [2, 2, 2], [1]):
            blocks = [(BLOCKS[k], BLOCKS[k] % 6) for k in numbers]
            weights = [1 / len(blocks)] * len(blocks)
            loss = take_step_of_blocks(model, optimizer, blocks, weights, max_grad=max_grad)
            losses.append(loss)
            if cls is Optimizer:
                occur = np.unique([BLOCKS[k] for k in numbers])
                np.testing.assert_array_equal(model.grad_rows()[0], occur)
                others = np.setdiff1d(np.arange(V), occur)
                assert not model.grads[0][others].any()
        results.append([*model.params, *model.grads, *sum(optimizer.state, ()), losses])
    assert_same(*results)


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("make", [lambda: rnnfast.SGD(0.5), lambda: rnnfast.AdaGrad(0.1)])
def test_a_trainer_that_accumulates(make, accumulate):
    ids, results = np.random.default_rng(0).integers(0, V, 200), []
    for takes_rows in (True, False):
        model, optimizer = rnnfast.Rnnlm(V, D, H, rng=0), make()
        if not takes_rows:
            optimizer.__class__ = dense(type(optimizer))
        options = {"batch_size": 2, "time_size": 3, "accumulate": accumulate}
        trainer = rnnfast.Trainer(model, optimizer, ids, ids[:50], **options)
        trainer.fit(2, verbose=False)
        results.append([*model.params, *model.grads, [r.train_loss for r in trainer.history]])
        assert (model.grad_rows()[0] is not None) == takes_rows
    assert_same(*results)


@pytest.mark.parametrize("of", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_carry_on_alike(of):
    model, optimizer = network_of(table_of()), rnnfast.AdaGrad(0.1)
    steps(model, optimizer, BLOCKS[:2])
    again, carried_on = of((model, optimizer))
    again.grads[0][15] = 9  # who writes into a copy is not known to it
    steps(again, carried_on, BLOCKS[2:])
    steps(model, optimizer, BLOCKS[2:])
    assert_same(model.params, again.params)
    assert_same(model.grads, again.grads)


@pytest.mark.parametrize(
    "make", [lambda: rnnfast.AdaGrad(0.05), lambda: rnnfast.AdamW(0.05, lazy=True)]
)
def test_a_restored_trainer_carries_on_alike(make):
    """Whose gradients were filled by other steps, or not at all."""
    ids = np.random.default_rng(0).integers(0, V, 400)

    def trainer():
        model = rnnfast.Rnnlm(V, D, H, rng=0)
        return rnnfast.Trainer(model, make(), ids[:300], ids[300:], batch_size=4, time_size=5)

    whole, first, second = (trainer() for _ in range(3))
    whole.fit(2, verbose=False)
    first.fit(1, verbose=False)
    second.restore(*first.state())
    second.fit(2, verbose=False)
    assert whole.model.grad_rows()[0] is not None
    assert_same(whole.model.params, second.model.params)
    assert_same(whole.model.grads, second.model.grads)
    for ours, theirs in zip(whole.optimizer.state, second.optimizer.state, strict=True):
        assert_same(ours, theirs)


@dtypes
@both_ops
def test_a_table_with_strides(ops, dtype):
    """Columns that follow each other, as in a tied W.T; gaps: what comes of it is the same."""
    gaps = np.zeros((V, 2 * D), dtype)[:, ::2]
    gaps[...] = table_of(dtype)
    for table in (np.asfortranarray(table_of(dtype)), gaps):
        results = []
        for cls in (rnnfast.SGD, dense(rnnfast.SGD)):
            model = network_of(table.copy(order="K"), ops)
            steps(model, cls(0.1, ops=ops))
            results.append([*model.params, *model.grads])
        assert_same(*results)


@pytest.mark.parametrize("Optimizer", EXACT)
def test_two_layers_that_share_a_table(Optimizer):
    class Sum:
        params, grads = [], []

        def forward(self, a, b):
            return a + b

        def backward(self, dout):
            return dout, dout

    results = []
    for cls in (Optimizer, dense(Optimizer)):
        table, W = table_of(), np.ones((D, 6), "f")
        layers = {
            "a": rnnfast.TimeEmbedding(table),
            "b": rnnfast.TimeEmbedding(table),
            "sum": Sum(),
            "affine": rnnfast.TimeAffine(W, W[0].copy()),
        }
        inputs = {"a": "xs", "b": "others", "sum": ("a", "b")}
        model = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss(), inputs=inputs)
        optimizer = cls(0.1)
        for xs, others in zip(BLOCKS, BLOCKS[::-1], strict=True):
            model.forward(xs, xs % 6, others=others)
            model.backward(sparse=True)
            rows = model.grad_rows() if cls is Optimizer else None
            rnnfast.clip_grads(model.grads, 0.3, rows=rows)
            optimizer.update(model.params, model.grads, rows)
        assert model.params[0] is model.params[1]
        results.append([*model.params, *model.grads])
    assert_same(*results)


@pytest.mark.parametrize("sparse", [True, False])
def test_an_error_in_the_middle_of_a_step(sparse, monkeypatch):
    """Weights, optimizer and states are as before, and the same block again is as if nothing had
    been, whatever the gradient of the step that failed has left."""
    cls = rnnfast.AdaGrad if sparse else dense(rnnfast.AdaGrad)
    results = []
    for failing in (False, True):
        model, optimizer = network_of(table_of()), cls(0.1)
        steps(model, optimizer, BLOCKS[:2])
        if failing:
            before = [W.copy() for W in [*model.params, *optimizer.state[0]]]
            with monkeypatch.context() as patch:
                backward = rnnfast.TimeAffine.backward

                def poisoned(self, dout, backward=backward):
                    return backward(self, dout) * math.inf

                patch.setattr(rnnfast.TimeAffine, "backward", poisoned)
                with pytest.raises(TrainingDiverged, match=r"embedding\.W is not finite"):
                    steps(model, optimizer, BLOCKS[2:3])

                def fail(*_):
                    raise MemoryError

                patch.setattr(rnnfast.TimeAffine, "backward", backward)
                patch.setattr(rnnfast.kernels, "adagrad_step", fail)
                with pytest.raises(MemoryError):
                    steps(model, optimizer, BLOCKS[3:4])
            assert_same([*model.params, *optimizer.state[0]], before)
            assert optimizer.steps == 2
        steps(model, optimizer, BLOCKS[2:])
        results.append([*model.params, *model.grads, *optimizer.state[0]])
    assert_same(*results)


def test_ones_own_optimizers_and_models():
    """That know nothing of rows: an update of two arguments, a backward of one."""

    class Plain:
        takes_rows = True

        def update(self, params, grads):
            for W, dW in zip(params, grads, strict=True):
                W -= W.dtype.type(0.1) * dW

    class Decaying(rnnfast.SGD):
        def update(self, params, grads):
            grads[0][...] += 0.01 * params[0]
            super().update(params, grads)

    class Penalised(rnnfast.Network):
        def backward(self, dout=1):
            super().backward(dout)
            self.grads[0] += 0.01 * self.params[0]

    results = []
    for make, cls in (
        (network_of, Plain),
        (network_of, lambda: Decaying(0.1)),
        (lambda table: Penalised(network_of(table).layers, rnnfast.TimeSoftmaxWithLoss()), None),
    ):
        model, optimizer = make(table_of()), (cls or (lambda: rnnfast.SGD(0.1)))()
        steps(model, optimizer, BLOCKS[:3], max_grad=None)
        assert model.grad_rows()[0] is None
        results.append(model.params)
    assert not np.array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[2][0], results[1][0], rtol=1e-6)


def test_a_layer_of_ones_own_that_overrides_backward():
    class Doubled(rnnfast.TimeEmbedding):
        def backward(self, dout):
            super().backward(2 * dout)

    model = network_of(table_of())
    model = rnnfast.Network([Doubled(table_of()), *model.layers[1:]], rnnfast.TimeSoftmaxWithLoss())
    steps(model, rnnfast.SGD(0.1))
    assert model.grad_rows() == [None] * 6


# ---------------------------------------------------------------- rows of the optimizers


def rows_of(*ids):
    return np.array(ids, np.int64)


def problem(dtype="float32", width=D):
    """Parameters, gradients that are zero but in some rows, and these rows."""
    rng = np.random.default_rng(2)
    params = [rng.standard_normal(s).astype(dtype) for s in ((V, width), 7, (V, 2, width))]
    grads = [rng.standard_normal(W.shape).astype(dtype) for W in params]
    rows = [rows_of(0, 4, 5, 22), None, rows_of(3)]
    for dW, own in zip(grads, rows, strict=True):
        if own is not None:
            dW[np.setdiff1d(np.arange(V), own)] = 0
    return params, grads, rows


@dtypes
@both_ops
@pytest.mark.parametrize("width", [1, 5, 16, 33])
def test_norm_and_clipping_of_rows(width, ops, dtype):
    _, grads, rows = problem(dtype, width)
    norm = gradient_norm(grads, ops=ops)
    assert norm == gradient_norm(grads, ops=ops, rows=rows)
    assert gradient_norm(grads, ops=ops, rows=[None] * 3) == norm
    for clip in (rnnfast.clip_grads, rnnfast.clip_values):
        ours, theirs = ([dW.copy() for dW in grads] for _ in range(2))
        for dW, own in zip(ours, rows, strict=True):
            if own is not None:
                dW[10:20] = np.nan  # is not looked at
        assert clip(ours, 0.2, ops=ops, rows=rows) == clip(theirs, 0.2, ops=ops) == norm
        for a, b, own in zip(ours, theirs, rows, strict=True):
            np.testing.assert_array_equal(
                a if own is None else a[own], b if own is None else b[own]
            )
            assert own is None or np.isnan(a[10:20]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_norm_of_rows_beyond_what_squares_can_be(value):
    dW = np.ones((5, 2))
    dW[1], dW[2, 1] = np.nan, value
    norm = gradient_norm([dW], rows=[rows_of(2, 3)])
    assert norm == pytest.approx(value, nan_ok=True)


@dtypes
@both_ops
@pytest.mark.parametrize("Optimizer", LAZY)
def test_lazy_steps(Optimizer, ops, dtype):
    """What they do to the rows is what they do to arrays of these rows alone."""
    params, grads, rows = problem(dtype)
    start = [W.copy() for W in params]
    parts = [W if own is None else W[own] for W, own in zip(start, rows, strict=True)]
    part_grads = [dW if own is None else dW[own] for dW, own in zip(grads, rows, strict=True)]
    start = [W.copy() for W in params]
    decay = {"weight_decay": 0.3} if Optimizer in (rnnfast.SGD, rnnfast.AdamW) else {}
    lazy, whole = Optimizer(0.1, lazy=True, ops=ops, **decay), Optimizer(0.1, ops=ops, **decay)
    assert lazy.takes_rows
    for _ in range(3):
        lazy.update(params, grads, rows)
        whole.update(parts, part_grads)
    everything = [params, *zip(*lazy.state, strict=True)], [parts, *zip(*whole.state, strict=True)]
    for ours, theirs in zip(*everything, strict=True):
        for a, b, own in zip(ours, theirs, rows, strict=True):
            np.testing.assert_array_equal(a if own is None else a[own], b)
    for W, old, own in zip(params, start, rows, strict=True):
        if own is not None:
            others = np.setdiff1d(np.arange(V), own)
            np.testing.assert_array_equal(W[others], old[others])


@both_ops
@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_rows_are_ignored_where_they_would_change_something(Optimizer, ops):
    """Or are without meaning, as they are for weights that decay."""
    decay = {"weight_decay": 0.3} if Optimizer in (rnnfast.SGD, rnnfast.Momentum) else {}
    results = []
    for given in (True, False):
        params, grads, rows = problem()
        optimizer = Optimizer(0.1, ops=ops, **decay)
        for _ in range(3):
            optimizer.update(params, grads, rows if given else None)
        results.append(params)
    assert_same(*results)
    assert optimizer.takes_rows == (Optimizer is rnnfast.AdaGrad)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2]])
@pytest.mark.parametrize("Optimizer", LAZY)
def test_lazy_steps_of_arrays_that_the_compiled_ones_do_not_take(Optimizer, layout):
    results = []
    for change in (layout, np.copy):
        (W, *_), (dW, *_), (own, *_) = problem("float64")
        W, optimizer = change(W), Optimizer(0.1, lazy=True)
        for _ in range(3):
            optimizer.update([W], [dW], [own])
        results.append(W)
    np.testing.assert_allclose(*results, rtol=1e-12)


@both_ops
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([None], "^rows: expected an entry for each of 2 arrays, got 1"),
        ([[1, 2], None], r"^rows\[0\]: expected None or an int64 array of one axis, got \[1, 2\]"),
        ([np.ones(2), None], r"^rows\[0\]: expected None or an int64 .* got float64 \(2,\)"),
        ([rows_of(1)[None], None], r"^rows\[0\]: expected .* got int64 \(1, 1\)"),
        ([rows_of(0, 23), None], r"^rows\[0\]: expected increasing numbers in 0..22, got 23 at"),
        ([rows_of(-1, 3), None], r"^rows\[0\]: expected increasing .* got -1 at position 0"),
        ([rows_of(2, 2), None], r"^rows\[0\]: expected increasing .* got 2 at position 1; numpy"),
        ([rows_of(3, 1), None], r"^rows\[0\]: expected increasing .* got 1 at position 1; numpy"),
        ([None, rows_of(3)], r"^rows\[1\]: expected None for an array of shape \(7,\)"),
    ],
)
def test_rows_that_do_not_fit(rows, says, later, ops):
    """Nothing has changed, and nothing outside of the arrays has been read."""
    params, grads, _ = problem()
    params, grads = params[:2], grads[:2]
    optimizer = rnnfast.AdaGrad(0.1, ops=ops)
    if later:
        optimizer.update(params, grads)
    before = [array.copy() for array in (*params, *grads)], optimizer.steps
    with pytest.raises(ValueError, match=says):
        optimizer.update(params, grads, rows)
    for call in (
        lambda: gradient_norm(grads, rows=rows, ops=ops),
        lambda: rnnfast.clip_grads(grads, 1e-3, rows=rows, ops=ops),
        lambda: rnnfast.clip_values(grads, 1e-3, rows=rows, ops=ops),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    assert_same([*params, *grads], before[0])
    assert optimizer.steps == before[1]


@pytest.mark.usefixtures("threads_for_small_calls")
@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_threads_change_nothing(Optimizer):
    """Nor where an array stands twice, by rows and by columns."""
    lazy = {} if Optimizer is rnnfast.AdaGrad else {"lazy": True}
    results = []
    for threads in (1, 2, 3, 4):
        engine.set_num_threads(threads)
        rng = np.random.default_rng(0)
        W, dW, b = (rng.standard_normal(s, "f") for s in ((3000, 40), (3000, 40), 40000))
        rows = np.flatnonzero(rng.random(3000) < 0.6)
        params, grads = [W, b, W, W.T], [dW, -b, 2 * dW, np.ones_like(dW.T)]
        optimizer = Optimizer(0.1, **lazy)
        for _ in range(2):
            norm = rnnfast.clip_grads(grads, 1.0, rows=[rows, None, rows, None])
            rnnfast.clip_values([grads[0], grads[0]], 1e-3, rows=[rows, None])
            optimizer.update(params, grads, [rows, None, rows, None])
        results.append([W, b, *grads, np.array(norm)])
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize(("ids", "sparse"), [([[1999]], False), ([[1999]], True), ([[0]], True)])
def test_a_gradient_that_lost_rows_in_place(ids, sparse):
    """What forward has seen, or a sparse backward filled, may be rows that are no longer there."""
    layer = rnnfast.TimeEmbedding(np.ones((2000, 64)))
    layer.forward(np.array([[1999]]))
    layer.backward(np.ones((1, 1, 64)), sparse=True)
    layer.forward(np.array(ids))
    layer.grads[0].resize((2, 64), refcheck=False)
    with pytest.raises(ValueError, match="do not change the shape of an array of params or grads"):
        layer.backward(np.ones((1, 1, 64)), sparse=sparse)
    assert not layer.grads[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_of_rows_of_many_chunks_has_the_bits_of_all_rows(dtype):
    """Where a sum is divided depends on where numbers stand, and not on which rows are named."""
    rng = np.random.default_rng(0)
    dW, rows = np.zeros((5000, 33), dtype), np.sort(rng.choice(5000, 3000, replace=False))
    dW[rows] = rng.standard_normal((3000, 33))
    assert gradient_norm([dW], rows=[rows]) == gradient_norm([dW])
