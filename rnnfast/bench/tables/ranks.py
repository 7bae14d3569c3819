"""Two processes that train one model, beside one process."""

from collections.abc import Iterator
from dataclasses import replace

from ...threads import available_cpus
from .. import duel
from ..duel import Entry, Refused
from . import cases
from .cases import AT_MOST_15_PERCENT_OF_IT, Case, comma
from .rows import MB, Bench, Peer, Row, table

RANKS = 2


@table(
    "ranks",
    "Training step of a language model cell N,T,V,D,H as a trainer takes it (forward, backward, "
    "clipping, SGD, float32): two ranks of MPI on this machine, of a thread each, beside one "
    "process; what of the step is communication; and sums alone",
    rate="MB/s",
    averaged=False,
)
def _ranks(bench: Bench) -> Iterator[Row]:
    if available_cpus() < RANKS or not duel.launcher():
        return
    models = bench.few(cases.SHARED_MODELS, 1)
    for case, target in models:
        what = f"{case[0]} {comma(case[1:])}"
        ours = _shared("SharedTraining", case, ranks=RANKS)
        peers = [
            Peer(_shared("SharedTraining", case), target, "1 rank, 1 thread"),
            Peer(_shared("SharedTraining", case, threads=2), label="1 rank, 2 threads"),
        ]
        yield from bench.rows(what, ours, peers)
        yield _communication(bench, what, ours, AT_MOST_15_PERCENT_OF_IT if target else None)
    yield _sum(bench, "1000 sums of a number", Entry("rnnfast", "SmallSums", {}, ranks=RANKS))
    case, _ = models[-1]
    yield _sum(bench, "sum of all gradients", _shared("SumOfGradients", case, ranks=RANKS))


def _shared(task: str, case: Case, *, threads: int = 1, ranks: int = 1) -> Entry:
    return replace(cases.training("rnnfast", case, threads=threads), task=task, ranks=ranks)


def _communication(bench: Bench, what: str, entry: Entry, target: float | None) -> Row:
    """Time of a step in communication, beside that of the whole step."""
    row = Row(what, entry.threads, "the whole step", target=target)
    try:
        (worker,) = bench.arena.enter(entry)
        worker.ask("turn", seconds=bench.arena.pace.seconds, settling=0)
        step, communication, sent = worker.ask("call", name="communication")
    except Refused as error:
        row.note = str(error)
        return row
    row.what += f", sums of {sent / MB:.2f} MB"
    row.ours, row.theirs, row.work = 1e3 * communication, 1e3 * step, sent / MB
    row.ratio = step / communication
    return row


def _sum(bench: Bench, what: str, entry: Entry) -> Row:
    """Time of sums alone."""
    row = Row(what, entry.threads, "")
    try:
        (worker,) = bench.arena.enter(entry)
        row.ours = 1e3 * worker.ask("turn", seconds=bench.arena.pace.seconds, settling=0)
        size = worker.ask("call", name="size")
    except Refused as error:
        row.note = str(error)
        return row
    row.what, row.work = f"{what}, {size / MB:.2f} MB", size / MB
    return row
