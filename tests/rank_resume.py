"""Trainings that some ranks begin, and other numbers of ranks finish: a program of mpiexec.

`mpiexec -n 3 python rank_resume.py FOLDER` writes to FOLDER/CASE-BY-ON.npz what comes of a trainer
that BY ranks have begun and ON ranks have finished, and has folders of runs there by such names.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI
from rank_cases import TRAINERS, T, as_arrays, lm, make, own, stacked, turned

import rnnfast

COUNTS = (1, 2, 3)
PAIRS = [(by, on) for by in COUNTS for on in COUNTS]
CASES = {
    **{name: TRAINERS[name][0] for name in ("masks", "average", "rows, lazy adam", "both")},
    "stack, window": make(stacked, window=3 * T),
    "own, window": make(own, window=2 * T, accumulate=2),
    "own, turned": make(turned, window=2 * T, accumulate=2),
    "gru, textbook": make(lm(cell="gru", dropout=0.2), rnnfast.RMSprop, 0.01),
}
STEPS, EPOCHS = 13, 3  # in the middle of the second epoch of nine blocks, where blocks are steps
TEXT = "the cat saw the dog and the dog ran.\na bird sang to the cat.\n" * 30
RUNS = {
    "plain": {"dropout": 0.3},
    "all": {
        **{"layers": 2, "embedding": 8, "tie_weights": True, "weight_drop": 0.2, "zoneout": 0.1},
        **{"window": 20, "accumulate": 2, "average": 0.9, "cell": "gru", "optimizer": "sgd"},
    },
    "words": {"level": "word", "batch": 3, "time": 7, "optimizer": "adamw", "dropout": 0.2},
}


def settings(folder, name):
    path = Path(folder, "text.txt")
    given = {"hidden": 8, "embedding": 6, "batch": 5, "time": 10, "epochs": 3, "dtype": "float64"}
    return rnnfast.Settings(path, **(given | RUNS[name]))


def train(trainer, steps):
    """Until so many steps are done, or the end."""
    try:
        trainer.fit(EPOCHS, verbose=False, stop=lambda: trainer.step == steps)
    except rnnfast.TrainingInterrupted:
        return


def started(case, comm):
    """The state of a trainer after some steps, and what comes of it where it goes on."""
    trainer = CASES[case](comm, "float64")
    train(trainer, STEPS)
    arrays, position = trainer.state()
    arrays = {name: array.copy() for name, array in arrays.items()}
    train(trainer, None)
    return (arrays, position), as_arrays(trainer)


def resumed(case, state, comm):
    trainer = CASES[case](comm, "float64")
    trainer.restore(*state)
    again, _ = trainer.state()
    assert again.keys() == state[0].keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, state[0][name], err_msg=name)
    train(trainer, None)
    return as_arrays(trainer)


def begin_run(folder, name, comm=None):
    run = rnnfast.Run.start(folder, settings(folder.parent, name), comm=comm, verbose=False)
    steps = run.trainer.steps_per_epoch + 2
    try:
        run.fit(verbose=False, stop=lambda: run.trainer.step == steps)
    except rnnfast.TrainingInterrupted:
        return
    raise AssertionError("it was not stopped")


def main(folder):
    world = MPI.COMM_WORLD
    comms = {n: world.Split(0 if world.rank < n else MPI.UNDEFINED, world.rank) for n in COUNTS}
    first = world.rank == 0
    states = {}
    for by, comm in comms.items():
        for case in CASES:
            state = started(case, comm)[0] if comm else None
            states[case, by] = world.bcast(state)
        for name in RUNS:
            if comm:
                begin_run(folder / f"{name}-{by}", name, comm)
    for (by, on), case in ((pair, case) for pair in PAIRS for case in CASES):
        if comms[on]:
            found = resumed(case, states[case, by], comms[on])
            if first:
                np.savez(folder / f"{case}-{by}-{on}.npz", **found)
    for (by, on), name in ((pair, name) for pair in PAIRS for name in RUNS):
        path = folder / f"{name}-{by}-{on}"
        if first:
            shutil.copytree(folder / f"{name}-{by}", path)
        world.Barrier()
        if comms[on]:
            rnnfast.Run.resume(path, comm=comms[on], verbose=False).fit(verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
