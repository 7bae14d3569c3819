"""Several processes train one model over MPI: what they compute is what one computes."""

import csv
import sys

import numpy as np
import pytest
from ranks import TESTS, finished, needs_mpi, run_code, run_ranks, start

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
            assert np.array_equal(found[name], array)
            continue
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("count", "dtype", "case"),
    [(count, *case) for count in (1, 2, 3, 4) for case in rank_cases.cases_of(count)],
)
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


SENT = """
import numpy as np
import rnnfast
from mpi4py import MPI

V, D, H = 10_000, 16, 3
comm, ids = MPI.COMM_WORLD, np.random.default_rng(0).integers(0, V, 400)
for optimizer in (rnnfast.SGD(), rnnfast.Adam(lazy=True), rnnfast.Adam()):
    model = rnnfast.LanguageModel(V, embedding=D, hidden=H, rng=0)
    trainer = rnnfast.Trainer(model, optimizer, ids, ids, batch_size=5, time_size=10, comm=comm)
    before, others = trainer.ranks.sent, sum(dW.nbytes for dW in model.grads[1:])

    def check(tokens, loss):
        global before
        own, before = trainer.ranks.sent - before, trainer.ranks.sent
        rows = tokens * D * 4 + V // 8  # and which they are
        assert others < own < others + rows + 1000, (own, others, rows)
        assert own < others + model.grads[0].nbytes / 50

    trainer.fit(1, verbose=False, on_step=check)
    assert trainer.step == 8
    assert 0 < trainer.ranks.seconds < 60
"""


def test_no_rank_sends_the_table(tmp_path):
    assert run_code(2, SENT, cwd=tmp_path) == (0, "", "")


ALONE = """
import sys

import rnnfast
from rnnfast.cli import main

ids = [0, 1, 2, 3] * 20
model = rnnfast.Rnnlm(4, 4, 4, rng=0)
trainer = rnnfast.Trainer(model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=4)
trainer.fit(1, verbose=False)
assert main(sys.argv[1:]) == 0
assert not [name for name in sys.modules if name.partition(".")[0] == "mpi4py"]
"""


@pytest.mark.parametrize("launched", [False, True])
def test_a_process_alone_imports_nothing_of_mpi(launched, tmp_path):
    (tmp_path / "text.txt").write_text(rank_resume.TEXT)
    command = ["train", "--text", "text.txt", "--hidden", "4", "--epochs", "1", "--batch", "2"]
    if launched:
        code, _, err = run_code(1, ALONE, *command, cwd=tmp_path)
    else:
        code, _, err = finished(start(sys.executable, "-c", ALONE, *command, cwd=tmp_path))
    assert code == 0, err


def test_one_rank_is_a_process_alone():
    comm = rank_cases.MPI.COMM_SELF
    trainer = rank_cases.TRAINERS["sgd"][0](comm, "float64")
    assert (trainer.ranks.rank, trainer.ranks.size, trainer.ranks.sent) == (0, 1, 0)
    assert trainer.ranks is rank_cases.TRAINERS["sgd"][0](None, "float64").ranks


@pytest.mark.parametrize("comm", [object(), "MPI.COMM_WORLD", 2, rank_cases.MPI, [], False])
def test_what_is_no_communicator(comm, tmp_path):
    model, ids = rank_cases.model_of("float64"), rank_cases.text(100)
    settings = rank_resume.settings(tmp_path, "plain")
    for call in (
        lambda: rnnfast.Trainer(model, rnnfast.SGD(), ids, ids, batch_size=2, comm=comm),
        lambda: rnnfast.evaluate(model, ids, comm=comm),
        lambda: rnnfast.Run.start(tmp_path / "run", settings, comm=comm),
        lambda: rnnfast.Run.resume(tmp_path / "run", comm=comm),
        lambda: rnnfast.Run.load(tmp_path / "run", comm=comm),
    ):
        with pytest.raises(TypeError, match=r"^comm: expected None or a communicator of mpi4py, "):
            call()
    assert not list(tmp_path.iterdir())


THREADS = """
import os

from mpi4py import MPI

from rnnfast.training import ranks

comm = MPI.COMM_WORLD
world = ranks.as_ranks(comm)


def check(expected, cpus, available=99, quota=99):
    ranks.usable_cpus = lambda: set(cpus[comm.rank])
    ranks.available_cpus = lambda: available
    ranks.quota = lambda: quota
    found = comm.allgather(world.default_num_threads())
    assert found == expected, (found, expected)


check([2, 2, 2], [range(6)] * 3)
check([2, 2, 2], [range(8)] * 3)
check([1, 1, 1], [range(2)] * 3)
check([2, 1, 5], [{0, 1}, {2}, range(3, 8)])  # each has some of its own
check([3, 3, 1], [{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}, {6}])
check([2, 3, 1], [{0, 1, 2}, {1, 2, 3, 4}, {5}])
check([2, 2, 2], [range(99)] * 3, quota=7)
check([4, 4, 4], [range(99)] * 3, available=4)
os.environ["RNNFAST_NUM_THREADS"] = "5"
check([5, 5, 5], [range(6)] * 3)
del os.environ["RNNFAST_NUM_THREADS"]
if hasattr(os, "sched_setaffinity"):
    from rnnfast import threads

    ranks.usable_cpus, ranks.quota = threads.usable_cpus, lambda: 99
    ranks.available_cpus = threads.available_cpus
    cpus = sorted(os.sched_getaffinity(0))
    own = cpus[comm.rank :: 3] or cpus[:1]
    os.sched_setaffinity(0, own)
    assert world.default_num_threads() <= len(own)
"""


def test_threads_of_ranks_on_one_machine():
    assert run_code(3, THREADS, env={"RNNFAST_NUM_THREADS": ""}) == (0, "", "")


THREADS_OF_A_PROGRAM = """
import rnnfast
from mpi4py import MPI

from rnnfast import threads
from rnnfast.training import ranks

ranks.usable_cpus, ranks.available_cpus, ranks.quota = lambda: set(range(6)), lambda: 9, lambda: 9
comm = MPI.COMM_WORLD
before = threads.get_num_threads()


def train(comm):
    ids, model = [0, 1, 2, 3] * 20, rnnfast.Rnnlm(4, 4, 4, rng=0)
    rnnfast.Trainer(model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=4, comm=comm)
    return threads.get_num_threads()


assert train(None) == before
assert train(comm) == EXPECTED
rnnfast.set_num_threads(5)
assert train(comm) == train(comm.Dup()) == 5
"""


@pytest.mark.parametrize(("asked", "expected"), [("", 3), ("4", 4)])
def test_a_program_of_ones_own_has_its_share_of_threads(asked, expected):
    """Where nothing was asked for; a number that was set is kept."""
    code = THREADS_OF_A_PROGRAM.replace("EXPECTED", str(expected))
    assert run_code(2, code, env={"RNNFAST_NUM_THREADS": asked}) == (0, "", "")


THREADS_OF_ONE = """
import os

from mpi4py import MPI

from rnnfast.training import ranks

if MPI.COMM_WORLD.rank == 1:
    os.environ["RNNFAST_NUM_THREADS"] = "5"
ranks.usable_cpus, ranks.available_cpus, ranks.quota = lambda: set(range(6)), lambda: 9, lambda: 9
world = ranks.as_ranks(MPI.COMM_WORLD)
assert world.default_num_threads() == (3, 5)[world.rank]
"""


def test_a_rank_may_be_told_how_many_threads():
    assert run_code(2, THREADS_OF_ONE, env={"RNNFAST_NUM_THREADS": ""}) == (0, "", "")


ONE_FOR_ALL = """
import copy
import pickle

from mpi4py import MPI

from rnnfast.training.ranks import as_ranks

ranks = as_ranks(MPI.COMM_WORLD)
for same in (as_ranks(MPI.COMM_WORLD), as_ranks(ranks), copy.deepcopy(ranks)):
    assert same is ranks
assert pickle.loads(pickle.dumps(ranks)) is ranks
for _ in range(3):  # handles are used again
    other = MPI.COMM_WORLD.Split(0, -MPI.COMM_WORLD.rank)
    assert as_ranks(other) is not ranks
    assert as_ranks(other).rank == other.rank
    assert copy.deepcopy(as_ranks(other)) is as_ranks(other)
    other.Free()
    other = MPI.COMM_WORLD.Dup()
    assert as_ranks(other).rank == ranks.rank
    other.Free()
"""


def test_a_communicator_has_one_ranks():
    assert run_code(2, ONE_FOR_ALL) == (0, "", "")


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


class Odd(rank_cases.Leaky):
    """Its states are a number, a vector that is no row of a batch, and rows that come last."""

    def __init__(self):
        super().__init__()
        self.reset_state()

    def reset_state(self):
        self.h, self.blocks, self.mean = None, np.zeros(()), np.zeros(8)

    def forward(self, xs):
        hs = super().forward(xs) + 0.01 * self.blocks + self.mean
        self.blocks, self.mean = self.blocks + 1, xs.mean((0, 1))
        return hs

    def get_state(self):
        return self.blocks, self.mean, None if self.h is None else self.h.T

    def set_state(self, blocks, mean, h):
        self.blocks = np.zeros(()) if blocks is None else blocks
        self.mean = np.zeros(8) if mean is None else mean
        self.h = None if h is None else h.T


@pytest.mark.parametrize("window", [None, 2 * rank_cases.T])
def test_a_process_alone_restores_states_of_any_shape(window):
    def trainer():
        model = lambda dtype: rank_cases.own_network(dtype, ("odd", Odd()))  # noqa: E731
        return rank_cases.make(model, window=window)(None, "float64")

    first, second = trainer(), trainer()
    rank_resume.train(first, rank_resume.STEPS)
    second.restore(*first.state())
    for each in (first, second):
        rank_resume.train(each, None)
    assert_near(rank_cases.as_arrays(second), rank_cases.as_arrays(first), 0)


class Slotted:
    """A layer that takes no attributes but these."""

    __slots__ = ("grads", "params", "training")

    def __init__(self):
        self.params, self.grads = [], []

    def forward(self, xs):
        return 2 * xs

    def backward(self, dout):
        return 2 * dout


def test_a_process_alone_tells_no_layer_of_ranks():
    model = lambda dtype: rank_cases.own_network(dtype, ("slotted", Slotted()))  # noqa: E731
    trainer = rank_cases.make(model)(None, "float64")
    trainer.fit(1, verbose=False)
    assert trainer.step == 9


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
    for changing in ("record", "best_loss"):
        position.pop(changing, None)
    meta["settings"].pop("text")
    if "history" in arrays:
        arrays["history"] = arrays["history"][:, :-1]  # without tokens per second
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
