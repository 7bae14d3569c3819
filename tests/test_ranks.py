"""Several processes train one model over MPI: what they compute is what one computes."""

import numpy as np
import pytest
from ranks import TESTS, needs_mpi, run_ranks

pytestmark = needs_mpi

pytest.importorskip("mpi4py")
import rank_cases  # noqa: E402


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
