"""How far a training is: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts tokens of one training, from `initial` to `total`, on standard error.

    Nothing is shown unless `verbose`, or where there is no standard error.
    """

    def __init__(self, total: int, initial: int = 0, *, verbose: bool = True) -> None:
        self._shown = bool(verbose) and sys.stderr is not None
        self._bar: Any = tqdm(
            total=total,
            initial=initial,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
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
        self._bar.close()

    def advance(self, tokens: int, shown: str) -> None:
        """Count the tokens of a step, and show a text beside them, such as its loss."""
        self._done += tokens
        self._bar.update(tokens)
        self._bar.set_postfix_str(shown, refresh=False)
        seconds = time.perf_counter() - self._last_line
        if self._bar.disable and seconds >= SECONDS_BETWEEN_LINES:
            rate = (self._done - self._done_at_line) / seconds
            self.line(
                f"{self._done / self._total:4.0%}  {shown}  {rate:,.0f} tokens/s  "
                f"{(self._total - self._done) / rate:.0f} s left"
            )
            self._done_at_line = self._done
            self._last_line += seconds

    def line(self, text: str) -> None:
        """Print a line of its own above the bar."""
        if self._shown:
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()
