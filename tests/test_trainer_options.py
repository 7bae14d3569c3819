"""What a trainer can do besides plain steps: windows, several blocks in a step, clipping by value,
early stopping, averages, callbacks. And that all of it carries on bit for bit."""

import doctest
import json
import os
import re
import threading

import numpy as np
import pytest

import rnnfast
from rnnfast.errors import InputError, TrainingDiverged, TrainingInterrupted
from rnnfast.training.steps import take_step, take_step_of_blocks

IDS = np.random.default_rng(0).integers(0, 7, 500)


class Recorder:
    """An optimizer that keeps the gradients of every step, and leaves the weights."""

    slots, state, lr = (), [], 1.0

    def __init__(self):
        self.steps, self.seen = 0, []

    def update(self, params, grads):
        self.steps += 1
        self.seen.append([dW.copy() for dW in grads])


def _model(dtype="float64", **options):
    return rnnfast.Rnnlm(7, 8, 8, num_layers=2, rng=0, dtype=dtype, **options)


def _network(rng=3):
    """A network that draws in training, and is not as stateful everywhere."""
    rn = np.random.default_rng(5).standard_normal
    lstm = [(rn(shape) / 3).astype("f") for shape in [(8, 32), (8, 32), 32]]
    gru = [(rn(shape) / 3).astype("f") for shape in [(8, 24), (8, 24), 24]]
    layers = [
        rnnfast.TimeEmbedding(rn((7, 8)).astype("f")),
        rnnfast.TimeDropout(0.1, rng=rng),
        rnnfast.TimeLSTM(*lstm, stateful=True, zoneout=0.1, rng=rng),
        rnnfast.TimeGRU(*gru),
    ]
    W = (rn((8, 7)) / 3).astype("f")
    return rnnfast.Network(layers, rnnfast.TimeAffineWithLoss(W, np.zeros(7, "f")))


def _trainer(model=None, optimizer=None, **options):
    options = {"batch_size": 4, "time_size": 10} | options  # 13 blocks, the last of 5
    model, optimizer = model or _model("float32"), optimizer or rnnfast.Adam(0.02)
    return rnnfast.Trainer(model, optimizer, IDS, IDS[::-1][:200], **options)


def _require_close(arrays, others, rtol=1e-11):
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def _require_equal(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b)


# Several blocks in a step. ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"tie_weights": True}])
def test_several_blocks_are_one_batch(options):
    """Where rows are independent, whatever does not count in each of them."""
    rng = np.random.default_rng(1)
    xs, ts = rng.integers(0, 7, (2, 6, 5))
    ts[:2, 1:] = ts[3, :] = -1
    whole, parts = _model(**options), _model(**options)
    for layer in (*whole.recurrent_layers, *parts.recurrent_layers):
        layer.stateful = False
    blocks = [(xs[k : k + 2], ts[k : k + 2]) for k in (0, 2, 4)]
    counts = [int((block != -1).sum()) for _, block in blocks]
    assert counts == [2, 5, 10]
    expected, seen = Recorder(), Recorder()
    loss = take_step(whole, expected, xs, ts)
    weights = [count / 17 for count in counts]
    assert take_step_of_blocks(parts, seen, blocks, weights) == pytest.approx(loss, rel=1e-13)
    _require_close(seen.seen[0], expected.seen[0])


@pytest.mark.parametrize("accumulate", [2, 4, 7])
def test_states_are_carried_through_the_blocks_of_a_step(accumulate):
    """As through a longer block, in which gradients are cut."""
    long, many = Recorder(), Recorder()
    model = _model()
    for layer in model.recurrent_layers:
        layer.truncate_size = 10
    expected = _trainer(model, long, max_grad=None, time_size=10 * accumulate)
    trainer = _trainer(_model(), many, max_grad=None, accumulate=accumulate)
    losses, expected_losses = [], []
    trainer.fit(2, on_step=lambda *step: losses.append(step))
    expected.fit(2, on_step=lambda *step: expected_losses.append(step))
    assert trainer.steps_per_epoch == len(expected.blocks) == {2: 7, 4: 4, 7: 2}[accumulate]
    assert trainer.step == len(losses) == 2 * trainer.steps_per_epoch
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    assert sum(tokens for tokens, _ in losses) == 2 * trainer.tokens_per_epoch
    for a, b in zip(many.seen, long.seen, strict=True):
        _require_close(a, b)


def test_one_block_is_a_step_as_before():
    plain, trainer = _trainer(), _trainer(accumulate=1, window=10, max_value=1e9)
    plain.fit(2)
    trainer.fit(2)
    _require_equal(trainer.model.params, plain.model.params)


def test_lines_of_the_history_with_several_blocks_in_a_step():
    trainer = _trainer(accumulate=4, records_per_epoch=4)  # a line for every 3 of 13 blocks
    trainer.fit(1)
    assert [record.step for record in trainer.history] == [1, 2, 3, 4]
    trainer = _trainer(accumulate=2, records_per_epoch=4)
    trainer.fit(1)
    assert [record.step for record in trainer.history] == [2, 3, 5, 6, 7]


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_step_whose_later_block_fails_has_not_been_taken(failing, window):
    """Whatever the error: states, generators and rate are those before its first block."""
    options = {"accumulate": 3, "window": window, "schedule": rnnfast.CosineLR()}
    whole, trainer = _trainer(_network(), **options), _trainer(_network(), **options)
    whole.fit(1)
    with pytest.raises(TrainingInterrupted):
        trainer.fit(1, stop=lambda: trainer.step == 2)
    before, random_state = _saved(trainer), trainer.model.random_state()
    backward, calls = trainer.model.backward, []

    def fails(*dout):
        calls.append(dout)
        if len(calls) == failing:
            raise MemoryError("of backward")
        backward(*dout)

    trainer.model.backward = fails
    with pytest.raises(MemoryError, match="of backward"):
        trainer.fit(1)
    trainer.model.backward = backward
    assert trainer.model.random_state() == random_state
    after = _saved(trainer)
    assert after[1] == before[1]
    assert after[0].keys() == before[0].keys()
    _require_equal(after[0].values(), before[0].values())
    trainer.fit(1)
    _require_equal(trainer.model.params, whole.model.params)


@pytest.mark.parametrize("max_grad", [None, 1.0])
def test_a_gradient_of_an_earlier_block_that_is_not_finite(max_grad):
    trainer = _trainer(accumulate=2, max_grad=max_grad)
    before = [W.copy() for W in trainer.model.params]
    backward = trainer.model.backward

    def poisoned_once(dout):
        backward(dout)
        trainer.model.grads[4][0, 0] = np.inf
        trainer.model.backward = backward

    trainer.model.backward = poisoned_once
    message = r"gradient of recurrent.1.Wx is not finite at step 1 \(epoch 1, block 1 of 13\)"
    with pytest.raises(TrainingDiverged, match=message):
        trainer.fit(1)
    _require_equal(trainer.model.params, before)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"accumulate": 3}, {"accumulate": 2, "window": 20}, {"window": 30}),
        *({"max_value": 0.01}, {"max_value": 0.01, "max_grad": None}, {"average": 0.9}),
    ],
)
def test_sparse_gradients_change_no_bit(options):
    """Also where a step of one block follows those of several."""

    class Dense(rnnfast.SGD):
        takes_rows = False

    ids = np.random.default_rng(0).integers(0, 400, 900)  # most are in no block
    params = []
    for Optimizer in (rnnfast.SGD, Dense):
        model = rnnfast.Rnnlm(400, 8, 8, rng=0)
        options = {"batch_size": 4, "time_size": 10} | options
        rnnfast.Trainer(model, Optimizer(0.5), ids, ids[:200], **options).fit(3)
        params.append(model.params)
    _require_equal(*params)


# Windows. -----------------------------------------------------------------------------------------


def _differences(model, loss, eps=1e-6):
    """Gradients of loss() by central differences."""
    grads = []
    for W in model.params:
        grads.append(np.zeros_like(W))
        for place in np.ndindex(W.shape):
            kept = W[place]
            W[place] = kept + eps
            above = loss()
            W[place] = kept - eps
            grads[-1][place] = (above - loss()) / (2 * eps)
            W[place] = kept
    return grads


def test_the_gradient_of_a_window():
    """Of the block's loss, through the window alone, which begins with the state of one long
    forward: by central differences."""
    model, seen = rnnfast.Rnnlm(7, 2, 3, rng=0, dtype="float64"), Recorder()
    for W in model.params:
        W *= 3  # so that what comes from far matters
    trainer = _trainer(model, seen, time_size=4, window=12, max_grad=None)
    losses = []
    trainer.fit(1, on_step=lambda tokens, loss: losses.append(loss))
    xs, ts = rnnfast.lanes(IDS, 4)
    assert len(trainer.blocks) == trainer.step == 32
    for block in (0, 1, 2, 3, 17, 31):
        start, first, end = max(0, 4 * block - 8), 4 * block, 4 * block + 4
        states = model.read(xs[:, :start]) if start else None

        def loss(states=states, start=start, first=first, end=end):
            logits = model.infer(xs[:, start:end], states)[0][:, first - start :]
            return rnnfast.TimeSoftmaxWithLoss().forward(logits, ts[:, first:end])

        assert losses[block] == pytest.approx(loss(), rel=1e-12)
        _require_close(seen.seen[block], _differences(model, loss), rtol=1e-7)
    plain, other = Recorder(), rnnfast.Rnnlm(7, 2, 3, rng=0, dtype="float64")
    other.set_params(model.named_params())
    _trainer(other, plain, time_size=4, max_grad=None).fit(1)
    differ = [not np.allclose(a[2], b[2]) for a, b in zip(seen.seen, plain.seen, strict=True)]
    assert differ == [False] + 31 * [True]  # without a window it is another gradient


@pytest.mark.parametrize("window", [20, 30, 60, 2000])
def test_a_window_begins_with_what_the_model_carried_to_there(window):
    """Also where weights, and so states, have changed since."""
    trainer, model, optimizer = _trainer(window=window), _model("float32"), rnnfast.Adam(0.02)
    blocks = trainer.blocks
    model.reset_state()
    carried = [model.get_state()]
    for k in range(len(blocks)):
        first = max(0, k + 1 - window // 10)
        window_blocks = [blocks[number] for number in range(first, k + 1)]
        xs, ts = (np.concatenate(part, 1) for part in zip(*window_blocks, strict=True))
        ts[:, : 10 * (k - first)] = -1
        model.set_state(carried[first])
        take_step(model, optimizer, xs, ts, max_grad=1.0)
        carried.append(model.get_state())
    trainer.fit(1)
    _require_equal(trainer.model.params, model.params)


# Clipping. ----------------------------------------------------------------------------------------


def test_clipping_by_value():
    plain, seen = Recorder(), Recorder()
    _trainer(_model(), plain, max_grad=None).fit(1)
    _trainer(_model(), seen, max_grad=None, max_value=0.01).fit(1)
    assert max(np.abs(dW).max() for dW in plain.seen[0]) > 0.02
    for a, b in zip(seen.seen, plain.seen, strict=True):
        _require_equal(a, [dW.clip(-0.01, 0.01) for dW in b])


def test_clipping_by_value_and_then_by_norm():
    plain, seen = Recorder(), Recorder()
    _trainer(_model(), plain, max_grad=None, max_value=0.01).fit(1)
    _trainer(_model(), seen, max_grad=0.02, max_value=0.01).fit(1)
    for a, b in zip(seen.seen, plain.seen, strict=True):
        norm = np.sqrt(sum((dW**2).sum() for dW in b))
        _require_close(a, [dW * min(1, 0.02 / (norm + 1e-6)) for dW in b])
    assert norm > 0.03


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("max_grad", [None, 1.0])
def test_clipping_by_value_makes_no_number_of_an_infinity(max_grad, value):
    trainer = _trainer(max_grad=max_grad, max_value=0.1)
    before = [W.copy() for W in trainer.model.params]
    backward = trainer.model.backward

    def poisoned():
        backward()
        trainer.model.grads[1][0, 0] = value

    trainer.model.backward = poisoned
    message = r"gradient of recurrent.0.Wx is not finite .*; try a smaller learning rate$"
    with pytest.raises(TrainingDiverged, match=message):
        trainer.fit(1)
    _require_equal(trainer.model.params, before)


# Early stopping and the best weights. -------------------------------------------------------------


class Best(rnnfast.Callback):
    """The validated weights of the best epoch, and whether each epoch was better."""

    def __init__(self):
        self.params, self.improved = None, []

    def on_epoch(self, trainer, record, improved):
        self.improved.append(improved)
        if improved:
            self.params = [W.copy() for W in trainer.validated_params().values()]
            assert trainer.epochs_since_best == 0


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping(patience, capsys):
    trainer, best = _trainer(patience=patience), Best()
    assert not trainer.stopped_early
    trainer.fit(50, callbacks=[best])
    assert trainer.stopped_early
    assert best.improved[-patience:] == [False] * patience
    assert best.improved[-patience - 1]
    assert trainer.epoch == len(best.improved) < 50
    assert trainer.epochs_since_best == patience
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"stopped early (patience {patience}); best validation: ")
    assert f"{trainer.best_loss:.4f} nats" in last
    before = [W.copy() for W in trainer.model.params]
    assert not all(map(np.array_equal, before, best.params))
    trainer.fit(60)  # there is no patience left
    _require_equal(trainer.model.params, before)
    assert capsys.readouterr().err == ""
    trainer.patience = None
    trainer.fit(len(best.improved) + 1)
    assert trainer.epoch == len(best.improved) + 1


def test_an_epoch_whose_schedule_fails_is_not_done():
    class Failing(rnnfast.Schedule):
        def after_epoch(self, lr, *, epochs_since_best):
            return None

    trainer = _trainer(schedule=Failing())
    with pytest.raises(ValueError, match=r"Failing\.after_epoch, got None"):
        trainer.fit(1, verbose=False)
    assert (trainer.epoch, trainer.best_loss) == (0, np.inf)
    assert all(line.valid_loss is None for line in trainer.history)
    trainer.schedule = rnnfast.ConstantLR()
    seen = []
    trainer.fit(1, verbose=False, on_epoch=lambda record, improved: seen.append(improved))
    assert (trainer.epoch, seen) == (1, [True])


def test_without_patience_all_epochs_are_done():
    trainer = _trainer()
    trainer.fit(20)
    assert (trainer.epoch, trainer.stopped_early) == (20, False)
    assert trainer.epochs_since_best > 5


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("patience", [None, 2])
def test_the_best_weights_are_put_back(patience, average):
    trainer, best = _trainer(patience=patience, restore_best=True, average=average), Best()
    trainer.fit(25, callbacks=[best])
    assert not best.improved[-1]
    _require_equal(trainer.model.params, best.params)
    options = {"batch_size": 4, "time_size": 10}
    assert rnnfast.evaluate(trainer.model, trainer.valid_ids, **options) == trainer.best_loss


def test_the_best_weights_are_put_back_by_whoever_carries_on():
    """Where the checkpoint was written at the end of the last epoch, before that."""
    trainer, states = _trainer(patience=2, restore_best=True), []
    trainer.fit(50, on_epoch=lambda *_: states.append(_saved(trainer)))
    other = _trainer(patience=2, restore_best=True)
    other.restore(*states[-1])
    assert other.stopped_early
    other.fit(50)
    _require_equal(other.model.params, trainer.model.params)


# Averages. ----------------------------------------------------------------------------------------


def test_averages_of_the_weights():
    average, plain, trainer = 0.8, _trainer(), _trainer(average=0.8)
    expected, losses = [W.astype("d") for W in plain.model.params], []

    class Averages(rnnfast.Callback):
        def on_step(self, plain, tokens, loss):
            kept = min(average, plain.step / (9 + plain.step))
            for a, W in zip(expected, plain.model.params, strict=True):
                a[...] = kept * a + (1 - kept) * W

        def on_epoch(self, plain, record, improved):
            averaged = _model("float32")
            for W, a in zip(averaged.params, expected, strict=True):
                W[...] = a
            losses.append(rnnfast.evaluate(averaged, plain.valid_ids, batch_size=4, time_size=10))

    plain.schedule = trainer.schedule = rnnfast.ConstantLR()
    plain.fit(3, callbacks=[Averages()])
    trainer.fit(3)
    _require_equal(trainer.model.params, plain.model.params)  # training does not see them
    _require_close(trainer.validated_params().values(), expected, rtol=1e-5)
    found = [record.valid_loss for record in trainer.history if record.valid_loss is not None]
    assert found == pytest.approx(losses, rel=1e-5)
    _require_equal(plain.validated_params().values(), plain.model.params)


def test_weights_are_put_back_after_a_validation_that_fails(monkeypatch):
    trainer = _trainer(average=0.9)
    seen = []

    def interrupted(model, ids, **options):
        seen.append([W.copy() for W in model.params])
        raise KeyboardInterrupt

    monkeypatch.setattr("rnnfast.training.trainer.evaluate", interrupted)
    last = []
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(1, on_step=lambda *_: last.append([W.copy() for W in trainer.model.params]))
    _require_equal(trainer.model.params, last[-1])
    _require_equal(seen[0], trainer.validated_params().values())


# Callbacks. ---------------------------------------------------------------------------------------


def test_callbacks():
    calls = []

    class Own(rnnfast.Callback):
        def __init__(self, name):
            self.name = name

        def on_step(self, of, tokens, loss):
            assert of is trainer
            calls.append((self.name, of.step, tokens, loss))

        def on_epoch(self, of, record, improved):
            assert of is trainer
            calls.append((self.name, record, improved))

    class OnlyEpochs(rnnfast.Callback):
        def on_epoch(self, of, record, improved):
            calls.append(("only", record, improved))

    trainer = _trainer(time_size=70)
    trainer.fit(
        1,
        on_step=lambda *step: calls.append(("function", *step)),
        on_epoch=lambda *epoch: calls.append(("function", *epoch)),
        callbacks=iter([Own("a"), OnlyEpochs(), Own("b")]),
        verbose=False,
    )
    record = trainer.history[-1]
    names = [call[0] for call in calls]
    assert names == ["function", "a", "b"] * 2 + ["function", "a", "only", "b"]
    assert calls[0] == ("function", 280, calls[1][3])
    assert calls[1][:3] == ("a", 1, 280)
    assert calls[4][:3] == ("a", 2, 219)
    assert calls[-1] == ("b", record, True)
    assert calls[-4] == ("function", record, True)


def test_what_callbacks_raise_comes_out_and_training_carries_on():
    class Fails(rnnfast.Callback):
        def on_step(self, trainer, tokens, loss):
            if trainer.step == 5:
                raise OSError("disk full")

    whole, trainer = _trainer(), _trainer()
    whole.fit(1)
    with pytest.raises(OSError, match="disk full"):
        trainer.fit(1, callbacks=[Fails()])
    trainer.fit(1)
    _require_equal(trainer.model.params, whole.model.params)


def test_fit_within_fit_is_refused():
    trainer = _trainer(time_size=70)
    calls = []

    def again(*_):
        calls.append(trainer.step)
        with pytest.raises(RuntimeError, match=r"^fit is running; it cannot be called"):
            trainer.fit(3, verbose=False)

    trainer.fit(2, verbose=False, on_step=again, on_epoch=again)
    assert (trainer.epoch, trainer.step) == (2, 2 * trainer.steps_per_epoch)
    assert len(calls) == trainer.step + 2
    trainer.fit(3, verbose=False)
    assert trainer.epoch == 3


def test_one_thread_of_several_fits():
    trainer, refused = _trainer(), []
    inside, ready = threading.Event(), threading.Event()

    def other():
        ready.wait(60)
        try:
            trainer.fit(1, verbose=False)
        except RuntimeError as error:
            refused.append(str(error))
        inside.set()

    thread = threading.Thread(target=other)
    thread.start()

    def on_step(*_):
        ready.set()
        assert inside.wait(60)

    trainer.fit(1, verbose=False, on_step=on_step)
    thread.join()
    assert refused
    assert refused[0].startswith("fit is running; it cannot be called by what it calls, nor by ano")
    assert trainer.epoch == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_made_by_fork_within_fit_may_fit():
    trainer = _trainer()

    def child(*_):
        if os.fork() == 0:
            try:
                _trainer().fit(1, verbose=False)
                trainer.require_idle()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.wait()[1] == 0

    trainer.fit(1, verbose=False, on_epoch=child)


def test_the_example_of_a_callback():
    results = doctest.testmod(rnnfast.training.trainer)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("callback", [None, print, rnnfast.Callback, "callback"])
def test_what_is_no_callback(callback):
    trainer = _trainer()
    with pytest.raises(TypeError, match=r"^callbacks: expected objects of a Callback, got"):
        trainer.fit(1, callbacks=[callback])
    assert trainer.step == 0


# What is shown. -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["word", "character"])
def test_words_have_a_perplexity(unit, capsys, monkeypatch):
    monkeypatch.setattr("rnnfast.training.progress.SECONDS_BETWEEN_LINES", 0)
    trainer = _trainer(unit=unit)
    trainer.fit(1)
    err = capsys.readouterr().err
    record = trainer.history[-1]
    perplexity = f"perplexity {record.valid_perplexity:.3f}"
    if unit == "word":
        assert re.search(r"100%  perplexity [67]\.\d  ", err)
        assert f"epoch 1/1: training perplexity {np.exp(record.train_loss):.3f} at its end, " in err
        assert f"validation {perplexity} ({record.valid_loss:.4f} nats, " in err
    else:
        assert re.search(r"100%  loss [12]\.\d{3}  ", err)
        assert f"epoch 1/1: training {record.train_loss:.4f} at its end, " in err
        assert f"validation {record.valid_loss:.4f} nats ({perplexity}, " in err
    assert f" bits per {unit})" in err


# Carrying on. -------------------------------------------------------------------------------------

SETTINGS = {
    "cosine": {"schedule": rnnfast.CosineLR(warmup=5, final=0.1)},
    "plateau": {"schedule": rnnfast.ReduceLROnPlateau(0.5, 2, min_lr=0.001)},
    "constant": {"schedule": rnnfast.ConstantLR(), "max_value": 0.05},
    "accumulate": {"accumulate": 4},
    "window": {"window": 30},
    "window over all": {"window": 2000},
    "both": {"window": 30, "accumulate": 2, "records_per_epoch": 3},
    "patience": {"patience": 2, "restore_best": True},
    "average": {"average": 0.9, "patience": 3},
    "all": {
        "window": 40,
        "accumulate": 3,
        "max_value": 0.1,
        "schedule": rnnfast.CosineLR(warmup=0.2),
        "patience": 1,
        "average": 0.8,
        "restore_best": True,
    },
}


def _saved(trainer):
    """What a file has of a trainer."""
    arrays, position = trainer.state()
    return {name: W.copy() for name, W in arrays.items()}, json.loads(json.dumps(position))


def _without_seconds(state):
    arrays, position = state
    position["record"].pop()
    return arrays | {"history": arrays["history"][:, :-1]}, position


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [_network, _model])
def test_stopped_at_every_step_and_carried_on(make, settings):
    """From a file, by another trainer of another model, as if nobody had stopped."""

    def trainer():
        return _trainer(make(), rnnfast.Adam(0.05), **SETTINGS[settings])

    epochs, whole, piecewise = 4, trainer(), trainer()
    whole.fit(epochs)
    stops = 0
    while True:
        try:
            piecewise.fit(epochs, stop=lambda: True)
            break
        except TrainingInterrupted:
            stops += 1
            state = _saved(piecewise)
            piecewise = trainer()
            piecewise.restore(*state)
    assert stops == whole.step >= 10
    assert piecewise.stopped_early == whole.stopped_early
    expected, found = _without_seconds(_saved(whole)), _without_seconds(_saved(piecewise))
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    _require_equal(found[0].values(), expected[0].values())


def test_a_checkpoint_has_names_for_what_windows_averages_and_best_weights_need():
    trainer = _trainer(window=30, average=0.9, restore_best=True)
    names = list(trainer.model.named_params())
    assert list(trainer.state()[0]) == [
        *(f"param/{name}" for name in names),
        *(f"average/{name}" for name in names),
        "history",
    ]
    with pytest.raises(TrainingInterrupted):
        trainer.fit(2, stop=lambda: trainer.step == 20)
    arrays, position = trainer.state()
    kinds = [f"recurrent.{k}/{s}" for k in (0, 1) for s in (0, 1)]
    carried = [f"carried/{kind}{age}" for age in ("", "/1", "/2") for kind in kinds]
    assert [name for name in arrays if name.startswith("carried/")] == carried
    assert (position["carried"], position["earlier"]) == (carried, 2)
    assert list(arrays)[-2 * len(names) - 1 :] == [
        *(f"average/{name}" for name in names),
        *(f"best/{name}" for name in names),
        "history",
    ]


def test_checkpoints_of_a_version_without_all_this():
    """They have neither peak nor earlier states."""
    whole, stopped, resumed = _trainer(), _trainer(), _trainer()
    whole.fit(6)
    with pytest.raises(TrainingInterrupted):
        stopped.fit(6, stop=lambda: stopped.step == 50)
    arrays, position = _saved(stopped)
    for name in ("peak_lr", "earlier"):
        del position[name]
    resumed.restore(arrays, position)
    assert resumed.epochs_since_best == stopped.epochs_since_best
    resumed.fit(6)
    _require_equal(resumed.model.params, whole.model.params)
    assert resumed.optimizer.lr == whole.optimizer.lr


@pytest.mark.parametrize("settings", SETTINGS)
def test_checkpoints_of_other_settings(settings):
    """What they have and nobody asks for is left; what they do not have begins anew."""
    plain, other = _trainer(), _trainer(**SETTINGS[settings])
    for trainer, into in ((plain, SETTINGS[settings]), (other, {})):
        with pytest.raises(TrainingInterrupted):
            trainer.fit(9, stop=lambda trainer=trainer: trainer.epoch and trainer.block >= 7)
        resumed = _trainer(**into)
        resumed.restore(*_saved(trainer))
        assert (resumed.epoch, resumed.block) == (trainer.epoch, trainer.block)
        _require_equal(resumed.validated_params().values(), trainer.model.params)
        assert not any(name.startswith("best/") for name in resumed.state()[0])
        with pytest.raises(TrainingInterrupted):
            resumed.fit(2, stop=lambda: True)
        validated = resumed.validated_params().values()
        same = all(map(np.array_equal, validated, resumed.model.params))
        assert same is ("average" not in into)
        resumed.fit(2)
        assert resumed.epoch == 2


def test_a_smaller_window_takes_the_newest_states():
    trainer = _trainer(window=40)
    with pytest.raises(TrainingInterrupted):
        trainer.fit(1, stop=lambda: trainer.step == 8)
    smaller, again = _trainer(window=20), _trainer(window=20)
    smaller.restore(*_saved(trainer))
    assert smaller.state()[1]["earlier"] == 1
    for name, array in smaller.state()[0].items():
        np.testing.assert_array_equal(array, trainer.state()[0][name])
    again.restore(*_saved(smaller))
    smaller.fit(1)
    again.fit(1)
    _require_equal(again.model.params, smaller.model.params)


def test_what_does_not_fit_changes_nothing():
    def make():
        return _trainer(_network(), window=30, average=0.9, restore_best=True)

    trainer, other = make(), make()
    with pytest.raises(TrainingInterrupted):
        trainer.fit(9, stop=lambda: trainer.step == 20)
    arrays, position = _saved(trainer)
    expected = _saved(other)
    # the GRU is not stateful, but has a state
    added = [n for n in arrays if n.startswith(("average/", "best/")) or n.count("/") == 3]
    assert len(added) == 2 * len(trainer.model.params) + 2 * 3
    wrong = [
        *({k: v for k, v in arrays.items() if k != name} for name in added),
        *(arrays | {name: arrays[name][..., :-1]} for name in added),
        *(arrays | {name: arrays[name].astype(float)} for name in added),
        *(arrays | {name: np.full_like(arrays[name], np.nan)} for name in added),
        *(arrays | {f"{name}x": arrays[name]} for name in added),
    ]
    wrong = [(arrays, position) for arrays in wrong] + [
        (arrays, position | {name: value})
        for name, values in {
            "peak_lr": (-1, "1", None, np.nan, True),
            "earlier": (-1, 1, 10**12, 1.0, None, True),
        }.items()
        for value in values
    ]
    for bad_arrays, bad_position in wrong:
        with pytest.raises(InputError):
            other.restore(bad_arrays, bad_position)
        now = _saved(other)
        assert now[1] == expected[1]
        assert now[0].keys() == expected[0].keys()
        _require_equal(now[0].values(), expected[0].values())
    other.restore(arrays, position)
    trainer.fit(2)
    other.fit(2)
    _require_equal(other.model.params, trainer.model.params)


# Bad input. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "values", "says"),
    [
        ("window", (0, -10, 1.5, "20", True), "expected a whole number of at least 1, got"),
        ("window", (5, 15, 21), r"expected a multiple of time_size \(10\), got .*; take [123]0$"),
        ("accumulate", (0, -1, 1.5, "2", None, True), "expected a whole number of at least 1, got"),
        ("patience", (0, -1, 1.5, "2", True), "expected a whole number of at least 1.* never"),
        ("max_value", (0, -1, np.nan, np.inf, "1", True), "expected a finite number above 0, got"),
        ("average", (1, -0.1, 1.5, np.nan, "0.9", True), "expected a number in 0 <= average < 1"),
        ("restore_best", (0, 1, None, "yes"), "expected True or False, got"),
    ],
)
def test_options_of_a_trainer(option, values, says):
    for value in values:
        with pytest.raises((ValueError, TypeError), match=f"^{option}: {says}"):
            _trainer(**{option: value})


def test_max_value_of_a_step():
    xs, ts = rnnfast.lanes(IDS, 4)
    for value in (0, -1, np.nan, "1"):
        with pytest.raises(ValueError, match=r"^max_value: expected a finite number above 0, got"):
            take_step(_model(), rnnfast.SGD(), xs, ts, max_value=value)
