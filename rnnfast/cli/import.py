"""`rnnfast import`."""

import argparse
from pathlib import Path
from typing import get_args

from ..errors import InputError
from ..exchange.files import READERS, layers_of, network_of
from ..exchange.torch import Kind

KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("file", metavar="FILE", help=f"of a name that ends with {', '.join(READERS)}")
    what = "whether a weight alone in a file of PyTorch's is an embedding or a linear layer"
    option("--kind", action="append", default=[], metavar="NAME=KIND", help=what)
    option("--out", metavar="FILE", help="network to write (default: FILE with the ending .npz)")


def execute(arguments: argparse.Namespace) -> int:
    path, kinds = Path(arguments.file), dict(map(_kind, arguments.kind))
    try:
        layers = layers_of(path, kinds)
    except ImportError as error:
        raise InputError(
            f"{path}: it is read by a library that is not installed: {error}"
        ) from None
    for name, layer in layers.items():
        shapes = ", ".join(f"{W.shape}" for W in layer.params)
        print(f"{name}: {type(layer).__name__} {shapes}")
    out = Path(arguments.out or path.with_suffix(".npz"))
    if out.exists():
        raise InputError(f"{out} is already there; give another --out")
    network_of(layers).save(out)
    print(f"network: {out}; `rnnfast.Network.load({str(out)!r})` reads it")
    return 0


def _kind(text: str) -> tuple[str, Kind]:
    name, _, kind = text.partition("=")
    if kind not in KINDS:
        raise InputError(f"--kind: expected NAME={' or NAME='.join(KINDS)}, got {text!r}")
    return name, KINDS[kind]
