"""Pairs of texts that are made up, and training on pairs."""

import datetime
import doctest

import numpy as np
import pytest

import rnnfast
from rnnfast.errors import TrainingDiverged
from rnnfast.text import pairs

V, H, M = 6, 8, 20
XS, TS = (np.random.default_rng(0).integers(0, V, (M, size)) for size in (4, 3))
TS[:, 0] = 5
LENGTHS = np.random.default_rng(1).integers(1, 5, M)


def make(**options):
    return rnnfast.Seq2seq(V, 4, H, rng=0, **options)


# Texts. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 3])
def test_sums_are_right_and_different(digits):
    count = 10 ** (2 * digits) // 2 if digits == 1 else 500
    questions, answers = rnnfast.addition_pairs(count, digits=digits, rng=0)
    assert len(set(questions)) == len(questions) == len(answers) == count
    for question, answer in zip(questions, answers, strict=True):
        a, b = map(int, question.split("+"))
        assert max(a, b) < 10**digits
        assert answer == str(a + b)
        assert question == f"{a}+{b}"


def test_dates_are_right_and_different():
    """Read again by patterns of the standard library, wherever the names of months are English."""
    questions, answers = rnnfast.date_pairs(3000, rng=0)
    assert len(set(questions)) == len(questions) == len(answers) == 3000
    assert {datetime.date.fromisoformat(answer).year for answer in answers} == {*range(1950, 2050)}
    months = {name.lower()[:3]: k + 1 for k, name in enumerate(pairs.MONTHS)}
    for question, answer in zip(questions, answers, strict=True):
        date = datetime.date.fromisoformat(answer)
        words = "".join(c if c.isalnum() else " " for c in question.lower()).split()
        numbers = [int(word.rstrip("stndrh")) for word in words if word[0].isdigit()]
        named = [months[word[:3]] for word in words if word[:3] in months]
        if named:
            assert named == [date.month]
            assert sorted(numbers) == [date.day, date.year]
        elif len(words[0]) == 4:
            assert numbers == [date.year, date.month, date.day]
        else:
            assert numbers[:2] == [date.month, date.day]
            assert numbers[2] in (date.year, date.year % 100)
        weekdays = [word for word in words if word.endswith("day")]
        assert all(pairs.WEEKDAYS[date.weekday()].lower() == word for word in weekdays)
    cases = {question[:1].isupper() for question in questions if question[0].isalpha()}
    assert cases == {True, False}


def test_endings_of_days():
    written = [
        pairs._written(datetime.date(2000, 1, day), "{d}{th}", str)[0] for day in range(1, 32)
    ]
    assert written[:4] == ["1st", "2nd", "3rd", "4th"]
    assert written[10:13] == ["11th", "12th", "13th"]
    assert written[20:24] == ["21st", "22nd", "23rd", "24th"]
    assert written[29:] == ["30th", "31st"]


@pytest.mark.parametrize("make_pairs", [rnnfast.addition_pairs, rnnfast.date_pairs])
def test_pairs_are_drawn_with_a_seed(make_pairs):
    first, again, other = (make_pairs(50, rng=rng) for rng in (0, np.random.default_rng(0), 1))
    assert first == again != other
    legacy = make_pairs(50, rng=np.random.RandomState(0))
    assert legacy == make_pairs(50, rng=np.random.RandomState(0))
    np.random.seed(0)
    at = np.random.randn()
    np.random.seed(0)
    make_pairs(5)
    assert np.random.randn() == at


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count: expected a whole number of at least 1, got 0"),
        ({"count": 51, "digits": 1}, "count: expected at most 50, half of what there is, got 51"),
        ({"count": 5, "digits": 0}, "digits: expected a whole number of at least 1"),
        ({"count": 5, "digits": 10}, "digits: expected at most 9, got 10"),
        ({"count": 5, "rng": -1}, "rng: "),
    ],
)
def test_pairs_that_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.addition_pairs(**options)


def test_more_dates_than_there_are():
    with pytest.raises(ValueError, match="count: expected at most 292,200"):
        rnnfast.date_pairs(10**6)


def test_examples_in_docstrings():
    results = doctest.testmod(pairs)
    assert results.attempted
    assert not results.failed


# Training. ------------------------------------------------------------------------------------


def test_every_epoch_takes_every_pair_once_in_an_order_of_its_own():
    model, seen = make(), []
    forward = model.forward

    def spy(xs, ts, *, lengths, **options):
        seen.extend(zip(xs.tolist(), ts.tolist(), lengths.tolist(), strict=True))
        return forward(xs, ts, lengths=lengths, **options)

    model.forward = spy
    steps, epochs = [], []
    losses = rnnfast.train_pairs(
        model, rnnfast.SGD(0.1), XS, TS, lengths=LENGTHS, batch_size=8, epochs=2, rng=0,
        on_step=lambda *args: steps.append(args), on_epoch=lambda *args: epochs.append(args),
    )  # fmt: skip
    read = np.where(np.arange(4) < LENGTHS[:, None], XS, 0)
    rows = list(zip(read.tolist(), TS.tolist(), LENGTHS.tolist(), strict=True))
    assert seen[:M] != seen[M:]
    assert sorted(seen[:M]) == sorted(seen[M:]) == sorted(rows)
    assert [rows for rows, _ in steps] == [8, 8, 4] * 2
    assert epochs == list(enumerate(losses, 1))
    mean = sum(rows * loss for rows, loss in steps[:3]) / M
    assert losses[0] == pytest.approx(mean, rel=1e-12)


def test_training_repeats_itself_with_a_seed():
    def weights(rng):
        model = make()
        rnnfast.train_pairs(model, rnnfast.Adam(), XS, TS, batch_size=8, epochs=2, rng=rng)
        return np.concatenate([W.ravel() for W in model.params])

    np.testing.assert_array_equal(weights(0), weights(np.random.default_rng(0)))
    assert (weights(0) != weights(1)).any()


def test_the_schedule_scales_the_learning_rate_and_it_is_put_back():
    optimizer, rates = rnnfast.SGD(0.5), []
    options = {"batch_size": 10, "epochs": 2, "schedule": lambda done: 1 - done}
    rnnfast.train_pairs(
        make(), optimizer, XS, TS, **options, on_step=lambda *_: rates.append(optimizer.lr)
    )
    assert rates == [0.5, 0.375, 0.25, 0.125]
    assert optimizer.lr == 0.5

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rnnfast.train_pairs(make(), optimizer, XS, TS, **options, on_step=stop)
    assert optimizer.lr == 0.5


def test_gradients_are_clipped():
    models = [make(), make()]
    for model, max_grad in zip(models, (None, 1e-6), strict=True):
        rnnfast.train_pairs(model, rnnfast.SGD(1.0), XS, TS, epochs=1, max_grad=max_grad, rng=0)
    moved = [
        max(np.abs(W - start).max() for W, start in zip(m.params, make().params, strict=True))
        for m in models
    ]
    assert moved[1] < 1e-5 < moved[0]


def test_what_was_learnt_is_answered():
    model = make(dtype="float64")
    assert not rnnfast.right_answers(model, XS, TS).all()
    rnnfast.train_pairs(model, rnnfast.Adam(0.02), XS, TS, batch_size=M, epochs=300, rng=0)
    right = rnnfast.right_answers(model, XS, TS, batch_size=7)
    assert (right.shape, right.dtype) == ((M,), bool)
    assert right.all()
    wrong = TS.copy()
    wrong[3, 1] = (wrong[3, 1] + 1) % V
    assert np.flatnonzero(~rnnfast.right_answers(model, XS, wrong)).tolist() == [3]
    wrong[3, 1] = -1
    assert rnnfast.right_answers(model, XS, wrong).all()
    # the token after which an answer ends
    stop = int(TS[0, 1])
    after = TS[TS[:, 1] == stop]
    found = rnnfast.right_answers(model, XS[TS[:, 1] == stop], after, stop_id=stop)
    np.testing.assert_array_equal(found, after[:, 2] == stop)


def test_answers_take_lengths():
    model = make()
    beyond = np.where(np.arange(4) < LENGTHS[:, None], XS, -1)
    expected = np.concatenate(
        [
            rnnfast.right_answers(model, xs[None, :n], ts[None])
            for xs, ts, n in zip(XS, TS, LENGTHS, strict=True)
        ]
    )
    found = rnnfast.right_answers(model, beyond, TS, lengths=LENGTHS)
    np.testing.assert_array_equal(found, expected)


def train(model, **arguments):
    return rnnfast.train_pairs(model, rnnfast.SGD(0.1), **arguments)


@pytest.mark.parametrize("function", [train, rnnfast.right_answers])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"xs": XS[0]}, ValueError, r"xs: expected an array of shape \(N, S\)"),
        ({"xs": XS[:0]}, ValueError, r"xs: .*sizes must be at least 1"),
        ({"ts": TS[:3]}, ValueError, r"ts: expected an array of shape \(20, T\+1\)"),
        ({"lengths": LENGTHS[:3]}, ValueError, r"lengths: .*\(20,\).*a length for every row"),
        ({"xs": XS + V}, ValueError, "xs: expected token ids"),
        ({"ts": np.vstack([TS[1:], TS[:1] + V])}, ValueError, r"ts: .* at position \(19, 0\)"),
        ({"ts": TS.astype(float)}, TypeError, "ts: expected token ids of an integer"),
        ({"batch_size": 0}, ValueError, "batch_size: "),
    ],
)
def test_bad_pairs(function, change, error, message):
    model = make()
    before = [W.copy() for W in model.params]
    arguments = {"xs": XS, "ts": TS} | change
    with pytest.raises(error, match=message):
        function(model, **arguments)
    for W, then in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(W, then)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 0}, "epochs: "), ({"max_grad": 0}, "max_grad: "), ({"rng": -1}, "rng: ")],
)
def test_bad_options_of_training(options, message):
    with pytest.raises(ValueError, match=message):
        rnnfast.train_pairs(make(), rnnfast.SGD(0.1), XS, TS, **options)


@pytest.mark.parametrize("factor", [np.nan, np.inf, -1, None, "1"])
def test_a_schedule_that_returns_no_factor(factor):
    model, optimizer = make(), rnnfast.SGD(0.1)
    before = [W.copy() for W in model.params]
    with pytest.raises(ValueError, match="schedule: expected a function that returns a finite"):
        rnnfast.train_pairs(model, optimizer, XS, TS, schedule=lambda done: factor)
    assert optimizer.lr == 0.1
    for W, then in zip(model.params, before, strict=True):
        np.testing.assert_array_equal(W, then)


def test_several_start_tokens_in_one_call():
    ts = TS.copy()
    ts[4, 0] = 2
    with pytest.raises(ValueError, match="ts: expected one start token in all rows, got 2 and 5"):
        rnnfast.right_answers(make(), XS, ts)


def test_training_that_diverges_says_so():
    model = make()
    model.params[0][...] = np.nan
    with pytest.raises(TrainingDiverged, match="try a smaller learning rate"):
        rnnfast.train_pairs(model, rnnfast.SGD(0.1), XS, TS)
