"""Random calls of kernels with arrays between pages that may not be touched: a program, since who
touches one ends it. The last case that it has begun stands in a file then.

    python tests/fenced_cases.py FILE CASES NAME...

Names are those of cells, of layers, and `kernels`: each of them once, for one random shape.
"""

import faulthandler
import os
import sys
from pathlib import Path

import numpy as np
import sequences
import test_callers_memory
from drawn import draw_block, draw_sizes, moved
from fences import Fences
from forms import SEED
from problems import (
    BIDIRECTIONAL,
    CELLS,
    DTYPES,
    LAYERS,
    RECURRENT,
    STACKS,
    STEPS,
    make_problem,
)

import rnnfast
from rnnfast import cells, kernels, selfcheck
from rnnfast.kernels import engine

KERNELS = "kernels"
NAMES = [*CELLS, KERNELS, *LAYERS]
ROUNDING = {*RECURRENT, *BIDIRECTIONAL, *STACKS, *STEPS, "TimeAffine", "TimeAffineWithLoss"}
"""Layers that have a precision of products."""


def draw_precision(rng, dtype):
    """An option of products in bf16, half of the times."""
    return {"precision": "bfloat16"} if dtype == "float32" and rng.random() < 0.5 else {}


def of_cell(name, rng, dtype):
    """A function that calls all that there is for a cell."""
    blocks = draw_block(rng, cells.KERNEL_CELLS[name], dtype)
    for block in blocks:
        block.options |= draw_precision(rng, dtype)
    places, need_dx = rng.random() < 0.5, bool(rng.random() < 0.7)
    seed = int(rng.integers(1 << 30))

    def call():
        change = np.random.default_rng(seed)
        placed = [b.map((lambda a: moved(a, change)) if places else np.copy) for b in blocks]
        for block in placed:  # every state has an end of its own
            block.states, block.dlast = [*map(np.copy, block.states)], [*map(np.copy, block.dlast)]
            for key in sequences.SHARED:
                if key in block.options:
                    block.options[key] = block.options[key].copy()
        block, _ = placed
        _, cache = sequences.run_forward(kernels, block)
        _, cache = sequences.run_forward(kernels, block, cache=cache)
        sequences.run_backward(kernels, block, cache, need_dx=need_dx)
        sequences.run_forward(kernels, block, need_gradient=False)
        sequences.run_both(kernels, sequences.both_directions(*placed))
        stateless = {"copy_hs": "lengths" in block.options, "copy_xs": False}
        if "index" not in block.options and not places:  # as in a stack
            sequences.run_forward(kernels, block, **stateless)
        for own in blocks:
            test_callers_memory.call(kernels, own, np.random.default_rng(seed), dtype)

    return f"{blocks[0].dhs.shape}, D={blocks[0].xs.shape[-1]}, {[*blocks[0].options]}", call


def of_layer(name, rng, dtype):
    """A function that calls a layer: forward, backward, and infer."""
    sizes, options = draw_sizes(rng), {}
    problem = make_problem(name, dtype, sizes, int(rng.integers(1 << 30)))
    if name in RECURRENT or "Stack" in name:
        rates = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.2, "truncate_size": 3}
        options = {key: rate for key, rate in rates.items() if rng.random() < 0.3} | {"rng": 0}
    if name in ROUNDING:
        options |= draw_precision(rng, dtype)
    places, seed = rng.random() < 0.5, int(rng.integers(1 << 30))

    def call():
        change = np.random.default_rng(seed)
        own = problem.map((lambda a: moved(a, change)) if places else np.copy)
        layer = own.layer(rnnfast, **options)
        for _ in range(2):
            own.forward(layer)
            own.backward(layer)
        if hasattr(layer, "infer"):
            own.infer(layer)

    return f"(N, T, D, H, V) = {sizes}, {options}", call


def of_kernels(rng, dtype):
    sizes = draw_sizes(rng)
    return f"(N, T, D, H, V) = {sizes}", lambda: selfcheck._results(kernels, dtype, *sizes)


def main(path, count, *names):
    fences, file = Fences(), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    faulthandler.enable()
    engine.set_serial_flops(0)
    engine.set_exact_memory(True)
    fences.build()
    for name in names:
        for k in range(int(count)):
            rng = np.random.default_rng([SEED, k, *name.encode()])
            dtype = DTYPES[k % 2]
            if name == KERNELS:
                what, call = of_kernels(rng, dtype)
            else:
                what, call = (of_cell if name in CELLS else of_layer)(name, rng, dtype)
            for threads in (1, 2):
                for at_end in (True, False):
                    engine.set_num_threads(threads)
                    fences.at_end = at_end
                    place = "end" if at_end else "begin"
                    case = (
                        f"RNNFAST_SEED={SEED} RNNFAST_CPU={engine.CPU_LEVEL}, {name}, case {k}, "
                        f"{dtype}, {threads} threads, arrays {place} at a page: {what}"
                    )
                    os.pwrite(file, case.ljust(1000).encode(), 0)
                    call()
    Path(path).write_text("all")
    sys.stdout.flush()
    os._exit(0)  # arrays that are left are never given back


if __name__ == "__main__":
    main(*sys.argv[1:])
