"""`rnnfast eval`."""

import argparse
from typing import Any

from .._types import Array
from ..training.runs import Run
from ..training.trainer import evaluate, loss_text


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text (default: the run's own)")


def execute(arguments: argparse.Namespace) -> int:
    run = Run.load(arguments.run)
    if arguments.text is not None:
        parts = {arguments.text: run.vocabulary.encode_file(arguments.text)}
    else:
        corpus = run.read_corpus()
        parts = {
            f"{corpus.name}, validation part": corpus.valid,
            f"{corpus.name}, test part": corpus.test,
        }
    for name, ids in parts.items():
        print(f"{name}, {len(ids):,} tokens: {loss_text(loss_of(run, ids), run.vocabulary.unit)}")
    return 0


def loss_of(run: Run, ids: Array, comm: Any = None) -> float:
    """The loss of a text, read in the lanes and blocks of training: the figures stay the same."""
    settings = run.settings
    time = settings.window or settings.time
    return evaluate(run.model, ids, batch_size=settings.batch, time_size=time, comm=comm)
