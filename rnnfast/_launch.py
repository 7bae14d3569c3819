"""What a launcher of MPI tells the processes that it starts."""

import os

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
