"""What goes wrong on one of several ranks, and what all of them then say: a program of mpiexec.

`mpiexec -n 3 python rank_faults.py FOLDER` lets every one of `FAULTS` happen, one after the other,
and prints as JSON the errors of all ranks for each: [kind, message].
"""

import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI
from rank_cases import Leaky, Losses, N, Scale, Turned, V, make, model_of, own_network, text

import rnnfast
from rnnfast.training import run_files, trainer

COMM = MPI.COMM_WORLD
RANK = COMM.rank
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
FAULTS = {}


def fault(function):
    FAULTS[function.__name__] = function
    return function


def on(rank, value, other):
    """A value that one rank has, and what the others have."""
    return value if rank == RANK else other


def trainer_of(**options):
    return make(**options)(COMM, "float64")


class At(rnnfast.Callback):
    """Does something on a rank after a step, or after an epoch."""

    def __init__(self, rank, do, *, step=None, epoch=None):
        self.rank, self.do, self.step, self.epoch = rank, do, step, epoch

    def on_step(self, trainer, tokens, loss):
        if (self.rank, self.step) == (RANK, trainer.step):
            self.do(trainer)

    def on_epoch(self, trainer, record, improved):
        if (self.rank, self.epoch) == (RANK, trainer.epoch):
            self.do(trainer)


def divide(_=None):
    return 1 // 0


class Failing:
    """A layer that does something in its n-th forward or backward on a rank."""

    def __init__(self, rank, n, do, backward=False):
        self.params, self.grads = [np.ones(1)], [np.zeros(1)]
        self.count = {True: 0, False: 0}
        self.fails = rank == RANK, n, do, backward

    def _count(self, backward, array):
        self.count[backward] += 1
        if self.fails[:2] + self.fails[3:] == (True, self.count[backward], backward):
            array = self.fails[2](array)
        return array

    def forward(self, xs):
        return self._count(False, xs) * self.params[0]

    def backward(self, dout):
        self.grads[0][...] = self._count(True, np.zeros(1))
        return dout * self.params[0]


def with_failing(*given, **options):
    return trainer_of(
        model=lambda dtype: own_network(dtype, ("failing", Failing(*given, **options)))
    )


def weights(trainer):
    return [W.copy() for W in trainer.model.params]


def carries_on(trainer, error, callbacks=()):
    """After an error: the same weights on all ranks, and the curve of one that had none."""
    seen = [c for c in callbacks if isinstance(c, Losses)] or [Losses()]
    try:
        trainer.fit(2, verbose=False, callbacks=[*callbacks, *seen][: len(callbacks) or 1])
    except error:
        before = trainer.step
        trainer.fit(2, verbose=False, callbacks=seen)
        assert trainer.step > before
        assert trainer.epoch == 2
        raise
    finally:
        everyone = COMM.allgather(b"".join(W.tobytes() for W in trainer.model.params))
        assert len(set(everyone)) == 1


# An error of one rank. ----------------------------------------------------------------------------


@fault
def on_step():
    training = trainer_of()
    carries_on(training, Exception, [At(1, divide, step=3)])


@fault
def on_step_again():
    """While another error is handled, which all ranks know."""
    training = trainer_of()
    try:
        training.fit(1, verbose=False, callbacks=[At(1, divide, step=3)])
    except (rnnfast.RankError, ZeroDivisionError):
        training.fit(1, verbose=False, callbacks=[At(2, divide, step=5)])


@fault
def same_error_again():
    """The same object."""
    training, error = trainer_of(), ValueError("again")

    def fail(_):
        raise error

    try:
        training.fit(1, verbose=False, callbacks=[At(1, fail, step=3)])
    except (rnnfast.RankError, ValueError):
        training.fit(1, verbose=False, callbacks=[At(1, fail, step=5)])


def evaluates(trainer, ids=None):
    ids = text(99) if ids is None else ids
    rnnfast.evaluate(trainer.model, ids, batch_size=N, time_size=5, comm=COMM)


def after_a_known_error(do):
    """After an evaluation that fails on rank 1, as all know, a rank alone does something."""

    def evaluate(trainer):
        try:
            evaluates(trainer, on(1, [3], None))
        except (rnnfast.RankError, rnnfast.InputError) as error:
            do(error)

    carries_on(trainer_of(), Exception, [At(RANK, evaluate, step=3)])


@fault
def error_while_another_is_handled():
    after_a_known_error(on(2, divide, id))


@fault
def known_error_raised_again():
    def raise_again(error):
        raise error

    after_a_known_error(on(1, raise_again, id))


@fault
def step_beside_an_evaluation():
    training = trainer_of()
    carries_on(training, Exception, [At(RANK, on(1, divide, evaluates), step=3)])


@fault
def epoch_beside_an_evaluation():
    training = trainer_of()
    carries_on(training, Exception, [At(RANK, on(0, divide, evaluates), epoch=1)])


@fault
def on_epoch():
    training = trainer_of()
    carries_on(training, Exception, [At(2, divide, epoch=1)])


@fault
def stop():
    trainer_of().fit(2, verbose=False, stop=on(1, divide, None))


@fault
def forward():
    training = with_failing(1, 3, divide)
    carries_on(training, Exception)


@fault
def backward():
    training = with_failing(0, 2, divide, backward=True)
    carries_on(training, Exception)


class Stumbling(rnnfast.ConstantLR):
    """A schedule that fails on rank 2."""

    def __init__(self, method):
        self.method = method

    def before_step(self, lr, *, step, **_):
        if self.method == "before_step" and step == 4 and RANK == 2:
            divide()
        return lr

    def after_epoch(self, lr, **_):
        if self.method == "after_epoch" and RANK == 2:
            divide()
        return lr


@fault
def before_step():
    trainer_of(schedule=Stumbling("before_step")).fit(2, verbose=False)


@fault
def after_epoch():
    trainer_of(schedule=Stumbling("after_epoch")).fit(2, verbose=False)


@fault
def callbacks():
    trainer_of().fit(1, verbose=False, callbacks=on(1, [3], []))


@fault
def short_text():
    trainer_of(length=on(1, 40, 200)).fit(1, verbose=False)


@fault
def evaluation():
    ids = on(1, text(99, V + 5, seed=2) + 5, text(99))
    rnnfast.evaluate(model_of("float64"), ids, batch_size=N, time_size=5, comm=COMM)


@fault
def short_evaluation():
    ids = on(1, [3], text(99))
    rnnfast.evaluate(model_of("float64"), ids, batch_size=N, time_size=5, comm=COMM)


@fault
def few_lanes():
    trainer_of(batch_size=2)


@fault
def gaps():
    layer = Scale(np.ones(8))
    layer.grads[0] = np.zeros(16)[::2]
    trainer_of(model=lambda dtype: own_network(dtype, ("gaps", layer)))


class Fragile(Leaky):
    """A layer whose state and options cannot be had while it fails."""

    fails = False

    def _look(self):
        return divide() if self.fails else None

    def get_state(self):
        self._look()
        return super().get_state()

    def config(self):
        self._look()
        return {}


def with_fragile():
    return trainer_of(model=lambda dtype: own_network(dtype, ("fragile", Fragile())))


def break_layer(training):
    training.model.recurrent_layers[0].fails = True


@fault
def state():
    training = with_fragile()
    stopping(training, 3)
    on(1, break_layer, id)(training)
    training.state()


@fault
def options():
    """At the end of an epoch, when all are compared."""
    with_fragile().fit(2, verbose=False, callbacks=[At(2, break_layer, epoch=1)])


@fault
def restored():
    training = trainer_of()
    stopping(training, 3)
    arrays, position = training.state()
    trainer_of().restore(arrays, position | {"block": on(1, 99, 3)})


class Unsaid(Turned):
    """A layer that does not say where its rows are."""

    state_shape = property()


@fault
def rows_elsewhere():
    training = trainer_of(model=lambda dtype: own_network(dtype, ("unsaid", Unsaid())))
    stopping(training, 3)
    training.state()


# Ranks that differ. -------------------------------------------------------------------------------


@fault
def texts():
    training = trainer_of()
    training.blocks.ids = text(len(training.blocks.ids), seed=on(2, 9, 0))
    training.fit(1, verbose=False)


@fault
def lengths():
    trainer_of(length=on(1, 300, 200)).fit(1, verbose=False)


@fault
def valid_texts():
    training = trainer_of()
    training.valid_ids = training.valid_ids[: on(1, 50, 60)]
    training.fit(1, verbose=False)


@fault
def other_dtypes():
    """Of the same ids: nothing is wrong."""
    training = trainer_of()
    training.blocks.ids = training.blocks.ids.astype(on(1, np.int32, np.int64))
    training.valid_ids = training.valid_ids.astype(on(2, np.uint8, np.int64))
    training.fit(1, verbose=False)


@fault
def dropout_rates():
    model = lambda dtype: model_of(dtype, dropout=on(1, 0.25, 0.5))  # noqa: E731
    trainer_of(model=model).fit(1, verbose=False)


@fault
def modes():
    training = trainer_of()
    on(2, training.model.eval, int)()
    training.fit(1, verbose=False)


@fault
def laziness():
    trainer_of(optimizer=lambda lr: rnnfast.Adam(lr, lazy=on(1, True, False))).fit(1, verbose=False)


@fault
def states_of_optimizers():
    training = trainer_of(optimizer=rnnfast.Momentum)
    training.fit(1, verbose=False)
    training.optimizer.state[0][0][0, 0] += on(1, 1, 0)
    training.fit(2, verbose=False)


@fault
def averages():
    training = trainer_of(average=0.9)
    next(iter(training.validated_params().values()))[0, 0] += on(1, 1, 0)
    training.fit(1, verbose=False)


@fault
def best_losses():
    training = trainer_of()
    training.best_loss = on(1, 0.5, 0.75)
    training.fit(1, verbose=False)


@fault
def patience_of_one():
    """Set after an epoch."""

    def set_patience(training):
        training.patience = 1

    trainer_of().fit(3, verbose=False, callbacks=[At(1, set_patience, epoch=1)])


@fault
def patience_in_an_epoch():
    def set_patience(training):
        training.patience = 1

    training = long_epoch()
    try:
        training.fit(1, verbose=False, callbacks=[At(1, set_patience, step=9)])
    finally:
        assert training.step == 256


@fault
def mode_of_one():
    """Found after the epoch."""
    training = trainer_of()
    try:
        training.fit(2, verbose=False, callbacks=[At(1, lambda t: t.model.eval(), step=3)])
    finally:
        assert training.epoch == 1


@fault
def clipping():
    trainer_of(max_grad=on(1, 0.25, 0.5)).fit(1, verbose=False)


@fault
def rates():
    trainer_of(lr=on(1, 0.25, 0.5)).fit(1, verbose=False)


@fault
def optimizers():
    trainer_of(optimizer=on(2, rnnfast.Momentum, rnnfast.SGD)).fit(1, verbose=False)


@fault
def lanes():
    trainer_of(batch_size=on(1, 6, 7)).fit(1, verbose=False)


@fault
def epochs():
    trainer_of().fit(on(1, 2, 3), verbose=False)


@fault
def other_weights():
    training = trainer_of()
    training.model.params[0][0, 0] += on(2, 1e-15, 0)
    training.fit(1, verbose=False)


@fault
def models():
    model = lambda dtype: model_of(dtype, hidden=on(1, 11, 10))  # noqa: E731
    trainer_of(model=model).fit(1, verbose=False)


@fault
def generators():
    model = lambda dtype: model_of(dtype, dropout=0.5)  # noqa: E731
    training = trainer_of(model=model)
    if RANK == 1:
        next(iter(training.model._generators().values())).random()
    training.fit(1, verbose=False)


@fault
def places():
    training = trainer_of()
    training.block = on(1, 1, 0)
    training.fit(1, verbose=False)


@fault
def versions():
    before, trainer.__version__ = trainer.__version__, on(1, "0.0", trainer.__version__)
    try:
        trainer_of().fit(1, verbose=False)
    finally:
        trainer.__version__ = before


@fault
def instruction_sets():
    before, trainer.engine = trainer.engine, SimpleNamespace(CPU_LEVEL=on(1, "ancient", "recent"))
    try:
        trainer_of().fit(1, verbose=False)
    finally:
        trainer.engine = before


def long_epoch():
    return trainer_of(length=N * 300, time_size=1)


@fault
def weights_that_change():
    """Of one rank, in the middle: found before 256 more steps are done."""
    training = long_epoch()

    def change(_):
        training.model.params[0][0, 0] += 1e-9

    try:
        training.fit(99, verbose=False, callbacks=[At(2, change, step=260)])
    finally:
        assert training.step == 300


@fault
def weights_that_change_in_a_long_epoch():
    training = long_epoch()

    def change(_):
        training.model.params[0][0, 0] += 1e-9

    try:
        training.fit(99, verbose=False, callbacks=[At(2, change, step=9)])
    finally:
        assert training.step == 256


@fault
def weights_that_vanish():
    """At the end of an epoch: before they are evaluated."""
    training = trainer_of()

    def change(_):
        training.model.params[0][0, 0] = np.nan

    training.fit(2, verbose=False, callbacks=[At(2, change, step=training.steps_per_epoch)])


@fault
def weights_that_vanish_at_a_stop():
    training = trainer_of()

    def change(_):
        training.model.params[0][0, 0] = np.nan

    at = At(2, change, step=5)
    training.fit(2, verbose=False, callbacks=[at], stop=lambda: training.step == 5)


# What is not finite on one rank, and a stop that one asks for. ------------------------------------


def diverges(training):
    seen = Losses()
    try:
        training.fit(2, verbose=False, callbacks=[seen])
    finally:
        after = weights(training)
        assert training.step == len(seen.losses) == 3
        clean = with_failing(1, 0, None)
        stopping(clean, 3)
        assert all(np.array_equal(*pair) for pair in zip(after, weights(clean), strict=True))


def stopping(training, step):
    """Train so many steps."""
    try:
        training.fit(9, verbose=False, stop=lambda: training.step == step)
    except rnnfast.TrainingInterrupted:
        return


@fault
def loss_is_nan():
    diverges(with_failing(1, 4, lambda xs: xs * np.nan))


@fault
def gradient_is_nan():
    diverges(with_failing(1, 4, lambda dout: dout * np.nan, backward=True))


@fault
def stop_of_one():
    training = trainer_of()
    try:
        training.fit(2, verbose=False, stop=on(2, lambda: training.step == 5, None))
    finally:
        assert training.step == 5


# Runs. --------------------------------------------------------------------------------------------


def settings(name="text.txt", **options):
    path = FOLDER / name
    words = np.random.default_rng(0).choice(["cat ", "dog ", "sat ", "ran\n"], 400)
    if RANK == 0:
        path.write_text("".join(words))
        (FOLDER / "other.txt").write_text("".join(words[::-1]))
    COMM.Barrier()
    given = {"hidden": 8, "embedding": 6, "batch": 7, "time": 10, "epochs": 3, "dtype": "float64"}
    return rnnfast.Settings(path, **(given | options))


def start(name, **options):
    return rnnfast.Run.start(FOLDER / name, settings(**options), comm=COMM, verbose=False)


def nothing_is_there(folder):
    COMM.Barrier()
    assert not folder.exists()


@fault
def run_without_text():
    own = settings()
    own.text = on(1, "missing.txt", own.text)
    try:
        rnnfast.Run.start(FOLDER / "without", own, comm=COMM, verbose=False)
    finally:
        nothing_is_there(FOLDER / "without")


@fault
def run_with_other_text():
    own = settings()
    own.text = on(2, str(FOLDER / "other.txt"), own.text)
    try:
        rnnfast.Run.start(FOLDER / "others", own, comm=COMM, verbose=False)
    finally:
        nothing_is_there(FOLDER / "others")


@fault
def run_with_other_settings():
    try:
        start("others", hidden=on(1, 9, 8))
    finally:
        nothing_is_there(FOLDER / "others")


@fault
def run_with_few_lanes():
    try:
        start("few", batch=2)
    finally:
        nothing_is_there(FOLDER / "few")


@fault
def run_under_a_file():
    own = settings()
    rnnfast.Run.start(Path(own.text) / "run", own, comm=COMM, verbose=False)


@fault
def run_without_settings():
    rnnfast.Run.start(FOLDER / "unset", on(1, None, settings()), comm=COMM)


@fault
def run_that_is_there():
    start("there")
    start("there")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@fault
def full_disk_at_start():
    before, run_files.save_archive = run_files.save_archive, full
    try:
        start("full")
    finally:
        run_files.save_archive = before
        nothing_is_there(FOLDER / "full")


@fault
def full_disk_later():
    """The folder keeps what was saved, and more ranks than one carry on with it."""
    run, before = start("later"), run_files.save_archive

    def fill(_):
        run_files.save_archive = full

    try:
        run.fit(verbose=False, callbacks=[At(0, fill, epoch=1)])
    finally:
        run_files.save_archive = before
        assert rnnfast.Run.resume(FOLDER / "later", comm=COMM, verbose=False).trainer.epoch == 1


@fault
def run_with_a_callback_that_fails():
    run = start("callback")
    try:
        run.fit(verbose=False, callbacks=[At(1, divide, epoch=2)])
    finally:
        again = rnnfast.Run.resume(FOLDER / "callback", comm=COMM, verbose=False)
        assert again.trainer.epoch == 2
        again.fit(verbose=False)


def enough(_):
    raise rnnfast.TrainingInterrupted("enough")


def stopped_by_a_callback(name, **when):
    """On one rank alone: nothing is saved, which all would have to do."""
    run = start(name)
    try:
        run.fit(verbose=False, callbacks=[At(1, enough, **when)])
    finally:
        again = rnnfast.Run.resume(FOLDER / name, comm=COMM, verbose=False)
        assert again.trainer.epoch == when.get("epoch", 0)
        assert again.trainer.block == 0
        again.fit(verbose=False)


@fault
def run_stopped_by_a_callback():
    stopped_by_a_callback("step", step=3)


@fault
def run_stopped_by_a_callback_after_an_epoch():
    stopped_by_a_callback("epoch", epoch=1)


@fault
def run_with_other_epochs():
    """One rank has nothing to do."""
    run = start("epochs")
    run.fit(1, verbose=False)
    run.fit(on(1, 1, 2), verbose=False)


def stopped_by_a_signal(name, number, **when):
    """To one rank: all stop at the same step, save, and carry on."""
    run = start(name)
    try:
        run.fit(verbose=False, callbacks=[At(1, lambda _: os.kill(os.getpid(), number), **when)])
    finally:
        assert len(set(COMM.allgather(run.trainer.step))) == 1
        again = rnnfast.Run.resume(FOLDER / name, comm=COMM, verbose=False)
        assert again.trainer.step == run.trainer.step
        again.fit(verbose=False)


@fault
def signal_to_one_rank():
    stopped_by_a_signal("signal", signal.SIGINT, step=5)


@fault
def signal_at_the_end():
    stopped_by_a_signal("end", signal.SIGTERM, epoch=3)


@fault
def run_of_nothing():
    rnnfast.Run.resume(FOLDER / "nowhere", comm=COMM, verbose=False)


@fault
def damaged_run():
    run = start("damaged")
    if RANK == 0:
        path = run.folder / "last.npz"
        path.write_bytes(path.read_bytes()[:-200])
    rnnfast.Run.resume(run.folder, comm=COMM, verbose=False)


@fault
def only_rank_0_has_the_folder():
    own = settings()
    folder = FOLDER / f"folder-{RANK}"
    run = rnnfast.Run.start(folder, own, comm=COMM, verbose=False)
    run.fit(1, verbose=False)
    rnnfast.Run.resume(folder, comm=COMM, verbose=False)
    rnnfast.Run.load(folder, comm=COMM)
    COMM.Barrier()
    assert [path.name for path in FOLDER.glob("folder-*")] == ["folder-0"]


def main():
    for name in sys.argv[2:] or FAULTS:
        if RANK == 0:
            print(f'"{name}":', end=" ", flush=True)
        try:
            FAULTS[name]()
            outcome = ["nothing", ""]
        except Exception as error:
            outcome = [type(error).__name__, str(error)]
        everyone = COMM.gather(outcome)
        if RANK == 0:
            print(json.dumps(everyone), flush=True)


if __name__ == "__main__":
    main()
