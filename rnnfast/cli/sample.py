"""`rnnfast sample`."""

import argparse

import numpy as np

from ..training.runs import Run
from .options import length, not_negative, seed

SAMPLE_TEMPERATURE = 0.5


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("run", metavar="RUN", help="run folder")
    option("--length", type=length, default=500, metavar="N", help="tokens (default: 500)")
    option("--prime", metavar="TEXT", default="", help="beginning to continue (default: none)")
    careful = f"low plays safe, 0 takes the likeliest (default: {SAMPLE_TEMPERATURE})"
    option(
        "--temperature",
        type=not_negative,
        default=SAMPLE_TEMPERATURE,
        metavar="X",
        help=careful,
    )
    option("--seed", type=seed, metavar="N", help="for the same text again (default: random)")


def execute(arguments: argparse.Namespace) -> int:
    run = Run.load(arguments.run)
    text = run.sample(
        arguments.length,
        prime=arguments.prime,
        temperature=arguments.temperature,
        rng=np.random.default_rng(arguments.seed),
    )
    print(text)
    return 0
