"""The report of a run: header, text, JSON, Markdown, and a plot of the ratios by size."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from ..archive import write_atomically
from ..info import build_info
from ..training.plot import axes, save
from .duel import optional_versions
from .tables import Row, Table

QUIET = 0.5  # processes; two threads beside one other process take turns on two CPUs
COLUMNS = "{:44} {:>3} {:>10} {:24} {:>10} {:>7} {:>9} {:>6} {}"
Measured: TypeAlias = Sequence[tuple[Table, list[Row]]]
HEAD = ["what", "threads", "rnnfast", "peer", "peer's", "ratio", "rate", "target", ""]


def header() -> dict[str, str]:
    """Machine, versions, load and date: {name: text}."""
    return {
        **{name: str(value) for name, value in build_info().items()},
        "cpu": cpu_model(),
        **{title: version or "absent" for title, version in optional_versions().items()},
        "load average": load_average(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def load_average() -> str:
    """Processes that ran before, on average of 1, 5 and 15 minutes, and whether they disturb."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    load = os.getloadavg()
    quiet = "" if load[0] < QUIET else ": NOT A QUIET MACHINE, the times mean little"
    return f"{load[0]:.2f}, {load[1]:.2f}, {load[2]:.2f}{quiet}"


def cpu_model() -> str:
    """What the CPU calls itself, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cells(row: Row) -> list[str]:
    """The texts of a row, in the order of HEAD."""

    def number(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    return [
        row.what,
        str(row.threads),
        number(row.ours, ".3f"),
        row.peer,
        number(row.theirs, ".3f"),
        number(row.ratio, ".2f"),
        number(row.rate, ",.0f" if (row.rate or 0) >= 1000 else ".1f"),
        "" if row.target is None else f">={row.target:.3g}",
        row.note or {True: "met", False: "NOT MET", None: ""}[row.met],
    ]


def head(table: Table) -> list[str]:
    """HEAD with the units of a table."""
    names = dict(zip(HEAD, HEAD, strict=True))
    names |= {"rnnfast": f"rnnfast {table.unit}", "peer's": f"peer {table.unit}"}
    return list((names | {"rate": table.rate}).values())


def text_head(table: Table) -> str:
    """Lines that start a table on the screen."""
    names = ["thr" if name == "threads" else name for name in head(table)]
    return f"\n{table.name}: {table.title}\n{COLUMNS.format(*names).rstrip()}"


def text_line(row: Row) -> str:
    """The line of a row on the screen."""
    return COLUMNS.format(*cells(row)).rstrip()


def as_json(facts: dict[str, str], command: str, tables: Measured) -> dict[str, Any]:
    """The run as a dict that JSON can hold; `tables` are pairs (table, rows)."""
    return {
        "command": command,
        "header": facts,
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "unit": table.unit,
                "rate_unit": table.rate,
                "rows": [{**asdict(row), "rate": row.rate, "met": row.met} for row in rows],
            }
            for table, rows in tables
        ],
    }


def as_markdown(
    facts: dict[str, str], command: str, tables: Measured, plot: str | None = None
) -> str:
    """The run as a page."""
    met = [row.met for _, rows in tables for row in rows if row.met is not None]
    lines = [
        "# Benchmarks",
        "",
        f"Made by `{command}`; {sum(met)} of {len(met)} targets are met.",
        "",
        "Each contestant has a process of its own, with the same number of threads. Results are",
        "compared before any clock starts. Then they take turns; times are medians, and `ratio` is",
        "the median, turn by turn, of the peer's time divided by that of rnnfast.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    if plot:
        lines += ["", f"![ratio by size]({plot})"]
    for table, rows in tables:
        names = head(table)
        lines += [
            "",
            f"## {table.name}",
            "",
            f"{table.title}. `rnnfast bench --table {table.name}`",
            "",
            f"| {' | '.join(names)} |",
            f"|---|{'---:|' * 2}---|{'---:|' * 4}---|",
            *(f"| {' | '.join(cells(row))} |" for row in rows),
        ]
    return "\n".join(lines) + "\n"


def write_json(path: Path, facts: dict[str, str], command: str, tables: Measured) -> None:
    """Write `as_json` of a run."""
    data = json.dumps(as_json(facts, command, tables), indent=1) + "\n"
    write_atomically(path, lambda file: file.write(data.encode()))


def write_markdown(
    path: Path, facts: dict[str, str], command: str, tables: Measured, *, plot: Path | None = None
) -> None:
    """Write `as_markdown` of a run; a plot in the folder of the page is shown in it."""
    beside = plot and plot.absolute().parent == path.absolute().parent
    data = as_markdown(facts, command, tables, plot.name if plot and beside else None)
    write_atomically(path, lambda file: file.write(data.encode()))


def write_plot(path: Path, tables: Measured) -> None:
    """Write a PNG of ratios by size; ImportError without matplotlib."""
    figure, plot = axes(
        "1e9 floating point operations of a call",
        "PyTorch's time / ours",
        "rnnfast beside PyTorch, by size",
    )
    lines: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for table, rows in tables:
        for row in rows:
            if table.plotted and row.ratio and row.work:  # and so no mean
                lines.setdefault((table.name, row.threads), []).append((row.work, row.ratio))
    colours = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(name for name, _ in lines))}
    for (name, threads), points in lines.items():
        plot.plot(
            *zip(*sorted(points), strict=True),
            "o-" if threads == 1 else "s--",
            color=colours[name],
            label=f"{name}, {threads} thread{'s' if threads > 1 else ''}",
        )
    plot.axhline(1, color="black", linewidth=1)
    plot.set(xscale="log", yscale="log")
    if lines:
        plot.legend(fontsize="small", ncols=2)
    save(path, figure)
