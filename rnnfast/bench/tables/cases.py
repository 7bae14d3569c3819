"""What is measured: shapes and sizes, and the tasks of contestants with them.

N batch rows, T time steps, D input size, H hidden size, V vocabulary size.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from ..duel import Entry

Case: TypeAlias = tuple[str, int, int, int, int, int]

SHAPES = [
    (1, 25, 65, 100),
    (10, 5, 100, 100),
    (20, 35, 100, 100),
    (50, 50, 128, 128),
    (20, 35, 650, 650),
    (64, 100, 256, 512),
    (128, 50, 1024, 1024),
]
ODD_SHAPES = [
    (7, 13, 37, 193),
    (1, 100, 1, 1),
    (3, 17, 5, 7),
    (32, 50, 16, 16),
    (256, 20, 100, 100),
    (20, 35, 129, 127),
    (5, 300, 33, 65),
    (13, 40, 257, 300),
]
MODULE_SHAPES = [*SHAPES[:4], (32, 64, 64, 256), *SHAPES[4:]]
MODULE_MEANS = {"rnn": 2.5, "gru": 2.5, "lstm": 1.25}
MODULE_TRAINING: list[tuple[dict[str, Any], float]] = [  # sizes, target
    ({"cell": "gru", "N": 20, "T": 35, "V": 65, "H": 256}, 1.5),
    ({"cell": "gru", "N": 20, "T": 35, "V": 10000, "H": 256}, 1.0),
]
MIDDLE_SHAPES = [(20, 35, 100, 100), (50, 50, 128, 128), (20, 35, 650, 650)]
ALL_BUT_THE_LARGEST = slice(-1)  # whose twins in NumPy take half a minute
EVERY_OTHER = slice(None, None, 2)
SEQUENCES = [  # cell, shape
    *(("lstm", shape) for shape in SHAPES[ALL_BUT_THE_LARGEST]),
    ("gru_reset_after", (50, 50, 128, 128)),
    ("rnn", (50, 50, 128, 128)),
]
MANY_ROWS = 20
REGULARISED = [  # cell, shape
    *((cell, (10, 5, 100, 100)) for cell in ("lstm", "gru_reset_after", "rnn")),
    *((cell, (20, 35, 100, 100)) for cell in ("lstm", "gru_reset_after", "rnn")),
    ("lstm", (20, 35, 650, 650)),
]
REGULARISATIONS = ["recurrent_dropout", "zoneout", "weight_drop"]
LANGUAGE_MODELS: list[Case] = [  # cell, N, T, V, D, H
    ("rnn", 10, 5, 418, 100, 100),
    ("lstm", 20, 35, 10000, 100, 100),
    ("lstm", 50, 50, 65, 64, 128),
    ("lstm", 64, 50, 65, 64, 512),
    ("lstm", 20, 35, 10000, 650, 650),
]
SHARED_MODELS: list[tuple[Case, float | None]] = [  # and how much faster two ranks must be
    *((case, None) for case in LANGUAGE_MODELS[:-2]),
    *((case, 1.7) for case in LANGUAGE_MODELS[-2:]),
]
DEEP_MODELS: list[tuple[Case, int]] = [  # and layers
    (("lstm", 50, 50, 65, 128, 128), 3),
    (("rnn", 20, 35, 1000, 200, 200), 2),
    (("lstm", 20, 35, 10000, 650, 650), 2),
]
ANSWERS: list[tuple[str, dict[str, int]]] = [  # model, sizes
    ("Seq2seq", {"N": 128, "S": 7, "T": 4, "V": 13, "D": 16, "H": 128}),
    ("PeekySeq2seq", {"N": 128, "S": 7, "T": 4, "V": 13, "D": 16, "H": 128}),
    ("AttentionSeq2seq", {"N": 128, "S": 29, "T": 10, "V": 59, "D": 16, "H": 256}),
]
DROPOUTS = [(10, 5, 100), (20, 35, 650), (128, 29, 256)]  # N, T, D
ATTENTIONS = [(20, 7, 5, 128), (128, 29, 10, 256), (64, 50, 50, 128)]  # N, S, T, H
GENERATION: list[tuple[dict[str, Any], dict[str, float]]] = [  # sizes, targets
    ({"cell": "lstm", "V": 65, "D": 64, "H": 128, "length": 500}, {"torch": 20.0}),
    (
        {"cell": "lstm", "V": 10000, "D": 650, "H": 650, "length": 20},
        {"torch": 1.5, "textbook": 1.5},
    ),
    ({"cell": "gru", "V": 65, "D": 64, "H": 128, "length": 500}, {}),
]
PROGRAMS: list[tuple[str, str, str, dict[str, Any], float | None]] = [
    # what it is, task of ours, program, steps of an epoch and questions or blocks, target
    ("5, its own loop", "Program", "simple", {"steps": 19, "own_loop": True}, 2.0),
    ("7, Seq2seq", "Program", "addition", {"steps": 9, "evaluated": 128, "peeky": False}, 3.0),
    ("5, RnnlmTrainer", "Program", "simple", {"steps": 19, "own_loop": False}, 2.0),
    ("7, PeekySeq2seq", "Program", "addition", {"steps": 9, "evaluated": 128, "peeky": True}, 3.0),
    ("6, Rnnlm", "Program", "rnnlm", {"steps": 6, "evaluated": 1}, 2.5),
    ("6, BetterRnnlm", "Program", "better", {"steps": 3, "evaluated": 1}, 2.5),
    ("8, training alone", "Program", "dates", {"steps": 3}, 2.0),
    ("8, with evaluation", "Program", "dates", {"steps": 3, "evaluated": 43}, None),
    ("8, training alone, rnnfast.Attention", "ProgramWithAttention", "dates", {"steps": 3}, 2.0),
]
FAINT_LAYERS = [  # cell, shape, what is denormal
    (cell, (20, 100, 100, 100), faint)
    for cell in ("lstm", "gru_reset_after", "rnn")
    for faint in ("inputs", "weights", "gradients", "fading gradients")
]
FAINT_UPDATES = [  # optimizer, size of gradients: squares are denormal, or they themselves
    (optimizer, size) for optimizer in ("SGD", "AdaGrad", "Adam") for size in (1e-20, 1e-39)
]
UPDATE_SHAPE = (400, 650)
FAINT_LOSSES = ["TimeSoftmaxWithLoss", "TimeAffineWithLoss", "TimeSigmoidWithLoss"]
LOSS_SIZES = {"M": 700, "V": 1000}
LOWER = 95.0  # logits, whose probabilities are denormal in float32
FEW_ROWS = [1, 2, 5, 16]
STEPS: list[tuple[str, dict[str, Any]]] = [  # task, sizes but the number of rows
    ("Affine", {"D": 128, "M": 65, "tied": False}),
    ("Step", {"cell": "lstm", "D": 100, "H": 100}),
    ("Step", {"cell": "rnn", "D": 256, "H": 256}),
    ("Affine", {"D": 100, "M": 10000, "tied": False}),
    ("Affine", {"D": 100, "M": 10000, "tied": True}),
    ("Step", {"cell": "lstm", "D": 650, "H": 650}),
    ("Affine", {"D": 650, "M": 10000, "tied": False}),
    ("Affine", {"D": 650, "M": 10000, "tied": True}),
]
LARGE_STEPS = STEPS[-3:]
EMBEDDING = {"V": 10000, "D": 650, "tokens": 700}
TABLE_ROWS = (20000, 1000)
STEP_WITH_TABLE = {"N": 8, "T": 30, "V": 1000, "D": 128, "H": 128}
PRODUCT_SIZE = 2048
MEMORY_VOCABULARIES = (10000, 20000)
LONG_TIMES = [100, 200, 400, 800, 1600]
ROWS = [32, 64, 128, 256]
AVX2 = {
    "rnnfast": {"RNNFAST_CPU": "avx2"},
    "torch": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
AT_MOST_15_PERCENT_SLOWER = 1 / 1.15
AT_MOST_5_PERCENT_SLOWER = 1 / 1.05
AT_MOST_10_PERCENT_SLOWER = 1 / 1.1
AT_MOST_15_PERCENT_OF_IT = 1 / 0.15
NOT_APART = 0.5  # of the speed alone
GFLOPS_OF_1_MS = 0.2  # of one thread, as fast as a product goes: 200 GF/s
GFLOPS_OF_20_MS = 20 * GFLOPS_OF_1_MS


def layer(
    name: str,
    cell: str,
    shape: Sequence[int],
    way: str = "both",
    *,
    threads: int = 1,
    dtype: str = "float32",
    environment: dict[str, str] | None = None,
    **options: Any,
) -> Entry:
    """Entry of a recurrent layer; `way` and options are those of `ours.Layer`."""
    options |= {"cell": cell, "dtype": dtype, "shape": shape, "way": way}
    return Entry(name, "Layer", options, threads, environment or {})


def training(name: str, case: Case, *, threads: int = 1, **more: Any) -> Entry:
    """Entry of a training step; `case` is one like those of LANGUAGE_MODELS, and `more` the number
    of layers, and the precision."""
    options = dict(zip(("cell", "N", "T", "V", "D", "H"), case, strict=True)) | more
    return Entry(name, "Training", options, threads)


def named(cell: str, shape: Sequence[int | str]) -> str:
    """What a row of a table of several cells is called."""
    return f"{cell.partition('_')[0]} {comma(shape)}"


def comma(shape: Sequence[int | str]) -> str:
    return ",".join(map(str, shape))
