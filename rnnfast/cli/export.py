"""`rnnfast export`."""

import argparse
import json
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..archive import write_atomically
from ..errors import InputError
from ..exchange import to_onnx
from ..exchange.torch import save_state
from ..training.runs import Run

FORMATS: dict[str, tuple[str, Callable[[Any, Path], None]]] = {
    "onnx": (".onnx", to_onnx),
    "safetensors": (".safetensors", lambda model, path: model.save(path, format="safetensors")),
    "torch": (".pt", save_state),
    "npz": (".npz", lambda model, path: model.save(path)),
}
TO_OTHERS = ("onnx", "torch")  # formats without a place for the precision
NEEDS = {"onnx": "onnx", "safetensors": "safetensors", "torch": "torch"}


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("run", metavar="RUN", help="run folder")
    option("--to", choices=list(FORMATS), required=True, help="format of the file")
    option("--out", metavar="FILE", help="file for the weights that validated best (default: RUN "
           "with the ending of the format; its vocabulary stands beside it, as JSON)")  # fmt: skip


def execute(arguments: argparse.Namespace) -> int:
    run = Run.load(arguments.run)
    ending, write = FORMATS[arguments.to]
    path = Path(arguments.out or f"{Path(arguments.run).resolve().name}{ending}")
    beside = path.with_name(f"{path.name}.vocabulary.json")
    for taken in (path, beside):
        if os.path.lexists(taken):
            raise InputError(f"{taken} is already there; give another --out")
    try:
        write(run.model, path)
    except ImportError as error:
        needed = NEEDS.get(arguments.to, "")
        raise InputError(
            f"--to {arguments.to} needs {needed} (`pip install {needed}`): {error}"
        ) from None
    vocabulary = {"level": run.vocabulary.level, "tokens": run.vocabulary.tokens}
    text = json.dumps(vocabulary).encode()
    try:
        write_atomically(beside, lambda file: file.write(text))
    except BaseException:
        with suppress(OSError):
            path.unlink()  # a model alone would be in the way of another try
        raise
    for what, where in {"model": path, "vocabulary": beside}.items():
        print(f"{what}: {shlex.quote(str(where))}, {where.stat().st_size:,} bytes")
    if run.model.precision == "bfloat16" and arguments.to in TO_OTHERS:
        print(
            "products: in float32 there, in bfloat16 in the run; outputs differ by some thousandths"
        )
    return 0
