"""Programs of the textbook's chapters, with its own layers in NumPy and with one changed import."""

from collections.abc import Iterator

from ..duel import Entry
from . import cases
from .rows import Bench, Peer, Row, table


@table(
    "textbook",
    "Epochs of programs as the textbook's chapters 5 to 8 have them, training and evaluation, on "
    "fewer data: rnnfast.textbook beside layers in NumPy, the model and all else being the same",
    rate="",
)
def _textbook(bench: Bench) -> Iterator[Row]:
    for n in bench.threads:
        for what, task, program, options, target in bench.few(cases.PROGRAMS, 2):
            options = {"name": program, **options}
            theirs = Entry("textbook", "Program", options, n)
            ours = Entry("rnnfast", task, options, n)
            yield from bench.rows(f"chapter {what}", ours, [Peer(theirs, target)])
