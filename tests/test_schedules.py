"""Learning-rate schedules: their formulas, and what a trainer does with them."""

import doctest
import math

import numpy as np
import pytest

import rnnfast
from rnnfast import ConstantLR, CosineLR, ReduceLROnPlateau
from rnnfast.errors import InputError, TrainingDiverged, TrainingInterrupted

IDS = np.random.default_rng(0).integers(0, 7, 500)


def _trainer(lr=0.01, **options):
    model = rnnfast.Rnnlm(7, 4, 8, rng=0)
    options = {"batch_size": 4, "time_size": 10} | options  # 13 blocks
    return rnnfast.Trainer(model, rnnfast.Adam(lr), IDS, IDS[:100], **options)


class Rates(rnnfast.Callback):
    """The learning rate of every step, and after every epoch."""

    def __init__(self):
        self.of_steps, self.after_epochs = [], []

    def on_step(self, trainer, tokens, loss):
        self.of_steps.append(trainer.optimizer.lr)

    def on_epoch(self, trainer, record, improved):
        assert record.lr == self.of_steps[-1]
        self.after_epochs.append(trainer.optimizer.lr)


def _cosine(schedule, step, steps, peak=1.0):
    arguments = {"peak": peak, "step": step, "per_epoch": 1, "epochs": steps}
    return schedule.before_step(math.nan, **arguments)


# Formulas. ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_plateau_is_counted_from_the_last_better_epoch(patience):
    schedule, rng = ReduceLROnPlateau(0.5, patience), np.random.default_rng(patience)
    lr = expected = 1.0
    since = waited = 0
    for improved in [True, *(rng.random(60) < 0.3)]:
        since = 0 if improved else since + 1
        lr = schedule.after_epoch(lr, epochs_since_best=since)
        waited = 0 if improved else waited + 1
        if waited == patience:
            expected, waited = expected / 2, 0
        assert lr == expected
    assert lr < 0.01
    assert schedule.before_step(0.3, peak=1, step=0, per_epoch=1, epochs=1) == 0.3


def test_a_plateau_has_a_lowest_rate():
    schedule = ReduceLROnPlateau(0.25, min_lr=0.1)
    assert schedule.after_epoch(1.0, epochs_since_best=1) == 0.25
    assert schedule.after_epoch(0.25, epochs_since_best=1) == 0.1
    assert schedule.after_epoch(0.05, epochs_since_best=1) == 0.05  # which is not raised to it


def test_half_a_cosine():
    rates = [_cosine(CosineLR(final=0.2), step, 8) for step in range(10)]
    assert rates[0] == 1.0
    assert rates[2] == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, rel=1e-12)
    assert rates[4] == pytest.approx(0.6, rel=1e-12)
    assert rates[8] == rates[9] == pytest.approx(0.2, rel=1e-12)
    assert np.all(np.diff(rates[:9]) < 0)
    assert _cosine(CosineLR(), 7, 8) > 0  # no step of the whole is in vain


def test_warm_up():
    for warmup in (4, 0.125):
        schedule = CosineLR(warmup=warmup)
        rates = [_cosine(schedule, step, 32, peak=5) for step in range(32)]
        assert rates[:5] == pytest.approx([1, 2, 3, 4, 5], rel=1e-12)
        assert rates[5:] == pytest.approx(
            [5 * (1 + math.cos(math.pi * k / 28)) / 2 for k in range(1, 28)], rel=1e-12
        )
    assert [_cosine(CosineLR(warmup=0.5, final=1), k, 4) for k in (2, 3, 9)] == [1, 1, 1]
    assert _cosine(CosineLR(warmup=0.0), 3, 8) == _cosine(CosineLR(), 3, 8)


# In a trainer. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_cosine_goes_over_all_steps_of_fit(accumulate):
    """A longer fit carries on along the longer curve, and steps are those of the optimizer."""
    trainer, rates, schedule = _trainer(accumulate=accumulate), Rates(), CosineLR(warmup=4)
    trainer.schedule = schedule
    trainer.fit(2, callbacks=[rates])
    n = trainer.steps_per_epoch
    assert (n, trainer.step) == {1: (13, 26), 3: (5, 10)}[accumulate]
    trainer.fit(4, callbacks=[rates])
    assert rates.of_steps == [
        *(_cosine(schedule, step, 2 * n, 0.01) for step in range(2 * n)),
        *(_cosine(schedule, step, 4 * n, 0.01) for step in range(2 * n, 4 * n)),
    ]


def test_a_cosine_of_a_length_of_its_own():
    schedule, rates = CosineLR(epochs=2, final=0.1), Rates()
    trainer = _trainer(schedule=schedule)
    for epoch in (1, 2, 3):  # as one fit, however it is divided
        trainer.fit(epoch, callbacks=[rates])
    assert rates.of_steps == [_cosine(CosineLR(final=0.1), step, 26, 0.01) for step in range(39)]
    assert rates.of_steps[-1] == pytest.approx(0.001, rel=1e-12)


def test_the_peak_may_be_set():
    trainer, rates = _trainer(schedule=CosineLR()), Rates()
    assert trainer.peak_lr == 0.01
    trainer.peak_lr = 0.5
    trainer.fit(1, callbacks=[rates])
    assert rates.of_steps[0] == 0.5


def test_a_constant_rate_is_left_alone():
    trainer, rates = _trainer(lr=1e-30, schedule=ConstantLR()), Rates()
    trainer.fit(2, callbacks=[rates])
    trainer.optimizer.lr = 1e-29
    trainer.fit(3, callbacks=[rates])
    assert rates.after_epochs == [1e-30, 1e-30, 1e-29]


def test_a_plateau_lowers_what_is_there():
    trainer, rates = _trainer(lr=1e-30, schedule=ReduceLROnPlateau(0.25, patience=2)), Rates()
    trainer.fit(4, callbacks=[rates])
    trainer.optimizer.lr = 1e-29
    trainer.fit(6, callbacks=[rates])
    assert rates.after_epochs == [1e-30, 1e-30, 1e-30 / 4, 1e-30 / 4, 1e-29 / 4, 1e-29 / 4]


def test_a_schedule_serves_several_trainers():
    schedule = ReduceLROnPlateau(0.5, patience=2)
    a, b, rates = _trainer(1e-30, schedule=schedule), _trainer(1e-30, schedule=schedule), Rates()
    a.fit(2)
    b.fit(2, callbacks=[rates])
    assert rates.after_epochs == [1e-30, 1e-30]


def test_a_schedule_of_ones_own_and_what_it_may_return():
    class Own(rnnfast.Schedule):
        returns = 0.5

        def before_step(self, lr, **place):
            assert place.keys() == {"peak", "step", "per_epoch", "epochs"}
            return self.returns

    schedule, rates = Own(), Rates()
    trainer = _trainer(schedule=schedule)
    trainer.fit(1, callbacks=[rates])
    assert rates.of_steps == [0.5] * 13
    schedule.returns = np.float32(0.25)
    trainer.fit(2)
    assert (type(trainer.optimizer.lr), trainer.optimizer.lr) == (float, 0.25)
    for wrong in (None, "fast", math.nan, math.inf, -1, True):
        schedule.returns = wrong
        with pytest.raises(ValueError, match=r"schedule: expected .* from Own.before_step, got"):
            trainer.fit(3)
    assert (trainer.step, trainer.optimizer.lr) == (26, 0.25)


def test_the_example_of_a_schedule():
    results = doctest.testmod(rnnfast.training.schedules)
    assert results.attempted
    assert not results.failed


def test_a_step_that_fails_leaves_the_rate():
    trainer = _trainer(schedule=CosineLR())
    with pytest.raises(TrainingInterrupted):
        trainer.fit(2, stop=lambda: trainer.step == 5)
    before = trainer.state()[1]
    trainer.model.params[-1][3] = np.nan
    with pytest.raises(TrainingDiverged):
        trainer.fit(2)
    assert trainer.state()[1] == before


# Bad input. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        *(
            (ReduceLROnPlateau, {"factor": value}, "factor: expected a number above 0 and below 1")
            for value in (0, 1, -0.5, 1.5, math.nan, "0.5", None, True)
        ),
        *(
            (ReduceLROnPlateau, {"patience": value}, "patience: expected a whole number of at lea")
            for value in (0, -1, 1.5, "1", None, True)
        ),
        *(
            (ReduceLROnPlateau, {"min_lr": value}, "min_lr: expected a finite number above 0")
            for value in (-1, math.inf, math.nan, "0", None)
        ),
        *(
            (CosineLR, {"warmup": value}, "warmup: expected a whole number of at least 0, got")
            for value in (-1, "1", None, True)
        ),
        *(
            (CosineLR, {"warmup": value}, "warmup: expected a part of the whole, at least 0 and")
            for value in (-0.1, 1.0, 100.0, math.nan)
        ),
        *(
            (CosineLR, {"final": value}, "final: expected a number in 0 <= final <= 1, got")
            for value in (-0.1, 1.1, math.nan, "0", None, True)
        ),
        *(
            (CosineLR, {"epochs": value}, "epochs: expected a whole number of at least 1, got")
            for value in (0, -3, 1.5, "3", True)
        ),
    ],
)
def test_settings_of_schedules(make, options, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        make(**options)


@pytest.mark.parametrize("schedule", [CosineLR(warmup=26), CosineLR(warmup=30, epochs=1)])
def test_a_warm_up_that_is_longer_than_the_whole(schedule):
    trainer = _trainer(schedule=schedule)
    trainer.model.predict(IDS[None, :3].repeat(4, 0))
    carried, state = trainer.model.get_state(), trainer.state()[1]
    steps = 13 if schedule.epochs else 26
    message = f"^warmup: expected fewer than the {steps} steps of the whole, got {schedule.warmup}"
    with pytest.raises(InputError, match=message):
        trainer.fit(2)
    assert trainer.state()[1] == state
    assert trainer.model.get_state() == carried
    if schedule.epochs is None:
        trainer.fit(3)


@pytest.mark.parametrize("schedule", [None, 0.5, "cosine", CosineLR, lambda step: 0.1])
def test_what_is_no_schedule(schedule):
    with pytest.raises(TypeError, match=r"^schedule: expected a Schedule, such as ConstantLR\(\)"):
        _trainer(schedule=schedule)
