"""Encoders with decoders: what they compute, what they refuse, and how they write."""

import doctest
import itertools
import threading

import numpy as np
import pytest
from problems import DTYPES, assert_all_close, assert_close
from test_gradients import TOLERANCE, numeric_gradient

import rnnfast
from rnnfast import kernels
from rnnfast.errors import InputError
from rnnfast.models import decoding, seq2seq
from rnnfast.reference import ops as numpy_ops
from rnnfast.training.steps import take_step

N, S, T, V, W, D, H = 3, 5, 4, 7, 6, 3, 4  # W: the decoder's vocabulary
MODELS = [rnnfast.Seq2seq, rnnfast.PeekySeq2seq, rnnfast.AttentionSeq2seq]
CELLS = list(rnnfast.cells.CELLS)
LENGTHS = np.array([2, 5, 0])
START, STOP = 1, 2

every_model = pytest.mark.parametrize("Model", MODELS, ids=lambda Model: Model.__name__)
both_ops = pytest.mark.parametrize("ops", [kernels, numpy_ops], ids=["compiled", "numpy"])


def make(Model, dtype="float64", seed=9, ops=None, **options):
    """A model whose weights are large enough that everything has an influence, tokens above all."""
    options = {"target_vocab_size": W, "dtype": dtype, "ops": ops} | options
    model, rng = Model(V, D, H, rng=0, **options), np.random.default_rng(seed)
    named = model.named_params()
    scales = {name: 2 if "embedding" in name or "affine.W" in name else 0.7 for name in named}
    scales["decoder.affine.b"] = 0.1
    model.set_params(
        {k: (scales[k] * rng.standard_normal(P.shape)).astype(dtype) for k, P in named.items()}
    )
    return model


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (N, S)), rng.integers(0, W, (N, T + 1))


def padded():
    """Questions and answers that end early, with -1 beyond."""
    xs, ts = batch()
    xs[np.arange(S) >= LENGTHS[:, None]] = -1
    ts[0, 3:] = ts[1, 2] = -1
    return xs, ts


def gradients(model, xs, ts, **options):
    """The loss, and copies of the gradients, by name."""
    loss = model.forward(xs, ts, **options)
    model.backward()
    return {"loss": np.array(loss)} | {k: dP.copy() for k, dP in model.named_grads().items()}


def everything_of(model):
    """All that an error must leave as it was."""
    states = [state for states in model.get_state() for state in states]
    return [None if a is None else a.copy() for a in (*model.params, *model.grads, *states)]


def require_unchanged(model, before):
    for now, then in zip(everything_of(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


# What they compute. ---------------------------------------------------------------------------


@every_model
def test_initial_weights_are_the_textbooks(Model):
    """Same seed, same draws, in the same order."""

    def draw(*shape, scale):
        return (np.random.randn(*shape) / scale).astype("f")

    inputs = H + D if Model is rnnfast.PeekySeq2seq else D
    outputs = H if Model is rnnfast.Seq2seq else 2 * H
    np.random.seed(3)
    model = Model(V, D, H)
    after = np.random.randn()
    np.random.seed(3)
    expected = {}
    for part, rows in (("encoder", D), ("decoder", inputs)):
        expected[f"{part}.embedding.W"] = draw(V, D, scale=100)
        expected[f"{part}.recurrent.Wx"] = draw(rows, 4 * H, scale=np.sqrt(rows))
        expected[f"{part}.recurrent.Wh"] = draw(H, 4 * H, scale=np.sqrt(H))
        expected[f"{part}.recurrent.b"] = np.zeros(4 * H, "f")
    expected["decoder.affine.W"] = draw(outputs, V, scale=np.sqrt(outputs))
    expected["decoder.affine.b"] = np.zeros(V, "f")
    assert np.random.randn() == after
    assert list(model.named_params()) == list(expected)
    for name, textbook in expected.items():
        np.testing.assert_array_equal(model.named_params()[name], textbook, strict=True)


@every_model
def test_sizes_and_layers(Model):
    model = Model(V, D, H, target_vocab_size=W, cell="gru", rng=0)
    sizes = model.vocab_size, model.target_vocab_size, model.hidden_size, model.cell
    assert sizes == (V, W, H, "gru")
    assert Model.param_shapes(V, D, H, W, "gru") == {
        name: P.shape for name, P in model.named_params().items()
    }
    assert Model(V, D, H).target_vocab_size == V
    assert model.loss_layer is model.affine
    if Model is rnnfast.AttentionSeq2seq:
        assert model.attention is model.layers[-1]


@every_model
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_against_central_differences(Model, cell):
    """On compiled kernels, with rows of their own lengths, 0 among them, and targets left out."""
    model, (xs, ts) = make(Model, cell=cell), padded()
    found = gradients(model, xs, ts, lengths=LENGTHS)
    for name, P in model.named_params().items():
        expected = numeric_gradient(lambda: model.forward(xs, ts, lengths=LENGTHS), P)
        assert_close(found[name], expected, 10 * TOLERANCE, name)


@every_model
def test_a_gradient_arriving_at_the_loss_scales_all(Model):
    model, data = make(Model), batch()
    expected = gradients(model, *data)
    model.forward(*data)
    model.backward(-0.5)
    for name, dP in model.named_grads().items():
        assert_close(dP, -0.5 * expected[name], 1e-12, name)


@every_model
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_compiled_equals_numpy(Model, cell, dtype):
    ours, twin = (make(Model, dtype, cell=cell, ops=ops) for ops in (kernels, numpy_ops))
    assert twin.ops is numpy_ops
    xs, ts = padded()
    assert_all_close(*(gradients(model, xs, ts, lengths=LENGTHS) for model in (ours, twin)), 1e-4)
    logits = [model.predict(xs, decoder_xs=batch()[1], lengths=LENGTHS) for model in (ours, twin)]
    assert_close(*logits)
    written = [model.generate(xs, START, 6, lengths=LENGTHS, beams=2) for model in (ours, twin)]
    np.testing.assert_array_equal(*written)


@every_model
def test_rows_of_a_length_are_the_rows_alone(Model):
    """What stands beyond has no influence, not even on errors."""
    model, (xs, ts) = make(Model), batch()
    xs, lengths = padded()[0], np.array([2, 5, 3])
    xs[2, :3] = [0, 1, 2]
    whole = model.predict(xs, decoder_xs=ts, lengths=lengths)
    for n, length in enumerate(lengths):
        alone = model.predict(xs[n : n + 1, :length], decoder_xs=ts[n : n + 1])
        assert_close(whole[n], alone[0], 1e-12)


@every_model
def test_an_encoder_that_reads_nothing_hands_on_zeros(Model):
    model, (xs, ts) = make(Model), batch()
    found = gradients(model, xs, ts, lengths=np.zeros(N, int))
    assert not any(found[name].any() for name in found if name.startswith("encoder"))
    model.set_params(
        {k: 0 * P if k.startswith("encoder") else P for k, P in model.named_params().items()}
    )
    assert_close(model.forward(xs, ts), found["loss"], 1e-12)


@every_model
def test_targets_that_are_left_out(Model):
    """Answers of their own lengths: the loss and gradients of a row are those of it alone."""
    model, (xs, ts) = make(Model), batch()
    ts[0, 3:] = -1
    found = gradients(model, xs, ts)
    rows = [
        (2, gradients(model, xs[:1], ts[:1, :3])),
        (T, gradients(model, xs[1:2], ts[1:2])),
        (T, gradients(model, xs[2:], ts[2:])),
    ]
    count = 2 + 2 * T
    expected = {name: sum(n * row[name] for n, row in rows) / count for name in found}
    assert_all_close(found, expected, 1e-12)
    model.affine.ignore_label = 3
    ts[0, 3:] = 3
    ts[1:][ts[1:] == 3] = 4
    assert np.isfinite(gradients(model, xs, ts)["loss"])


@every_model
def test_a_label_that_is_a_token_is_read_as_that(Model):
    """Only what is no token of the vocabulary is read as 0."""
    model, (xs, ts) = make(Model), batch()
    ts[0, 2] = 3
    expected = model.predict(xs, decoder_xs=ts[:, :-1])
    model.affine.ignore_label = 3
    model.forward(xs, ts)
    hs = model.recurrent_layers[1].hs
    model.predict(xs, decoder_xs=ts[:, :-1])
    assert_close(hs, model.recurrent_layers[1].hs, 1e-12)
    assert expected.shape == (N, T, W)


@every_model
def test_forward_predict_and_infer_agree(Model):
    model, (xs, ts) = make(Model), batch()
    softmax = rnnfast.TimeSoftmaxWithLoss()
    logits = model.predict(xs, decoder_xs=ts[:, :-1], lengths=LENGTHS)
    loss = model.forward(xs, ts, lengths=LENGTHS)
    assert_close(loss, softmax.forward(logits, ts[:, 1:]), 1e-12)
    assert_close(model.forward(xs, ts, lengths=LENGTHS, need_gradient=False), loss, 1e-12)
    before = everything_of(model)
    inferred, states = model.infer(xs, decoder_xs=ts[:, :-1], lengths=LENGTHS)
    np.testing.assert_array_equal(inferred, logits)
    assert [state.shape for state in states] == [(2, N, H), (2, N, H)]
    require_unchanged(model, before)


@every_model
def test_states_that_are_carried_have_no_influence(Model):
    model, data = make(Model), batch()
    expected = gradients(model, *data)
    for layer in model.recurrent_layers:
        layer.stateful = True
        layer.set_state(np.ones((N, H)), np.ones((N, H)))
    assert_all_close(gradients(model, *data), expected, 1e-15)
    model.forward(*(array[:1] for array in data))  # a batch of another size


@every_model
def test_without_gradient_backward_cannot_follow(Model):
    model, data = make(Model), batch()
    with pytest.raises(RuntimeError, match="expected a forward"):
        model.backward()
    model.forward(*data, need_gradient=False)
    model.predict(data[0], decoder_xs=data[1], need_gradient=False)
    assert not any(layer._kept for layer in model.layers)
    with pytest.raises(RuntimeError, match="expected a forward"):
        model.backward()


@every_model
@pytest.mark.parametrize("kind", ["params", "grads"])
def test_arrays_that_an_optimizer_would_miss(Model, kind):
    model = make(Model)
    arrays = getattr(model.layers[3], kind)
    arrays[1] = arrays[1].copy()
    model.forward(*batch())
    with pytest.raises(RuntimeError, match=rf"in {kind} .*, got another one as decoder.recurrent"):
        model.backward()


@every_model
def test_gradients_that_cannot_be_written(Model):
    model = make(Model)
    model.forward(*batch())
    model.backward()
    before = [dP.copy() for dP in model.grads]
    model.forward(*batch(1))
    model.grads[0].flags.writeable = False
    with pytest.raises(TypeError, match="gradient of W: expected a writable array"):
        model.backward()
    for dP, then in zip(model.grads, before, strict=True):
        np.testing.assert_array_equal(dP, then)


def test_the_last_h_is_what_a_plain_decoder_gets():
    """By hand: layers one by one, as in the textbook."""
    model, (xs, ts) = make(rnnfast.Seq2seq), batch()
    named = {name: P.copy() for name, P in model.named_params().items()}
    of = {
        part: [named[f"{part}.recurrent.{own}"] for own in ("Wx", "Wh", "b")]
        for part in ("encoder", "decoder")
    }
    hs = rnnfast.TimeLSTM(*of["encoder"]).forward(named["encoder.embedding.W"][xs])
    decoder = rnnfast.TimeLSTM(*of["decoder"], stateful=True)
    decoder.set_state(hs[:, -1])
    hs = decoder.forward(named["decoder.embedding.W"][ts])
    logits = hs @ named["decoder.affine.W"] + named["decoder.affine.b"]
    assert_close(model.predict(xs, decoder_xs=ts), logits, 1e-12)


def test_attention_weights_can_be_looked_at():
    model, (xs, ts) = make(rnnfast.AttentionSeq2seq), batch()
    model.predict(xs, decoder_xs=ts, lengths=LENGTHS)
    weights = model.attention.weights
    assert weights.shape == (N, T + 1, S)
    sums = (LENGTHS > 0)[:, None] * np.ones(T + 1)
    assert_close(weights.sum(axis=2), sums, 1e-12)
    assert not weights[0, :, 2:].any()


@every_model
def test_take_step_learns(Model):
    """A short answer by heart, in float32, with the compiled optimizer."""
    model, data = Model(V, 8, 16, target_vocab_size=W, rng=0), batch()
    optimizer = rnnfast.Adam(0.02)
    losses = [take_step(model, optimizer, *data, max_grad=5.0) for _ in range(150)]
    assert losses[-1] < 0.1 < losses[0]
    loss = take_step(model, optimizer, *data, lengths=np.full(N, S))
    assert loss == pytest.approx(losses[-1], abs=0.05)


# How they write. ------------------------------------------------------------------------------


def one_by_one(model, xs, length, stop_id=None):
    """What greedy generation means, by `predict`, for each row on its own."""
    answers = np.empty((len(xs), length), np.int64)
    for row, answer in zip(xs, answers, strict=True):
        read = [START]
        for t in range(length):
            logits = model.predict(row[None], decoder_xs=[read])
            token = int(logits[0, -1].argmax())
            if stop_id is not None and read[-1] == stop_id and t:
                token = stop_id
            answer[t] = token
            read.append(token)
    return answers


@both_ops
@every_model
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stop_id", [None, STOP])
def test_all_answers_at_once_are_those_one_by_one(Model, cell, ops, stop_id):
    model = make(Model, cell=cell, ops=ops)
    xs = np.random.default_rng(1).integers(0, V, (20, S))
    ids = model.generate(xs, START, 7, stop_id=stop_id)
    assert (ids.dtype, ids.shape) == (np.int64, (20, 7))
    np.testing.assert_array_equal(ids, one_by_one(model, xs, 7, stop_id))


def test_what_follows_a_stop_is_stop():
    model = make(rnnfast.Seq2seq)
    model.affine.params[1][STOP] = 3
    xs = np.random.default_rng(1).integers(0, V, (50, S))
    for beams in (1, 3):
        ids = model.generate(xs, START, 9, stop_id=STOP, beams=beams)
        stopped = np.cumsum(ids == STOP, axis=1) > 0
        assert stopped.any(axis=1).any()
        assert (ids[stopped] == STOP).all()
    model.affine.params[1][STOP] = 1000  # at once: the rest is not computed, and there all the same
    for beams in (1, 3):
        assert (model.generate(xs, START, 9, stop_id=STOP, beams=beams) == STOP).all()


@every_model
def test_generation_takes_lengths(Model):
    model, xs = make(Model), padded()[0]
    for beams in (1, 2):
        ids = model.generate(xs, START, 6, lengths=LENGTHS, beams=beams)
        for n in (0, 1):
            alone = model.generate(xs[n : n + 1, : LENGTHS[n]], START, 6, beams=beams)
            np.testing.assert_array_equal(ids[n], alone[0])


def every_answer(model, xs, length, stop_id, length_penalty):
    """The best of all answers to each question, and its score, by `predict`."""
    texts = list(itertools.product(range(W), repeat=length))
    if stop_id is not None:  # after the first stop nothing else
        texts = [
            text for text in texts
            if stop_id not in text
            or set(text[text.index(stop_id) :]) == {stop_id}
        ]  # fmt: skip
    ids = np.array(texts)
    best, scores = [], []
    for row in xs:
        read = np.insert(ids, 0, START, axis=1)[:, :-1]
        logs = decoding.log_softmax(model.predict(np.tile(row, (len(ids), 1)), decoder_xs=read))
        logs = np.take_along_axis(logs, ids[:, :, None], axis=2)[:, :, 0]
        counts = np.full(len(ids), length)
        if stop_id is not None:
            before = np.cumsum(ids == stop_id, axis=1) - (ids == stop_id)
            logs = np.where(before > 0, 0, logs)
            counts = (before == 0).sum(axis=1)
        totals = logs.sum(axis=1) / counts**length_penalty
        best.append(ids[totals.argmax()])
        scores.append(totals.max())
    return np.array(best), np.array(scores)


@every_model
@pytest.mark.parametrize("stop_id", [None, STOP])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 0.6])
def test_enough_beams_find_the_best_of_all_answers(Model, stop_id, length_penalty):
    model, length = make(Model), 3
    xs = np.random.default_rng(2).integers(0, V, (10, S))
    options = {"stop_id": stop_id, "length_penalty": length_penalty, "return_scores": True}
    best, scores = every_answer(model, xs, length, stop_id, length_penalty)
    ids, found = model.generate(xs, START, length, beams=W ** (length - 1), **options)
    np.testing.assert_array_equal(ids, best)
    assert found.dtype == np.float64
    assert_close(found, scores, 1e-12)
    # and one beam does not
    greedy, worse = model.generate(xs, START, length, beams=1, **options)
    np.testing.assert_array_equal(greedy, model.generate(xs, START, length, stop_id=stop_id))
    assert (worse <= found + 1e-12).all()
    assert (greedy != ids).any()


@every_model
def test_beams_of_a_batch_are_those_of_each_question(Model):
    model = make(Model)
    xs = np.random.default_rng(2).integers(0, V, (12, S))
    ids, scores = model.generate(xs, START, 8, stop_id=STOP, beams=3, return_scores=True)
    for n in range(len(xs)):
        alone = model.generate(xs[n : n + 1], START, 8, stop_id=STOP, beams=3, return_scores=True)
        np.testing.assert_array_equal(alone[0][0], ids[n])
        assert_close(alone[1][0], scores[n], 1e-12)


@every_model
def test_a_score_is_the_log_probability_of_the_answer(Model):
    model, (xs, _) = make(Model), batch()
    ids, scores = model.generate(xs, START, T, beams=4, return_scores=True)
    loss = model.forward(xs, np.insert(ids, 0, START, axis=1), need_gradient=False)
    assert_close(-scores.sum() / (N * T), loss, 1e-12)


@every_model
def test_generation_changes_nothing_and_many_may_at_once(Model):
    model = make(Model)
    xs = np.random.default_rng(3).integers(0, V, (8, 30, S))
    expected = [model.generate(block, START, 6, beams=2) for block in xs]
    data = batch()
    wanted = gradients(model, *data)
    model.forward(*data)
    before = everything_of(model)
    found = [None] * len(xs)

    def work(k):
        for _ in range(5):
            found[k] = model.generate(xs[k], START, 6, beams=2)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)
    require_unchanged(model, before)
    model.backward()  # what forward kept is still there
    assert_all_close(model.named_grads() | {"loss": wanted["loss"]}, wanted, 1e-15)


@every_model
def test_no_tokens_at_all(Model):
    ids, scores = make(Model).generate(batch()[0], START, 0, beams=3, return_scores=True)
    assert (ids.shape, ids.dtype) == ((N, 0), np.int64)
    assert scores.tolist() == [0, 0, 0]
    assert make(Model).generate(batch()[0], START, 0).shape == (N, 0)


# What they refuse. ----------------------------------------------------------------------------


def at(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


XS, TS = batch()


@every_model
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((XS[:0], TS[:0]), {}, ValueError, r"xs: .*sizes must be at least 1"),
        ((XS[0], TS), {}, ValueError, r"xs: expected an array of shape \(N, S\)"),
        ((XS.astype(float), TS), {}, TypeError, "xs: expected token ids of an integer dtype"),
        ((at(XS, (1, 2), V), TS), {}, ValueError, rf"xs: .* got {V} at position \(1, 2"),
        ((at(XS, (1, 2), -1), TS), {}, ValueError, r"xs: .* got -1 at position \(1, 2\)"),
        (([[0, 1], [2]], TS), {}, ValueError, "xs: expected an array, got rows of different"),
        ((XS, TS[:2]), {}, ValueError, r"ts: expected an array of shape \(3, T\+1\)"),
        ((XS, TS[:, :1]), {}, ValueError, "ts: expected a start token and at least one target"),
        ((XS, TS[:, :0]), {}, ValueError, r"ts: .*sizes must be at least 1"),
        ((XS, at(TS, (1, 0), -1)), {}, ValueError, r"begin with a start .* -1 at position \(1, 0"),
        ((XS, at(TS, (1, 1), W)), {}, ValueError, rf"ts: .* or the ignored label -1, got {W}"),
        ((XS, TS), {"lengths": [1, 2]}, ValueError, r"lengths: expected an array of shape \(3,\)"),
        ((XS, TS), {"lengths": [1, 2, S + 1]}, ValueError, rf"lengths: .*0..{S}, got {S + 1}"),
        ((XS, TS), {"lengths": [1, 2, -1]}, ValueError, "lengths: .* got -1"),
        ((XS, TS), {"lengths": [1.0, 2, 3]}, TypeError, "lengths: .* integer dtype"),
        ((at(XS, (0, 1), 99), TS), {"lengths": [2, 1, 1]}, ValueError, "xs: .* got 99"),
        ((XS, TS), {"index": XS}, TypeError, "index: expected no such keyword argument"),
    ],
)  # fmt: skip
def test_bad_batches(Model, arguments, options, error, message):
    model = make(Model)
    model.forward(*batch(1))
    model.backward()
    before = everything_of(model)
    with pytest.raises(error, match=message):
        model.forward(*arguments, **options)
    require_unchanged(model, before)


@every_model
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"start_id": W},
            ValueError,
            rf"start_id: .* in 0..{W - 1}, got {W}; check the vocabulary",
        ),
        ({"start_id": -1}, ValueError, "start_id: .* got -1"),
        ({"start_id": 1.0}, TypeError, "start_id: .* whole number, got 1.0"),
        ({"start_id": True}, TypeError, "start_id: .* got True"),
        ({"start_id": None}, TypeError, "start_id: .* got None"),
        ({"stop_id": W}, ValueError, rf"stop_id: .* got {W}"),
        ({"length": -1}, ValueError, "length: expected a whole number of at least 0, got -1"),
        ({"length": 2.0}, ValueError, "length: expected a whole number"),
        ({"beams": 0}, ValueError, "beams: expected a whole number of at least 1, got 0"),
        ({"length_penalty": -1}, ValueError, "length_penalty: expected a finite number"),
        ({"length_penalty": np.nan}, ValueError, "length_penalty: expected a finite number"),
        ({"return_scores": 1}, TypeError, "return_scores: expected True or False"),
        ({"lengths": [1, 2, S + 1]}, ValueError, "lengths: "),
        ({"xs": XS[:0]}, ValueError, "xs: .*sizes must be at least 1"),
        ({"xs": XS + V}, ValueError, "xs: expected token ids in"),
    ],
)
def test_bad_arguments_of_generate(Model, options, error, message):
    model = make(Model)
    before = everything_of(model)
    with pytest.raises(error, match=message):
        model.generate(**{"xs": XS, "start_id": START, "length": 3} | options)
    require_unchanged(model, before)


@every_model
@pytest.mark.parametrize("beams", [1, 2])
def test_weights_that_are_no_numbers_write_nothing(Model, beams):
    model = make(Model)
    model.named_params()["decoder.affine.b"][1] = np.nan
    with pytest.raises(InputError, match=r"logits that are finite numbers.*load them again"):
        model.generate(XS, START, 3, beams=beams)


@every_model
def test_what_predict_and_infer_refuse(Model):
    model = make(Model)
    for method in (model.predict, model.infer):
        with pytest.raises(TypeError, match="decoder_xs: expected as keyword argument"):
            method(XS)
        with pytest.raises(ValueError, match=r"decoder_xs: expected an array of shape \(3, T\)"):
            method(XS, decoder_xs=TS[:1])
        with pytest.raises(ValueError, match="decoder_xs: expected token ids"):
            method(XS, decoder_xs=TS - 9)
    with pytest.raises(ValueError, match="states: expected None, since the encoder starts"):
        model.infer(XS, [None, None], decoder_xs=TS)


@every_model
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, D, H), {}, ValueError, "vocab_size: expected a whole number of at least 1, got 0"),
        ((V, 1.5, H), {}, ValueError, "wordvec_size: "),
        ((V, D, True), {}, ValueError, "hidden_size: "),
        ((V, D, H), {"target_vocab_size": 0}, ValueError, "target_vocab_size: .* got 0"),
        ((V, D, H), {"cell": "LSTM"}, ValueError, "cell: expected one of rnn, .* got 'LSTM'"),
        ((V, D, H), {"cell": ["lstm"]}, ValueError, "cell: expected one of"),
        ((V, D, H), {"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
        ((V, D, H), {"rng": -1}, ValueError, "rng: "),
    ],
)
def test_bad_arguments_of_constructors(Model, arguments, options, error, message):
    np.random.seed(0)
    with pytest.raises(error, match=message):
        Model(*arguments, **options)
    after = np.random.randn()
    np.random.seed(0)
    assert np.random.randn() == after


# Files and copies: see test_saving.py and test_copies.py too. ---------------------------------


@every_model
def test_encoder_and_decoder_of_different_sizes(Model):
    small, large = (Model(V, D, size, rng=0) for size in (H, H + 1))
    config = small.config()
    mixed = small.named_params() | {
        name: P for name, P in large.named_params().items() if name.startswith("decoder")
    }
    message = rf"decoder.recurrent.Wh: expected H = {H} as the encoder has, got {H + 1}"
    with pytest.raises(InputError, match=message):
        Model.from_params(mixed, **config)
    other = small.named_params() | {"decoder.embedding.W": np.zeros((V, D + 1), "f")}
    with pytest.raises(ValueError, match=r"decoder.embedding.W: .*have the same D and H"):
        Model.from_params(other, **config)
    again = Model.from_params(small.named_params(), **config)
    assert again.params[0] is small.params[0]
    assert again.forward(*batch(4)) == small.forward(*batch(4))


@pytest.mark.parametrize("change", [{"reverse": True}, {"stateful": False}])
def test_a_decoder_that_could_not_write(change):
    model = make(rnnfast.Seq2seq)
    config = model.config()
    config["decoder"] |= change
    with pytest.raises(InputError, match="decoder: expected a layer with stateful=True"):
        rnnfast.Seq2seq.from_params(model.named_params(), **config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "other"}, "cell: expected one of"),
        ({"cell": "gru"}, "recurrent.Wx: expected an array of shape"),
        ({"cell": "gru_reset_after"}, "missing encoder.recurrent.bh"),
        ({"encoder": 3}, "encoder: expected a dict"),
        ({"encoder": {"size": 3}}, "size"),
        ({"more": 1}, "unknown more"),
    ],
)
def test_configs_of_something_else(change, message):
    model = make(rnnfast.Seq2seq)
    with pytest.raises(ValueError, match=message):
        rnnfast.Seq2seq.from_params(model.named_params(), **model.config() | change)


def test_a_file_of_another_model(tmp_path):
    make(rnnfast.PeekySeq2seq).save(tmp_path / "a")
    with pytest.raises(InputError, match="it holds a PeekySeq2seq, expected a AttentionSeq2seq"):
        rnnfast.AttentionSeq2seq.load(tmp_path / "a")
    loaded = rnnfast.Seq2seq.load(tmp_path / "a")  # which it is a kind of
    assert type(loaded) is rnnfast.PeekySeq2seq
    np.testing.assert_array_equal(
        loaded.generate(XS, START, 5), make(rnnfast.PeekySeq2seq).generate(XS, START, 5)
    )


def test_a_subclass_with_a_constructor_of_its_own_needs_a_config(tmp_path):
    class Small(rnnfast.Seq2seq):
        def __init__(self, vocab_size):
            super().__init__(vocab_size, 2, 3, rng=0)

    with pytest.raises(TypeError, match="Small: expected a method config of its own"):
        Small(5).save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_examples_in_docstrings():
    results = doctest.testmod(seq2seq)
    assert results.attempted
    assert not results.failed
