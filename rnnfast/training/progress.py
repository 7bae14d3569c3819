"""How far a training is: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """Counts tokens of one training, from `initial` to `total`, on standard error."""

    def __init__(self, total, initial=0):
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
            disable=sys.stderr is None or not sys.stderr.isatty(),
        )
        self._total = total
        self._done = self._done_at_line = initial
        self._last_line = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def advance(self, tokens, loss):
        """Count the tokens of a step, and show its loss, in nats."""
        self._done += tokens
        self._bar.update(tokens)
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        seconds = time.perf_counter() - self._last_line
        if self._bar.disable and seconds >= SECONDS_BETWEEN_LINES:
            rate = (self._done - self._done_at_line) / seconds
            self.line(
                f"{self._done / self._total:4.0%}  loss {loss:.3f}  {rate:,.0f} tokens/s  "
                f"{(self._total - self._done) / rate:.0f} s left"
            )
            self._done_at_line = self._done
            self._last_line += seconds

    def line(self, text):
        """Print a line of its own above the bar."""
        self._bar.write(text, file=sys.stderr)
        sys.stderr.flush()
