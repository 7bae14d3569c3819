"""The process of one contestant: answers requests, a line of JSON each, until `end`.

`make` a task, save its `results`, time a `turn` of its `run`, or `call` another method of it.
Where MPI has started several, all do what is asked for, and rank 0 reads and answers.
"""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import InputError
from ..training.ranks import ONE_RANK, OneRank, world

NAP = 0.002  # seconds between two looks for a request


def main() -> None:
    """Serve the contestant in the module that the command line names."""
    # what a library prints must not come between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        ranks = world()
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=answers)
        return
    tasks = import_module(sys.argv[1])
    task: Any = None
    for request in requests(ranks):
        try:
            answer: Any = None
            with ranks.together():
                match request.pop("do"):
                    case "make":
                        task = None  # the memory of the one before is free again
                        make = getattr(tasks, request["task"])
                        task = make(request["threads"], **request["options"])
                    case "results":
                        results = task.results()
                        if ranks.rank == 0:
                            np.savez(request["path"], *results)
                    case "turn":
                        answer = turn(task, request["seconds"], request["settling"], ranks)
                    case "call":
                        answer = getattr(task, request["name"])()
            reply = {"answer": answer}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        if ranks.rank == 0:
            print(json.dumps(reply), file=answers)


def requests(ranks: OneRank) -> Iterator[dict[str, Any]]:
    """What is asked for on standard input, up to `end`, on all ranks.

    A call of MPI that waits takes all of a CPU, which whoever has a turn in the meantime needs: so
    those that wait for rank 0 sleep, and look now and then.
    """
    if ranks.size > 1:
        from mpi4py.MPI import COMM_WORLD as COMM
    while True:
        if ranks.rank == 0:
            line = sys.stdin.readline()
            for rank in range(1, ranks.size):
                COMM.send(line, rank)
        else:
            while not COMM.iprobe(source=0):
                time.sleep(NAP)
            line = COMM.recv(source=0)
        request = json.loads(line or '{"do": "end"}')
        if request["do"] == "end":
            return
        yield request


def turn(task: Any, seconds: float, settling: float, ranks: OneRank = ONE_RANK) -> float:
    """Median seconds of a call of `run`, over so much time and at least three calls; what a task
    has as `before` comes before each of them, and its time is not counted. `settling` seconds pass
    before the first.

    The first call finds caches cold and threads asleep, and does not count, unless it takes the
    whole turn. Ranks begin each call together, and make as many.
    """
    run, before = task.run, getattr(task, "before", lambda: None)
    time.sleep(settling)
    before()
    ranks.any(False)  # all are awake
    start = time.perf_counter()
    run()
    now = time.perf_counter()
    if ranks.any(now - start > seconds):
        return now - start
    times: list[float] = []
    end = now + seconds
    while ranks.any(len(times) < 3 or time.perf_counter() < end):
        before()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
