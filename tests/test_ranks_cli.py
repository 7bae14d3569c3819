"""`mpiexec -n K rnnfast train`: one run, one output, and an end in time whatever happens."""

import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from ranks import finished, needs_mpi, run_ranks, start, start_ranks

import rnnfast
from rnnfast.archive import load_archive
from rnnfast.bench.duel import launcher

pytestmark = needs_mpi

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
TINY = ["--hidden", "12", "--embedding", "6", "--batch", "5", "--time", "10", "--dtype", "float64"]
TRAIN = ["-m", "rnnfast", "train", "--text", "text.txt", *TINY]
LONG = ["--epochs", "1000000", "--patience", "1000000"]
FILES = {"best.npz", "history.csv", "last.npz", "loss.png"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def alone(*arguments, **options):
    """(exit code, standard output, standard error) of one process."""
    return finished(start(sys.executable, *arguments, **options))


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if not path.exists():
        process.kill()
        pytest.fail(f"no {path.name}: {process.communicate()}")


def require_near(one, other):
    """Runs of the same figures, to the rounding of sums."""
    for name in ("last.npz", "best.npz"):
        arrays, others = (load_archive(each / name, "checkpoint")[1] for each in (one, other))
        assert arrays.keys() == others.keys()
        for each in (arrays, others):
            if "history" in each:
                each["history"] = each["history"][:, :-1]  # without tokens per second
        for key, array in arrays.items():
            np.testing.assert_allclose(array, others[key], 1e-9, 1e-9, err_msg=key)


def without_times(err):
    return re.sub(r"[\d,]+ tokens/s", "", err)


def test_ranks_print_and_save_what_one_process_does(folder):
    options = ["--epochs", "3", "--dropout", "0.2", "--threads", "3"]
    code, out, err = alone(*TRAIN, *options, "--out", "run")
    assert code == 0
    assert " ranks: " not in out
    (folder / "run").rename(folder / "one")
    for count in (2, 3):
        found = run_ranks(count, *TRAIN, *options, "--out", "run")
        lines = re.findall(r"^ranks: .*\n", found[1], re.MULTILINE)
        who = ", ".join(rf"{k} is process \d+" for k in range(count))
        assert re.fullmatch(rf"ranks: {count}, 3 threads each; .*: {who}\n", *lines)
        assert found[0] == 0
        assert found[1].replace(lines[0], "") == out
        assert without_times(found[2]) == without_times(err)
        require_near(folder / "run", folder / "one")
        assert {path.name for path in (folder / "run").iterdir()} <= FILES
        (folder / "run").rename(folder / str(count))


def test_resume_without_a_name_and_with_more_epochs(folder):
    assert run_ranks(2, *TRAIN, "--epochs", "1")[0] == 0
    code, out, err = run_ranks(3, "-m", "rnnfast", "train", "--resume", "--epochs", "2")
    assert (code, err.count("epoch 2/2")) == (0, 1)
    assert out.count("ranks: 3, 1 thread each") == 1
    assert rnnfast.Run.resume("rnnfast-run", verbose=False).trainer.epoch == 2
    assert run_ranks(2, *TRAIN, "--epochs", "1")[0] == 0
    assert (folder / "rnnfast-run-2" / "best.npz").exists()


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["Ctrl-C to mpiexec", "Ctrl-C in a terminal", "SIGTERM to mpiexec"],
)
def test_a_signal_saves_once_and_resume_carries_on(number, group, folder):
    options = ["--epochs", "20", "--patience", "99", "--time", "40", "--out"]
    process = start_ranks(2, *TRAIN, *options, "stopped")
    wait_for(folder / "stopped" / "best.npz", process)
    (os.killpg if group else os.kill)(process.pid, number)
    code, _, err = finished(process, 30)
    assert code != 0
    said = re.findall(r"rnnfast: stopped after step \d+ and saved; .*stopped", err)
    # that of Open MPI kills ranks soon after it has told them to end, and shows no more of them
    hurries = "Open MPI" in finished(start(launcher(), "--version"))[1]
    assert len(said) == 1 or (hurries and not said)
    assert "Traceback" not in err
    assert {path.name for path in (folder / "stopped").iterdir()} <= FILES
    assert rnnfast.Run.resume("stopped", verbose=False).trainer.epoch < 20
    assert alone("-m", "rnnfast", "train", "--resume", "--out", "stopped")[0] == 0
    assert alone(*TRAIN, *options, "whole")[0] == 0
    require_near(folder / "stopped", folder / "whole")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed(killed, folder):
    process = start_ranks(2, *TRAIN, *LONG, "--out", "run")
    wait_for(folder / "run" / "best.npz", process)
    for line in process.stdout:
        if found := re.search(rf"{killed} is process (\d+)", line):
            break
    os.kill(int(found[1]), signal.SIGKILL)
    code, _, _ = finished(process, 30)
    assert code != 0
    epoch = rnnfast.Run.resume("run", verbose=False).trainer.epoch
    resume = ["-m", "rnnfast", "train", "--resume", "--out", "run", "--epochs", str(epoch + 1)]
    assert run_ranks(2, *resume)[0] == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_that_leaves(code, folder):
    program = f"""
import os
import rnnfast
from mpi4py import MPI
ids = [0, 1, 2, 3] * 20
model = rnnfast.Rnnlm(4, 4, 4, rng=0)
trainer = rnnfast.Trainer(
    model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=4, comm=MPI.COMM_WORLD)
def leave(tokens, loss):
    if MPI.COMM_WORLD.rank == 1 and trainer.step == 3:
        os._exit({code})
trainer.fit(9, verbose=False, on_step=leave)
print("done")
"""
    found, out, _ = finished(start_ranks(2, "-c", program), 30)
    assert found != 0 or code == 0  # the mpiexec of MPICH returns what the rank did
    assert "done" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_program_of_ones_own(number, folder):
    """`Trainer.fit` saves nothing, but it ends."""
    program = """
import rnnfast
from mpi4py import MPI
ids = [0, 1, 2, 3] * 20
model = rnnfast.Rnnlm(4, 4, 4, rng=0)
trainer = rnnfast.Trainer(
    model, rnnfast.SGD(), ids, ids, batch_size=2, time_size=4, comm=MPI.COMM_WORLD)
begun = lambda tokens, loss: trainer.step == 3 and open("begun", "w").close()
trainer.fit(10**6, verbose=False, on_step=begun)
"""
    process = start_ranks(2, "-c", program)
    wait_for(folder / "begun", process)
    os.killpg(process.pid, number)
    assert finished(process, 30)[0] != 0


FAILS = """
import sys
from unittest import mock
from rnnfast.cli import main
from rnnfast._launch import launched
from rnnfast._signals import Stopped
def fail(*_, **__):
    raise {error}
with mock.patch("rnnfast.{place}", fail) if launched()[0] == {rank} else mock.MagicMock():
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("place", "error", "of_0", "of_1", "code", "saved"),
    [
        (
            *("training.runs.read_text", "OSError('gone')"),
            *("rnnfast: error: rank 0: gone\n", "rnnfast: error: rank 1: gone\n", 1, False),
        ),
        (
            *("training.runs.read_text", "MemoryError('much')"),
            "rnnfast: error: rank 0: out of memory: much; take smaller sizes\n",
            *("rnnfast: error: rank 1: MemoryError: much\n", 1, False),
        ),
        (
            *("training.trainer.Trainer._next_lr", "ZeroDivisionError('so')"),
            "rnnfast: error: rank 0: ZeroDivisionError: so\n",
            *("rnnfast: error: rank 1: ZeroDivisionError: so\n", 1, True),
        ),
        (
            *("training.trainer.evaluate", "OSError('full')"),
            *("rnnfast: error: rank 0: full\n", "rnnfast: error: rank 1: full\n", 1, True),
        ),
        (
            *("cli.train.loss_of", "ValueError('odd')"),
            *("rnnfast: error: rank 0: ValueError: odd; all ranks end\n",) * 2,
            *(1, True),
        ),
        (
            *("training.ranks.Ranks.places", "KeyError('lost')"),
            *("rnnfast: error: rank 0: KeyError: 'lost'; all ranks end\n",) * 2,
            *(1, True),
        ),
        (
            *("training.ranks.Ranks.sum_gradients", "KeyboardInterrupt()"),
            *("rnnfast: error: rank 0: KeyboardInterrupt; all ranks end\n",) * 2,
            *(130, True),
        ),
    ],
)
def test_a_rank_that_raises(place, error, of_0, of_1, code, saved, rank, folder):
    """All end, and say which rank it was and why; the folder has a run, or there is none."""
    program = FAILS.format(error=error, place=place, rank=rank)
    command = [*TRAIN[2:], "--out", "run", "--epochs", "4"]
    found, _, err = finished(start_ranks(2, "-c", program, *command), 30)
    assert found == code
    said = of_1.replace("rank 0", "rank 1") if rank else of_0
    assert err.count(said.rstrip("\n")) == 1  # another's line may follow in the same one
    assert (folder / "run").exists() == saved
    if saved:
        assert rnnfast.Run.resume("run", verbose=False).trainer.epoch <= 4


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interruption_before_there_is_a_run(rank, folder):
    program = FAILS.format(error="Stopped(2)", place="training.runs.read_text", rank=rank)
    found, _, err = finished(start_ranks(2, "-c", program, *TRAIN[2:], "--out", "run"), 30)
    assert found == 130
    assert err.count(f"rnnfast: error: rank {rank}: Stopped; all ranks end") == 1
    assert not (folder / "run" / "last.npz").exists()


def test_an_interruption_of_all_before_they_have_met():
    """What Ctrl-C in a terminal does while mpi4py is imported."""
    program = """
import sys
from unittest import mock
from rnnfast._signals import Stopped
from rnnfast.cli import main
with mock.patch("rnnfast.cli.commands.world", side_effect=Stopped(2)):
    sys.exit(main(["train"]))
"""
    found, _, err = run_ranks(2, "-c", program)
    assert found == 130
    assert sorted(re.findall(r"rnnfast: rank \d: interrupted", err)) == [
        f"rnnfast: rank {rank}: interrupted" for rank in range(2)
    ]


OWN_COMMAND_LINES = """
import sys
from rnnfast._launch import launched
from rnnfast.cli import main
sys.exit(main([*sys.argv[1:], *{options}[launched()[0]]]))
"""


@pytest.mark.parametrize(
    ("options", "codes", "told"),
    [
        # mpiexec ends with the code of one, or with the bits of both
        ([[], ["--epochs", "0"]], (1, 2, 3), "error: rank 1: argument --epochs: expected a whole "),
        ([["--epochs", "0"], []], (1, 2, 3), "rnnfast train: error: argument --epochs: expected "),
        ([[], ["--nonsense"]], (1, 2, 3), "error: rank 1: unrecognized arguments: --nonsense\n"),
        ([[], ["--text", "none.txt"]], (1,), "error: rank 1: text file none.txt does not exist"),
        ([["--hidden", "9"], []], (1,), "rank 1 differs from rank 0 in --hidden: expected 9, got "),
        ([[], ["--epochs", "2"]], (1,), "rank 1 differs from rank 0 in --epochs: expected None, "),
        ([[], ["--seed", "2"]], (1,), "rank 1 differs from rank 0 in --seed: expected None, got 2"),
        ([[], ["--resume"]], (1,), "rank 1 differs from rank 0 in --resume: expected False, got "),
    ],
)
def test_ranks_of_other_command_lines(options, codes, told, folder):
    program = OWN_COMMAND_LINES.format(options=options)
    found, _, err = finished(start_ranks(2, "-c", program, *TRAIN[2:]), 30)
    assert found in codes
    assert err.replace(f"{folder}{os.sep}", "").count(told) == 1
    assert len(re.findall("^rnnfast.*error:", err, re.M)) == 1
    assert "Traceback" not in err
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


def test_threads_are_of_each_rank(folder):
    program = OWN_COMMAND_LINES.format(options=[[], ["--threads", "2"]])
    command = [*TRAIN[2:], "--epochs", "1"]
    found, out, _ = finished(start_ranks(2, "-c", program, *command), 30)
    assert found == 0
    assert "ranks: 2, 1 thread each" in out


def test_without_mpi4py(folder):
    """Each says so, since it may be missing on one machine alone, and no process trains."""
    (folder / "hidden" / "mpi4py").mkdir(parents=True)
    (folder / "hidden" / "mpi4py" / "__init__.py").write_text("raise ImportError('hidden')")
    path = os.pathsep.join([str(folder / "hidden"), str(rnnfast.__path__[0]).rpartition(os.sep)[0]])
    code, out, err = run_ranks(3, *TRAIN, "--out", "run", env={"PYTHONPATH": path})
    assert code != 0
    for rank in range(3):
        said = f"rnnfast: rank {rank}: error: 3 processes were started, and mpi4py"
        assert err.count(said) == 1
    assert 'pip install "rnnfast[mpi]"' in err
    assert "text.txt, " not in out
    assert sorted(path.name for path in folder.iterdir()) == ["hidden", "text.txt"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_launcher_of_another_mpi(rank, folder):
    env = {"MV2_COMM_WORLD_SIZE": "3", "MV2_COMM_WORLD_RANK": str(rank)}
    code, out, err = alone(*TRAIN, "--out", "run", env=env)
    assert (code, out) == (1, "")
    said = re.fullmatch(
        rf"rnnfast: rank {rank}: error: 3 processes were started, but the MPI that mpi4py has "
        r"found \(.+\) sees "
        "1: the launcher is that of another MPI; start rnnfast with the mpiexec of this one, .*\n",
        err,
    )
    assert said
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["sample", "run"], 1, "`rnnfast sample` is for one process, and 3 were started"),
        (["selfcheck"], 1, "`rnnfast selfcheck` is for one process"),
        (["train", "--epochs", "0"], 2, "argument --epochs: "),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        ([], 2, "the following arguments are required: COMMAND"),
        (["train", "--text", "missing.txt"], 1, "text file missing.txt does not exist"),
        (["train", "--resume", "--batch", "3"], 1, "--batch: a resumed run keeps its settings"),
        ([*TRAIN[2:], "--out", "text.txt/run"], 1, "run folder text.txt/run cannot be written: "),
        ([*TRAIN[2:], "--batch", "2"], 1, "at least one lane for each of 3 ranks, got 2"),
        ([*TRAIN[2:], "--batch", "900"], 1, "text.txt has 2,700 characters, but 900 lanes"),
    ],
)
def test_errors_are_printed_once(arguments, code, told, folder):
    found, out, err = run_ranks(3, "-m", "rnnfast", *arguments)
    assert found == code
    assert err.replace(f"{folder}{os.sep}", "").count(told) == 1
    assert err.count("rnnfast: error:" if code == 1 else "error:") == 1
    assert "Traceback" not in err
    assert not out.replace("=", "").strip() or "BAD TERMINATION" in out
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"]])
def test_help_is_printed_once(arguments):
    assert run_ranks(3, "-m", "rnnfast", *arguments) == alone("-m", "rnnfast", *arguments)


def test_other_processes_may_be_launched_beside():
    """`rnnfast info` is of each; one process of mpiexec is one on its own."""
    code, out, _ = run_ranks(2, "-m", "rnnfast", "info")
    # the lines of two processes may come between each other
    assert (code, len(re.findall(rf"rnnfast +{rnnfast.__version__}", out))) == (0, 2)
    assert run_ranks(1, *TRAIN, "--epochs", "1")[0] == 0
    assert run_ranks(1, "-m", "rnnfast", "sample", "rnnfast-run", "--length", "9")[0] == 0
