"""What is measured, and the ratio that is wanted.

rows       a row, a table, and how they are measured
cases      shapes, sizes and the tasks of contestants
all others the tables, by subject
"""

from . import bf16, denormals, layers, machine, models, modules, programs, ranks, sequences, steps
from .rows import TABLES, Row, Table, measure

__all__ = [
    "TABLES",
    "Row",
    "Table",
    "bf16",
    "denormals",
    "layers",
    "machine",
    "measure",
    "models",
    "modules",
    "programs",
    "ranks",
    "sequences",
    "steps",
]
