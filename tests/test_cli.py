"""The command, as a user types it; each test works in an empty folder of its own."""

import csv
import errno
import os
import re
import shlex
import signal
import sys

import numpy as np
import pytest
from ranks import finished, start
from run_folders import require_equal_runs

import rnnfast
from rnnfast import selfcheck
from rnnfast._launch import LAUNCHERS, launched
from rnnfast.archive import load_archive, save_archive, write_atomically
from rnnfast.cli import main
from rnnfast.cli.sample import BETWEEN
from rnnfast.training.settings import SCHEDULES

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
TINY = ["--hidden", "12", "--embedding", "6", "--batch", "4", "--time", "10"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, with a text in it."""
    monkeypatch.chdir(tmp_path)
    threads = rnnfast.get_num_threads()
    (tmp_path / "text.txt").write_text(TEXT)
    yield tmp_path
    rnnfast.set_num_threads(threads)


def train(*options):
    return main(["train", "--text", "text.txt", *TINY, *options])


def in_background(*arguments):
    return start(sys.executable, "-m", "rnnfast", *arguments)


def test_train_ends_with_figures_a_sample_and_a_saved_run(folder, capsys):
    assert train("--epochs", "2") == 0
    out, err = capsys.readouterr()
    assert "text.txt, 2,700 characters, sha256" in out
    assert "without context (unigram entropy): 3." in out
    assert re.search(r"validation, best epoch: \d\.\d+ nats \(perplexity .* bits per char", out)
    assert re.search(r"test, same weights: +\d\.\d+ nats", out)
    *_, first, second, third, end = out.split(BETWEEN)
    assert all(150 < len(text) <= 202 for text in (first, second, third))
    assert len({first, second, third}) == 3
    assert end == (
        "\nrun saved in rnnfast-run; next:\n"
        "  rnnfast sample rnnfast-run                           writes more\n"
        "  rnnfast score rnnfast-run FILE                       says how likely the lines of a "
        "file are\n"
        "  rnnfast train --resume --out rnnfast-run --epochs 4  trains on\n"
    )
    assert "epoch 2/2: training" in err
    assert "tokens/s" in err
    assert {path.name for path in (folder / "rnnfast-run").iterdir()} >= {
        "last.npz",
        "best.npz",
        "history.csv",
    }


def test_the_plot_is_a_png_or_a_line_that_says_why_not(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train("--epochs", "1", "--out", "a") == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not (folder / "a" / "loss.png").exists()
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="matplotlib draws the plot, and is not installed")
    monkeypatch.chdir(folder)
    assert train("--epochs", "1", "--out", "b") == 0
    assert (folder / "b" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_ends_nothing(folder, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rnnfast.cli.train.plot_history", full)
    assert train("--epochs", "1", "--out", "run") == 0
    out = capsys.readouterr().out
    assert "plot: none, since run/loss.png cannot be written: No space left on device" in out
    assert "rnnfast sample run" in out


def test_what_is_in_the_place_of_a_plot_ends_nothing(capsys, monkeypatch):
    def taken(path, **_):
        path.mkdir()
        write_atomically(path, lambda file: None)

    monkeypatch.setattr("rnnfast.cli.train.plot_history", taken)
    assert train("--epochs", "1", "--out", "run") == 0
    assert "\nplot: none, since run/loss.png is a folder, expected a f" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("'junk' is not a valid value"), ImportError("Qt4")])
def test_settings_that_matplotlib_cannot_use_end_nothing(error, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("rnnfast.training.plot.axes", fail)
    assert train("--epochs", "1", "--out", "run") == 0
    out = capsys.readouterr().out
    assert (
        f"\nplot: none, since matplotlib cannot draw it: {type(error).__name__}: {error}\n" in out
    )
    assert "rnnfast sample run" in out
    command = ["example", "addition", "--pairs", "20", "--epochs", "1", "--out", "example"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"\naccuracy: none, since matplotlib cannot draw it: {type(error).__name__}: " in out
    assert "next: " in out


def test_the_history_is_a_table(folder):
    train("--epochs", "2")
    with open(folder / "rnnfast-run" / "history.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[-1]["epoch"]) == 2
    ends = [line for line in lines if line["valid_loss"]]
    assert len(ends) == 2
    for line in ends:
        assert np.log(float(line["valid_perplexity"])) == pytest.approx(float(line["valid_loss"]))


def test_without_out_every_run_gets_a_folder_of_its_own(folder, capsys):
    for name in ("rnnfast-run", "rnnfast-run-2"):
        assert train("--epochs", "1") == 0
        assert (folder / name / "last.npz").exists()
    assert main(["train", "--resume", "--epochs", "2"]) == 0
    assert "run folder: rnnfast-run-2" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("level", ["char", "word"])
def test_resume_equals_the_uninterrupted_run_bit_for_bit(folder, cell, level):
    options = ["--cell", cell, "--level", level, "--layers", "2", "--schedule", "plateau"]
    train(*options, "--epochs", "3", "--out", "whole")
    train(*options, "--epochs", "1", "--out", "parts")
    assert main(["train", "--resume", "--out", "parts", "--epochs", "2"]) == 0
    assert main(["train", "--resume", "--out", "parts", "--epochs", "3"]) == 0
    require_equal_runs(folder / "whole", folder / "parts")


@pytest.mark.parametrize("epochs", [["--epochs", "1"], []])
def test_resume_with_no_epoch_left_trains_nothing(folder, capsys, epochs):
    assert train("--epochs", "2") == 0
    files = {path: path.read_bytes() for path in (folder / "rnnfast-run").glob("*.[nc]*")}
    assert len(files) == 3
    capsys.readouterr()
    assert main(["train", "--resume", *epochs]) == 0
    out, err = capsys.readouterr()
    assert "2 epochs are done; --epochs with a larger number adds some" in out
    assert "validation, best epoch: " in out
    assert "--resume --out rnnfast-run --epochs 4 " in out
    assert err == ""
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("window", [[], ["--window", "60"]])
def test_eval_repeats_the_figures_of_training(capsys, window):
    train("--epochs", "1", *window)
    figures = re.findall(r"(?:best epoch|same weights): *(\d\.\d+)", capsys.readouterr().out)
    assert main(["eval", "rnnfast-run"]) == 0
    out = capsys.readouterr().out
    for part, figure in zip(("validation", "test"), figures, strict=True):
        assert re.search(rf"{part} part, \d+ tokens: (\d\.\d+)", out)[1] == figure
    assert main(["eval", "rnnfast-run", "--text", "text.txt"]) == 0
    assert "text.txt, 2,700 tokens" in capsys.readouterr().out


def test_eval_of_a_text_without_a_name(capsys):
    train("--epochs", "1")
    capsys.readouterr()
    assert main(["eval", "rnnfast-run", "--text", ""]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rnnfast: error: text file ")


def test_resume_after_an_early_stop_says_what_to_do(capsys):
    train("--optimizer", "sgd", "--lr", "1e-30", "--patience", "1", "--epochs", "3")
    capsys.readouterr()
    assert main(["train", "--resume", "--epochs", "9"]) == 0
    assert "nothing is left to do; a new run with a larger --patience" in capsys.readouterr().out


def test_sample_is_repeatable_and_starts_with_the_prime(capsys):
    train("--epochs", "1")
    capsys.readouterr()
    texts = []
    for seed in ("1", "1", "2"):
        command = ["sample", "rnnfast-run", "--length", "40", "--prime", "the q", "--seed", seed]
        assert main(command) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the q")
    assert len(texts[0]) == len("the q") + 40 + len("\n")


def test_sample_streams_what_it_writes(capsys):
    """The same text whether one is asked for or several, of which the first is seen as it comes."""
    train("--epochs", "1")
    capsys.readouterr()
    command = ["sample", "rnnfast-run", "--seed", "1", "--top-k", "8", "--top-p", "0.9"]
    command += ["--temperature", "3", "--prime", "the q", "--stop"]
    outs = []
    for options in (["", "--length", "50"], ["", "--length", "50", "--samples", "3"]):
        assert main([*command, *options]) == 0
        outs.append(capsys.readouterr().out)
    texts = outs[1].split("\n" + "-" * 40 + "\n")
    assert len(texts) == len(set(texts)) == 3
    assert texts[0] == outs[0].removesuffix("\n")
    run = rnnfast.Run.load("rnnfast-run")
    options = {"temperature": 3.0, "top_k": 8, "top_p": 0.9, "prime": "the q", "rng": 1}
    assert "\n".join(texts) == "\n".join(run.samples(3, 50, **options)) + "\n"
    assert main([*command, r"\n.", "--length", "5000", "--samples", "2"]) == 0
    for text in capsys.readouterr().out.split("-" * 40 + "\n"):
        assert text.rstrip("\n")[5:].count(".") + text.count("\n") in (1, 2)
        assert re.search(r"[^\n]\n\Z", text)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--top-k", "0", "at least 1, got '0'"),
        ("--top-p", "0", "above 0 and at most 1, got '0'"),
        ("--top-p", "nan", "above 0 and at most 1, got 'nan'"),
        ("--samples", "0", "from 1 to 100,000, got '0'"),
        ("--samples", str(10**9), "from 1 to 100,000, got '1000000000'"),
    ],
)
def test_bad_options_of_sample(option, value, message, capsys):
    with pytest.raises(SystemExit):
        main(["sample", "rnnfast-run", option, value])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_it_writes(folder):
    """What has been written stands there, and ends its line."""
    train("--epochs", "1", "--out", "run")
    process = in_background("sample", "run", "--length", "2000000", "--seed", "1")
    begun = process.stdout.read(100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "rnnfast: interrupted\n")
    assert (begun + out).endswith("\n")
    assert rnnfast.Run.load("run").sample(99, temperature=0.5, rng=1) == begun[:99]


def test_a_model_that_is_broken(folder, capsys):
    train("--epochs", "1", "--out", "run")
    _, arrays, meta = load_archive(folder / "run" / "best.npz", "checkpoint")
    arrays["param/affine.W"][...] = 3e38
    arrays["param/recurrent.0.b"][...] = 100  # all h are near 1
    save_archive(folder / "run" / "best.npz", "checkpoint", arrays, meta)
    for command in (["sample", "run"], ["score", "run", "text.txt"]):
        assert main(command) == 1
        assert "error: model: expected logits that are finite" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["char", "word"])
def test_score_of_a_file(folder, capsys, level):
    (folder / "text.txt").write_text(TEXT + "once and for all\n")
    train("--epochs", "1", "--level", level)
    unit = {"char": "character", "word": "word"}[level]
    lines = ["the quick fox", "", "xof kciuq eht" if level == "char" else "fox xyzzy the"]
    (folder / "lines.txt").write_text("\r\n".join(lines))
    capsys.readouterr()
    assert main(["score", "rnnfast-run", "lines.txt", "--tokens"]) == 0
    out = capsys.readouterr().out
    run = rnnfast.Run.load("rnnfast-run")
    scores = [*run.score(lines)]
    rows = [line.split("\t") for line in out.split("\n\n")[0].splitlines()]
    assert rows[0] == ["log p (nats)", f"bits per {unit}", "line"]
    of_lines = [row for row in rows[1:] if row[1]]
    assert [row[2] for row in of_lines] == lines
    for (nats, bits, _), (ids, log_p) in zip(of_lines, scores, strict=True):
        assert float(nats) == pytest.approx(log_p.sum(), abs=1e-3)
        assert float(bits) == pytest.approx(-log_p.sum() / len(ids) / np.log(2), abs=1e-3)
    of_tokens = [row for row in rows[1:] if not row[1]]
    values = np.concatenate([log_p for _, log_p in scores])
    np.testing.assert_allclose([float(row[0]) for row in of_tokens], values, atol=1e-3)
    tokens = [repr(run.vocabulary.tokens[k]) for ids, _ in scores for k in ids]
    assert [row[2] for row in of_tokens] == tokens
    loss = -values.mean()
    total = re.search(rf"3 lines, {len(values)} {unit}s: log p (\S+) nats; ", out)
    assert float(total[1]) == pytest.approx(values.sum(), abs=1e-3)
    assert f"{loss:.4f} nats" in out[total.end() :]
    assert f"bits per {unit})" in out
    assert ("1 words that the vocabulary does not have counted as <unk>" in out) == (
        level == "word"
    )
    assert main(["score", "rnnfast-run", "lines.txt"]) == 0
    shorter = [line for line in out.splitlines() if "\t\t" not in line]
    assert capsys.readouterr().out.splitlines() == shorter


def test_files_that_cannot_be_scored(folder, capsys):
    train("--epochs", "1")
    for content, message in (
        (None, "does not exist"),
        ("", "is empty"),
        ("the fox\nthe \u4e2d\n", "lines.txt, line 2: '\u4e2d' .* not in the vocabulary"),
    ):
        if content is not None:
            (folder / "lines.txt").write_text(content, encoding="utf-8")
        capsys.readouterr()
        assert main(["score", "rnnfast-run", "lines.txt"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert re.search(f"^rnnfast: error: .*{message}", err)


def test_words_are_sampled_without_the_unknown_one(capsys):
    train("--epochs", "1", "--level", "word")
    capsys.readouterr()
    main(["sample", "rnnfast-run", "--length", "200", "--temperature", "5", "--seed", "0"])
    out = capsys.readouterr().out
    assert "fox" in out
    assert "<unk>" not in out


def test_info_and_selfcheck(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert rnnfast.__version__ in out
    assert "threads" in out
    assert main(["selfcheck"]) == 0
    out = capsys.readouterr().out
    # test_parity.py says that they are all kernels
    names = [name for dtype in selfcheck.TOLERANCES for name in selfcheck.compare(dtype)]
    assert out.count(" ok\n") == len(names)
    assert "WRONG" not in out


def test_selfcheck_finds_a_wrong_kernel(monkeypatch, capsys):
    def without_repeats(dout, ids, dW):
        dW[...] = 0
        dW[ids] += dout

    monkeypatch.setattr(rnnfast.kernels, "embedding_backward", without_repeats)
    assert main(["selfcheck"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"embedding_backward +float32 .*WRONG", out)
    assert "disagrees" in err


def test_threads_are_set(capsys):
    train("--epochs", "1", "--threads", "1")
    assert rnnfast.get_num_threads() == 1


def test_environment_sets_the_threads(monkeypatch, capsys):
    monkeypatch.setenv("RNNFAST_NUM_THREADS", "1")
    main(["info"])
    assert re.search(r"threads +1\n", capsys.readouterr().out)
    monkeypatch.setenv("RNNFAST_NUM_THREADS", "1" + 30 * "0")  # more than any system has
    main(["info"])
    assert re.search(r"threads +1024\n", capsys.readouterr().out)
    monkeypatch.setenv("RNNFAST_NUM_THREADS", "none")
    assert main(["info"]) == 1
    assert "RNNFAST_NUM_THREADS: expected" in capsys.readouterr().err


LONG = 5000 * "1"  # digits, which Python does not read


@pytest.mark.parametrize("command", [["info"], ["--version"], ["train", "--help"]])
@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("RNNFAST_NUM_THREADS", "abc", "expected a whole number of at least 1, got 'abc'"),
        ("RNNFAST_NUM_THREADS", "0", "expected a whole number of at least 1, got '0'"),
        ("RNNFAST_NUM_THREADS", "2.0", "expected a whole number of at least 1, got '2.0'"),
        ("RNNFAST_NUM_THREADS", LONG, "expected a whole number of at least 1, got '1111"),
        ("RNNFAST_CPU", "AVX512", "expected an instruction set that this processor and this build"),
        ("RNNFAST_CPU", LONG, "expected an instruction set that this processor and this build"),
        ("TQDM_MININTERVAL", "junk", "expected what the progress bar tqdm can use"),
        ("TQDM_NCOLS", "abc", "expected what the progress bar tqdm can use"),
    ],
)
def test_junk_in_the_environment_is_told(variable, value, told, command):
    env = {variable: value}
    code, out, err = finished(start(sys.executable, "-m", "rnnfast", *command, env=env))
    assert (code, out) == (1, "")
    assert err.startswith(f"rnnfast: error: {variable}: {told}")
    assert "unset it" in err
    assert (len(err.splitlines()), len(err) < 300) == (1, True)
    _, _, err = finished(start(sys.executable, "-c", "import rnnfast", env=env))
    assert f"\nrnnfast.errors.InputError: {variable}: {told}" in err


def test_a_name_in_tqdm_file_is_no_file():
    code = (
        "import io, sys; from rnnfast.training.progress import Progress\n"
        "sys.stderr = io.StringIO(); sys.stderr.isatty = lambda: True\n"
        "Progress(9).advance(3); print(sys.stderr.getvalue())"
    )
    code, out, err = finished(start(sys.executable, "-c", code, env={"TQDM_FILE": "abc"}))
    assert (code, "/9.00" in out) == (0, True), err


@pytest.mark.parametrize("numbers", [(LONG, "0"), (LONG, LONG), ("1", "5"), ("0", "0"), ("3", "")])
@pytest.mark.parametrize("names", LAUNCHERS)
def test_what_no_launcher_would_say_is_left_alone(names, numbers, monkeypatch, capsys):
    for name, number in zip(names, numbers, strict=True):
        monkeypatch.setenv(name, number)
    assert launched() == (0, 1)
    assert main(["sample", "nofolder"]) == 1
    assert capsys.readouterr().err.startswith("rnnfast: error: ")


def test_module_and_version():
    process = in_background("--version")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"rnnfast {rnnfast.__version__}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\0\1\2", "is binary"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"too short", "has 9 characters, but 4 lanes of 10 steps need at least 47"),
        (b"\xef\xbb\xbf", "nothing but a byte order mark"),
    ],
)
def test_a_bad_text_leaves_nothing_behind(folder, capsys, content, message):
    os.remove(folder / "text.txt")
    if content is not None:
        (folder / "text.txt").write_bytes(content)
    before = set(folder.iterdir())
    assert train() == 1
    assert re.search(rf"^rnnfast: error: .*{message}", capsys.readouterr().err)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("content", ["      ", "one two three", " ".join(map(str, range(500)))])
def test_words_of_which_none_occurs_twice(folder, capsys, content):
    (folder / "text.txt").write_text(content)
    before = set(folder.iterdir())
    assert train("--level", "word") == 1
    assert "has no word that occurs twice" in capsys.readouterr().err
    assert set(folder.iterdir()) == before


def test_the_shortest_text_that_is_accepted(folder, capsys):
    """It is as long as the message says, and training on it reaches the end."""
    options = ["--batch", "1", "--time", "1", "--epochs", "1"]
    (folder / "text.txt").write_text("x")
    assert train(*options) == 1
    needed = int(re.search(r"at least (\d+)", capsys.readouterr().err)[1])
    (folder / "text.txt").write_text(("ab" * needed)[: needed - 1])
    assert train(*options) == 1
    (folder / "text.txt").write_text(("ab" * needed)[:needed])
    assert train(*options) == 0


@pytest.mark.parametrize(
    "sizes", [["--hidden", str(10**30)], ["--hidden", str(10**9)], ["--embedding", str(10**16)]]
)
def test_sizes_beyond_any_memory(folder, capsys, sizes):
    before = set(folder.iterdir())
    assert train(*sizes) == 1
    assert re.search(
        r"^rnnfast: error: (no model of hidden size .* take|.*: expected .* at most)",
        capsys.readouterr().err,
    )
    assert set(folder.iterdir()) == before


def test_a_first_save_that_fails_leaves_nothing_behind(folder, monkeypatch, capsys):
    def full(path, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rnnfast.training.run_files.save_archive", full)
    before = set(folder.iterdir())
    assert train() == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert set(folder.iterdir()) == before


def test_output_that_cannot_show_a_character(folder, monkeypatch):
    (folder / "text.txt").write_text("\u4e2d\u6587 \u00fc\n" * 60, encoding="utf-8")
    train("--epochs", "1", "--out", "run")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    out, err = in_background("sample", "run", "--length", "200", "--seed", "0").communicate()
    assert err == ""
    assert r"\u4e2d" in out


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error on Windows")
def test_a_reader_that_closes_the_pipe(folder):
    train("--epochs", "1", "--out", "run")
    for command in (["sample", "run", "--length", "2000"], ["score", "run", "text.txt"]):
        process = in_background(*command)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(), err) == (1, "")


def test_a_folder_that_holds_a_run_is_not_touched(folder, capsys):
    train("--epochs", "1", "--out", "run")
    content = (folder / "run" / "last.npz").read_bytes()
    assert train("--epochs", "1", "--out", "run") == 1
    assert "run already holds a run; continue it with --resume" in capsys.readouterr().err
    assert (folder / "run" / "last.npz").read_bytes() == content


def test_an_unwritable_folder(folder, capsys):
    (folder / "file").write_text("in the way")
    assert train("--out", "file/run") == 1
    assert re.search(r"error: run folder file.run cannot be written", capsys.readouterr().err)


@pytest.mark.parametrize("command", [["sample"], ["eval"], ["train", "--resume", "--out"]])
def test_a_folder_without_a_run(command, capsys):
    assert main([*command, "nothing"]) == 1
    assert "nothing holds no run" in capsys.readouterr().err


def test_resume_keeps_settings_and_text(folder, capsys):
    train("--epochs", "1")
    assert main(["train", "--resume", "--hidden", "5", "--lr", "1"]) == 1
    assert "--hidden, --lr: a resumed run keeps its settings" in capsys.readouterr().err
    (folder / "text.txt").write_text(TEXT + "more")
    for command in (["train", "--resume", "--epochs", "2"], ["eval", "rnnfast-run"]):
        assert main(command) == 1
        assert "is not the text that the run" in capsys.readouterr().err


def test_a_damaged_checkpoint(folder, capsys):
    train("--epochs", "1")
    path = folder / "rnnfast-run" / "best.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["sample", "rnnfast-run"]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("meta", "settings", None),
        ("meta", "vocabulary", 3),
        ("arrays", "context", np.array([10**6])),
        ("arrays", "context", None),
        ("meta", "random_state", {}),
        ("settings", "hidden", "8"),
        ("settings", "hidden", 13),
        ("settings", "layers", 0),
        ("settings", "level", "syllable"),
        ("settings", "epochs", "x"),
        ("settings", "optimizer", []),
        ("settings", "lr", "x"),
        ("settings", "other", 1),
        ("settings", "text", 5),
        ("position", "block", 10**9),
        ("position", "block", -1),
        ("position", "epoch", "1"),
        ("position", "lr", "x"),
        ("position", "best_loss", "x"),
        ("arrays", "history", np.zeros((1, 1))),
        ("arrays", "history", None),
        ("position", "record", [1]),
        ("position", "carried", None),
        ("position", "carried", "carried/recurrent.0/0"),
        ("position", "random_state", None),
        ("position", "random_state", {"recurrent.0": 1}),
        ("position", "optimizer_steps", True),
        # which could be read, but what is saved after it could not
        ("position", "step", 2**63 - 1),
        ("position", "optimizer_steps", 2**53 + 1),
        ("position", "record", [1.0, 2**63 - 1, 1.0]),
        ("arrays", "param/embedding.W", None),
        ("arrays", "param/embedding.W", np.zeros((1, 1), "f")),
        ("arrays", "param/other", np.zeros((1, 1), "f")),
        ("arrays", "optimizer/embedding.W/v", None),
        ("arrays", "optimizer/embedding.W/v", np.zeros((1, 1), "f")),
        ("arrays", "carried/recurrent.0/0", np.zeros((1, 1), "f")),
    ],
)
def test_a_checkpoint_with_wrong_fields(folder, capsys, section, field, value):
    train("--epochs", "1", "--out", "run")
    _, arrays, meta = load_archive("run/last.npz", "checkpoint")
    place = {"meta": meta, "arrays": arrays}.get(section) or meta[section]
    if value is None:
        del place[field]
    else:
        place[field] = value
    save_archive("run/last.npz", "checkpoint", arrays, meta)
    content = (folder / "run" / "last.npz").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run", "--epochs", "2"]) == 1
    assert re.search(r"^rnnfast: error: .*(damaged|checkpoint|got)", capsys.readouterr().err)
    assert (folder / "run" / "last.npz").read_bytes() == content


def test_weights_that_are_not_finite_are_not_loaded(capsys):
    train("--epochs", "1", "--out", "run")
    _, arrays, meta = load_archive("run/best.npz", "checkpoint")
    arrays["param/recurrent.0.Wx"][0, 0] = np.nan
    save_archive("run/best.npz", "checkpoint", arrays, meta)
    assert main(["sample", "run"]) == 1
    assert "best.npz: param/recurrent.0.Wx: expected finite numbers" in capsys.readouterr().err


def test_the_number_of_threads_changes_no_bit(folder):
    sizes = ["--hidden", "96", "--embedding", "64", "--batch", "16", "--time", "16"]
    sizes += ["--schedule", "plateau"]  # a cosine depends on how many epochs there are
    assert train(*sizes, "--epochs", "2", "--out", "one", "--threads", "1") == 0
    assert train(*sizes, "--epochs", "1", "--out", "other", "--threads", "2") == 0
    assert main(["train", "--resume", "--epochs", "2", "--out", "other", "--threads", "3"]) == 0
    require_equal_runs(folder / "one", folder / "other")


def test_an_unknown_character(capsys):
    train("--epochs", "1")
    assert main(["sample", "rnnfast-run", "--prime", "fox€"]) == 1
    assert "'€' (character 3 of the text) not in the vocabulary" in capsys.readouterr().err


def test_a_diverged_run_says_the_step_and_keeps_its_checkpoint(folder, capsys):
    options = ["--optimizer", "sgd", "--cell", "rnn", "--lr", "1e39", "--epochs", "3"]
    assert train(*options) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"error: the .* at step \d+ \(epoch 1, block .*smaller learning rate", err)
    assert "rnnfast-run keeps what was saved last" in err
    _, arrays, meta = load_archive(folder / "rnnfast-run" / "last.npz", "checkpoint")
    assert meta["position"]["step"] == 0
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert main(["sample", "rnnfast-run", "--length", "5"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--hidden", "0"],
        ["--epochs", "x"],
        ["--lr", "nan"],
        ["--lr", "-1"],
        ["--cell", "gru?"],
        ["--seed", "-1"],
    ],
)
def test_bad_options_are_usage_errors(options, capsys):
    with pytest.raises(SystemExit) as caught:
        train(*options)
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_commands_for_a_folder_whose_name_is_like_an_option(capsys):
    assert train("--epochs", "1", "--out=-lead") == 0
    ways = re.findall(r"^  rnnfast (\S.*?)  ", capsys.readouterr().out, re.MULTILINE)
    assert main(shlex.split(ways[0])) == 0
    assert main(shlex.split(ways[2])) == 0
    assert ways[2] == "train --resume --out ./-lead --epochs 2"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_learning_rate_that_overflows_leaves_nothing_behind(schedule, folder, capsys):
    assert train("--lr", "1e308", "--schedule", schedule, "--out", "run") == 1
    assert re.match(r"rnnfast: error: lr: expected .* got 1e\+308\n$", capsys.readouterr().err)
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("length", ["0", "-3", "1.5", str(10**21)])
def test_a_length_that_cannot_be(length, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["sample", "nothing", "--length", length])
    assert caught.value.code == 2
    assert "--length: expected a whole number from 1 to" in capsys.readouterr().err


def test_ctrl_c_twice_says_what_is_left(folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rnnfast.training.trainer.Trainer.fit", interrupted)
    assert train("--out", "run") == 130
    assert "interrupted; run keeps what was saved last" in capsys.readouterr().err
    assert main(["sample", "run", "--length", "5"]) == 0
