"""What is in the folders of runs, to be compared."""

import csv

import numpy as np

from rnnfast.archive import load_archive

FILES = {"last.npz", "best.npz", "history.csv"}


def read_history(folder):
    """Its lines, without what depends on a clock."""
    with open(folder / "history.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if "per_second" not in k} for row in csv.DictReader(file)
        ]


def read_checkpoint(path):
    """Its arrays, and all else but what depends on a clock."""
    _, arrays, meta = load_archive(path, "checkpoint")
    if position := meta.get("position"):
        position["record"].pop()  # seconds
        arrays["history"] = arrays["history"][:, :-1]  # without tokens per second
    return arrays, meta


def require_equal_checkpoints(one, other):
    (arrays, meta), (others, other_meta) = map(read_checkpoint, (one, other))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])
    assert meta == other_meta


def require_equal_runs(one, other):
    """Bit for bit: weights, optimizer, generators, history, and the best weights."""
    for name in ("last.npz", "best.npz"):
        require_equal_checkpoints(one / name, other / name)
    assert read_history(one) == read_history(other)
