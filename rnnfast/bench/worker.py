"""The process of one contestant: answers requests, a line of JSON each, until its input ends.

`make` a task, save its `results`, time a `turn` of its `run`, or `call` another method of it.
"""

import json
import os
import statistics
import sys
import time
import traceback
from importlib import import_module
from typing import Any

import numpy as np


def main() -> None:
    """Serve the contestant in the module that the command line names."""
    # what a library prints must not come between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    tasks = import_module(sys.argv[1])
    task: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: Any = None
            match request.pop("do"):
                case "make":
                    task = None  # the memory of the one before is free again
                    task = getattr(tasks, request["task"])(request["threads"], **request["options"])
                case "results":
                    np.savez(request["path"], *task.results())
                case "turn":
                    answer = turn(task, request["seconds"], request["settling"])
                case "call":
                    answer = getattr(task, request["name"])()
            reply = {"answer": answer}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers)


def turn(task: Any, seconds: float, settling: float) -> float:
    """Median seconds of a call of `run`, over so much time and at least three calls; what a task
    has as `before` comes before each of them, and its time is not counted. `settling` seconds pass
    before the first.

    The first call finds caches cold and threads asleep, and does not count, unless it takes the
    whole turn.
    """
    run, before = task.run, getattr(task, "before", lambda: None)
    time.sleep(settling)
    before()
    start = time.perf_counter()
    run()
    now = time.perf_counter()
    if now - start > seconds:
        return now - start
    times: list[float] = []
    end = now + seconds
    while len(times) < 3 or time.perf_counter() < end:
        before()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
