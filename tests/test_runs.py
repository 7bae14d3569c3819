"""Runs as folders, from Python: what is saved when, what is found again, and what settings take."""

import csv
import doctest
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hostile import make

import rnnfast
from rnnfast.archive import FORMATS, load_archive, save_archive
from rnnfast.errors import InputError, TrainingDiverged, TrainingInterrupted
from rnnfast.models import LAYER_OF_CELL
from rnnfast.text import pieces
from rnnfast.training import corpus, run_files, runs, settings
from rnnfast.training.progress import Progress

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40
TINY = {"hidden": 12, "embedding": 6, "batch": 4, "time": 10, "epochs": 3}
FILES = {"last.npz", "best.npz", "history.csv"}


@pytest.fixture
def start(tmp_path):
    """Starts a run in a folder of that name."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    def start(name="run", verbose=True, **options):
        settings = rnnfast.Settings(**({"text": text} | TINY | options))
        return rnnfast.Run.start(tmp_path / name, settings, verbose=verbose)

    return start


def params_of(run):
    return [W.copy() for W in run.model.params]


def require_equal_params(run, params):
    for W, expected in zip(run.model.params, params, strict=True):
        np.testing.assert_array_equal(W, expected)


def require_equal_runs(run, other):
    (arrays, meta), (other_arrays, other_meta) = (
        load_archive(r.folder / "last.npz", "checkpoint")[1:] for r in (run, other)
    )
    assert arrays.keys() == other_arrays.keys()
    for one in (arrays, other_arrays):
        one["history"] = one["history"][:, :-1]  # without tokens per second
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], strict=True)
    for one in (meta["position"], other_meta["position"]):
        one["record"] = one["record"][:2]  # without seconds
    assert meta == other_meta


def test_fit_trains_and_saves(start):
    run = start()
    untrained = params_of(run)
    epochs = []

    def on_epoch(record, improved):
        """What was saved is found by whoever looks."""
        assert improved
        epochs.append(record.epoch)
        require_equal_params(rnnfast.Run.load(run.folder), params_of(run))
        with open(run.folder / "history.csv", newline="") as file:
            assert float(list(csv.DictReader(file))[-1]["epoch"]) == record.epoch

    run.fit(on_epoch=on_epoch)
    assert epochs == [1, 2, 3]
    assert run.trainer.epoch == 3
    assert set(os.listdir(run.folder)) == FILES
    loaded = rnnfast.Run.load(run.folder)
    require_equal_params(loaded, params_of(run))
    assert not np.array_equal(loaded.model.params[0], untrained[0])
    assert len(loaded.sample(10)) == 10


def test_the_best_weights_of_a_run_are_not_taken_for_those_of_another(start):
    run = start()
    run.fit(1)
    (run.folder / "last.npz").unlink()
    with pytest.raises(InputError, match=r"holds files of a run, without its last\.npz; give ano"):
        start()
    with pytest.raises(InputError, match=r"has no last\.npz, .* put that back, or start a new run"):
        rnnfast.Run.resume(run.folder)
    assert (run.folder / "best.npz").exists()


def test_a_run_in_float64(start):
    run = start(dtype="float64", dropout=0.1)
    run.fit(1)
    assert {W.dtype for W in run.model.params} == {np.dtype("float64")}
    for again in (rnnfast.Run.load(run.folder), rnnfast.Run.resume(run.folder)):
        require_equal_params(again, params_of(run))
        assert again.model.params[0].dtype == np.float64
    assert start("single").model.params[0].dtype == np.float32


def test_two_fits_are_one(start):
    whole, parts = start("whole"), start("parts")
    whole.fit()
    for epochs in (1, 1, 2):
        parts.fit(epochs)
        assert parts.trainer.epoch == epochs
    resumed = rnnfast.Run.resume(parts.folder)
    resumed.fit()
    require_equal_runs(whole, resumed)
    before = {name: (resumed.folder / name).stat().st_mtime_ns for name in FILES}
    for epochs in (None, 1, 3):  # as many are done
        resumed.fit(epochs)
    rnnfast.Run.resume(parts.folder, epochs=1).fit()
    assert {name: (resumed.folder / name).stat().st_mtime_ns for name in FILES} == before
    assert resumed.settings.epochs == 3
    resumed.fit(4)
    assert rnnfast.Run.resume(parts.folder).settings.epochs == 4


def test_the_best_epoch_is_kept(start):
    run = start(lr=1e-30, optimizer="sgd")
    run.fit(1)
    best = (run.folder / "best.npz").read_bytes()
    run.trainer.model.params[0][...] += 1  # worse
    run.fit(2)
    assert (run.folder / "best.npz").read_bytes() == best


def test_stop_saves(start):
    whole, run = start("whole"), start()
    whole.fit()
    message = r"stopped after step 7 and saved; `rnnfast train --resume --out .*run`"
    with pytest.raises(TrainingInterrupted, match=message):
        run.fit(stop=lambda: run.trainer.step == 7)
    assert set(os.listdir(run.folder)) == FILES - {"best.npz"}
    require_equal_params(rnnfast.Run.load(run.folder), params_of(run))
    resumed = rnnfast.Run.resume(run.folder)
    assert resumed.trainer.step == 7
    resumed.fit()
    require_equal_runs(whole, resumed)
    with pytest.raises(InputError, match=r"another one that was trained since; Run\.resume"):
        run.fit()  # would write over it
    require_equal_runs(whole, run)


@pytest.mark.parametrize("steps", [1, 5, 39, 40, 41])
def test_what_a_callback_raises_comes_out_and_costs_nothing(start, steps):
    """Not even a line of the history; 40 steps are an epoch."""
    whole, run = start("whole"), start()
    whole.fit()
    assert len(whole.trainer.blocks) == 40 + 1

    def on_step(tokens, loss):
        if run.trainer.step == steps:
            raise ZeroDivisionError("of the callback")

    with pytest.raises(ZeroDivisionError):
        run.fit(on_step=on_step)
    assert run.trainer.step == steps
    rnnfast.Run.resume(run.folder)  # what is there is whole
    run.fit()
    require_equal_runs(whole, run)


@pytest.mark.parametrize("Error", [ZeroDivisionError, TrainingInterrupted, KeyboardInterrupt])
def test_what_on_epoch_raises_comes_after_saving(start, Error):
    whole, run = start("whole"), start()
    whole.fit()

    def on_epoch(record, improved):
        if record.epoch == 2:
            raise Error

    raised = ZeroDivisionError if Error is ZeroDivisionError else TrainingInterrupted
    with pytest.raises(raised):
        run.fit(on_epoch=on_epoch)
    resumed = rnnfast.Run.resume(run.folder)
    assert resumed.trainer.epoch == 2
    resumed.fit()
    require_equal_runs(whole, resumed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("epoch", [1, 3])
def test_ctrl_c_while_an_epoch_is_evaluated(start, epoch, monkeypatch):
    """The last epoch too: what was trained is saved, and whoever asked to stop is told."""
    whole, run = start("whole"), start()
    whole.fit()
    evaluate = rnnfast.training.trainer.evaluate

    def interrupted(*args, **options):
        if run.trainer.epoch == epoch - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*args, **options)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("rnnfast.training.trainer.evaluate", interrupted)
    with pytest.raises(TrainingInterrupted, match="and saved"):
        run.fit()
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    resumed = rnnfast.Run.resume(run.folder)
    assert resumed.trainer.epoch == epoch - 1  # it is evaluated again
    assert resumed.trainer.block == len(resumed.trainer.blocks)
    resumed.fit()
    require_equal_runs(whole, resumed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_twice(start):
    run = start()
    run.fit(1)

    def on_step(tokens, loss):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match=r"interrupted; .* keeps what was saved last"):
        run.fit(on_step=on_step)
    assert rnnfast.Run.resume(run.folder).trainer.epoch == 1
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_fit_in_another_thread(start):
    """Where nobody may set a handler of signals."""
    run, raised = start(), []

    def fit():
        try:
            run.fit()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert not raised
    assert rnnfast.Run.resume(run.folder).trainer.epoch == 3


def test_a_run_that_diverges_keeps_what_was_saved(start):
    run = start(cell="rnn", optimizer="sgd", lr=1e39)
    with pytest.raises(TrainingDiverged, match=r"run keeps what was saved last$"):
        run.fit()
    assert rnnfast.Run.resume(run.folder).trainer.step == 0


def test_a_disk_that_is_full(start, monkeypatch):
    run = start()
    run.fit(1)
    save = run_files.save_archive

    def full(path, *args):
        if path.name == "last.npz":
            raise OSError(28, "No space left on device")
        save(path, *args)

    monkeypatch.setattr(run_files, "save_archive", full)
    with pytest.raises(OSError, match="No space left"):
        run.fit(2)
    monkeypatch.undo()
    assert rnnfast.Run.resume(run.folder).trainer.epoch == 1
    run.fit(3)
    assert rnnfast.Run.resume(run.folder).trainer.epoch == 3


def test_a_loaded_run_does_not_train(start):
    start()
    folder = start("other").folder
    run = rnnfast.Run.load(folder)
    message = r"^Run.trainer: expected a run that Run.start or Run.resume returned"
    for train in (run.fit, run.save, lambda: run.trainer):
        with pytest.raises(RuntimeError, match=message):
            train()
    with pytest.raises(RuntimeError, match=r"^Run.corpus: expected .*; read_corpus\(\) reads the"):
        _ = run.corpus
    assert run.read_corpus() is run.corpus
    for epochs in (0, 1.5, True, "2"):
        with pytest.raises(InputError, match="epochs: expected a whole number of at least 1"):
            rnnfast.Run.resume(folder, epochs)


# Long texts. --------------------------------------------------------------------------------------


@pytest.fixture
def long(monkeypatch):
    """Texts are long as soon as they have more than a few characters."""
    monkeypatch.setattr(pieces, "PIECE", 7)
    monkeypatch.setattr(pieces, "IN_MEMORY", 0)


@pytest.mark.parametrize("level", ["char", "word"])
def test_a_run_on_a_long_text_is_the_same_run(start, level, tmp_path, request):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    whole = start("whole", level=level, batch=2)
    whole.fit(verbose=False)
    request.getfixturevalue("long")
    run = start(level=level, batch=2)
    for read, base in ((whole.corpus, type(None)), (run.corpus, np.memmap)):
        assert read.ids.dtype == np.uint8
        assert isinstance(read.ids.base, base)
        assert np.shares_memory(read.ids, read.train)
        np.testing.assert_array_equal(read.ids, run.vocabulary.encode(TEXT))
        parts = [len(part) for part in (read.train, read.valid, read.test)]
        assert parts == [len(part) for part in rnnfast.split_by_position(read.ids)]
        assert (read.name, read.characters) == (str(tmp_path / "text.txt"), len(TEXT))
    assert run.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    run.fit(1, verbose=False)
    assert set(os.listdir(run.folder)) == FILES
    resumed = rnnfast.Run.resume(run.folder)
    assert isinstance(resumed.corpus.ids.base, np.memmap)
    resumed.fit(verbose=False)
    require_equal_runs(whole, resumed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other machines there, and other names")
def test_a_path_that_is_taken_is_taken_again(start, tmp_path):
    path = tmp_path / "text.txt"
    for text in (f"/{path}", f"//{path}"):
        run = start(text=text)
        assert run.settings.text == str(path)
        rnnfast.Run.resume(run.folder, text=text, verbose=False).save()
        assert rnnfast.Run.resume(run.folder, verbose=False).settings.text == str(path)
        shutil.rmtree(run.folder)
    (tmp_path / "a\nb").write_text(TEXT)
    with pytest.raises(InputError, match=r"text: expected a path.*the file another name"):
        start(text=tmp_path / "a\nb")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", [TEXT + "a", TEXT[:-1], "A" + TEXT[1:], "x", TEXT.upper()])
def test_another_text_is_no_text_to_resume_with(start, tmp_path, other):
    """Whether or not the vocabulary has its characters."""
    run = start()
    (tmp_path / "text.txt").write_text(other)
    message = r"text.txt is not the text that the run in .*run was started with; put that text back"
    for read in (lambda: rnnfast.Run.resume(run.folder), rnnfast.Run.load(run.folder).read_corpus):
        with pytest.raises(InputError, match=message):
            read()


@pytest.mark.parametrize("other", [TEXT + "a", TEXT.replace("q", "u"), TEXT.upper()])
def test_a_text_that_changes_while_it_is_read(start, tmp_path, other, monkeypatch):
    require_enough = corpus._require_enough

    def written_again(*args):
        (tmp_path / "text.txt").write_text(other)
        require_enough(*args)

    monkeypatch.setattr(corpus, "_require_enough", written_again)
    with pytest.raises(InputError, match=r"text.txt changes while it is read; give a copy of it"):
        start()
    assert os.listdir(tmp_path) == ["text.txt"]


def test_words_with_what_json_has_marks_for(tmp_path):
    """Which weigh nothing within strings."""
    path = tmp_path / "text.txt"
    path.write_text('{[,"\\' * 2000 + " ".join(['{[,"\\' * 2000 + str(k) for k in range(40)] * 8))
    settings = rnnfast.Settings(path, level="word", hidden=3, batch=2, time=5, epochs=1)
    rnnfast.Run.start(tmp_path / "run", settings, verbose=False).fit(verbose=False)
    assert rnnfast.Run.resume(tmp_path / "run").trainer.epoch == 1


def test_ids_are_on_the_disk_of_the_run(start, tmp_path, long, monkeypatch):
    """Not where the system has temporary files, which may be memory, unless there is no other."""
    folders = []
    temporary = tempfile.TemporaryFile

    def noted(dir):
        folders.append(dir)
        return temporary(dir=dir)

    monkeypatch.setattr("tempfile.TemporaryFile", noted)
    start("a/b/run")
    rnnfast.Run.resume(tmp_path / "a/b/run")
    monkeypatch.setattr("os.access", lambda *_: False)
    rnnfast.Run.resume(tmp_path / "a/b/run")
    assert folders == [tmp_path / "a/b/run", tmp_path / "a/b/run", None]


# What is shown. -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["Run.fit", "Trainer.fit"])
def test_progress_goes_to_standard_error_unless_told_otherwise(start, capsys, fit):
    run = start()
    trains = run if fit == "Run.fit" else run.trainer
    trains.fit(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("epoch 1/1: training ")
    assert "bits per character" in err
    assert err.count("\n") == 1
    trains.fit(3, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_tokens_are_called_tokens_elsewhere(capsys):
    ids = np.arange(400) % 7
    trainer = rnnfast.Trainer(
        rnnfast.Rnnlm(7, 4, 4, rng=0), rnnfast.SGD(), ids, ids, batch_size=2, time_size=9
    )
    trainer.fit(1)
    assert "bits per token" in capsys.readouterr().err


def test_without_a_standard_error(start, monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr("sys.stderr", None)
    start().fit(1)


@pytest.mark.parametrize("terminal", [False, True])
def test_reading_is_shown_where_it_takes_long(start, monkeypatch, terminal, long):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    run = start()
    for seconds in (10**9, 0):
        monkeypatch.setattr("rnnfast.training.progress.SECONDS_BEFORE_READING_IS_SHOWN", seconds)
        monkeypatch.setattr("rnnfast.training.progress.SECONDS_BETWEEN_LINES", 10**9)
        for verbose in (False, True):
            monkeypatch.setattr("sys.stderr", Stream())
            start(f"{seconds} {verbose}", verbose=verbose)
            rnnfast.Run.resume(run.folder, verbose=verbose)
            rnnfast.Run.load(run.folder).read_corpus(verbose=verbose)
            shown = sys.stderr.getvalue()
            if seconds or not verbose:
                assert shown == ""
            else:
                passes = 2 + 1 + 1
                assert shown.startswith("\r" * terminal + "reading text.txt:   0%")
                assert (shown.count("reading text.txt: 100%") >= passes) is terminal
                assert shown.count(" s left\n") == passes * (not terminal)


def test_a_text_that_grows_while_its_reading_is_shown(capsys, monkeypatch):
    """Or has no size, as what the system makes up."""
    monkeypatch.setattr("rnnfast.training.progress.SECONDS_BEFORE_READING_IS_SHOWN", 0)
    monkeypatch.setattr("rnnfast.training.progress.SECONDS_BETWEEN_LINES", 0)
    for size in (0, 3):
        with Progress(size, read="a text") as progress:
            progress.advance(5)
            progress.advance(5)
        lines = capsys.readouterr().err.splitlines()
        assert [line.split("%")[0] for line in lines] == ["reading a text: 100"] * 2


@pytest.mark.parametrize("lines", [0, 10**9])
def test_lines_now_and_then(start, capsys, monkeypatch, lines):
    monkeypatch.setattr("rnnfast.training.progress.SECONDS_BETWEEN_LINES", lines)
    run = start()
    run.fit(1)
    err = capsys.readouterr().err
    assert err.count(" tokens/s  ") == (0 if lines else run.trainer.step)
    assert ("100%  loss" in err) is not bool(lines)


# Settings. ----------------------------------------------------------------------------------------

NO_COUNTS = [0, -1, 1.0, "3", True, None, np.nan, [], 10**3 * 1.5]
SOME_NO_COUNTS = [n for n in NO_COUNTS if n is not None]
NO_CHOICES = ["", "none", None, 3, [], {}, b"lstm"]
NO_FRACTIONS = [-0.1, 1, "0.5", None, np.nan, []]
NO_FLAGS = [0, 1, None, "yes", []]
NO_SCALES = [-1, 0, "1", np.nan, np.inf, True, []]
WRONG = {
    **dict.fromkeys(("hidden", "embedding", "layers", "batch", "time", "epochs"), NO_COUNTS),
    **dict.fromkeys(("accumulate", "window", "patience"), SOME_NO_COUNTS),
    **dict.fromkeys(("level", "cell", "dtype", "init", "optimizer", "schedule"), NO_CHOICES),
    **dict.fromkeys(("dropout", "weight_drop", "zoneout"), NO_FRACTIONS),
    **dict.fromkeys(("tie_weights", "locked"), NO_FLAGS),
    "seed": [-1, 1.5, "0", True, None, np.random.default_rng(0)],
    "lr": [-1, 0, "fast", np.nan, np.inf, -np.inf, True, False, 1j, [0.1], np.ones(1)],
    **dict.fromkeys(("max_grad", "max_value"), NO_SCALES),
    "average": [-0.1, 1, "0.5", np.nan, []],
    "weight_decay": [-1, "0.1", np.nan, np.inf, [], True],
    "text": [3, b"text", ["a"], True],
    "precision": [value for value in NO_CHOICES if value is not None],
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tie_weights": True, "embedding": 4, "hidden": 6}, "tie_weights: .* got 4 and 6; take"),
        ({"locked": True, "dropout": 0}, "locked: expected a dropout above 0, got 0; give"),
    ],
)
def test_settings_that_do_not_fit_together(options, message):
    with pytest.raises(InputError, match=message):
        rnnfast.Settings(**options)


def test_the_command_that_carries_on_can_be_pasted(start):
    run = start("a run")
    with pytest.raises(TrainingInterrupted, match=r"--out '.*a run'` carries on"):
        run.fit(verbose=False, stop=lambda: True)


@pytest.mark.parametrize("name", ["prime", "stop"])
def test_texts_with_unknown_characters_are_named(start, name):
    with pytest.raises(InputError, match=f"^{name}: '#' .* not in the vocabulary"):
        start().sample(3, **{name: "#"})


def test_a_schedule_that_was_set_is_kept_for_more_epochs(start):
    run = start(epochs=1)
    run.trainer.schedule = own = rnnfast.ReduceLROnPlateau(0.1)
    run.fit(2, verbose=False)
    assert run.trainer.schedule is own
    other = start("other", epochs=1)
    other.fit(2, verbose=False)
    assert other.trainer.schedule == rnnfast.CosineLR(warmup=0.02, epochs=2)


def test_all_settings_are_checked():
    assert set(WRONG) == set(rnnfast.Settings.__dataclass_fields__)


@pytest.mark.parametrize("name", WRONG)
def test_settings_of_a_wrong_kind(name):
    for value in WRONG[name]:
        with pytest.raises(InputError, match=f"^{name}: expected .*, got ") as caught:
            rnnfast.Settings(**{name: value})
        assert str(caught.value).endswith(f"got {value!r}")


def test_settings_take_what_is_meant(tmp_path):
    settings = rnnfast.Settings(tmp_path, lr=np.float32(0.5), hidden=np.int64(3), seed=np.uint8(2))
    assert json.loads(json.dumps(vars(settings))) == vars(settings)
    assert (settings.text, settings.lr, settings.hidden) == (str(tmp_path), 0.5, 3)
    assert rnnfast.Settings(lr=1).lr == 1.0
    assert rnnfast.Settings(optimizer="sgd").lr == 1.0


def test_settings_that_were_changed_are_checked_again(start, tmp_path):
    settings = rnnfast.Settings(tmp_path / "text.txt", **TINY)
    settings.lr = "fast"
    with pytest.raises(InputError, match=r"^lr: expected"):
        rnnfast.Run.start(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()
    settings.lr = 0.1
    run = rnnfast.Run.start(tmp_path / "run", settings)
    settings.hidden = 99
    assert run.settings.hidden == 12


def test_a_relative_path_is_found_from_anywhere(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = start(text="text.txt")
    monkeypatch.chdir("/")
    corpus = rnnfast.Run.resume(run.folder).corpus
    assert run.vocabulary.decode(corpus.ids) == TEXT
    assert corpus.characters == len(TEXT)


@pytest.mark.parametrize(
    ("level", "content", "message"),
    [
        ("char", "a" * 2000, r"text.txt has one character only, 'a', again and again"),
        ("word", "a " * 2000, r"text.txt has one word only, 'a', again and again"),
        ("word", "\n" * 2000, r"text.txt has one word only, '<eos>', again and again"),
        ("char", "a", r"text.txt has 1 characters, but 4 lanes of 10 steps need at least"),
        ("word", "a", r"text.txt has no word that occurs twice"),
    ],
)
def test_texts_with_nothing_to_learn(start, tmp_path, level, content, message):
    (tmp_path / "text.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        start(level=level)
    assert os.listdir(tmp_path) == ["text.txt"]


def test_samples_are_seeded_by_an_int(start):
    run = start()
    first, second, other = (run.sample(50, rng=rng) for rng in (0, np.random.default_rng(0), 1))
    assert first == second != other


@pytest.mark.parametrize("level", ["char", "word"])
@pytest.mark.parametrize("prime", ["", "the brown", "\n\nthe"])
def test_streamed_texts_are_the_whole_ones(start, level, prime):
    """And those of single calls; spaces and newlines between words come where they belong."""
    run = start(level=level)
    options = {"prime": prime, "temperature": 3.0, "top_k": 20, "rng": 0}
    parts = [*run.stream(40, samples=3, **options)]
    assert len(parts) == 41
    texts = ["".join(pieces) for pieces in zip(*parts, strict=True)]
    assert texts == run.samples(3, 40, **options)
    assert texts[0] == run.sample(40, **options)
    assert len(set(texts)) == 3
    ids = run.vocabulary.encode(texts[0])
    assert run.vocabulary.decode(ids) == texts[0]
    assert len(ids) == len(run.vocabulary.encode(prime)) + 40
    assert texts[0].startswith(prime)
    assert run.sample(0, **options) == prime


@pytest.mark.parametrize("level", ["char", "word"])
def test_a_text_ends_with_a_line(start, level):
    run = start(level=level)
    texts = run.samples(5, 2000, stop="\n", temperature=3.0, rng=0)
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in texts)
    first, second = run.vocabulary.tokens[:2]
    with pytest.raises(InputError, match="not in the vocabulary"):
        run.sample(5, stop=f"{first} \u4e2d {second}")


@pytest.mark.parametrize("level", ["char", "word"])
def test_scores_of_lines(start, level, monkeypatch):
    """Each alone after the run's context, with its end; whatever is scored beside it."""
    run = start(level=level)
    lines = ["the brown", "", "the quick brown fox jumps over", "fox fox"] * 3
    end = run.vocabulary.encode("\n")
    for tokens in (1, 20, 4096):
        monkeypatch.setattr(runs, "SCORED_TOKENS", tokens)
        scores = [*run.score(lines)]
        assert len(scores) == len(lines)
        for line, (ids, log_p) in zip(lines, scores, strict=True):
            assert ids.tolist() == [*run.vocabulary.encode(line), *end]
            alone = rnnfast.log_probabilities(run.model, run.context, ids)
            np.testing.assert_allclose(log_p, alone, rtol=1e-4)
    assert [*run.score([])] == []


def test_lines_that_cannot_be_scored(start, tmp_path):
    run = start()
    with pytest.raises(InputError, match=r"^line 2: '\u4e2d' \(character 4 of the text\) not in"):
        run.score(["the dog", "the \u4e2d"])
    (tmp_path / "text.txt").write_text(TEXT + "once and for all\n")
    run = start("words", level="word")
    [(ids, log_p)] = run.score(["the xyzzy"])
    assert run.vocabulary.decode(ids) == "the <unk>\n"
    assert len(log_p) == 3
    assert "<unk>" not in run.sample(300, temperature=5.0, rng=0)
    with pytest.raises(InputError, match=r"stop: expected words of the vocabulary, got 'xyzzy'"):
        run.sample(5, stop="xyzzy")


# Checkpoints of version 0.1. ----------------------------------------------------------------------


FIRST_SETTINGS = (
    *("text", "level", "cell", "hidden", "embedding", "layers"),
    *("batch", "time", "epochs", "lr", "optimizer", "seed"),
)


def as_version_1(path, recurrent):
    """Write a checkpoint again as version 0.1 did, which counted its arrays.

    Embedding, recurrent layers and affine layer were counted in this order, the slots of the
    optimizer as the optimizer has them, and states h before c.
    """
    arrays, meta = make.in_version_3(*load_archive(path, "checkpoint")[1:])
    params = [name.removeprefix("param/") for name in arrays if name.startswith("param/")]
    old = {f"param/{k}": arrays[f"param/{name}"] for k, name in enumerate(params)}
    for k, name in enumerate(params):
        slots = [array for key, array in arrays.items() if key.startswith(f"optimizer/{name}/")]
        old |= {f"optimizer/{k}/{s}": slot for s, slot in enumerate(slots)}
    for k in range(recurrent):
        states = [v for key, v in arrays.items() if key.startswith(f"carried/recurrent.{k}/")]
        old |= {f"carried/{k}/{s}": state for s, state in enumerate(states)}
    assert len(old) == len(arrays)
    if "position" in meta:
        del meta["position"]["carried"], meta["position"]["random_state"]
    meta["settings"] = {name: meta["settings"][name] for name in FIRST_SETTINGS}
    text = json.dumps({"format": "rnnfast checkpoint 1", **meta}).encode()
    with open(path, "wb") as file:
        np.savez(file, **{"meta.json": np.frombuffer(text, np.uint8)}, **old)


@pytest.mark.parametrize("cell", LAYER_OF_CELL)
@pytest.mark.parametrize("optimizer", list(settings.OPTIMIZERS))
@pytest.mark.parametrize("step", [7, 41, 50])
def test_version_1_resumes_bit_for_bit(start, cell, optimizer, step):
    options = settings.BEFORE | {"cell": cell, "optimizer": optimizer, "layers": 2}
    whole, run = start("whole", **options), start(**options)
    whole.fit()
    with pytest.raises(TrainingInterrupted):
        run.fit(stop=lambda: run.trainer.step == step)
    for name in sorted(FILES & set(os.listdir(run.folder)) - {"history.csv"}):
        as_version_1(run.folder / name, recurrent=2)
        assert load_archive(run.folder / name, "checkpoint")[0] == 1
    rnnfast.Run.load(run.folder).sample(3)
    resumed = rnnfast.Run.resume(run.folder)
    resumed.fit()
    require_equal_runs(whole, resumed)
    assert load_archive(run.folder / "last.npz", "checkpoint")[0] == FORMATS["checkpoint"][-1] == 4


def test_version_1_with_wrong_arrays(start):
    run = start()
    run.fit(1)
    for name in ("last.npz", "best.npz"):
        as_version_1(run.folder / name, recurrent=1)
        _, arrays, meta = load_archive(run.folder / name, "checkpoint")
        for wrong, message in (
            ({k: v for k, v in arrays.items() if k != "param/2"}, "missing recurrent.0.Wh"),
            (arrays | {"param/6": arrays["param/5"]}, "unknown 6"),
            (arrays | {"param/1": arrays["param/2"]}, r"param/recurrent.0.Wx: expected \(6, 48\)"),
        ):
            text = json.dumps({"format": "rnnfast checkpoint 1", **meta}).encode()
            with open(run.folder / name, "wb") as file:
                np.savez(file, **{"meta.json": np.frombuffer(text, np.uint8)}, **wrong)
            with pytest.raises(InputError, match=f"{name}: .*{message}"):
                rnnfast.Run.load(run.folder) if name == "best.npz" else rnnfast.Run.resume(
                    run.folder
                )


def test_sizes_in_settings_take_no_memory(start):
    """They are compared with the arrays before there is a model of these sizes."""
    run = start()
    path = run.folder / "last.npz"
    _, arrays, meta = load_archive(path, "checkpoint")
    for name in ("hidden", "embedding", "layers"):
        for size in (10**5, 10**9, 10**30):
            settings = meta["settings"] | {name: size}
            save_archive(path, "checkpoint", arrays, meta | {"settings": settings})
            with pytest.raises(InputError, match=r"last.npz: .*(expected|layers)") as caught:
                rnnfast.Run.load(run.folder)
            assert "no model" not in str(caught.value)


def test_a_file_of_another_kind(start, tmp_path):
    run = start()
    run.model.save(run.folder / "last.npz")
    message = r"last.npz holds another kind of thing.*expected the format .* got 'rnnfast model 1'"
    with pytest.raises(InputError, match=message):
        rnnfast.Run.load(pathlib.Path(run.folder))


def test_the_example_in_the_docstring():
    results = doctest.testmod(runs)
    assert results.attempted
    assert not results.failed


def test_options_set_on_the_layers_of_a_run_are_kept(start):
    whole, run = start("whole"), start()
    for each in (whole, run):
        (layer,) = each.model.recurrent_layers
        layer.zoneout, layer.weight_drop, layer.zoneout_mean, layer.rng = 0.2, 0.1, True, 3
    whole.fit(2)
    run.fit(1)
    loaded, resumed = rnnfast.Run.load(run.folder), rnnfast.Run.resume(run.folder)
    for again in (loaded, resumed):
        assert again.model.config() == run.model.config()
    resumed.fit(2)
    require_equal_runs(whole, resumed)


def test_a_history_and_a_context_of_any_length(start):
    """They are read again with about as much memory as they have in the file."""
    run = start(time=11)
    run.fit(1)
    line = run.trainer.history[-1]
    for step in range(100_000):
        run.trainer.history.append(replace(line, step=step, valid_loss=None))
    run.context = np.arange(1_000_000) % 20
    run.save(best=True)
    tracemalloc.start()
    loaded, resumed = rnnfast.Run.load(run.folder), rnnfast.Run.resume(run.folder)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5 * (run.folder / "last.npz").stat().st_size
    np.testing.assert_array_equal(loaded.context, run.context)
    np.testing.assert_array_equal(resumed.trainer.history.rows, run.trainer.history.rows)
    assert len((run.folder / "history.csv").read_bytes().splitlines()) > 100_000


def test_fit_within_fit_changes_nothing(start):
    run = start(epochs=1)

    def again(*_):
        with pytest.raises(RuntimeError, match="fit is running"):
            run.fit(3)

    run.fit(verbose=False, on_epoch=again)
    assert (run.settings.epochs, run.trainer.epoch) == (1, 1)
