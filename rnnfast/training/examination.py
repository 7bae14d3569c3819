"""What is in a run folder, what can be done with it, and what is wrong: nothing is changed."""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .._files import open_regular
from .._locks import is_locked
from ..archive import FORMATS, leftovers
from ..errors import InputError
from .folder import LOCK, who_has
from .run_files import BEST, FILES, HISTORY, LAST, as_csv
from .runs import Run
from .saved_run import SavedRun, read_first
from .trainer import Record, loss_text

PLOT = "loss.png"
OTHERS_SHOWN = 5


class Finding(NamedTuple):
    """What was looked at, what was seen, whether that is good, and a command that works since it
    is."""

    subject: str
    seen: str
    good: bool = True
    command: str = ""


def examine(folder: Path) -> Iterator[Finding]:
    """All that is to be said about a run folder, as it is found: reading may take some seconds.

    Nothing is written there, and a training that goes on is not disturbed.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        yield Finding("folder", f"{folder} {what}; check the path", False)
        return
    yield _lock(folder)
    last, finding = _checkpoint(folder, LAST)
    yield finding
    if last:
        yield _text(folder)
        yield _history(folder, last)
    best, finding = _checkpoint(folder, BEST)
    if last and not (folder / BEST).exists():
        best, finding = last, Finding(BEST, "not there, for no epoch has ended")
    sample = f"rnnfast sample {shlex.quote(str(folder))}"
    yield finding._replace(command=sample if best else "")
    for name in FILES:
        for path in leftovers(folder / name):
            killed = f"left by a process that was killed; the next save of {name} removes it"
            yield Finding(path.name, "is being written" if is_locked(path) else killed)
    yield from _others(folder)
    yield _space(folder)


def _lock(folder: Path) -> Finding:
    if is_locked(folder / LOCK):
        who = who_has(folder) or "(unknown)"
        return Finding("lock", f"process {who} has it: the run is in training")
    if (folder / LOCK).exists():
        return Finding("lock", "left by a process that has ended; nobody has it")
    return Finding("lock", "nobody has it")


def _checkpoint(folder: Path, name: str) -> tuple[SavedRun | None, Finding]:
    """What a file stands for, if it is whole."""
    if not (folder / name).exists():
        return None, Finding(name, "not there", False)
    try:
        contents = read_first(folder, (name,))
        saved = SavedRun.from_contents(contents)
    except InputError as error:
        return None, Finding(name, str(error), False)
    path, version, *_ = contents
    settings, vocabulary = saved.settings, saved.vocabulary
    seen = [
        f"whole, {path.stat().st_size:,} bytes, format {version} of {FORMATS['checkpoint'][-1]}",
        f"{settings.cell}, hidden {settings.hidden}, {len(vocabulary):,} {vocabulary.unit}s",
    ]
    if saved.position:
        seen.append(f"after epoch {saved.position['epoch']}, step {saved.position['step']}")
    return saved, Finding(name, "; ".join(seen))


def _text(folder: Path) -> Finding:
    """Whether training can go on, for which the text must be there."""
    try:
        run = Run.resume(folder, verbose=False)
    except InputError as error:
        return Finding("text", str(error), False)
    resume = f"rnnfast train --resume --out {shlex.quote(str(folder))}"
    return Finding("text", f"{run.corpus.name}, the same as at the start", command=resume)


def _history(folder: Path, last: SavedRun) -> Finding:
    history = [Record(**line) for line in last.position["history"]]
    expected = as_csv(history, header=True)
    try:
        with open_regular(folder / HISTORY) as file:
            found = file.read(len(expected) + 1)
    except InputError as error:
        return Finding(HISTORY, f"{error}; the next save writes it again")
    if found != expected:
        return Finding(HISTORY, f"other lines than {LAST} has; the next save writes it again")
    losses = [line.valid_loss for line in history if line.valid_loss is not None]
    seen = f"{len(history)} lines, as {LAST} has them"
    if losses:
        seen += f"; validation, best epoch: {loss_text(min(losses), last.vocabulary.unit)}"
    return Finding(HISTORY, seen)


def _others(folder: Path) -> Iterator[Finding]:
    known = {*FILES, LOCK, PLOT}
    known |= {path.name for name in known for path in leftovers(folder / name)}
    others = sorted({path.name for path in folder.iterdir()} - known)
    if others:
        more = f" and {len(others) - OTHERS_SHOWN} more" if len(others) > OTHERS_SHOWN else ""
        names = ", ".join(map(ascii, others[:OTHERS_SHOWN]))
        yield Finding("other files", f"{names}{more}: not of a run, left alone")


def _space(folder: Path) -> Finding:
    """A file is written beside its place before it takes that."""
    needed = max((path.stat().st_size for path in folder.glob("*.npz")), default=0)
    free, writable = shutil.disk_usage(folder).free, os.access(folder, os.W_OK)
    seen = f"{free:,} bytes free, of which a save takes {needed:,} for a moment"
    return Finding(
        "disk", seen if writable else "the folder is read-only", free > needed and writable
    )
