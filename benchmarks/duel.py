"""Contestants in processes of their own, which take turns."""

import json
import os
import statistics
import subprocess
import sys
import time


def serve(contestant):
    """Answer requests on stdin: `results FILE` writes an .npz, `NAME SECONDS` times a method."""
    import numpy as np

    for line in sys.stdin:
        what, argument = line.split()
        if what == "results":
            np.savez(argument, *contestant.results())
            print("done", flush=True)
        else:
            print(_median(getattr(contestant, what), float(argument)), flush=True)


def _median(function, seconds):
    """Median time of a call, over at least 3 calls and so many seconds."""
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Contestant:
    """The script run again as a worker, `script --worker ARGUMENTS`."""

    def __init__(self, script, *arguments, environment=None):
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, what, argument):
        print(what, argument, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def race(contestants, what, rounds, seconds):
    """Times of each, in turn: median seconds of each, median ratio of the last to the first."""
    rows = [[float(c.ask(what, seconds)) for c in contestants] for _ in range(rounds)]
    times = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [statistics.median(row[k] / row[0] for row in rows) for k in range(len(times))]
    return times, ratios
