"""`rnnfast bench`."""

import argparse

from ..bench.run import run as run_bench
from ..bench.tables import TABLES
from ..errors import InputError
from .options import count


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="one minute: whether it works, not how fast it is")
    tables = ", ".join(TABLES)
    option("--table", nargs="+", choices=list(TABLES), metavar="NAME", help=f"of {tables} (all)")
    option("--threads", nargs="+", type=count, dest="counts", metavar="N", help="CPU threads (1 2)")
    option("--json", metavar="FILE", help="also write the tables there")
    option("--markdown", metavar="FILE", help="also write the tables there")
    option("--plot", metavar="FILE", help="also draw the ratios by size there, as a PNG")


def execute(arguments: argparse.Namespace) -> int:
    try:
        run_bench(
            arguments.table,
            quick=arguments.quick,
            threads=arguments.counts,
            json=arguments.json,
            plot=arguments.plot,
            markdown=arguments.markdown,
        )
    except ImportError as error:
        if not arguments.plot:
            raise
        raise InputError(f"--plot needs matplotlib (`pip install matplotlib`): {error}") from None
    return 0
