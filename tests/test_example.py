"""`rnnfast example`, in small: what it prints and leaves, and what it is asked afterwards."""

import re
import shlex
import sys

import numpy as np
import pytest

import rnnfast
from rnnfast.cli import main
from rnnfast.cli.example import _draw
from rnnfast.errors import InputError
from rnnfast.systems.examples import ADDITION, DATES, EXAMPLES, STOP, Result, train_example
from rnnfast.training import plot

SMALL = ["--pairs", "200", "--epochs", "2"]

every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    threads = rnnfast.get_num_threads()
    yield tmp_path
    rnnfast.set_num_threads(threads)


@every_example
def test_it_ends_with_answers_and_what_to_do_next(example, folder, capsys):
    assert main(["example", example.name, *SMALL, "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert f"task: {example.about}; 200 pairs made with seed 0, 20 of them to test" in out
    assert f"model: {example.Model.__name__}, " in out
    assert "threads: 1\n" in out
    right = int(re.search(r"test: (\d+) of 20 questions answered right, [\d.]+%", out)[1])
    answers = re.findall(r"^  (\S.*?) +->  (.*?) +(right|WRONG, it is .*)$", out, re.MULTILINE)
    assert len(answers) == 10
    assert sum(mark == "right" for _, _, mark in answers) <= right
    assert re.findall(r"epoch (\d)/2: training \d\.\d+ nats per .*% of the test right", err) == [
        "1",
        "2",
    ]
    path = f"rnnfast-{example.name}/model.npz"
    assert f"model: {path}" in out.replace("\\", "/")
    model = example.Model.load(path)
    question = re.search(r'--ask "(.*)"', out)[1]
    assert question == max((asked for asked, _, _ in answers), key=len)
    assert main(["example", example.name, "--ask", question]) == 0
    answer = capsys.readouterr().out.rstrip("\n")
    assert (
        answer == example.answers(model, [question])[0] == {a: b for a, b, _ in answers}[question]
    )


def test_the_same_seed_gives_the_same_model(capsys):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["example", "addition", *SMALL, "--seed", seed, "--out", name]) == 0
        assert "--ask" in capsys.readouterr().out
    a, b, c = (ADDITION.Model.load(f"{name}/model.npz").params for name in "abc")
    assert all(map(np.array_equal, a, b))
    assert not np.array_equal(a[0], c[0])


@every_example
def test_pictures_are_pngs_or_lines_that_say_why_not(example, folder, capsys, monkeypatch):
    pictures = ["accuracy", "attention"] if example is DATES else ["accuracy"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["example", example.name, *SMALL, "--out", "a"]) == 0
    assert capsys.readouterr().out.count("matplotlib is not installed") == len(pictures)
    assert [path.name for path in (folder / "a").iterdir()] == ["model.npz"]
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="matplotlib draws the plot, and is not installed")
    monkeypatch.chdir(folder)
    assert main(["example", example.name, *SMALL, "--out", "b"]) == 0
    assert {path.stem for path in (folder / "b").glob("*.png")} == {*pictures}
    for name in pictures:
        assert (folder / "b" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("epochs", [1, 2])
def test_few_epochs_are_seen_in_a_curve(epochs, folder, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws the plot, and is not installed")
    figures = []
    monkeypatch.setattr(plot, "save", lambda _, figure: figures.append(figure))
    model, accuracies = ADDITION.Model(len(ADDITION.vocabulary), 4, 4, rng=0), [0.5, 0.9][:epochs]
    _draw(ADDITION, Result(model, ["1+1"], ["2"], accuracies, accuracies), folder)
    axes = figures[0].axes[0]
    assert [line.get_marker() for line in axes.lines] == ["o"]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_an_empty_answer_has_its_end_to_look_at(folder):
    model = DATES.Model(len(DATES.vocabulary), 4, 4, rng=0)
    model.named_params()["decoder.affine.b"][DATES.vocabulary.id_of(STOP)] = 99
    assert DATES.answers(model, ["May 1, 1999"]) == [""]
    _draw(DATES, Result(model, ["May 1, 1999"], ["1999-05-01"], [1.0], [0.0]), folder)


def test_what_is_next_has_the_folder_as_a_shell_takes_it(capsys):
    assert main(["example", "addition", *SMALL, "--out", "my sums"]) == 0
    (command,) = re.findall("next: `(.*)`", capsys.readouterr().out)
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ask", "1+1"], r"rnnfast-addition.model.npz does not exist; `rnnfast example addition"),
        (["--ask", ""], "question ''"),
        (["--ask", "1+1=", "--out", "a"], "not in the vocabulary"),
        (["--ask", "1000+1000", "--out", "a"], "expected 1 to 7 characters, got 9"),
        (["--ask", "1+1", "--out", "dates"], "it holds a AttentionSeq2seq, expected a PeekySeq"),
        (["--ask", "1+1", "--out", "other"], "expected a model of 13 characters, got one of 5"),
        (["--out", "file"], "file"),
    ],
)
def test_mistakes(options, message, folder, capsys):
    for name, model in {
        "a": ADDITION.Model(13, 4, 4),
        "dates": DATES.Model(13, 4, 4),
        "other": ADDITION.Model(5, 4, 4),
        "rnnfast-addition": ADDITION.Model(13, 4, 4) if options[1] == "" else None,
    }.items():
        if model is not None:
            (folder / name).mkdir()
            model.save(folder / name / "model.npz")
    (folder / "file").write_text("")
    before = sorted(folder.rglob("*"))
    assert main(["example", "addition", *options]) == 1
    assert re.search(f"^rnnfast: error: .*{message}", capsys.readouterr().err)
    assert sorted(folder.rglob("*")) == before


def test_the_command_for_a_question_can_be_pasted(capsys):
    assert main(["example", "addition", *SMALL, "--out", "a b"]) == 0
    assert "--out 'a b'` asks it" in capsys.readouterr().out


@pytest.mark.parametrize("pairs", ["9", "1000001", "many"])
def test_numbers_of_pairs(pairs, capsys):
    with pytest.raises(SystemExit):
        main(["example", "dates", "--pairs", pairs])
    assert "--pairs: expected a whole number from 10 to 1,000,000" in capsys.readouterr().err


# Texts as ids, and back. ----------------------------------------------------------------------


def test_questions_are_reversed_and_answers_start_and_stop():
    decode = ADDITION.vocabulary.decode
    inputs = ADDITION.as_questions(["57+5", "123+456"])
    assert [decode(row) for row in inputs["xs"]] == ["   5+75", "654+321"]
    assert inputs["lengths"].tolist() == [7, 7]
    assert [decode(row) for row in ADDITION.as_answers(["62", "1998"])] == ["_62  ", "_1998"]
    dates = DATES.as_questions(["May 1, 1999", "6/3/99"])
    read = [DATES.vocabulary.decode(row) for row in dates["xs"]]
    assert read == ["May 1, 1999 ", "6/3/99      "]
    assert dates["lengths"].tolist() == [12, 7]  # with the space that ends them


@every_example
def test_every_question_and_answer_fits(example):
    questions, answers = example.make(3000, rng=0)
    size = example.question_size + (not example.reverse)
    assert example.as_questions(questions)["xs"].shape == (3000, size)
    assert example.as_answers(answers).shape == (3000, example.answer_size + 1)
    assert max(map(len, questions)) == example.question_size
    assert max(map(len, answers)) == example.answer_size


def test_what_is_no_question():
    with pytest.raises(InputError, match=r"question '': expected 1 to 7 characters, got 0"):
        ADDITION.as_questions(["1+1", ""])
    with pytest.raises(InputError, match="not in the vocabulary"):
        ADDITION.as_questions(["1*1"])


def test_the_test_is_on_what_was_not_trained_and_epochs_are_counted():
    seen = []
    result = train_example(ADDITION, pairs=200, epochs=3, on_epoch=lambda *args: seen.append(args))
    assert len(result.questions) == len(result.answers) == 20
    epochs, losses, accuracies = zip(*seen, strict=True)
    assert epochs == (1, 2, 3)
    assert (list(losses), list(accuracies)) == (result.losses, result.accuracies)
    answers = ADDITION.answers(result.model, result.questions)
    right = np.mean([a == b for a, b in zip(answers, result.answers, strict=True)])
    assert right == pytest.approx(accuracies[-1])
    with pytest.raises(ValueError, match="pairs: expected a whole number of at least 10, got 9"):
        train_example(ADDITION, pairs=9)


def test_attention_is_that_to_the_characters_of_the_question():
    model = DATES.Model(len(DATES.vocabulary), 4, 4, rng=0)
    weights = DATES.attention(model, "May 1, 1999", "1999-05-01")
    assert weights.shape == (10, len(DATES.read("May 1, 1999"))) == (10, 12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
