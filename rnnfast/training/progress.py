"""How far a training is, or a text was read: a bar on a terminal, now and then a plain line
elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ..errors import InputError

try:
    from tqdm import tqdm
except ValueError as error:  # it reads its own variables when it is imported
    names = ", ".join(name for name in os.environ if name.startswith("TQDM_"))
    raise InputError(
        f"{names or 'tqdm'}: expected what the progress bar tqdm can use, got something else: "
        f"{error}; unset it"
    ) from None

SECONDS_BETWEEN_LINES = 10
SECONDS_BEFORE_READING_IS_SHOWN = 1


class Progress:
    """Counts tokens of one training, from `initial` to `total`, on standard error.

    Nothing is shown unless `verbose`, or where there is no standard error. With `read`, the name of
    a text, bytes of it are counted, and nothing is shown in the first second.
    """

    def __init__(
        self, total: int, initial: int = 0, *, verbose: bool = True, read: str = ""
    ) -> None:
        self._shown = bool(verbose) and sys.stderr is not None
        self._what = f"reading {read}: " if read else ""
        self._wait = SECONDS_BEFORE_READING_IS_SHOWN if read else SECONDS_BETWEEN_LINES
        self._bar: Any = tqdm(
            total=total,
            initial=initial,
            desc=self._what.removesuffix(": "),
            unit="B" if read else "tok",
            unit_scale=True,
            delay=self._wait if read else 0,
            dynamic_ncols=True,
            file=sys.stderr,  # whatever TQDM_FILE says, which can only be a name
            disable=not (self._shown and sys.stderr.isatty()),
        )
        self._total = total
        self._done = self._done_at_line = initial
        self._last_line = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._going_on():
            self._bar.close()

    def advance(self, amount: int, shown: str = "") -> None:
        """Count the tokens of a step, or the bytes of a piece, and show a text beside them, such as
        a loss."""
        self._done += amount
        if not self._shown:
            return
        self._total = max(self._total, self._done)  # a file may have grown
        with self._going_on():
            self._bar.update(amount)
            self._bar.set_postfix_str(shown, refresh=False)
        seconds = time.perf_counter() - self._last_line
        if self._bar.disable and seconds >= self._wait:
            rate = (self._done - self._done_at_line) / seconds
            parts = [
                f"{self._what}{self._done / self._total:4.0%}",
                *([shown] if shown else []),
                f"{rate / 1e6:,.0f} MB/s" if self._what else f"{rate:,.0f} tokens/s",
                f"{(self._total - self._done) / rate:.0f} s left",
            ]
            self.line("  ".join(parts))
            self._done_at_line = self._done
            self._last_line += seconds
            self._wait = SECONDS_BETWEEN_LINES

    def line(self, text: str) -> None:
        """Print a line of its own above the bar."""
        if self._shown:
            with self._going_on():
                self._bar.write(text, file=sys.stderr)
                sys.stderr.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Within it, nothing more is shown where nobody can read it any more: no error of that."""
        try:
            yield
        except (OSError, ValueError):  # a closed pipe, a terminal that is gone, a closed file
            self._shown, self._bar.disable = False, True
