"""What `rnnfast doctor` says of a run folder, in which it changes nothing."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hostile import make

import rnnfast
from rnnfast.cli import main
from rnnfast.training import folder

WORKS = "works: `rnnfast train --resume --out run`; `rnnfast sample run`"
USABLE = "works: `rnnfast sample run`"
NOTHING = "works: nothing"
NOBODY = 65534


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    there = tmp_path_factory.mktemp("trained")
    (there / "text.txt").write_text(make.TEXT)
    settings = rnnfast.Settings(there / "text.txt", hidden=5, batch=2, time=5, epochs=1)
    rnnfast.Run.start(there / "new", settings, verbose=False)
    rnnfast.Run.start(there / "run", settings, verbose=False).fit(verbose=False)
    return there


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def contents(run):
    return {
        path.name: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in run.iterdir()
    }


@pytest.fixture
def doctor(run, capsys):
    """Its exit code and its lines."""

    def doctor():
        before = contents(run)
        code = main(["doctor", "run"])
        assert contents(run) == before
        out, err = capsys.readouterr()
        wrong = [line.partition(":")[0] for line in out.splitlines() if ": WRONG: " in line]
        if wrong:
            assert err == (
                f"rnnfast: error: run: something is wrong with {', '.join(wrong)}, see above\n"
            )
        assert code == bool(wrong)
        return out.splitlines(), wrong

    return doctor


def test_a_run_that_is_well(doctor, trained):
    lines, wrong = doctor()
    assert not wrong
    assert lines[0] == "lock: nobody has it"
    assert re.fullmatch(
        r"last.npz: whole, [\d,]+ bytes, format 4 of 4; lstm, hidden 5, \d+ characters; "
        r"after epoch 1, step \d+",
        lines[1],
    )
    assert lines[2] == f"text: {trained / 'text.txt'}, the same as at the start"
    assert re.fullmatch(
        r"history.csv: \d+ lines, as last.npz has them; validation, best epoch: .*", lines[3]
    )
    assert re.fullmatch(r"best.npz: whole, [\d,]+ bytes, .* characters", lines[4])
    assert lines[5] == "other files: none"
    assert re.fullmatch(r"disk: [\d,]+ bytes free, .*", lines[6])
    assert lines[7:] == [WORKS]


def test_a_run_whose_products_are_rounded(doctor, run, trained):
    shutil.rmtree(run)
    text = trained / "text.txt"
    settings = rnnfast.Settings(text, hidden=5, batch=2, time=5, precision="bfloat16")
    rnnfast.Run.start(run, settings, verbose=False)
    lines, wrong = doctor()
    assert not wrong
    assert " characters, products in bfloat16; after epoch 0, step 0" in lines[1]


def test_what_works_does(doctor, run):
    (line,) = [line for line in doctor()[0] if line.startswith("works: ")]
    for command in re.findall("`rnnfast ([^`]*)`", line):
        assert main([*command.split(), *(["--length", "3"] if "sample" in command else [])]) == 0


def test_before_the_first_epoch(trained, run, doctor):
    shutil.rmtree(run)
    shutil.copytree(trained / "new", run)
    lines, wrong = doctor()
    assert not wrong
    assert "best.npz: not there, for no epoch has ended" in lines
    assert lines[-1] == WORKS


@pytest.mark.parametrize("name", ["last.npz", "best.npz"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_checkpoint_that_is_damaged(name, damage, run, doctor):
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data[:100] if damage == "cut" else data)
    if damage == "gone":
        (run / name).unlink()
    lines, wrong = doctor()
    assert wrong == [name]
    assert lines[-1] == (USABLE if name == "last.npz" else NOTHING)


def test_best_weights_alone_are_enough_to_sample(run):
    (run / "last.npz").unlink()
    assert len(rnnfast.Run.load(run).sample(3)) == 3


@pytest.mark.parametrize("change", [None, "another", "longer"])
def test_a_text_that_is_not_there_any_more(change, run, doctor, trained):
    text = trained / "text.txt"
    before = text.read_text()
    try:
        text.unlink()
        if change:
            text.write_text(before[::-1] if change == "another" else before + "a")
        lines, wrong = doctor()
    finally:
        text.write_text(before)
    assert wrong == ["text"]
    assert lines[-1] == USABLE


def test_leftovers_and_other_files(run, doctor):
    name = ".last.npz.0123456789abcdef.partial"
    for other in (name, "notes.txt", "loss.png", "\33[2J", ".best.npz.txt.partial"):
        (run / other).write_text("x")
    (run / ".lock").write_text("1\n")
    lines, wrong = doctor()
    assert not wrong
    assert "lock: left by a process that has ended; nobody has it" in lines
    killed = "left by a process that was killed; the next save of last.npz removes it"
    assert f"{name}: {killed}" in lines
    others = r"'\x1b[2J', '.best.npz.txt.partial', 'notes.txt'"
    assert f"other files: {others}: not of a run, left alone" in lines
    rnnfast.Run.resume(run, verbose=False).save()
    assert not (run / name).exists()


@pytest.mark.parametrize("change", ["more", "less", "gone", "folder"])
def test_a_history_that_is_another(change, run, doctor):
    history = run / "history.csv"
    lines = history.read_text()
    history.unlink()
    if change == "folder":
        history.mkdir()
    elif change != "gone":
        history.write_text(lines + "1\n" if change == "more" else lines[:-3])
    lines, wrong = doctor()
    assert wrong == ["history.csv"] * (change == "folder")
    assert lines[-1] == (USABLE if wrong else WORKS)
    (line,) = [line for line in lines if line.startswith("history.csv: ")]
    assert "is a folder" in line if wrong else line.endswith("the next save writes it again")


def test_a_run_in_training(run, doctor):
    with folder.locked(run):
        lines, wrong = doctor()
    assert not wrong
    assert lines[0] == f"lock: in use by process {os.getpid()}, which trains the run"
    assert lines[-1] == USABLE


@pytest.mark.parametrize("there", [False, True])
def test_no_folder(there, run, capsys):
    shutil.rmtree(run)
    if there:
        run.write_text("x")
    assert main(["doctor", "run"]) == 1
    out, _ = capsys.readouterr()
    what = "is no folder" if there else "does not exist"
    assert out == f"folder: WRONG: run {what}; check the path\nworks: nothing\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has pipes in folders")
def test_pipes_in_the_place_of_files(run, doctor, monkeypatch):
    monkeypatch.setattr("test_doctor.contents", lambda run: sorted(os.listdir(run)))
    for name in ("last.npz", "best.npz", "history.csv", ".lock"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    lines, wrong = doctor()
    assert wrong == ["lock", "last.npz", "best.npz"]
    assert lines[-1] == NOTHING


@pytest.mark.parametrize("kind", ["loop", "dangling", "folder", "of somebody's own"])
def test_a_lock_that_is_none(kind, run, doctor):
    if kind == "folder":
        (run / ".lock").mkdir()
    elif kind == "of somebody's own":
        (run / ".lock").write_text("my data")
    else:
        (run / ".lock").symlink_to(".lock" if kind == "loop" else "missing")
    lines, wrong = doctor()
    assert wrong == ["lock"]
    assert lines[-1] == USABLE


def test_weights_of_another_run(run, doctor, tmp_path, capsys):
    text = tmp_path / "other.txt"
    text.write_text(make.TEXT + "another")
    settings = rnnfast.Settings(text, hidden=5, batch=2, time=5, epochs=1)
    other = rnnfast.Run.start(tmp_path / "other", settings, verbose=False)
    other.fit(verbose=False)
    shutil.copy(tmp_path / "other" / "best.npz", run / "best.npz")
    lines, wrong = doctor()
    assert wrong == ["best.npz"]
    assert any(line.startswith("best.npz: WRONG: run/best.npz is of another run") for line in lines)
    assert lines[-1] == NOTHING
    before = (run / "last.npz").read_bytes()
    for command in (["train", "--epochs", "9", "--resume", "--out"], ["sample"], ["eval"]):
        assert main([*command, "run"]) == 1
        assert "run/best.npz is of another run than last.npz; put" in capsys.readouterr().err
    assert (run / "last.npz").read_bytes() == before  # told before training, not after it
    (run / "last.npz").unlink()  # in a folder of its own it is whole
    assert len(rnnfast.Run.load(run).sample(3)) == 3


def test_weights_of_another_run_beside_a_damaged_one(run, doctor, tmp_path):
    """Of which the metadata is whole."""
    text = tmp_path / "other.txt"
    text.write_text(make.TEXT + "another")
    settings = rnnfast.Settings(text, hidden=5, batch=2, time=5, epochs=1)
    rnnfast.Run.start(tmp_path / "other", settings, verbose=False).fit(verbose=False)
    shutil.copy(tmp_path / "other" / "best.npz", run / "best.npz")
    data = bytearray((run / "last.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "last.npz").write_bytes(data)
    lines, wrong = doctor()
    assert wrong == ["last.npz", "best.npz"]
    assert lines[-1] == NOTHING
    with pytest.raises(rnnfast.InputError, match=r"best\.npz is of another run than last\.npz"):
        rnnfast.Run.load(run)


@pytest.mark.parametrize(
    "options", [{}, {"batch": 6, "window": 25}, {"layers": 2, "optimizer": "sgd"}]
)
def test_room_for_what_the_saves_to_come_have_more(options, run, doctor, trained, monkeypatch):
    """What an optimizer keeps, states that are carried, the first `best.npz`."""
    shutil.rmtree(run)
    options = {"hidden": 30, "batch": 2, "time": 5, "epochs": 2} | options
    training = rnnfast.Run.start(run, rnnfast.Settings(trained / "text.txt", **options))

    def said():
        lines, wrong = doctor()
        assert not wrong
        return int(re.search(r"saves take up to ([\d,]+)", lines[-2])[1].replace(",", ""))

    def taken(*names):
        return sum((run / name).stat().st_size for name in names)

    before = said()
    training.fit(1, verbose=False)
    assert taken("best.npz", "last.npz") <= before
    after = said()
    blocks = iter(range(8))
    with pytest.raises(rnnfast.TrainingInterrupted):
        training.fit(2, verbose=False, stop=lambda: next(blocks) == 7)
    assert taken("last.npz") <= after < 1.3 * taken("last.npz")
    assert taken("last.npz", "best.npz") <= before < 1.7 * taken("last.npz", "best.npz")
    sizes = [(run / name).stat().st_size for name in ("last.npz", "best.npz", "history.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: os.statvfs_result((0, 1 << 20, *[8] * 8)))
        assert max(sizes) < 1 << 20
        assert said() == 3 << 20  # the lock, the history, and what takes the place of best.npz
    usage = shutil.disk_usage(run)
    needed = said()
    for free, lack in ((needed, ["disk"]), (needed + 1, [])):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=free: usage._replace(free=n))
        lines, wrong = doctor()
        assert wrong == lack
        assert ("train --resume" in lines[-1]) == (not lack)


def test_best_weights_that_are_lost_beside_a_damaged_checkpoint(run, doctor):
    """The weights of that one are no way out."""
    data = bytearray((run / "last.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "last.npz").write_bytes(data)
    (run / "best.npz").unlink()
    lines, wrong = doctor()
    assert wrong == ["last.npz", "best.npz"]
    assert "best.npz: WRONG: not there" in lines
    assert lines[-1] == NOTHING


def test_weights_of_another_model_for_the_same_text(run, trained, tmp_path):
    settings = rnnfast.Settings(trained / "text.txt", hidden=6, batch=2, time=5, epochs=1)
    other = rnnfast.Run.start(tmp_path / "other", settings, verbose=False)
    other.fit(verbose=False)
    shutil.copy(tmp_path / "other" / "best.npz", run / "best.npz")
    shutil.copy(run / "last.npz", tmp_path / "other" / "last.npz")
    for place in (run, tmp_path / "other"):
        with pytest.raises(rnnfast.InputError, match=r"best\.npz is of another run than last\.npz"):
            rnnfast.Run.load(place)


def test_weights_that_validated_best_are_lost(run, doctor, trained, capsys):
    (run / "best.npz").unlink()
    lines, wrong = doctor()
    assert wrong == ["best.npz"]
    assert lines[-1] == NOTHING
    before = (run / "last.npz").read_bytes()
    for command in (["train", "--epochs", "9", "--resume", "--out"], ["sample"], ["eval"]):
        assert main([*command, "run"]) == 1
        err = capsys.readouterr().err
        assert "run/best.npz is not there, which had the weights that validated best; put" in err
    assert (run / "last.npz").read_bytes() == before
    assert eval(re.search(r"in Python: (.*)", err)[1], {"Run": rnnfast.Run}).params
    assert len(rnnfast.Run.load(trained / "new").sample(3)) == 3  # before the first epoch


@pytest.mark.parametrize("damage", ["cut", "pipe", "fields"])
def test_best_weights_stand_for_themselves_where_nothing_can_say_more(damage, run):
    last = run / "last.npz"
    data = last.read_bytes()
    last.unlink()
    if damage == "cut":
        last.write_bytes(data[:-1])
    elif damage == "pipe":
        os.mkfifo(last)
    else:
        shutil.copy(run / "best.npz", last)
    assert len(rnnfast.Run.load(run).sample(3)) == 3


def test_names_that_look_like_something_else(run, doctor, capsys, tmp_path):
    (run / "gone.npz").symlink_to("missing")
    (run / "a\nworks: `x`").write_text("")
    lines, wrong = doctor()
    assert not wrong
    assert lines[-1] == WORKS
    assert sum(line.startswith("works: ") for line in lines) == 1
    run.rename(tmp_path / "-x")
    assert main(["doctor", "--", "-x"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "works: `rnnfast train --resume --out ./-x`; `rnnfast sample ./-x`"


def test_looking_disturbs_no_training(run):
    (run / ".lock").write_text("1\n")  # of one that was killed
    attempts = []
    before = folder.open_locked

    def once(path):
        """As while somebody looks."""
        attempts.append(path)
        if len(attempts) % 2:
            return None
        return before(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "open_locked", once)
        with folder.locked(run):
            assert len(attempts) == 2


@pytest.fixture
def others(trained, monkeypatch):
    """A run in a folder into which anybody may look."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.chdir(place)
        os.chmod(place, 0o755)
        shutil.copy(trained / "text.txt", ".")
        settings = rnnfast.Settings("text.txt", hidden=5, batch=2, time=5, epochs=1)
        rnnfast.Run.start("run", settings, verbose=False).fit(verbose=False)
        for name in (".lock", ".last.npz.0123456789abcdef.partial"):
            Path("run", name).touch()
        if os.geteuid() == 0:
            for path in (Path("run"), *Path("run").iterdir()):
                os.chown(path, NOBODY, NOBODY)
        yield
        os.chmod("run", 0o755)


def said_to_a_user(*command):
    """The exit code and the lines of a command of somebody who is not root."""
    with open("said", "w+") as said:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    code = main(command)
                said.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read().splitlines()


@pytest.mark.parametrize(
    ("name", "mode", "expected", "works"),
    [
        ("run", 0o444, ["last.npz", "best.npz", "disk"], NOTHING),
        ("run", 0o000, ["last.npz", "best.npz", "other files", "disk"], NOTHING),
        ("run", 0o333, ["other files"], WORKS),
        ("run", 0o555, ["disk"], USABLE),
        ("run/.lock", 0o000, ["lock"], USABLE),
        ("run/.lock", 0o444, ["lock"], USABLE),
        ("run/history.csv", 0o000, [], WORKS),
        ("run/last.npz", 0o000, ["last.npz"], USABLE),
        ("run/best.npz", 0o000, ["best.npz"], NOTHING),
    ],
)
def test_what_may_not_be_read_or_written(name, mode, expected, works, others):
    """All of it is told, and training goes on where it is said to."""
    os.chmod(name, mode)
    code, lines = said_to_a_user("doctor", "run")
    wrong = [line.partition(":")[0] for line in lines if ": WRONG: " in line]
    if name == "run":  # a lock in it may be out of sight
        wrong = [subject for subject in wrong if subject != "lock"]
    assert wrong == expected
    assert code == bool(expected)
    assert works in lines
    code, lines = said_to_a_user("train", "--resume", "--epochs", "2", "--out", "run")
    assert code == (works != WORKS), lines


@pytest.mark.skipif(os.name != "posix", reason="POSIX has sticky folders")
@pytest.mark.parametrize("user", ["owner", "root", "other"])
def test_a_sticky_folder(user, run, doctor, monkeypatch):
    run.chmod(0o1777)
    users = {"owner": os.geteuid(), "root": 0, "other": os.geteuid() + 1}
    monkeypatch.setattr(os, "geteuid", lambda: users[user])
    lines, wrong = doctor()
    assert wrong == ["disk"] * (user == "other")
    assert lines[-1] == (USABLE if wrong else WORKS)
    assert not wrong or "disk: WRONG: last.npz cannot be replaced: it is another" in lines[-2]


@pytest.mark.parametrize("name", ["last.npz", "best.npz", "history.csv"])
@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EACCES])
def test_attributes_that_forbid_to_replace_a_file(name, refusal, run, doctor, monkeypatch):
    """As `chattr +i` and `+a`, which are for root alone; who may only not write, may replace."""
    before = os.open

    def opened(path, flags, *args, **kwargs):
        if flags & os.O_WRONLY and Path(path).name == name:
            raise OSError(refusal, os.strerror(refusal))
        return before(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)
    lines, wrong = doctor()
    assert wrong == ["disk"] * (refusal == errno.EPERM)
    assert lines[-1] == (USABLE if wrong else WORKS)
    assert not wrong or lines[-2].startswith(f"disk: WRONG: {name} cannot be replaced: its attrib")


@pytest.mark.parametrize("name", ["last.npz", "best.npz"])
def test_links_to_a_disk_that_is_not_there(name, run, doctor):
    (run / name).rename(run.parent / "moved")
    (run / name).symlink_to(run.parent / "moved")
    assert doctor()[0][-1] == WORKS
    (run.parent / "moved").unlink()
    lines, wrong = doctor()
    assert wrong == [name]
    assert f"{name}: WRONG: a link to {run.parent / 'moved'}, where nothing is" in lines
    assert lines[-1] == (USABLE if name == "last.npz" else NOTHING)


def test_a_name_that_is_too_long(capsys):
    assert main(["doctor", "a" * 300]) == 1
    out, _ = capsys.readouterr()
    assert out == "folder: WRONG: cannot be looked at: File name too long\nworks: nothing\n"
