"""The list of cells: what every part of the package needs to know about each.

Whoever needs all cells, or one by its name, looks here: kernels and their twins, the self-check and
tests of both (`KERNEL_CELLS`), layers, models, the command line and benchmarks (`CELLS`). What a
cell computes stands in `simd/cells.h`, and in `reference/recurrent.py` once more; both are found by
the cell's name.
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Cell:
    """A recurrent cell with weights Wx (D, G*H), Wh (H, G*H), b (G*H,) and S states (N, H)."""

    name: str
    gates: tuple[str, ...]
    """In the order of the columns of the weights."""
    states: tuple[str, ...]
    """The output h first."""
    weights: tuple[str, ...] = ("Wx", "Wh", "b")
    """In the order of params; bh (G*H,), where there is one, is added to h Wh."""

    @cached_property
    def G(self) -> int:  # noqa: N802  (the letter in all shapes)
        """How many gates there are, and so columns for each unit."""
        return len(self.gates)

    @cached_property
    def S(self) -> int:  # noqa: N802
        """How many states there are."""
        return len(self.states)

    @cached_property
    def gradients(self) -> tuple[str, ...]:
        """Names of the gradients of the states."""
        return tuple(f"d{name}" for name in self.states)


RNN = Cell("rnn", gates=("h",), states=("h",))
RNN_RELU = Cell("rnn_relu", gates=("h",), states=("h",))
LSTM = Cell("lstm", gates=("f", "g", "i", "o"), states=("h", "c"))
GRU = Cell("gru", gates=("z", "r", "h"), states=("h",))
GRU_RESET_AFTER = Cell(
    "gru_reset_after", gates=("z", "r", "h"), states=("h",), weights=("Wx", "Wh", "b", "bh")
)

CELLS = {cell.name: cell for cell in (RNN, RNN_RELU, LSTM, GRU, GRU_RESET_AFTER)}
"""Those that layers, models and files have."""

# The same as LSTM and GRU_RESET_AFTER, but for PyTorch's order of the gates and its z, the share of
# the old state: for weights that stay where PyTorch has them.
LSTM_IFGO = Cell("lstm_ifgo", gates=("i", "f", "g", "o"), states=("h", "c"))
GRU_RZN = Cell("gru_rzn", gates=("r", "z", "n"), states=("h",), weights=("Wx", "Wh", "b", "bh"))

KERNEL_CELLS = CELLS | {cell.name: cell for cell in (LSTM_IFGO, GRU_RZN)}
"""Those that kernels and their twins have."""
