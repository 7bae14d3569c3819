"""The command: measure, show every row when it is there, write what was asked for."""

import shlex
import time
from itertools import groupby
from pathlib import Path

from ..errors import InputError
from . import report
from .tables import TABLES, measure


def run(names=None, *, quick=False, threads=None, json=None, plot=None, markdown=None, pace=None):
    """Measure tables and print them.

    Parameters
    ----------
    names : list of str
        Tables, see `TABLES`; None for all.
    quick : bool
        Few shapes and short turns: whether it works, not how fast it is.
    threads : list of int
        Numbers of threads; None for 1 and, where there are as many CPUs, 2.
    json, plot, markdown : path, or None for no such file
    pace : Pace, or None for the usual one

    Raises
    ------
    InputError
        For a folder that is not there; and, at the end, where a contestant failed or computed
        something else.
    """
    for path in filter(None, (json, plot, markdown)):
        if not Path(path).absolute().parent.is_dir():  # said now, not after ten minutes
            raise InputError(f"{path}: there is no such folder")
    names = list(dict.fromkeys(names or TABLES))  # each once
    if plot:
        import matplotlib  # noqa: F401  (likewise)
    facts, command = report.header(), _command(names, quick, threads, json, plot, markdown)
    for name, value in facts.items():
        print(f"{name:14} {value}")
    tables, start = [], time.monotonic()
    pairs = measure(names, quick=quick, threads=threads, pace=pace)
    for _, group in groupby(pairs, key=lambda pair: pair[0].name):
        rows = []
        for table, row in group:
            if not rows:
                print(report.text_head(table))
                tables.append((table, rows))
            rows.append(row)
            print(report.text_line(row), flush=True)
    measured = {table.name for table, _ in tables}
    for name in names:
        if name not in measured:
            print(f"\n{name}: this machine cannot measure it")
    facts["duration"] = f"{(time.monotonic() - start) / 60:.1f} minutes"
    print(f"\n{facts['duration']}")
    if json:
        report.write_json(json, facts, command, tables)
    if plot:
        report.write_plot(plot, tables)
    if markdown:
        report.write_markdown(markdown, facts, command, tables, plot=plot)
    wrong = [r for _, rows in tables for r in rows if r.note not in ("", "absent")]
    if wrong:
        raise InputError(f"{len(wrong)} rows could not be measured, the first: {wrong[0].note}")


def _command(names, quick, threads, json, plot, markdown):
    """The command line that does the same again, without the folders of this machine."""
    words = ["rnnfast", "bench", *(["--quick"] if quick else [])]
    if names != list(TABLES):
        words += ["--table", *names]
    if threads:
        words += ["--threads", *map(str, threads)]
    for option, path in (("--json", json), ("--plot", plot), ("--markdown", markdown)):
        words += [option, Path(path).name] if path else []
    return shlex.join(words)
