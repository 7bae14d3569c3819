"""`rnnfast score`."""

import argparse
import math

from ..errors import InputError
from ..text.corpora import load_text
from ..text.vocabulary import UNKNOWN
from ..training.runs import Run
from ..training.trainer import loss_text


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("run", metavar="RUN", help="run folder")
    option("file", metavar="FILE", help="UTF-8 text; each line is scored on its own, with its end")
    option("--tokens", action="store_true", help="also show every token")


def execute(arguments: argparse.Namespace) -> int:
    run = Run.load(arguments.run)
    lines = load_text(arguments.file).removesuffix("\n").split("\n")
    try:
        scores = run.score(lines)
    except InputError as error:
        raise InputError(f"{arguments.file}, {error}") from None
    vocabulary = run.vocabulary
    unknown = vocabulary.id_of(UNKNOWN) if vocabulary.level == "word" else None
    total, count, strangers = 0.0, 0, 0
    print(f"log p (nats)\tbits per {vocabulary.unit}\tline")
    for line, (ids, log_p) in zip(lines, scores, strict=True):
        nats = float(log_p.sum())
        bits = -nats / math.log(2) / max(1, len(ids))
        print(f"{nats:.4f}\t{bits:.4f}\t{line}")
        if arguments.tokens:
            for token_id, nats_of_token in zip(ids, log_p, strict=True):
                print(f"{nats_of_token:.4f}\t\t{vocabulary.tokens[token_id]!r}")
        total, count = total + nats, count + len(ids)
        strangers += int((ids == unknown).sum()) if unknown is not None else 0
    print(
        f"\n{len(lines):,} lines, {count:,} {vocabulary.unit}s: log p {total:.4f} nats; "
        f"{loss_text(-total / max(1, count), vocabulary.unit)}"
    )
    if strangers:
        print(f"{strangers:,} words that the vocabulary does not have counted as {UNKNOWN}")
    return 0
