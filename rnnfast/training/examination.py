"""What is in a run folder, what can be done with it, and what is wrong: nothing is changed."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .._files import open_regular, require_replaceable
from .._locks import AS_IT_IS, is_locked
from ..archive import FORMATS, leftovers
from ..errors import InputError, as_word
from .folder import LOCK, require_lock, who_has
from .history import as_csv
from .run_files import BEST, FILES, HISTORY, LAST
from .runs import Run
from .saved_run import SavedRun, read_first, require_best
from .trainer import loss_text

PLOT = "loss.png"
OTHERS_SHOWN = 5
BLOCK = 4096  # bytes in which a disk is given away, where the system does not say so


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
    place = _seen("folder", _place, folder)
    if not place.good:
        yield place
        return
    lock = _seen("lock", _lock, folder)
    yield lock
    last, finding = _checkpoint(folder, LAST)
    disk = _seen("disk", partial(_disk, last), folder)
    yield finding
    best, of_best = _checkpoint(folder, BEST)
    lost = not os.path.lexists(folder / BEST)
    if best or (last and lost):
        try:
            require_best(folder)
        except InputError as error:
            best, of_best = None, Finding(BEST, str(error), False)
    if last:
        if lost and last.position["best_loss"] is None:
            best, of_best = last, Finding(BEST, "not there, for no epoch has ended")
        text = _seen("text", _text, folder)
        history = _seen(HISTORY, partial(_history, last), folder)
        free = lock.good and not is_locked(folder / LOCK)
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
    except InputError as error:
        return Finding(subject, str(error), False)
    except OSError as error:
        return _unseen(subject, error)


def _unseen(subject: str, error: OSError) -> Finding:
    return Finding(subject, f"cannot be looked at: {error.strerror}", False)


def _refused(path: Path, flags: int) -> OSError | None:
    """Why a file cannot be opened, which changes nothing; it may be gone."""
    try:
        os.close(os.open(path, flags | AS_IT_IS))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _leftover(name: str, path: Path) -> Finding:
    killed = f"left by a process that was killed; the next save of {name} removes it"
    return Finding(path.name, "is being written" if is_locked(path) else killed)


def _place(folder: Path) -> Finding:
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            return Finding("folder", str(folder))
        what = "is no folder"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a zero in its name
        what = "does not exist"
    return Finding("folder", f"{folder} {what}; check the path", False)


def _lock(folder: Path) -> Finding:
    path = folder / LOCK
    if is_locked(path):
        who = who_has(folder) or "(unknown)"
        return Finding("lock", f"in use by process {who}, which trains the run")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return Finding("lock", f"{LOCK} is no file, so that nobody can have it; remove it", False)
    if refused := _refused(path, os.O_RDWR):
        seen = f"{LOCK} cannot be opened to be written: {refused.strerror}; let it, or remove it"
        return Finding("lock", seen, False)
    if path.exists():
        with open_regular(path) as file:
            require_lock(folder, file)
        return Finding("lock", "left by a process that has ended; nobody has it")
    return Finding("lock", "nobody has it")


def _checkpoint(folder: Path, name: str) -> tuple[SavedRun | None, Finding]:
    """What a file stands for, if it is whole."""
    try:
        (folder / name).stat()
        contents = read_first(folder, (name,))
        saved = SavedRun.from_contents(contents)
    except FileNotFoundError:
        link = os.path.islink(folder / name)
        to = f"a link to {os.readlink(folder / name)}, where nothing is" if link else "not there"
        return None, Finding(name, to, False)
    except OSError as error:
        return None, _unseen(name, error)
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
    run = Run.resume(folder, verbose=False)
    return Finding("text", f"{run.corpus.name}, the same as at the start")


def _history(last: SavedRun, folder: Path) -> Finding:
    history = last.history
    expected = as_csv(history, header=True)
    try:
        with open_regular(folder / HISTORY) as file:
            found = file.read(len(expected) + 1)
    except InputError:
        if not (folder / HISTORY).is_fifo():  # which a save removes
            require_replaceable(folder / HISTORY)  # raises one for what a save cannot replace
        what = "cannot be read" if os.path.lexists(folder / HISTORY) else "not there"
        return Finding(HISTORY, f"{what}; the next save writes it again")
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


def _disk(last: SavedRun | None, folder: Path) -> Finding:
    """Whether there is room for saves, and nothing else in their way."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", "the folder is read-only", False)
    for name in FILES:
        if why := _kept(folder / name):
            return Finding("disk", f"{name} cannot be replaced: {why}", False)
    free, needed = shutil.disk_usage(folder).free, _needed(last, folder)
    return Finding(
        "disk", f"{free:,} bytes free, of which saves take up to {needed:,}", free > needed
    )


def _kept(path: Path) -> str:
    """Why nothing may take the place of a file; empty where it may."""
    try:
        file, folder = path.lstat(), path.parent.stat()
    except FileNotFoundError:
        return ""
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, file.st_uid, folder.st_uid):
        return "it is another user's, and so is the folder, which is sticky"
    # who only lacks the permission to write gets another error
    refused = _refused(path, os.O_WRONLY) if stat.S_ISREG(file.st_mode) else None
    if refused and refused.errno == errno.EPERM:
        return "its attributes forbid that (chattr)"
    return ""


def _needed(last: SavedRun | None, folder: Path) -> int:
    """The bytes that saves take, in whole blocks of the disk.

    A file is written beside its place before it takes that, and `best.npz` is written first. What
    it has more than now, of an optimizer and of carried states, is counted too.
    """
    block = os.statvfs(folder).f_frsize if hasattr(os, "statvfs") else BLOCK

    def taken(size: int) -> int:
        return -(-size // block) * block

    there = {name: path.stat().st_size for name in FILES if (path := folder / name).is_file()}
    of_last, of_best, of_history = (there.get(name, 0) for name in FILES)
    if last:
        of_best = of_best or of_last
        of_history = len(as_csv(last.history, header=True))
        settings, model = last.settings, last.model
        if not last.position["optimizer_steps"]:
            of_last += sum(W.nbytes for W in model.params) * len(settings.new_optimizer().slots)
        if not last.position["carried"]:
            blocks = 1 + (settings.window or 0) // settings.time
            states = model.Cell.cell.S * settings.layers * settings.hidden * settings.batch
            of_last += blocks * states * model.params[0].itemsize
        of_last += of_last // 10  # what is around arrays, and lines of the history to come
    beside = max(0, taken(of_last) - taken(there.get(BEST, 0)))
    # the lock has a block, and so have the first lines of the history
    return taken(1) + taken(1 + of_history) + taken(of_best) + beside
