"""What is in a run folder, what can be done with it, and what is wrong: nothing is changed."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .._files import open_regular
from .._locks import is_locked
from ..archive import FORMATS, leftovers
from ..errors import InputError, as_word
from .folder import LOCK, who_has
from .history import as_csv
from .run_files import BEST, FILES, HISTORY, LAST
from .runs import Run
from .saved_run import SavedRun, read_first, require_best
from .trainer import loss_text

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

    Nothing that is there is changed, and a training that goes on is not disturbed.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        yield Finding("folder", f"{folder} {what}; check the path", False)
        return
    lock = _seen("lock", _lock, folder)
    yield lock
    last, finding = _checkpoint(folder, LAST)
    disk = _seen("disk", partial(_space, last), folder)
    yield finding
    best, of_best = _checkpoint(folder, BEST)
    if best or (last and not (folder / BEST).exists()):
        try:
            require_best(folder)
        except InputError as error:
            best, of_best = None, Finding(BEST, str(error), False)
    if last:
        if not (folder / BEST).exists() and last.position["best_loss"] is None:
            best, of_best = last, Finding(BEST, "not there, for no epoch has ended")
        text, history = _text(folder), _seen(HISTORY, partial(_history, last), folder)
        free = not is_locked(folder / LOCK)
        works = best and free and all(each.good for each in (lock, disk, text, history))
        yield text._replace(command=f"rnnfast train --resume --out {as_word(folder)}" * bool(works))
        yield history
    yield of_best._replace(command=f"rnnfast sample {as_word(folder)}" if best else "")
    for name in (*FILES, PLOT):
        for path in leftovers(folder / name):
            yield _seen(path.name, partial(_leftover, name), path)
    yield _seen("other files", _others, folder)
    yield disk


def _seen(subject: str, look: Callable[[Path], Finding], path: Path) -> Finding:
    """What was found, or why nothing could be."""
    try:
        return look(path)
    except OSError as error:
        return Finding(subject, f"cannot be looked at: {error.strerror}", False)


def _leftover(name: str, path: Path) -> Finding:
    killed = f"left by a process that was killed; the next save of {name} removes it"
    return Finding(path.name, "is being written" if is_locked(path) else killed)


def _lock(folder: Path) -> Finding:
    path = folder / LOCK
    if is_locked(path):
        who = who_has(folder) or "(unknown)"
        return Finding("lock", f"in use by process {who}, which trains the run")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return Finding("lock", f"{LOCK} is no file, so that nobody can have it; remove it", False)
    if path.exists():
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
        f"{settings.cell}, hidden {settings.hidden}, {len(vocabulary):,} {vocabulary.unit}s"
        + (f", products in {settings.precision}" if settings.precision else ""),
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
    return Finding("text", f"{run.corpus.name}, the same as at the start")


def _history(last: SavedRun, folder: Path) -> Finding:
    history = last.history
    expected = as_csv(history, header=True)
    try:
        with open_regular(folder / HISTORY) as file:
            found = file.read(len(expected) + 1)
    except InputError as error:
        if not (folder / HISTORY).exists():
            return Finding(HISTORY, "not there; the next save writes it again")
        return Finding(HISTORY, str(error), False)
    if found != expected:
        return Finding(HISTORY, f"other lines than {LAST} has; the next save writes it again")
    losses = [line.valid_loss for line in history if line.valid_loss is not None]
    seen = f"{len(history)} lines, as {LAST} has them"
    if losses:
        seen += f"; validation, best epoch: {loss_text(min(losses), last.vocabulary.unit)}"
    return Finding(HISTORY, seen)


def _others(folder: Path) -> Finding:
    known = {*FILES, LOCK, PLOT}
    known |= {path.name for name in known for path in leftovers(folder / name)}
    others = sorted({path.name for path in folder.iterdir()} - known)
    more = f" and {len(others) - OTHERS_SHOWN} more" if len(others) > OTHERS_SHOWN else ""
    names = ", ".join(map(ascii, others[:OTHERS_SHOWN]))
    return Finding("other files", f"{names}{more}: not of a run, left alone" if others else "none")


def _space(last: SavedRun | None, folder: Path) -> Finding:
    """A file is written beside its place before it takes that, and `best.npz` is written first.
    What it has more than now, of an optimizer and of carried states, is counted too."""
    there = {n: os.path.getsize(folder / n) for n in (LAST, BEST) if (folder / n).is_file()}
    of_last, of_best = there.get(LAST, 0), there.get(BEST, 0)
    if last:
        of_best = of_best or of_last
        settings, model = last.settings, last.model
        if not last.position["optimizer_steps"]:
            of_last += sum(W.nbytes for W in model.params) * len(settings.new_optimizer().slots)
        if not last.position["carried"]:
            blocks = 1 + (settings.window or 0) // settings.time
            states = model.Cell.cell.S * settings.layers * settings.hidden * settings.batch
            of_last += blocks * states * model.params[0].itemsize
        of_last += of_last // 10  # what is around arrays, and the history
    needed = max(of_best, of_best - there.get(BEST, 0) + of_last)
    free, writable = shutil.disk_usage(folder).free, os.access(folder, os.W_OK)
    seen = f"{free:,} bytes free, of which saves take up to {needed:,}"
    return Finding(
        "disk", seen if writable else "the folder is read-only", free > needed and writable
    )
