"""The command: measure, show every row when it is there, write what was asked for."""

import shlex
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from .._files import require_replaceable
from ..errors import InputError
from . import report
from .tables import TABLES, Row, Table, measure


def run(
    names: Sequence[str] | None = None,
    *,
    quick: bool = False,
    threads: Sequence[int] | None = None,
    json: str | Path | None = None,
    plot: str | Path | None = None,
    markdown: str | Path | None = None,
) -> None:
    """Measure tables and print them.

    Parameters
    ----------
    names : sequence of str
        Tables, see `TABLES`; None for all.
    quick : bool
        Few shapes and short turns: whether it works, not how fast it is.
    threads : sequence of int
        Numbers of threads; None for 1 and, where there are as many CPUs, 2.
    json, plot, markdown : str or path, or None for no such file

    Raises
    ------
    InputError
        For a folder that is not there, and a folder or device where a file is to be; and, at the
        end, where a contestant failed or computed something else.
    """
    json, plot, markdown = (Path(path) if path else None for path in (json, plot, markdown))
    for path in (json, plot, markdown):
        if path:
            _require_place(path)  # said now, not after ten minutes
    names = list(dict.fromkeys(names or TABLES))  # each once
    if plot:
        try:
            import matplotlib  # noqa: F401  (likewise)
        except ValueError as error:  # in the settings of whoever uses it
            raise InputError(f"{plot}: matplotlib cannot be used: {error}") from None
    facts, command = report.header(), _command(names, quick, threads, json, plot, markdown)
    for name, value in facts.items():
        print(f"{name:14} {value}")
    tables: list[tuple[Table, list[Row]]] = []
    start = time.monotonic()
    pairs = measure(names, quick=quick, threads=threads)
    for _, group in groupby(pairs, key=lambda pair: pair[0].name):
        rows: list[Row] = []
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


def _require_place(path: Path) -> None:
    """Raise InputError where there is no folder for a file, or something else than a file."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no such folder")
    require_replaceable(path)


def _command(
    names: Sequence[str],
    quick: bool,
    threads: Sequence[int] | None,
    json: Path | None,
    plot: Path | None,
    markdown: Path | None,
) -> str:
    """The command line that does the same again, without the folders of this machine."""
    words = ["rnnfast", "bench", *(["--quick"] if quick else [])]
    if names != list(TABLES):
        words += ["--table", *names]
    if threads:
        words += ["--threads", *map(str, threads)]
    for option, path in (("--json", json), ("--plot", plot), ("--markdown", markdown)):
        words += [option, path.name] if path else []
    return shlex.join(words)
