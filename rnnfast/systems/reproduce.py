"""The numbers of the five notebooks, ours beside those that were published or that are right.

What a notebook printed is compared with that; where its code was faulty, with the value of the
mathematics it means (automatic differentiation, and a second implementation in the tests, agree).
`rows` is what the command `rnnfast reproduce` prints and what the tests run on all kernels.
"""

import string
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .._ops import Ops
from .._types import Array
from ..losses import TimeSoftmaxWithLoss
from ..models import Rnnlm, SimpleRnnlm
from ..text import Vocabulary
from ..training import SGD
from ..training.steps import take_step
from .char_lstm import CharLstm
from .char_rnn import CharRnn
from .perplexity_rnnlm import PerplexityRnnlm, cyclic_batch
from .sequence_regressor import SequenceRegressor
from .word_training import WordRun, train_word_file

SENTENCE = "I am learning RNN"
PUBLISHED_001 = {  # what the notebook printed: all of Wxh (the other rows are 0), Why to its cut
    "Wxh": """
        -5.8980067e-03 -1.0567507e-03  5.3060856e-02  3.2835844e-01
        -2.1574606e-01 -4.6572205e-02 -1.2665960e-03 -2.1078084e-01
         2.6740572e-01 -2.2931943e-04 -1.3003336e-01  3.1455082e-03""",
    "Why": """
         8.50889087e-02  6.36707619e-03 -7.47825659e-04 -1.98840220e-02
         2.58626133e-01 -2.30374616e-02 -1.09052859e-01 -2.62917131e-02
         4.05798629e-02 -2.19466284e-01  3.74572002e-03  4.07243753e-03
        -1.46826804e-01  1.54953711e-02""",
}
SHAKESPEARE = (
    "First Citizen:\nBefore we p"  # the beginning of "tiny Shakespeare", and its characters
)
SHAKESPEARE_CHARACTERS = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
PUBLISHED_004 = 103.29016184582763

ABOUT_004 = """\
Why the 103.29 of notebook 004 is the loss of an untrained model: to guess 25 times among V
equally likely characters costs 25 ln V, which is 103.18 for V = 62 and 104.36 for V = 65. The
notebook steps along the gradient instead of against it, lets nothing back through h, and takes 20
steps at a rate of 1e-4: in all of 150 runs with V = 65 its loss rose. Nothing was learnt, and
since neither its seed nor its text is known, there are no digits to reproduce. With the right
gradient the same 20 steps go from 104.51 to 104.29; with weights of mean 0 and a rate of 0.1 the
25 characters are memorised, and the loss in epoch 200 is 0.09."""


class Row(NamedTuple):
    """A number beside what it should be.

    `tolerance` bounds the difference: relative to `expected`, or absolute where that is 0. With
    `at_most`, `expected` is an upper bound.
    """

    notebook: str
    quantity: str
    expected: float
    ours: float
    tolerance: float
    at_most: bool = False

    @property
    def difference(self) -> float:
        excess = self.ours - self.expected
        if self.at_most:
            return max(0.0, excess) if excess == excess else excess  # NaN stays NaN
        return abs(excess) / abs(self.expected or 1.0)

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance


def rows(
    dtype: DTypeLike = "float64",
    ops: Ops | None = None,
    notebooks: Iterable[str] = ("000", "001", "002", "003", "004"),
) -> Iterator[Row]:
    """The comparisons of some notebooks, in float64 or float32; `ops` as in `rnnfast.layers`."""
    for notebook in notebooks:
        yield from _PARTS[notebook](np.dtype(dtype), ops)


def _row_maker(
    notebook: str, dtype: np.dtype[Any]
) -> Callable[[str, float, float, float, float], Row]:
    def row(
        quantity: str, expected: float, ours: float, tolerance64: float, tolerance32: float
    ) -> Row:
        tolerance = tolerance64 if dtype == np.float64 else tolerance32
        return Row(notebook, quantity, expected, float(ours), tolerance)

    return row


def _perplexity_model(dtype: np.dtype[Any], ops: Ops | None) -> Iterator[Row]:
    row = _row_maker("000", dtype)
    vocabulary = Vocabulary.from_text(SENTENCE)
    corpus = vocabulary.encode(SENTENCE)
    X, T_id = cyclic_batch(corpus, 4)

    def model(**options: Any) -> PerplexityRnnlm:
        rng = np.random.RandomState(0)
        return PerplexityRnnlm.random(
            12, 5, 6, batch_size=4, lr=0.01, rng=rng, dtype=dtype, ops=ops, **options
        )

    network = model()
    for W in network.params:
        W[...] = 0
    yield row("loss, all weights 0", 1 / (1 / 12 + 1e-8), network.forward(X, T_id), 1e-12, 1e-6)
    network = model()
    yield row("loss at the start", 13.109189323530, network.forward(X, T_id), 1e-12, 1e-5)
    perplexity = network.loss_layer.perplexity
    yield row("e^(mean -log p) at the start", 12.575160825745, perplexity, 1e-12, 1e-5)
    norms = {"We": 40.294978181145, "Wx": 0.942571679725, "Wh": 13.185863946778,
             "Br": 15.527286669393, "Wa": 2.003711194810, "Ba": 2.060806754379}  # fmt: skip
    gradients = network.backward()
    for name, norm in norms.items():
        yield row(f"norm of the gradient of {name}", norm, _norm(gradients[name]), 1e-10, 1e-4)
    cut = model(truncate_size=17)
    cut.forward(X, T_id)
    change = max(np.abs(dW - gradients[name]).max() for name, dW in cut.backward().items())
    yield row("truncation at 17 of 17 steps: change of gradients", 0.0, change, 0.0, 0.0)
    curves = {
        None: (11.097102655371, 8.368339546603, 5.923857555740),
        10: (10.945431060926, 7.954672404757, 5.707381608986),
    }
    for truncate_size, losses in curves.items():
        history = model(truncate_size=truncate_size).train(corpus, 101)
        for n, loss in zip((10, 50, 100), losses, strict=True):
            how = f", truncated at {truncate_size}" if truncate_size else ""
            yield row(f"loss at iteration {n}{how}", loss, history[n // 10].loss, 1e-8, 1e-4)


def _char_rnn(dtype: np.dtype[Any], ops: Ops | None) -> Iterator[Row]:
    row = _row_maker("001", dtype)
    ids = Vocabulary.from_text(SENTENCE).encode(SENTENCE)
    xs = np.stack([ids[k : k + 3] for k in range(14)])
    ts = np.stack([ids[k + 1 : k + 4] for k in range(14)])
    model = CharRnn.seeded(12, 4, dtype=dtype, ops=ops)
    printed = model.published_gradients(xs[0], ts[0])
    ours = {"Wxh": printed["Wxh"][[0, 1, 4]], "Why": printed["Why"].reshape(-1)[:14]}
    for name, text in PUBLISHED_001.items():
        values = ours[name].reshape(-1)
        wrong = sum(np.float32(a) != b for a, b in zip(text.split(), values, strict=True))
        what = f"printed {name}: values of {len(values)} with another digit"
        yield row(what, 0.0, wrong, 0.0, 0.0)
    loss = model.forward(xs[0], ts[0])
    yield row("loss of sample 0", 2.0027157565125866, loss, 1e-12, 1e-6)
    gradients = model.backward()
    for name, text in PUBLISHED_001.items():
        values = gradients[name][[0, 1, 4]] if name == "Wxh" else gradients[name].reshape(-1)[:14]
        difference = np.abs(np.array(text.split(), float) - values.reshape(-1)).max()
        yield row(f"printed {name}: largest difference of our own", 0.0, difference, 1e-7, 3e-7)
    sums = {"Wxh": 1.26355366143741, "Why": 3.84355640166609, "Whh": 2.18504737771630,
            "bh": 0.292582118378762, "by": 1.23104424737943}  # fmt: skip
    for name, total in sums.items():
        yield row(f"sum |gradient of {name}|", total, np.abs(gradients[name]).sum(), 1e-12, 1e-5)
    yield row("mean loss of 14 samples", 3.6192221552351747, model.forward(xs, ts), 1e-12, 1e-6)
    optimizer = SGD(0.1, ops=ops)
    for _ in range(20):
        take_step(model, optimizer, xs[:1], ts[:1])
    loss = model.forward(xs[0], ts[0])
    yield row("loss of sample 0 after 20 steps, rate 0.1", 0.9281932504701, loss, 1e-12, 1e-5)


def thousand_words() -> str:
    """A text of 1050 words in 50 lines with a vocabulary of 362; the same everywhere."""
    # the legacy generator, whose stream NumPy does not change
    ranks = (500 * np.random.RandomState(0).random_sample(1000) ** 2.5).astype(int)
    lines = [" ".join(f"w{rank}" for rank in line) for line in ranks.reshape(50, 20)]
    return "\n".join(lines) + "\n"


def _word_training(dtype: np.dtype[Any], ops: Ops | None) -> Iterator[Row]:
    row = _row_maker("002", dtype)

    def train(**options: Any) -> WordRun:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "words.txt")
            path.write_text(thousand_words(), encoding="utf-8")
            rng = np.random.RandomState(0)
            return train_word_file(path, rng=rng, dtype=dtype, ops=ops, **options)

    run = train(model_class=SimpleRnnlm)
    yield row("size of the vocabulary", 362, len(run.vocabulary), 0.0, 0.0)
    published = {1: 350.2822304880, 10: 208.8828561488, 30: 182.6544845957}
    for epoch, perplexity in published.items():
        ours = run.perplexities[epoch - 1]
        yield row(f"perplexity in epoch {epoch}", perplexity, ours, 1e-8, 1e-4)
    yield Row("002", "perplexity in epoch 100", 30.0, run.perplexities[-1], 0.0, at_most=True)
    run = train(model_class=Rnnlm, lr=3.0, epochs=40)
    what = "LSTM, rate 3: perplexity in epoch 40"
    yield Row("002", what, 1.2, run.perplexities[-1], 0.0, at_most=True)

    loss_layer = TimeSoftmaxWithLoss(ops=ops)
    logits = np.array([[[0, -200]]], dtype)
    yield row("loss of logits (0, -200)", 200.0, loss_layer.forward(logits, [[1]]), 1e-12, 1e-6)
    change = np.abs(loss_layer.backward() - loss_layer.backward()).max()
    yield row("change by a second backward", 0.0, change, 0.0, 0.0)
    yield row("loss, all targets ignored", 0.0, loss_layer.forward(logits, [[-1]]), 0.0, 0.0)
    size = np.abs(loss_layer.backward()).max()
    yield row("gradient, all targets ignored", 0.0, size, 0.0, 0.0)


def _regression(dtype: np.dtype[Any], ops: Ops | None) -> Iterator[Row]:
    row = _row_maker("003", dtype)
    X, y = [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]

    def fitted(**options: Any) -> SequenceRegressor:
        model = SequenceRegressor(dtype=dtype, ops=ops, **options)
        return model.fit(X, y)

    names = ("W_xh", "W_hy", "W_hh", "b_h", "b_y")
    starts = {
        "normal": (28.673474991582, 494.868197637249, 38.348302687356, 703.442080763048,
                   489.70246493164, 5.376224305972),
        "scaled": (7.707131638471, 5.931844288827, 30.456346789548, 12.599675971019,
                   1.835215477174, 3.639515875429),
    }  # fmt: skip
    for init, (start, *norms) in starts.items():
        loss, gradients = fitted(init=init, epochs=0, random_state=0).gradients(X, y)
        yield row(f"{init} weights: loss at the start", start, loss, 1e-12, 1e-5)
        for name, norm in zip(names, norms, strict=True):
            tolerance32 = 1e-3 if init == "normal" else 1e-5
            what = f"{init} weights: norm of the gradient of {name}"
            yield row(what, norm, _norm(gradients[name]), 1e-10, tolerance32)
    last = max(
        fitted(init="normal", epochs=50, random_state=seed).loss_curve_[-1] for seed in range(10)
    )
    what = "normal weights: largest loss of 10 seeds, epoch 50"
    yield Row("003", what, 0.05, last, 0.0, at_most=True)
    model = fitted(random_state=0, epochs=501)
    for epoch, loss in {50: 0.075868234926, 500: 0.000330773592}.items():
        what = f"scaled weights: loss after {epoch} epochs"
        yield row(what, loss, model.loss_curve_[epoch], 1e-8, 1e-4)
    model = fitted(random_state=0, epochs=500)
    forecasts = (5.965757420516, 6.414782956128, 6.523101557488)
    for k, (value, ours) in enumerate(zip(forecasts, model.forecast(3), strict=True), 1):
        yield row(f"scaled weights: forecast {k} after 1, 2, 3, 4, 5", value, ours, 1e-8, 1e-4)


def _char_lstm(dtype: np.dtype[Any], ops: Ops | None) -> Iterator[Row]:
    row = _row_maker("004", dtype)
    ids = Vocabulary(SHAKESPEARE_CHARACTERS, "char").encode(SHAKESPEARE)

    def model(gate_mean: float) -> CharLstm:
        rng = np.random.RandomState(0)
        return CharLstm.random(65, 100, gate_mean=gate_mean, rng=rng, dtype=dtype, ops=ops)

    network = model(gate_mean=0.5)
    loss = network.forward(ids[:-1], ids[1:])
    yield row("published, of an untrained model (see below)", PUBLISHED_004, loss, 0.03, 0.03)
    yield row("loss at the start", 104.507836615528, loss, 1e-12, 1e-6)
    norms = {"W_f": 0.143440803946, "W_i": 0.182295067945, "W_C": 4.437843517026,
             "W_o": 0.169418532222, "W_v": 2.824685094636, "b_f": 0.171307604374,
             "b_i": 0.184711137741, "b_C": 7.680496888294, "b_o": 0.186540052877,
             "b_v": 6.585506370936}  # fmt: skip
    gradients = network.backward()
    for name, norm in norms.items():
        yield row(f"norm of the gradient of {name}", norm, _norm(gradients[name]), 1e-10, 1e-4)
    losses = network.fit(ids, epochs=20, lr=1e-4)
    yield row("loss in epoch 20, rate 1e-4", 104.287121941045, losses[-1], 1e-10, 1e-6)

    network = model(gate_mean=0.0)
    loss = network.forward(ids[:-1], ids[1:])
    yield row("mean 0: loss at the start", 104.293844352657, loss, 1e-12, 1e-6)
    network.backward()
    norms = {"Wx": 1.670726385142, "Wh": 0.698596395931, "b": 3.423645575971,
             "W_v": 1.610567725984, "b_v": 6.579862745415}  # fmt: skip
    for (name, norm), gradient in zip(norms.items(), network.grads, strict=True):
        what = f"mean 0: norm of the gradient of {name}"
        yield row(what, norm, _norm(gradient), 1e-10, 1e-4)
    losses = network.fit(ids, epochs=200, lr=0.1)
    yield row("mean 0: loss in epoch 10, rate 0.1", 70.979113288041, losses[9], 1e-8, 1e-4)
    yield Row("004", "mean 0: loss in epoch 200, rate 0.1", 1.0, losses[-1], 0.0, at_most=True)


_PARTS = {
    "000": _perplexity_model,
    "001": _char_rnn,
    "002": _word_training,
    "003": _regression,
    "004": _char_lstm,
}


def _norm(array: Array) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).sum()))


def table(rows64: Iterable[Row], rows32: Iterable[Row]) -> Iterator[str]:
    """The rows of both dtypes as lines of text: the values in float64, the differences of both."""
    yield (
        f"{'':4}{'quantity':52} {'expected':>18} {'ours (float64)':>18} "
        f"{'difference':>10} {'in float32':>10}"
    )
    for a, b in zip(rows64, rows32, strict=True):
        bound = "<=" if a.at_most else ""
        verdict = "ok" if a.ok and b.ok else "WRONG"
        yield (
            f"{a.notebook:4}{a.quantity:52} {bound + format(a.expected, '.13g'):>18} "
            f"{a.ours:18.13g} {a.difference:10.1e} {b.difference:10.1e} {verdict}"
        )
