"""The training loop: what it learns, what it leaves alone, where it stops."""

import contextlib
import json
import math
from inspect import signature

import numpy as np
import pytest
from problems import MODELS, OPTIMIZERS

import rnnfast
from rnnfast.errors import InputError, TrainingDiverged, TrainingInterrupted
from rnnfast.training import checkpoint
from rnnfast.training.steps import take_step

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


def _ids():
    return rnnfast.Vocabulary.from_text(TEXT).encode(TEXT)


def _trainer(cell=rnnfast.Rnnlm, optimizer=None, **options):
    ids = _ids()
    model = cell(int(ids.max()) + 1, 8, 16, num_layers=2, rng=np.random.default_rng(0))
    options = {"batch_size": 4, "time_size": 10} | options
    optimizer = optimizer or rnnfast.Adam(0.01)
    return rnnfast.Trainer(model, optimizer, ids[:1500], ids[1500:], **options)


def _require_equal_states(a, b):
    (arrays, position), (other_arrays, other_position) = a.state(), b.state()
    assert arrays.keys() == other_arrays.keys()
    for each in (arrays, other_arrays):
        each["history"] = each["history"][:, :-1]  # without tokens per second
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)
    for key in ("epoch", "block", "step", "lr", "optimizer_steps", "best_loss"):
        assert position[key] == other_position[key]


def test_defaults():
    """A training of the same arguments is the same in the next version."""
    defaults = {
        **{"batch_size": 32, "time_size": 64, "window": None, "accumulate": 1, "comm": None},
        **{"max_grad": 1.0, "max_value": None, "schedule": rnnfast.ReduceLROnPlateau(0.5)},
        **{"patience": None, "average": None, "restore_best": False, "unit": "token"},
        "records_per_epoch": 10,
    }
    found = signature(rnnfast.Trainer).parameters.values()
    assert {p.name: p.default for p in found if p.default is not p.empty} == defaults
    assert rnnfast.ReduceLROnPlateau(0.5) == rnnfast.ReduceLROnPlateau(0.5, 1, 0.0)


@pytest.mark.parametrize("cell", MODELS)
def test_a_repeated_sentence_is_learnt(cell):
    trainer = _trainer(cell)
    trainer.fit(12)
    assert rnnfast.unigram_entropy(_ids()) > 3
    assert trainer.best_loss < 0.3  # 0.02 and 0.06 where this was written
    assert trainer.history[-1].train_loss < 0.3


def test_evaluation_is_the_mean_over_all_targets_and_touches_nothing():
    trainer = _trainer()
    trainer.fit(1)
    model = trainer.model
    model.predict(np.array([[1, 2, 3]] * 4))
    state, params = model.get_state(), [W.copy() for W in model.params]
    grads = [dW.copy() for dW in model.grads]
    loss = rnnfast.evaluate(model, trainer.valid_ids, batch_size=1, time_size=7)
    for before, after in zip(state, model.get_state(), strict=True):
        for x, y in zip(before, after, strict=True):
            assert np.array_equal(x, y)
    for before, after in zip(params + grads, model.params + model.grads, strict=True):
        assert np.array_equal(before, after)
    model.reset_state()
    whole = model.forward(trainer.valid_ids[None, :-1], trainer.valid_ids[None, 1:])
    assert loss == pytest.approx(whole, rel=1e-6)


def test_lanes_of_evaluation_weigh_every_token_once():
    class Constant:
        """The loss of a batch is how many targets it has."""

        get_state = reset_state = set_state = lambda self, *_: None
        in_evaluation = contextlib.nullcontext

        def forward(self, xs, ts, *, need_gradient):
            return 1.0 if (ts != -1).all() else 0.0

    ids = np.arange(12)  # lanes of 3 columns, of which 11 of 12 places count
    assert rnnfast.evaluate(Constant(), ids, batch_size=4, time_size=2) == pytest.approx(8 / 11)


def test_the_history_has_what_happened():
    trainer = _trainer(records_per_epoch=5)
    seen = []
    trainer.fit(3, on_step=lambda tokens, loss: seen.append((tokens, loss)))
    assert trainer.step == len(seen) == 3 * len(trainer.blocks)
    assert sum(tokens for tokens, _ in seen) == 3 * 1499 == 3 * trainer.tokens_per_epoch
    ends = [record for record in trainer.history if record.valid_loss is not None]
    assert [record.epoch for record in ends] == [1, 2, 3]
    assert len(trainer.history) >= 15
    first = trainer.history[0]
    losses = [loss for _, loss in seen[: first.step]]
    assert first.train_loss == pytest.approx(np.mean(losses), rel=1e-9)
    for record in ends:
        assert record.valid_perplexity == pytest.approx(math.exp(record.valid_loss))
        assert record.valid_bits_per_token == pytest.approx(record.valid_loss / math.log(2))
    assert trainer.best_loss == min(record.valid_loss for record in ends)


class Clock:
    """In the place of `time`; an optimizer, or who is called after a step, lets time go on."""

    def __init__(self, trainer, monkeypatch, seconds):
        self.now, self.update, self.seconds = 100.0, trainer.optimizer.update, seconds
        monkeypatch.setattr(rnnfast.training.trainer, "time", self)
        monkeypatch.setattr(trainer.optimizer, "update", self.update_slowly)

    def update_slowly(self, *arguments):
        self.now += self.seconds
        return self.update(*arguments)

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


def test_tokens_per_second_of_steps_alone(monkeypatch):
    trainer, seen = _trainer(records_per_epoch=3), []
    clock = Clock(trainer, monkeypatch, 0.25)

    def on_step(tokens, loss):
        seen.append(tokens)
        clock.now += 7

    trainer.fit(2, on_step=on_step)
    begin = 0
    for record in trainer.history:
        tokens = seen[begin : record.step]
        assert record.tokens_per_second == pytest.approx(sum(tokens) / (0.25 * len(tokens)))
        begin = record.step


def test_a_long_epoch_is_saved_after_some_minutes(monkeypatch):
    trainer, saved = _trainer(time_size=29), []
    assert len(trainer.blocks) == 13
    Clock(trainer, monkeypatch, 25)
    trainer.fit(2, save=lambda: saved.append(trainer.step), save_every=1)
    # more than 60 seconds after the last save, or after the end of an epoch, where others save
    assert saved == [3, 6, 9, 12, 16, 19, 22, 25]


@pytest.mark.parametrize("verbose", [True, False])
def test_what_is_shown(verbose, capsys):
    _trainer().fit(1, verbose=verbose)
    assert ("epoch 1/1: training " in capsys.readouterr().err) is verbose


def test_the_learning_rate_falls_only_when_validation_does_not_improve():
    trainer = _trainer(optimizer=rnnfast.SGD(1e-30), schedule=rnnfast.ReduceLROnPlateau(0.25))
    improved = []
    trainer.fit(3, on_epoch=lambda record, better: improved.append(better))
    expected = 1e-30 * 0.25**2
    assert improved == [True, False, False]
    assert trainer.optimizer.lr == pytest.approx(expected, rel=1e-12)


def test_state_is_carried_from_block_to_block_and_reset_between_epochs():
    trainer = _trainer(optimizer=rnnfast.SGD(1e-12), records_per_epoch=10**6)
    trainer.fit(2)
    n = len(trainer.blocks)
    first, second = trainer.history[:n], trainer.history[n:]
    assert [a.train_loss for a in first] == pytest.approx([b.train_loss for b in second], rel=1e-6)
    model = trainer.model
    model.reset_state()
    blocks = [trainer.blocks[k] for k in range(3)]
    xs, ts = (np.concatenate(part, axis=1) for part in zip(*blocks, strict=True))
    assert np.mean([a.train_loss for a in first[:3]]) == pytest.approx(
        model.forward(xs, ts), rel=1e-5
    )


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_a_restored_trainer_continues_bit_for_bit(Optimizer):
    def make():
        return _trainer(optimizer=Optimizer(0.01))

    whole = make()
    whole.fit(3)
    steps = iter(range(10**6))
    stopped = make()
    with pytest.raises(TrainingInterrupted, match="step 50"):
        stopped.fit(3, stop=lambda: next(steps) == 49)
    resumed = make()
    resumed.restore(*stopped.state())
    resumed.fit(3)
    _require_equal_states(whole, resumed)


def test_stopping_at_every_step_changes_nothing():
    whole, piecewise = _trainer(), _trainer()
    whole.fit(2)
    while piecewise.epoch < 2:
        try:
            piecewise.fit(2, stop=lambda: True)
        except TrainingInterrupted:
            arrays, position = piecewise.state()
            piecewise = _trainer()
            piecewise.restore({name: array.copy() for name, array in arrays.items()}, position)
    _require_equal_states(whole, piecewise)


@pytest.mark.parametrize("max_grad", [None, 1.0])
def test_a_loss_that_is_not_finite_stops_before_the_update(max_grad):
    trainer = _trainer(max_grad=max_grad)
    trainer.fit(1)
    trainer.model.params[-1][3] = np.nan
    before = [W.copy() for W in trainer.model.params]
    step = trainer.step
    with pytest.raises(TrainingDiverged, match=f"loss is nan at step {step + 1} .*epoch 2, block"):
        trainer.fit(2)
    for W, old in zip(trainer.model.params, before, strict=True):
        assert np.array_equal(W, old, equal_nan=True)


@pytest.mark.parametrize("stop", [None, lambda: True], ids=["end of epoch", "stop"])
def test_weights_that_the_last_update_spoilt_are_not_handed_on(stop):
    trainer = _trainer()
    trainer.block = len(trainer.blocks) - 1
    update = trainer.optimizer.update

    def overflow(params, grads):
        update(params, grads)
        params[0][0, 0] = np.inf

    trainer.optimizer.update = overflow
    handed_on = []
    with pytest.raises(TrainingDiverged, match="weights are not finite after step 1"):
        trainer.fit(1, on_epoch=lambda *_: handed_on.append(1), stop=stop)
    assert not handed_on
    assert not trainer.history


@pytest.mark.parametrize("no", [None, "", 0, False])
def test_what_is_false_does_not_stop(no):
    trainer = _trainer()
    trainer.fit(1, stop=lambda: no)
    assert trainer.epoch == 1


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize("argument", ["batch_size", "time_size", "records_per_epoch"])
def test_sizes_of_a_trainer(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: expected a whole number of at least 1"):
        _trainer(**{argument: value})


def _poison(model, name, value):
    """Let backward leave `value` in one number of the gradient of one parameter."""
    backward = model.backward

    def poisoned():
        backward()
        model.named_grads()[name].flat[-1] = value

    model.backward = poisoned


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["embedding.W", "recurrent.1.b", "affine.b"])
@pytest.mark.parametrize("max_grad", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(max_grad, name, value):
    trainer = _trainer(max_grad=max_grad)
    with pytest.raises(TrainingInterrupted):
        trainer.fit(1, stop=lambda: True)
    arrays, before = trainer.state()
    arrays = {key: array.copy() for key, array in arrays.items()}
    _poison(trainer.model, name, value)
    message = rf"gradient of {name} is not finite at step 2 \(epoch 1, block 2 of 38\)"
    with pytest.raises(TrainingDiverged, match=message):
        trainer.fit(1)
    now, after = trainer.state()
    assert after == before
    assert now.keys() == arrays.keys()
    for key, array in now.items():
        np.testing.assert_array_equal(array, arrays[key])


def test_a_step_that_fails_has_not_been_taken():
    """Whatever the error: the same block again starts from the same state."""
    whole, trainer = _trainer(), _trainer()
    whole.fit(1)
    with pytest.raises(TrainingInterrupted):
        trainer.fit(1, stop=lambda: trainer.step == 3)
    update = trainer.optimizer.update
    for error in (MemoryError, ValueError):

        def fail(*_, error=error):
            raise error("of the update")

        trainer.optimizer.update = fail
        with pytest.raises(error, match="of the update"):
            trainer.fit(1)
    trainer.optimizer.update = update
    trainer.fit(1)
    _require_equal_states(whole, trainer)


@pytest.mark.parametrize("max_grad", [None, 1.0])
def test_the_step_of_training_loops(max_grad):
    """What the systems use as well: with an optimizer that knows nothing but update."""

    class Textbook:
        def update(self, params, grads):
            for W, dW in zip(params, grads, strict=True):
                W -= dW

    model = rnnfast.Rnnlm(5, 4, 4, rng=0)
    xs, ts = np.random.default_rng(0).integers(0, 5, (2, 2, 3))
    before = model.params[0].copy()
    loss = take_step(model, Textbook(), xs, ts, max_grad=max_grad)
    assert loss == pytest.approx(math.log(5), rel=0.1)
    assert not np.array_equal(model.params[0], before)
    _poison(model, "affine.W", np.nan)
    before = [W.copy() for W in model.params]
    for optimizer, where in ((Textbook(), ";"), (rnnfast.SGD(), " after 0 steps;")):
        with pytest.raises(TrainingDiverged, match=f"of affine.W is not finite{where} try a small"):
            take_step(model, optimizer, xs, ts, max_grad=max_grad)
    for W, old in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(W, old)
    with pytest.raises(ValueError, match="max_grad: expected a finite number above 0, got -1"):
        take_step(model, Textbook(), xs, ts, max_grad=-1)


def test_a_short_text_says_how_long_it_must_be():
    model = rnnfast.Rnnlm(5, 4, 4)
    with pytest.raises(InputError, match=r"100 tokens.*at least 201"):
        rnnfast.Trainer(
            model, rnnfast.SGD(), np.zeros(100, int), np.zeros(9, int), batch_size=10, time_size=20
        )
    with pytest.raises(InputError, match="validation part has 1 tokens"):
        rnnfast.Trainer(
            model, rnnfast.SGD(), np.zeros(99, int), np.zeros(1, int), batch_size=2, time_size=3
        )
    with pytest.raises(InputError, match="1 tokens"):
        rnnfast.evaluate(model, np.zeros(1, int))


# Checkpoints. -------------------------------------------------------------------------------------


def test_a_checkpoint_has_names():
    trainer = _trainer()
    names = list(trainer.model.named_params())
    arrays, _ = trainer.state()
    assert list(arrays) == [*(f"param/{name}" for name in names), "history"]
    with pytest.raises(TrainingInterrupted):
        trainer.fit(1, stop=lambda: True)
    arrays, position = trainer.state()
    slots = [f"optimizer/{name}/{slot}" for name in names for slot in "mv"]
    carried = [f"carried/recurrent.{k}/{s}" for k in range(2) for s in range(2)]
    assert list(arrays) == [*(f"param/{name}" for name in names), *slots, *carried, "history"]
    assert position["carried"] == carried
    trainer.fit(1)  # between epochs nothing is carried
    assert not any(name.startswith("carried") for name in trainer.state()[0])


def _swapped(arrays, a, b):
    """Arrays under each other's names: their shapes are the same."""
    assert arrays[a].shape == arrays[b].shape
    return arrays | {a: arrays[b], b: arrays[a]}


def test_weights_in_another_order_go_where_they_belong():
    trainer, other = _trainer(), _trainer()
    trainer.fit(1)
    arrays, position = trainer.state()
    other.restore(dict(reversed(arrays.items())), position)
    _require_equal_states(trainer, other)
    other.restore(
        _swapped(arrays, "param/recurrent.0.Wh", "param/recurrent.1.Wh"),
        position,
    )
    np.testing.assert_array_equal(
        other.model.named_params()["recurrent.0.Wh"], arrays["param/recurrent.1.Wh"]
    )


def _copied(state):
    arrays, position = state
    return {name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(position))


def test_what_does_not_fit_changes_nothing():
    """Neither weights nor optimizer, states, generators, history or position."""

    def make():
        trainer = _droppy()
        with pytest.raises(TrainingInterrupted):
            trainer.fit(9, stop=lambda: trainer.step == 50)
        return trainer

    trainer, other = make(), _droppy()
    arrays, position = _copied(trainer.state())
    expected = _copied(other.state())
    array_of = arrays.items()
    carried, random_state = position["carried"], position["random_state"]
    wrong = [
        *({k: v for k, v in array_of if k != name} for name in arrays),
        *(arrays | {name: array[..., :-1]} for name, array in array_of),
        *(
            arrays | {name: array.astype("f4" if array.dtype == float else float)}
            for name, array in array_of
        ),
        *(arrays | {name: np.full_like(array, np.nan)} for name, array in array_of),
        *(arrays | {f"{name}x": array} for name, array in array_of),
    ]
    wrong = [(arrays, position) for arrays in wrong] + [
        (arrays, position | {name: value})
        for name, value in {
            "epoch": -1, "block": 39, "step": 1.0, "lr": math.nan, "optimizer_steps": True,
            "best_loss": "1", "record": [1, 2], "carried": None, "history": [],
        }.items()
    ]  # fmt: skip
    wrong += [
        (arrays | {"history": -arrays["history"]}, position),
        (arrays | {"history": arrays["history"][0]}, position),
        (arrays, position | {"carried": carried[1:]}),
        (arrays, position | {"carried": [*carried, next(iter(arrays))]}),
        (arrays, position | {"carried": [*carried, carried[0]]}),
        (arrays, position | {"random_state": {}}),
        (arrays, position | {"random_state": random_state | {"drop": {}}}),
        *(
            (arrays, {k: v for k, v in position.items() if k != name})
            for name in position.keys() - {"peak_lr", "earlier"}  # which are not in old files
        ),
    ]
    for bad_arrays, bad_position in wrong:
        with pytest.raises((InputError, KeyError, TypeError, ValueError)):
            other.restore(bad_arrays, bad_position)
        now = _copied(other.state())
        assert now[1] == expected[1]
        assert now[0].keys() == expected[0].keys()
        for name, array in now[0].items():
            np.testing.assert_array_equal(array, expected[0][name])
        assert other.model.get_state() == [(None, None), (None,)]
    other.model.params[-1].flags.writeable = False
    with pytest.raises(ValueError, match=r"loss.b: expected a writable array"):
        other.restore(arrays, position)
    other.model.params[-1].flags.writeable = True
    assert other.model.random_state() == expected[1]["random_state"]
    assert other.model.get_state() == [(None, None), (None,)]
    other.restore(arrays, position)
    trainer.fit(2)
    other.fit(2)
    _require_equal_states(trainer, other)


def test_arrays_that_are_missing_or_unknown_are_named():
    trainer = _trainer()
    arrays, position = trainer.state()
    first, *others = arrays
    with pytest.raises(InputError, match=f"missing {first}, unknown none"):
        trainer.restore({name: arrays[name] for name in others}, position)
    with pytest.raises(InputError, match="missing none, unknown param/more"):
        trainer.restore(arrays | {"param/more": arrays[first]}, position)


def test_fields_are_named_with_what_they_are_in():
    trainer = _trainer()
    trainer.fit(1)
    arrays, position = trainer.state()
    with pytest.raises(InputError, match=r"^record\[2\]: expected a finite number"):
        trainer.restore(arrays, position | {"record": [1, 2, "3"]})
    with pytest.raises(InputError, match=r"^record: expected a list of 3, got list"):
        trainer.restore(arrays, position | {"record": [1, 2]})
    with pytest.raises(InputError, match=r"^carried: expected a list, got 3"):
        trainer.restore(arrays, position | {"carried": 3})
    history = arrays["history"].copy()
    history[1, 2] = -1
    with pytest.raises(InputError, match=r"^history\[1\]\.lr: expected a number of at least 0"):
        trainer.restore(arrays | {"history": history}, position)


class TwoRanks:
    """As if another one had the same rows."""

    size = 2
    together = staticmethod(contextlib.nullcontext)

    @staticmethod
    def gathered(part, axis):
        return np.concatenate([part, part], axis)


def test_states_of_all_ranks_where_a_layer_carries_nothing():
    model = rnnfast.Rnnlm(10, 4, 5, num_layers=2, rng=0)
    h = np.arange(15.0).reshape(3, 5)
    carried = [[(h, None), (None, None)]]
    ((of_first, of_second),) = checkpoint.of_all_ranks(model, carried, TwoRanks(), slice(3, 6))
    np.testing.assert_array_equal(of_first[0], np.concatenate([h, h]))
    assert (of_first[1], of_second) == (None, (None, None))
    for rows in (slice(0, 2), slice(0, 4)):
        with pytest.raises(InputError, match=rf"layer recurrent.0: expected {rows.stop} rows"):
            checkpoint.of_all_ranks(model, carried, TwoRanks(), rows)


class Drop:
    """Half of the numbers, in training; what it draws, it draws in evaluation too."""

    training = True

    def __init__(self, rng):
        self.params, self.grads, self.rng = [], [], rng

    def forward(self, xs):
        self.kept = self.rng.random(xs.shape) < 0.5
        self.kept = self.kept * np.float32(2) if self.training else np.float32(1)
        return xs * self.kept

    def backward(self, dout):
        return dout * self.kept


def _droppy(rng=None):
    """A trainer of a network that is none of the language models, with layers that draw."""
    ids = _ids()
    V, rn = int(ids.max()) + 1, np.random.default_rng(5).standard_normal
    weights = [(rn(shape) / 3).astype("f") for shape in [(8, 64), (16, 64), 64]]
    both = [(rn(shape) / 3).astype("f") for shape in [(16, 24), (8, 24), 24] * 2]
    rates = {"recurrent_dropout": 0.1, "zoneout": (0.1, 0.05), "weight_drop": 0.1}
    lstm = rnnfast.TimeLSTM(*weights, stateful=True, rng=3, **rates)
    layers = {
        "in": rnnfast.TimeEmbedding(rn((V, 8)).astype("f")),
        "drop": Drop(rng or np.random.default_rng(1)),
        "lstm": lstm,
        "drop.1": Drop(np.random.RandomState(2)),
        "both": rnnfast.TimeBiGRU(*both, stateful=True, zoneout=0.1, rng=np.random.RandomState(5)),
    }
    W = (rn((16, V)) / 4).astype("f")
    model = rnnfast.Network(layers, rnnfast.TimeAffineWithLoss(W, np.zeros(V, "f")))
    return rnnfast.Trainer(
        model, rnnfast.Adam(0.01), ids[:1500], ids[1500:], batch_size=4, time_size=10
    )


@pytest.mark.parametrize("Bits", [np.random.PCG64, np.random.MT19937])
@pytest.mark.parametrize("legacy", [False, True])
def test_generators_of_layers_carry_on_bit_for_bit(Bits, legacy):
    def make(seed):
        return _droppy((np.random.RandomState if legacy else np.random.Generator)(Bits(seed)))

    whole, stopped, resumed = make(3), make(3), make(4)
    whole.fit(2)
    with pytest.raises(TrainingInterrupted):
        stopped.fit(2, stop=lambda: stopped.step == 50)
    resumed.restore(*_copied(stopped.state()))
    resumed.fit(2)
    _require_equal_states(whole, resumed)
    assert whole.model.random_state() == resumed.model.random_state()
    assert whole.model.random_state().keys() == {"drop", "lstm", "drop.1", "both"}
    other = make(3)
    other.restore(
        stopped.state()[0], stopped.state()[1] | {"random_state": make(4).model.random_state()}
    )
    other.fit(2)
    assert not np.array_equal(other.model.params[0], whole.model.params[0])


def test_evaluation_is_evaluation():
    """Layers are told, and told again what they were, one by one."""
    trainer = _droppy()
    model = trainer.model
    model.layers[1].training = False
    before = [getattr(layer, "training", None) for layer in model.layers]
    losses = {rnnfast.evaluate(model, trainer.valid_ids) for _ in range(3)}
    assert len(losses) == 1
    assert [layer.training for layer in model.layers] == before == [True, False, True, True, True]
    assert model.training


def test_trainers_of_other_losses():
    """A loss that has no need_gradient is evaluated as well."""
    trainer = _droppy()
    model = trainer.model
    affine = rnnfast.TimeAffine(*model.loss_layer.params)
    layers = dict(zip(model.layer_names, model.layers, strict=True)) | {"out": affine}
    trainer.model = rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss())
    trainer.fit(1)
    assert trainer.best_loss < 3
