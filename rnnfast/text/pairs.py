"""Pairs of short texts, made up at random: questions and their answers."""

import datetime
from collections.abc import Callable

import numpy as np

from .._checks import as_count, as_generator
from .._random import Generator
from .._types import Array, Seed

MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FIRST_DAY, LAST_DAY = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
FORMATS = (
    "{month} {d}, {y}",
    "{month} {d}{th}, {y}",
    "{mon} {d}, {y}",
    "{d} {month} {y}",
    "{d} {mon} {y}",
    "{d}{th} of {month} {y}",
    "the {d}{th} of {month}, {y}",
    "{weekday}, {month} {d}, {y}",
    "{weekday}, {d} {month} {y}",
    "{day} {d} {mon} {y}",
    "{d}-{mon}-{y}",
    "{y} {month} {d}",
    "{y}/{m:02}/{d:02}",
    "{m:02}/{d:02}/{y}",
    "{m}/{d}/{y}",
    "{m}/{d}/{yy:02}",
)
"""How a date is written; the month stands before the day where both are numbers."""


def addition_pairs(count: int, *, digits: int = 3, rng: Seed = None) -> tuple[list[str], list[str]]:
    """Sums: questions such as "57+5", no two of them the same, and answers such as "62".

    Parameters
    ----------
    count : int
    digits : int, keyword-only (like what follows)
        How many digits a summand has at most, 1 to 9; all summands are as likely.
    rng : numpy.random.Generator or RandomState, int, or None for a fresh generator

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, and where there are not as many sums.

    Examples
    --------
    >>> import rnnfast
    >>> rnnfast.addition_pairs(3, digits=2, rng=0)
    (['85+63', '51+26', '30+4'], ['148', '77', '34'])
    """
    most = 10 ** as_count("digits", digits)
    if digits > 9:
        raise ValueError(f"digits: expected at most 9, got {digits}")

    def draw(numbers: Generator, size: int) -> list[tuple[str, str]]:
        summands = _integers(numbers, most, (size, 2)).tolist()
        return [(f"{a}+{b}", str(a + b)) for a, b in summands]

    return _different(count, draw, rng, most**2)


def date_pairs(count: int, *, rng: Seed = None) -> tuple[list[str], list[str]]:
    """Dates of the years 1950 to 2049: questions as people write them, no two of them the same, in
    many forms, such as "Thursday, June 3, 1999", and answers such as "1999-06-03".

    Arguments and errors are those of `addition_pairs`.

    Examples
    --------
    >>> import rnnfast
    >>> rnnfast.date_pairs(2, rng=0)
    (['Wednesday, 24 January 2035', '12 Sep 2013'], ['2035-01-24', '2013-09-12'])
    """
    days, cases = (LAST_DAY - FIRST_DAY).days + 1, (str, str.lower, str.upper)

    def draw(numbers: Generator, size: int) -> list[tuple[str, str]]:
        columns = (
            _integers(numbers, most, size).tolist() for most in (days, len(FORMATS), len(cases))
        )
        return [
            _written(FIRST_DAY + datetime.timedelta(day), FORMATS[form], cases[case])
            for day, form, case in zip(*columns, strict=True)
        ]

    return _different(count, draw, rng, days * len(FORMATS))


def _written(date: datetime.date, form: str, case: Callable[[str], str]) -> tuple[str, str]:
    """A date as a question and its answer."""
    d, month, weekday = date.day, MONTHS[date.month - 1], WEEKDAYS[date.weekday()]
    th = "th" if d in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    question = form.format(
        d=d, th=th, month=month, mon=month[:3], weekday=weekday, day=weekday[:3], m=date.month,
        y=date.year, yy=date.year % 100,
    )  # fmt: skip
    return case(question), date.isoformat()


def _integers(rng: Generator, most: int, shape: int | tuple[int, ...]) -> Array:
    """Whole numbers below `most`."""
    draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    numbers: Array = draw(most, size=shape)
    return numbers


def _different(
    count: int, draw: Callable[[Generator, int], list[tuple[str, str]]], rng: Seed, most: int
) -> tuple[list[str], list[str]]:
    """So many pairs of different questions, of the first that are drawn."""
    count, numbers = as_count("count", count), as_generator(rng)
    if count > most // 2:  # which would take long to find at random
        raise ValueError(
            f"count: expected at most {most // 2:,}, half of what there is, got {count:,}"
        )
    found: dict[str, str] = {}
    while len(found) < count:
        for question, answer in draw(numbers, count - len(found)):
            found.setdefault(question, answer)
    return list(found), list(found.values())
