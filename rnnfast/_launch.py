"""How this process was started: as the command or not, by a launcher of MPI or not."""

import os
import sys
from types import FrameType

MAIN = "__main__", "<module>"
LAUNCHERS = (  # variables with how many processes there are, and which of them one is
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # Open MPI
    ("PMI_SIZE", "PMI_RANK"),  # MPICH, Intel MPI, Microsoft MPI
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),  # MVAPICH
    ("FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # srun
)


def launched() -> tuple[int, int]:
    """Which process this is, and of how many that a launcher has started: 0 of 1 where none has."""
    for size, rank in LAUNCHERS:
        if 0 <= _number(rank) < _number(size):
            return _number(rank), _number(size)
    return 0, 1


def _number(variable: str) -> int:
    """What a variable of the environment counts; -1 where that is nothing a launcher would say."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def is_command() -> bool:
    """Whether this process was started as `rnnfast` or `python -m rnnfast`."""
    arguments: list[str] = getattr(sys, "argv", None) or [""]
    folder, name = os.path.split(arguments[0])
    if name in ("rnnfast", "rnnfast.exe"):
        return _runs_command()  # else it is another program of that name
    if arguments[0] != "-m":  # which it is until the module has been found
        here = os.path.dirname(os.path.realpath(__file__))
        return name == "__main__.py" and os.path.realpath(folder) == here
    word = "".join(sys.orig_argv[-len(arguments) :][:1])  # what stands before the arguments
    return word == "rnnfast" or (word[:1] == "-" and word.partition("m")[2] == "rnnfast")


def _runs_command() -> bool:
    """Whether the program itself imports the command, as the scripts that installers write do."""
    frame: FrameType | None = sys._getframe()
    while frame and (frame.f_globals.get("__name__"), frame.f_code.co_name) != MAIN:
        frame = frame.f_back
    return frame is not None and f"{__package__}.cli" in frame.f_code.co_names
