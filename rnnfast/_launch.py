"""How this process was started: as the command or not, by a launcher of MPI or not."""

import os
import sys

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
        numbers = os.environ.get(size, ""), os.environ.get(rank, "")
        if all(number.isdecimal() for number in numbers):
            return int(numbers[1]), int(numbers[0])
    return 0, 1


def is_command() -> bool:
    """Whether this process was started as `rnnfast` or `python -m rnnfast`."""
    program = (getattr(sys, "argv", None) or [""])[0]
    if program != "-m":  # which it is until the module has been found
        name = os.path.basename(program)
        folder = os.path.basename(os.path.dirname(program))
        return name in ("rnnfast", "rnnfast.exe") or (folder, name) == ("rnnfast", "__main__.py")
    words = sys.orig_argv
    places = [k for k, word in enumerate(words) if word[:1] == "-" and word[1:2] != "-"]
    named = [words[k].partition("m")[2] or "".join(words[k + 1 : k + 2]) for k in places]
    return "rnnfast" in named
