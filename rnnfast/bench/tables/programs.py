"""Whole trainings: the programs of the textbook's chapters, and what `rnnfast train` does."""

from collections.abc import Iterator
from dataclasses import replace

from .. import duel
from ..duel import Entry, Refused
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


@table(
    "recipe",
    "Lowest validation loss, in nats per character, of `rnnfast train` without options, and of the "
    "same model and recipe in PyTorch after as many seconds of training",
    unit="nats",
    rate="",
    averaged=False,
)
def _recipe(bench: Bench) -> Iterator[Row]:
    n = max(bench.threads)
    options = {"quick": bench.quick}
    ours, theirs = (Entry(name, "Recipe", options, n) for name in ("rnnfast", "torch"))
    row = Row("", n, theirs.label)
    try:
        seconds, epochs, row.ours = _trained(bench, ours, [])
        row.what = f"{seconds:.0f} s, {epochs:.0f} epochs"
        if not duel.installed_version("torch"):
            row.note = "absent"
        else:
            theirs = replace(theirs, options={**options, "seconds": seconds})
            _, epochs, row.theirs = _trained(bench, theirs, [ours])
            row.what += f"; PyTorch {epochs:.1f}"
            row.ratio = row.theirs / row.ours
    except Refused as error:
        row.note = str(error)
    yield row


def _trained(bench: Bench, entry: Entry, others: list[Entry]) -> tuple[float, float, float]:
    """Seconds and epochs of a training, and its loss; others start from the same loss."""
    worker, *judges = bench.arena.enter(entry, *others)
    bench.arena.check([*judges, worker])
    last = False
    while not last:
        seconds, epochs, last = worker.ask("call", name="train")
    return seconds, epochs, worker.ask("call", name="loss")
