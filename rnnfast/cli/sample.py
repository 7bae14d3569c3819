"""`rnnfast sample`."""

import argparse

from ..training.runs import Run
from .options import count, length, not_negative, positive_fraction, samples, seed

SAMPLE_TEMPERATURE = 0.5
BETWEEN = "-" * 40  # samples


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
    option("--top-k", type=count, metavar="N", help="only the N likeliest tokens (default: all)")
    only = "only the fewest likeliest tokens of probability X together (default: all)"
    option("--top-p", type=positive_fraction, metavar="X", help=only)
    stop = r"end after any character (or word) of TEXT; \n is the end of a line (default: none)"
    option("--stop", metavar="TEXT", default="", help=stop)
    option("--samples", type=samples, default=1, metavar="N", help="texts (default: 1)")
    option("--seed", type=seed, metavar="N", help="for the same text again (default: random)")


def execute(arguments: argparse.Namespace) -> int:
    run = Run.load(arguments.run)
    stream = run.stream(
        arguments.length,
        prime=arguments.prime,
        stop=arguments.stop.replace(r"\n", "\n"),
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        samples=arguments.samples,
        rng=arguments.seed,
    )
    others: list[list[str]] = [[] for _ in range(arguments.samples - 1)]
    end = ""
    try:
        for first, *rest in stream:  # side by side; the first is seen as it comes
            print(first, end="", flush=True)
            end = first or end
            for pieces, piece in zip(others, rest, strict=True):
                pieces.append(piece)
    finally:
        _end_line(end)
    for text in ["".join(pieces) for pieces in others]:
        print(BETWEEN)
        print(text, end="")
        _end_line(text)
    return 0


def _end_line(text: str) -> None:
    """A newline, unless the text ends with one."""
    if not text.endswith("\n"):
        print(flush=True)
