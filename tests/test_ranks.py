"""Several processes train one model over MPI: what they compute is what one computes."""

import csv

import numpy as np
import pytest
from ranks import TESTS, needs_mpi, run_ranks

import rnnfast
from rnnfast.archive import load_archive

pytestmark = needs_mpi

pytest.importorskip("mpi4py")
import rank_cases  # noqa: E402
import rank_resume  # noqa: E402


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What so many ranks have computed: (dtype, case) -> arrays by name."""
    folder, kept = tmp_path_factory.mktemp("ranks"), {}

    def get(count):
        if count not in kept:
            path = folder / f"{count}.npz"
            code, out, err = run_ranks(count, TESTS / "rank_cases.py", path)
            assert (code, out, err) == (0, "", "")
            kept[count] = by_case(path)
        return kept[count]

    return get


def by_case(path):
    found = {}
    with np.load(path) as arrays:
        for key, array in arrays.items():
            dtype, case, name = key.split("|")
            found.setdefault((dtype, case), {})[name] = array
    return found


@pytest.fixture(scope="module")
def of_one():
    """What one process computes."""
    kept = {}

    def get(dtype, case):
        if (dtype, case) not in kept:
            kept[dtype, case] = rank_cases.results(case, dtype)
        return kept[dtype, case]

    return get


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype.kind != "f":
            assert found[name] == array
            continue
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize(("dtype", "case"), rank_cases.CASES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_ranks_compute_what_one_process_does(count, dtype, case, of_ranks, of_one):
    found, expected = dict(of_ranks(count)[dtype, case]), dict(of_one(dtype, case))
    assert len(expected["losses"]) > 50
    if count == 1:
        assert_near(found, expected, 0)
        return
    tolerance = {"float64": 1e-12, "float32": 1e-5}[dtype]
    for curve in ("losses", "history"):
        np.testing.assert_allclose(found.pop(curve), expected.pop(curve), tolerance, tolerance)
    assert_near(found, expected, {"float64": 1e-11, "float32": 1e-4}[dtype])


# Saved by some ranks, and carried on by others. ---------------------------------------------------


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The folder with what `rank_resume.py` writes."""
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "text.txt").write_text(rank_resume.TEXT)
    assert run_ranks(3, TESTS / "rank_resume.py", folder) == (0, "", "")
    return folder


pairs = pytest.mark.parametrize(
    ("by", "on"), rank_resume.PAIRS, ids=[f"by {by} on {on}" for by, on in rank_resume.PAIRS]
)


@pairs
@pytest.mark.parametrize("case", rank_resume.CASES)
def test_a_state_is_restored_by_another_number_of_ranks(case, by, on, resumed):
    _, expected = rank_resume.started(case, None)
    with np.load(resumed / f"{case}-{by}-{on}.npz") as arrays:
        assert_near(dict(arrays), expected, 1e-12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs of one process that nobody has stopped: a folder by the name of each."""
    folder, kept = tmp_path_factory.mktemp("whole"), {}
    (folder / "text.txt").write_text(rank_resume.TEXT)

    def get(name):
        if name not in kept:
            kept[name] = folder / name
            settings = rank_resume.settings(folder, name)
            rnnfast.Run.start(kept[name], settings, verbose=False).fit(verbose=False)
        return kept[name]

    return get


def history_of(folder):
    with open(folder / "history.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        del line["tokens_per_second"]
    return np.array([[float(value or -1) for value in line.values()] for line in lines])


def read(path):
    version, arrays, meta = load_archive(path, "checkpoint")
    position = meta.pop("position", {})
    for changing in ("history", "record", "best_loss"):
        position.pop(changing, None)
    meta["settings"].pop("text")
    return arrays, (version, position, meta)


@pairs
@pytest.mark.parametrize("name", rank_resume.RUNS)
def test_a_run_is_resumed_by_another_number_of_ranks(name, by, on, resumed, whole):
    found, expected = resumed / f"{name}-{by}-{on}", whole(name)
    for file in ("last.npz", "best.npz"):
        (arrays, rest), (of_whole, rest_of_whole) = read(found / file), read(expected / file)
        assert rest == rest_of_whole
        assert_near(arrays, of_whole, 1e-12)
    np.testing.assert_allclose(history_of(found), history_of(expected), 1e-12)
    assert rnnfast.Run.load(found).sample(40, rng=1) == rnnfast.Run.load(expected).sample(40, rng=1)


def test_the_checkpoint_of_ranks_has_the_states_of_all_lanes(resumed):
    """In the middle of an epoch: those of each rank, one after the other."""
    kept = [read(resumed / f"plain-{by}" / "last.npz")[0] for by in rank_resume.COUNTS]
    assert kept[0]["carried/recurrent.0/0"].shape == (5, 8)
    for arrays in kept[1:]:
        assert_near(arrays, kept[0], 1e-13)
