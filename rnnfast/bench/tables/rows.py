"""Rows and tables, and how a row is measured; every ratio is good where it is large."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from ...threads import available_cpus
from .. import duel
from ..duel import Arena, Entry, Pace, Refused

T = TypeVar("T")
MB = 1e6


@dataclass
class Row:
    """A measurement beside that of a peer. None is what was not, or cannot be, measured."""

    what: str
    threads: int
    peer: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    target: float | None = None
    work: float | None = None  # 1e9 floating point operations, or tokens
    note: str = ""
    mean: str = ""  # which one it counts in, if not that of its peer

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no measurement."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target

    @property
    def rate(self) -> float | None:
        """Work per second of ours, whose time is in milliseconds."""
        return self.work / self.ours * 1e3 if self.work and self.ours else None


Measure: TypeAlias = Callable[["Bench"], Iterator[Row]]


@dataclass
class Table:
    """Rows of one kind; `means` are targets of geometric means, by peer, or by what rows say."""

    name: str
    title: str
    measure: Measure
    unit: str = "ms"
    rate: str = "GF/s"
    means: dict[str, float] = field(default_factory=dict)
    averaged: bool = True
    plotted: bool = False

    def mean_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Geometric means of the ratios, for each peer and number of threads."""
        groups: dict[tuple[str, int], list[float]] = {}
        for row in rows:
            if row.ratio is not None:
                groups.setdefault((row.mean or row.peer, row.threads), []).append(row.ratio)
        return [
            Row(
                "geometric mean",
                threads,
                peer,
                ratio=statistics.geometric_mean(ratios),
                target=self.means.get(peer),
            )
            for (peer, threads), ratios in groups.items()
            if self.averaged and len(ratios) > 1
        ]


TABLES: dict[str, Table] = {}


def table(name: str, title: str, **options: Any) -> Callable[[Measure], Measure]:
    """Enter a function `(run) -> rows` as the table `name`."""

    def enter(measure: Measure) -> Measure:
        TABLES[name] = Table(name, title, measure, **options)
        return measure

    return enter


@dataclass(frozen=True)
class Peer:
    """Whom an entry of ours is measured beside, and the ratio of times that is wanted."""

    entry: Entry
    target: float | None = None
    label: str = ""
    """What it is called in the table, if not by its name."""
    factor: float = 1.0
    """What the ratio is multiplied by, where it has other work than ours."""
    same: bool = True
    """Whether its results must be those of ours; where not, they are those of a NumPy twin."""

    @property
    def name(self) -> str:
        return self.label or self.entry.label


@dataclass
class Bench:
    """What the tables need to know: their arena, numbers of threads, and whether to hurry."""

    arena: Arena
    threads: Sequence[int]
    quick: bool = False

    def few(self, cases: Sequence[T], count: int) -> Sequence[T]:
        """All cases, or the first few of them in a hurry."""
        return cases[:count] if self.quick else cases

    def rows(
        self,
        what: str,
        ours: Entry,
        peers: Sequence[Peer],
        *,
        work: float | None = None,
        beside: Callable[[], AbstractContextManager[None]] = nullcontext,
        tolerance: float | None = None,
    ) -> list[Row]:
        """Duel of an entry with all peers that are there: a list of rows, one for each peer.

        What fails or computes something else is a row with a note and no times. Where no other
        library computes the same, results are compared with those of a NumPy twin. `tolerance`,
        relative to the largest number of an array, is that of results, if not that of their dtype.
        """
        here = [peer for peer in peers if duel.installed_version(peer.entry.name)]
        here.sort(key=lambda peer: not peer.same)
        racers = [ours, *(peer.entry for peer in here)]
        alike = 1 + sum(peer.same for peer in here)
        alone = all(racer.name == ours.name for racer in racers[:alike])
        judged = [ours] * alone + racers[alike:]
        twins = [replace(entry, name="numpy", environment={}, ranks=1) for entry in judged]
        found: dict[str, tuple[float | None, float | None]] = {}
        own: float | None = None
        note = ""
        try:
            workers = self.arena.enter(*racers, *twins)
            racing, judges = workers[: len(racers)], workers[len(racers) :]
            self.arena.check(racing[:alike] + judges[:alone], tolerance)
            for pair in zip(racing[alike:], judges[alone:], strict=True):
                self.arena.check(pair, tolerance)
            with beside():
                times, ratios = self.arena.race(racing)
            own = 1e3 * times[0]
            found = {
                peer.name: (1e3 * time, peer.factor * ratio)
                for peer, time, ratio in zip(here, times[1:], ratios[1:], strict=True)
            }
        except Refused as error:
            note = str(error)
        return [
            Row(
                what,
                ours.threads,
                peer.name,
                own,
                *found.get(peer.name, (None, None)),
                peer.target,
                work,
                note or ("" if peer in here else "absent"),
            )
            for peer in peers
        ]

    def fastest(
        self,
        what: str,
        ours: Entry,
        peers: Sequence[Peer],
        target: float | None,
        *,
        mean: str,
        tolerance: float | None = None,
    ) -> list[Row]:
        """The row of the fastest peer, in the mean of that name; all rows, without a target, where
        one has not been measured: who would have been the fastest is not known then."""
        rows = self.rows(what, ours, peers, tolerance=tolerance)
        if any(row.ratio is None for row in rows):
            return rows
        fastest = min(rows, key=lambda row: row.ratio or 0)
        return [replace(fastest, target=target, mean=mean)]

    def peak(self, ours: Entry) -> float:
        """Most MB that two first calls of an entry of ours allocate; Refused where it computes
        something else than its NumPy twin."""
        self.arena.check(self.arena.enter(ours, replace(ours, name="numpy")))
        self.arena.close()  # for a process that has not made a call yet
        (worker,) = self.arena.enter(ours)
        most: float = worker.ask("call", name="peak")
        return most / MB


def measure(
    names: Sequence[str], *, quick: bool = False, threads: Sequence[int] | None = None
) -> Iterator[tuple[Table, Row]]:
    """Yield each table named, and its rows one by one: pairs (table, row)."""
    cpus = available_cpus()
    threads = threads or ([1] if quick else sorted({1, min(2, cpus)}))
    pace = Pace(turn=0.03, seconds=0.2, rounds=3, most_seconds=3) if quick else Pace()
    with Arena(pace) as arena:
        for name in names:
            rows = []
            for row in TABLES[name].measure(Bench(arena, threads, quick)):
                rows.append(row)
                yield TABLES[name], row
            for row in TABLES[name].mean_rows(rows):
                yield TABLES[name], row
            if not quick:  # no table finds what another has left in a process
                arena.close()
