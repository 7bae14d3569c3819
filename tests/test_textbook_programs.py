"""Programs of the textbook's style with one changed import: their losses are those that layers of
plain NumPy have, step by step.
"""

import sys
from types import ModuleType

import numpy as np
import pytest
from problems import assert_close
from textbook_programs import PROGRAMS

from rnnfast.bench import textbook_peer as peer
from rnnfast.textbook import time_layers, trainer, util

V = 11
DATA = np.random.default_rng(7)
TEXT = DATA.integers(0, V, 65)
QUESTIONS, ANSWERS = DATA.integers(0, V, (24, 5)), DATA.integers(0, V, (24, 4))


class PlainLSTM(peer.TimeLSTM):
    h = property(lambda self: self.state[0])
    c = property(lambda self: self.state[1])


@pytest.fixture
def plain():
    """What `from common.time_layers import *` would bring, in plain NumPy."""
    names = {
        "np": np,
        "TimeEmbedding": peer.TimeEmbedding,
        "TimeAffine": peer.TimeAffine,
        "TimeSoftmaxWithLoss": peer.TimeSoftmaxWithLoss,
        "TimeDropout": peer.TimeDropout,
        "TimeRNN": peer.TimeRNN,
        "TimeLSTM": PlainLSTM,
    }
    module = ModuleType("plain_layers")
    vars(module).update(names, __all__=[*names])
    return module


@pytest.fixture
def run(plain, monkeypatch, tmp_path):
    """Run a program with the layers of either; what it leaves."""
    monkeypatch.setitem(sys.modules, "plain_layers", plain)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer._Loop, "_plot", lambda self, *_: None)

    def run(name, library=True):
        text = PROGRAMS[name]
        if not library:
            text = text.replace("from common.time_layers ", "from plain_layers ")
        text = text.replace("from common.", "from rnnfast.textbook.")
        text = text.replace("from common ", "from rnnfast.textbook ")
        left = {"corpus": TEXT, "V": V, "questions": QUESTIONS, "answers": ANSWERS}
        left["id_to_char"] = dict(enumerate("0123456789_"))
        np.random.seed(11)
        exec(compile(text, name, "exec"), left)
        return left

    return run


@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_are_those_of_plain_numpy(name, run):
    ours, plain = run(name), run(name, library=False)
    assert len(ours["losses"]) > 1
    assert_close(np.float64(ours["losses"]), np.float64(plain["losses"]), 1e-5)
    for left in ("texts", "accuracies", "rates"):
        assert ours.get(left) == plain.get(left)


@pytest.mark.parametrize("name", ["chapter 7, addition", "chapter 7, peeking", "chapter 8"])
def test_programs_learn(name, run, monkeypatch):
    text = PROGRAMS[name].replace("Adam()", "Adam(0.02)").replace("range(2)", "range(80)")
    monkeypatch.setitem(PROGRAMS, name, text)
    left = run(name)
    assert left["losses"][-1] < 0.2
    assert left["accuracies"][-1] == 1


def test_the_attention_map(run):
    ours, plain = run("chapter 8"), run("chapter 8", library=False)
    found = ours["attention_map"]
    assert_close(found, plain["attention_map"], 1e-4)
    assert found.shape == (3, 5)
    assert_close(found.sum(axis=1), np.ones(3), 1e-6)


def test_texts_leave_out_what_is_skipped(run):
    first, second, *_ = run("chapter 7, texts")["texts"]
    assert first[0] == 1
    assert len(first) == len(second) == 20
    assert not {0, 3} & {*first}


def test_what_is_printed(run, capsys):
    run("chapter 5, the trainer")
    line = "| epoch 1 |  iter 2 / 3 | time 0[s] | perplexity 1"
    assert line in capsys.readouterr().out
    run("chapter 6")
    assert "\r0 / 3\r1 / 3\r2 / 3\n" in capsys.readouterr().out
    run("chapter 7, addition")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| epoch 1 |  iter 1 / 3 | time 0[s] | loss 2.")
    question = "".join(map(str, QUESTIONS[0])).replace("10", "_")
    answer = "".join(map(str, ANSWERS[0, 1:])).replace("10", "_")
    at = lines.index(f"Q {question}")  # backwards what was given backwards
    assert lines[at + 1] == f"T {answer}"
    assert lines[at + 2][:6] in ("\033[91m☒", "\033[92m☑")
    assert lines[at + 3] == "---"


def test_a_right_answer(capsys):
    class Model:
        def generate(self, question, start_id, size):
            assert (question.shape, start_id, size) == ((1, 2), 3, 2)
            return [4, 5]

    id_to_char = dict(enumerate("abcdef"))
    arguments = np.array([[0, 1]]), np.array([[3, 4, 5]]), id_to_char
    assert util.eval_seq2seq(Model(), *arguments, True) == 1
    assert capsys.readouterr().out.splitlines() == ["Q ab", "T ef", "\033[92m☑\033[0m ef", "---"]
    assert util.eval_seq2seq(Model(), *arguments[:1], np.array([[3, 4, 4]]), id_to_char) == 0
    assert capsys.readouterr().out == ""


def test_batches_are_those_of_the_formula():
    """Row n, column t of a block is (n jump + time_idx + t) modulo the length."""
    xs, ts = np.arange(23), np.arange(23) + 100
    model_free = trainer.RnnlmTrainer(None, None)
    assert model_free.time_idx is None
    model_free.time_idx = 3
    for start in (3, 8, 13, 18):
        assert model_free.time_idx == start
        batch, targets = model_free.get_batch(list(xs), ts, 4, 5)
        places = [[(n * 5 + start + t) % 23 for t in range(5)] for n in range(4)]
        assert batch.tolist() == places
        assert (targets - batch == 100).all()
        assert batch.dtype == targets.dtype == np.int32


class Recorder:
    """A model that notes what it gets."""

    def __init__(self):
        self.params, self.grads = [np.zeros(1)], [np.zeros(1)]
        self.calls = []

    def forward(self, xs, ts):
        self.calls.append((xs.copy(), ts.copy()))
        return float(len(self.calls))

    def backward(self):
        self.grads[0][...] = 1


def test_perplexity_is_that_of_all_blocks():
    """Read as the book reads: rows begin every (M - 1) / N tokens."""
    model, corpus = Recorder(), np.arange(50, 98)
    perplexity = util.eval_perplexity(model, corpus, 4, 5)
    assert perplexity == np.exp((1 + 2) / 2)
    for k, (xs, ts) in enumerate(model.calls):
        places = [[n * 11 + k * 5 + t for t in range(5)] for n in range(4)]
        assert xs.tolist() == corpus[places].tolist()
        assert (ts - xs == 1).all()
        assert xs.dtype == np.int32


def test_a_type_error_in_a_model_is_no_reason_to_try_again():
    class Model:
        def __init__(self):
            self.flags = []

        def forward(self, xs, ts, train_flg=True):
            self.flags.append(train_flg)
            raise TypeError("in the model")

    model = Model()
    with pytest.raises(TypeError, match="in the model"):
        util.eval_perplexity(model, np.arange(400))
    assert model.flags == [False]


def test_rows_are_shuffled_as_numpy_shuffles():
    x, t, model = np.arange(10)[:, None], np.arange(10), Recorder()
    np.random.seed(2)
    first = np.random.permutation(10)
    second = first[np.random.permutation(10)]
    np.random.seed(2)
    ours = trainer.Trainer(model, time_sgd := RecordingOptimizer())
    ours.fit(x, t, max_epoch=2, batch_size=3, max_grad=0.5, eval_interval=2)
    rows = [*first[:9].reshape(3, 3), *second[:9].reshape(3, 3)]
    assert [xs[:, 0].tolist() for xs, _ in model.calls] == [row.tolist() for row in rows]
    assert [ts.tolist() for _, ts in model.calls] == [row.tolist() for row in rows]
    assert time_sgd.grads == pytest.approx([0.5] * 6, rel=1e-5)
    # after the steps 1, 3, 4 and 6, means since the line before
    assert ours.loss_list == [1, 2.5, 4, 5.5]
    assert (ours.current_epoch, ours.eval_interval) == (2, 2)
    ours.fit(x, t, max_epoch=1, batch_size=3, eval_interval=None)
    assert ours.current_epoch == 3
    assert len(ours.loss_list) == 4


class RecordingOptimizer:
    def __init__(self):
        self.grads = []

    def update(self, params, grads):
        self.grads.append(float(grads[0][0]))


@pytest.mark.parametrize("name", ["Trainer", "RnnlmTrainer"])
def test_plot(name, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    ours = getattr(trainer, name)(None, None)
    ours.loss_list = ours.ppl_list = [3.0, 2.0, 1.0]
    ours.eval_interval = 20
    pyplot.switch_backend("agg")
    ours.plot(ylim=(0, 5))
    axes = pyplot.gca()
    assert axes.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert axes.get_ylim() == (0, 5)
    assert axes.get_xlabel() == "iterations (x20)"
    assert axes.get_ylabel() == {"Trainer": "loss", "RnnlmTrainer": "perplexity"}[name]
    pyplot.close("all")


def test_layers_of_ones_own_from_single_steps():
    """A class for blocks as the book builds them, of the namespace's steps."""
    rng = np.random.default_rng(1)
    Wx, Wh = rng.normal(size=(3, 8)).astype("f"), rng.normal(size=(2, 8)).astype("f")
    xs, dhs = rng.normal(size=(4, 5, 3)).astype("f"), rng.normal(size=(4, 5, 2)).astype("f")
    whole = time_layers.TimeLSTM(Wx, Wh, np.zeros(8, "f"))
    hs, steps, h, c = [], [], np.zeros((4, 2)), np.zeros((4, 2))
    for t in range(5):
        step = time_layers.LSTM(Wx, Wh, np.zeros(8))  # a bias in float64
        h, c = step.forward(xs[:, t], h, c)
        hs.append(h)
        steps.append(step)
    assert_close(np.stack(hs, 1), whole.forward(xs))
    dh, dc, grads, dxs = 0, 0, [0, 0, 0], []
    for t in reversed(range(5)):
        dx, dh, dc = steps[t].backward(dhs[:, t] + dh, dc)
        dxs.insert(0, dx)
        grads = [total + dW for total, dW in zip(grads, steps[t].grads, strict=True)]
    assert_close(np.stack(dxs, 1), whole.backward(dhs), 1e-6)
    for dW, expected in zip(grads, whole.grads, strict=True):
        assert_close(dW, expected, 1e-6)
    assert_close(dh, whole.dh, 1e-6)
