"""The same bits for any number of threads, wherever arrays stand in memory, and again.

Of weights the order in memory counts, since few rows are multiplied with columns in another order
than with rows; what is the same there is told by `test_cells` from what is not.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sequences
from drawn import contiguous, draw_block, draw_sizes, laid_out, moved
from forms import SEED, form
from problems import CELLS, LAYERS, MODELS, OPTIMIZERS, make_problem, named
from test_extremes import misaligned, packed

import rnnfast
from rnnfast import cells, kernels
from rnnfast.kernels import engine

pytestmark = pytest.mark.usefixtures("threads_for_small_calls")
THREADS = (1, 2, 3, 4, 8)
CASES = form(4, 200)
# Of gradients whose sums are denormal, too, which would be something else in NumPy's arithmetic.
SCALES = {"float32": (1, 1, 2e-38), "float64": (1, 1, 4e-308)}


def cases(name):
    """(what repeats it, generator, dtype) of every case."""
    for k in range(CASES):
        rng = np.random.default_rng([SEED, k, *name.encode()])
        yield f"RNNFAST_SEED={SEED}, {name}, case {k}", rng, ("float32", "float64")[k % 2]
    print(f"{name}: {CASES} shapes, {len(THREADS)} numbers of threads, equal bit for bit")


def assert_same(ours, expected, what):
    assert ours.keys() == expected.keys(), what
    for key in ours:
        a, b = (np.ascontiguousarray(result[key]) for result in (ours, expected))
        same = (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
        assert same, f"{what}: {key} {a.shape} differs by up to {np.abs(a - b).max()}"


def anywhere(array, rng):
    """With any strides, at any distance from where a cache line begins."""
    return moved(array, rng, int(rng.integers(9)))


def by_rows(array, rng):
    """Its rows contiguous, anywhere."""
    return laid_out(array, contiguous(array.shape), offset=int(rng.integers(9)))


def by_columns(array, rng):
    """Its columns contiguous, anywhere."""
    return by_rows(array.T, rng).T


@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell):
    """In one direction and in two, with every option; with and without what backward needs."""
    for what, rng, dtype in cases(cell):
        blocks, scale = (
            draw_block(rng, cells.KERNEL_CELLS[cell], dtype),
            float(rng.choice(SCALES[dtype])),
        )
        for block in blocks:
            block.dhs, block.dlast = block.dhs * scale, block.dlast * scale
        # a row of one number is a column, too
        order = by_columns if rng.random() < 0.3 else by_rows
        any_order = order is by_rows and blocks[0].weights[0].shape[1] > 1

        def placed(block, order=order, any_order=any_order, rng=rng):
            change = anywhere if any_order else order
            weights = [change(W, rng) for W in block.weights]
            return replace(block.map(lambda array: anywhere(array, rng)), weights=weights)

        def results(blocks):
            of_one, cache = sequences.run_forward(kernels, blocks[0])
            of_one |= sequences.run_backward(kernels, blocks[0], cache)
            alone, _ = sequences.run_forward(kernels, blocks[0], need_gradient=False)
            both = sequences.run_both(kernels, sequences.both_directions(*blocks))
            return (
                of_one
                | {f"alone {k}": a for k, a in alone.items()}
                | {f"both {k}": a for k, a in both.items()}
            )

        engine.set_num_threads(1)
        first = [replace(b, weights=[order(W, rng) for W in b.weights]) for b in blocks]
        expected = results(first)
        assert_same(results(first), expected, f"{what}, again")
        for threads in THREADS:
            engine.set_num_threads(threads)
            assert_same(results([*map(placed, blocks)]), expected, f"{what}, {threads} threads")


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    """Which copy what no kernel takes: numbers at odd addresses."""
    for what, rng, dtype in cases(name):
        problem = make_problem(name, dtype, draw_sizes(rng), int(rng.integers(1 << 30)))
        engine.set_num_threads(1)
        expected = problem.run(rnnfast)
        for threads, layout in zip(THREADS, rng.permutation(5), strict=True):
            engine.set_num_threads(threads)
            change = (np.copy, misaligned, packed, anywhere, anywhere)[layout]
            other = problem.map(partial(change, rng=rng) if change is anywhere else change)
            if change is anywhere:
                other.weights = [by_rows(W, rng) for W in problem.weights]
            run = f"{what}, {threads} threads, {change.__name__}"
            assert_same(other.run(rnnfast), expected, run)


@pytest.mark.parametrize("Optimizer", OPTIMIZERS)
def test_optimizers(Optimizer):
    """Three steps and the norm, with arrays of any sizes, some large enough to be shared."""
    for what, rng, dtype in cases(Optimizer.__name__):
        shapes = [(int(n), int(m)) for n, m in rng.choice([1, 3, 17, 65, 300], (3, 2))]
        start, *history = (
            [rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(4)
        )

        def results(place, Optimizer=Optimizer, start=start, history=history):
            params, update = [*map(place, start)], Optimizer()
            norms = []
            for grads in history:
                grads = [*map(place, grads)]
                norms.append(rnnfast.clip_grads(grads, 2.0))
                update.update(params, grads)
            return named("W", params) | named("norm", norms)

        engine.set_num_threads(1)
        expected = results(np.copy)
        for threads in THREADS:
            engine.set_num_threads(threads)
            offset = int(rng.integers(9))
            ours = results(lambda a, k=offset: laid_out(a, contiguous(a.shape), offset=k))
            assert_same(ours, expected, f"{what}, {threads} threads")


@pytest.mark.parametrize("Model", MODELS)
def test_generation(Model):
    for what, rng, dtype in cases(Model.__name__):
        _, T, D, H, V = draw_sizes(rng)
        options = {"num_layers": int(rng.integers(1, 3)), "dtype": dtype}
        model, seed = Model(V, D, H, rng=rng, **options), int(rng.integers(1 << 30))
        samples = int(rng.choice([1, 2, 9, 33]))

        def results(model=model, T=T, samples=samples, seed=seed):
            ids = rnnfast.generate(model, [0], T, samples=samples, temperature=0.7, rng=seed)
            return {"ids": np.array(ids)}

        engine.set_num_threads(1)
        expected = results()
        for threads in THREADS:
            engine.set_num_threads(threads)
            assert_same(results(), expected, f"{what}, {threads} threads")
