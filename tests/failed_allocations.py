"""Calls whose allocations fail, one after the other: what test_failed_allocations.py runs in a
process of its own, with the library that is made of fail_allocation.c.

python failed_allocations.py LIBRARY STRIDE [CASE ...]: every STRIDE-th allocation of a case fails.
"""

import contextlib
import ctypes
import errno
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType
from zipfile import ZipFile

import numpy as np
from forms import SEED
from problems import EVERY_LAYER, OPTIMIZERS, make_problem
from sequences import make_block

import rnnfast
from rnnfast import cells, kernels
from rnnfast._random import state_of
from rnnfast.training.optimizers import gradient_norm

CASES = {}
# Which allocations fail: the n-th, alone, of whoever asks; the n-th of an array or of our modules,
# and with it all that follow, as where others have used up the memory.
OF_OURS, OF_ALL = range(2)
WAYS = {"one": (1, OF_ALL), "all from there": (10**9, OF_OURS)}
DEBUG = rnnfast.kernels.build.BOUNDS_CHECKED  # where a kernel has new memory for every call


@dataclass
class Scene:
    """An object, and a call of it."""

    call: Callable
    state: Callable  # its arrays and other values by name, which a call that fails may not change
    probe: Callable = lambda: None  # what the object had before the call, or RuntimeError
    may_refuse: bool = False  # whether the probe may be refused after a call that failed
    # parts of the state that a call writes: those of an object of several kernels may be half done
    # after an error; they are written anew by the next call
    written: tuple = ()
    # whether it is a whole step, after which there may be no memory for a small object, when
    # weights have changed
    step: bool = False


def case(name):
    def add(make):
        CASES[name] = make
        return make

    return add


# What CPython and NumPy make of a MemoryError of their own, that of a small object.
NOT_OURS = (
    *("path should be string", "NULL object passed to Py_Build", "can't allocate"),
    *("bytes or os.PathLike", os.strerror(errno.ENOMEM)),
    "Can't close the ZIP file while there is an open writing handle",
)
WRITTEN = ("grads", "dh", "dc", "rng")


def frozen(value):
    """A copy of a result or a state that can be compared with another, bit for bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: frozen(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(one) for one in value]
    return repr(value)


# ---------------------------------------------------------------- what is called


def state_of_layer(layer):
    names = ("h", "c", "dh", "dc")
    state = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    state |= {"params": layer.params, "grads": layer.grads}
    rng = getattr(layer, "rng", None)
    return state | ({} if rng is None else {"rng": state_of(rng)})


def layer_scene(name, call, **options):
    """Ready for another forward, which begins with the states of the first, or for a backward."""
    if "Stack" in name:
        options["rng"] = 3
    problem = make_problem(name, "float32")
    layer = problem.layer(rnnfast, **options)
    problem.forward(layer)
    for k, dW in enumerate(layer.grads):
        dW[...] = k + 1
    state = lambda: state_of_layer(layer)  # noqa: E731
    several = "Stack" in name or "Bi" in name
    if call == "backward":
        backward = lambda: layer.backward(*problem.gradients, **problem.last)  # noqa: E731
        written = ("grads",) if several or "weight_drop" in options else ()
        return Scene(backward, state, written=written)
    probe = lambda: problem.backward(layer)  # noqa: E731
    if call == "infer":
        return Scene(lambda: problem.infer(layer), state, probe)
    # of several kernels, the first may have written over what it had kept
    return Scene(lambda: layer.forward(*problem.inputs), state, probe, several or DEBUG)


for _name in EVERY_LAYER:
    _calls = ["forward", "backward"]
    if hasattr(make_problem(_name).layer(rnnfast), "infer"):
        _calls.append("infer")
    for _call in _calls:
        CASES[f"{_name} {_call}"] = lambda name=_name, call=_call: layer_scene(name, call)


REGULARISED = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.3, "rng": 3}
for _name in ("TimeLSTM", "TimeBiGRU"):
    for _call in ("forward", "backward"):
        CASES[f"{_name} regularised {_call}"] = lambda name=_name, call=_call: layer_scene(
            name, call, **REGULARISED
        )


def block_scene(call):
    """A layer that takes an index, lengths and resets."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype("float32") for shape in ((4, 20), (5, 20), (20,))]
    layer = rnnfast.TimeLSTM(*weights, stateful=True)
    xs, index = rng.standard_normal((6, 4)).astype("float32"), rng.integers(0, 6, (3, 7))
    more = {"index": index, "lengths": [7, 0, 3], "reset": rng.random((3, 7)) < 0.3}
    dhs = rng.standard_normal((3, 7, 5)).astype("float32")

    def forward():
        return layer.forward(xs, **more)

    def backward():
        return layer.backward(dhs)

    def state():
        return state_of_layer(layer)

    forward()
    backward()

    def probe():
        return backward(), state(), layer.hs, layer.cs

    if call == "forward":
        return Scene(forward, state, probe, DEBUG)
    return Scene(backward, state)


for _call in ("forward", "backward"):
    CASES[f"index, lengths, reset {_call}"] = lambda call=_call: block_scene(call)


def given_scene(call):
    """A kernel that writes into given arrays: nothing of them, if it fails."""
    block = make_block(cells.GRU_RZN, (4, 5, 3, 6), ("lengths", "reverse"), "float32")
    weights = [np.asfortranarray(W) for W in block.weights]
    zeros = np.zeros_like
    grads, out, dxs = [zeros(W) for W in weights], zeros(block.dhs), zeros(block.xs)
    last, dfirst = [*zeros(block.states)], [*zeros(block.states)]
    options = block.options | {"out": out, "last": last}
    results = {"grads": grads, "out": out, "dxs": dxs, "last": last, "dfirst": dfirst}
    cache = None

    def forward():
        nonlocal cache
        *_, cache = kernels.recurrent_forward(
            block.cell, block.xs, weights, block.states, cache=cache, **options
        )

    def backward():
        kernels.recurrent_backward(
            block.cell, block.dhs, None, cache, weights[:2], grads,
            dxs=dxs, dfirst=dfirst, adds_dx=True,
        )  # fmt: skip

    forward()
    backward()

    def probe():
        backward()
        return results

    if call == "forward":
        return Scene(forward, lambda: results, probe, DEBUG)
    return Scene(backward, lambda: results)


for _call in ("forward", "backward"):
    CASES[f"given arrays {_call}"] = lambda call=_call: given_scene(call)


@case("embedding sparse backward")
def _():
    rng = np.random.default_rng(0)
    layer = rnnfast.TimeEmbedding(rng.standard_normal((9, 4)).astype("float32"))
    dout = rng.standard_normal((2, 3, 4)).astype("float32")

    def backward(ids):
        layer.forward(ids)
        layer.backward(dout, sparse=True)
        return layer.grads[0], layer.grad_rows()

    backward(np.array([[1, 2, 3], [2, 2, 8]]))
    other = np.array([[1, 0, 0], [7, 0, 0]])
    # what a failed call has written is made good by the next one
    return Scene(lambda: backward(other), lambda: layer.params)


def ids_of(V, *shape):
    return np.random.default_rng(5).integers(0, V, shape)


def state_of_model(model):
    state = {"params": model.params, "carried": model.get_state(), "rng": model.random_state()}
    return state | {"training": model.training}


def model_scene(call, make=lambda: rnnfast.Rnnlm(9, 4, 5, num_layers=2, rng=0)):
    model = make()
    ids = ids_of(9, 3, 2, 6)

    def backward():
        model.backward()
        return model.grads

    model.forward(ids[0], ids[1])
    calls = {
        "forward": lambda: model.forward(ids[1], ids[2]),
        "loss alone": lambda: model.forward(ids[1], ids[2], need_gradient=False),
        "predict": lambda: model.predict(ids[1]),
        "infer": lambda: model.infer(ids[1]),
        "backward": backward,
    }
    keeps = {"infer": False, "backward": False}.get(call, True)
    probe = backward if call != "backward" else lambda: None
    return Scene(calls[call], lambda: state_of_model(model), probe, may_refuse=keeps)


for _call in ("forward", "loss alone", "predict", "infer", "backward"):
    CASES[f"Rnnlm {_call}"] = lambda call=_call: model_scene(call)
CASES["BetterRnnlm forward"] = lambda: model_scene(
    "forward", lambda: rnnfast.BetterRnnlm(9, 4, 4, rng=0)
)


@case("Seq2seq with attention forward, backward")
def _():
    model = rnnfast.AttentionSeq2seq(9, 4, 5, rng=0)
    xs, ts = ids_of(9, 2, 2, 6)

    def both():
        loss = model.forward(xs, ts)
        model.backward()
        return loss, model.grads

    both()
    return Scene(both, lambda: state_of_model(model))


@case("Seq2seq generate")
def _():
    model = rnnfast.AttentionSeq2seq(9, 4, 5, rng=0)
    xs = ids_of(9, 2, 6)
    call = lambda: model.generate(xs, 0, 5)  # noqa: E731
    call()
    return Scene(call, lambda: state_of_model(model))


def generate_scene(**options):
    model, rng = rnnfast.Rnnlm(9, 4, 5, num_layers=2, rng=0), np.random.default_rng(1)
    call = lambda: rnnfast.generate(model, [1, 2], rng=rng, **options)  # noqa: E731
    call()
    return Scene(call, lambda: (state_of_model(model), state_of(rng)))


CASES["generate"] = lambda: generate_scene(length=6)
CASES["generate, table, top_k, samples"] = lambda: generate_scene(
    length=30, samples=2, top_k=5, top_p=0.9, skip_ids=[3]
)


@case("a forward that is larger than the one before")
def _():
    """Whose memory is replaced: backward of the one before is right then, or refused."""
    problem = make_problem("TimeLSTM", "float32")
    layer = rnnfast.TimeLSTM(*problem.weights)
    problem.forward(layer)
    larger = np.tile(problem.inputs[0], (3, 2, 1))
    backward = lambda: problem.backward(layer)  # noqa: E731
    return Scene(lambda: layer.forward(larger), lambda: layer.params, backward, may_refuse=True)


@case("stream")
def _():
    model = rnnfast.Rnnlm(9, 4, 5, rng=0)
    call = lambda: list(rnnfast.stream(model, [1, 2], 6, rng=1))  # noqa: E731
    call()
    return Scene(call, lambda: state_of_model(model))


def optimizer_scene(Optimizer, steps, rows=None):
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape).astype("float32") for shape in ((4, 3), (3,))]
    params.append(rng.standard_normal((6, 8)).astype("float32")[:, ::2])  # by way of NumPy
    grads = [rng.standard_normal(W.shape).astype("float32") for W in params]
    optimizer = Optimizer(0.01)
    optimizer.steps += 0
    for _ in range(steps):
        optimizer.update(params[:2] if rows else params, grads)

    def update():
        optimizer.update(params, grads)
        return params, optimizer.steps, optimizer.state

    def state():
        return params, grads, optimizer.steps, optimizer.state, optimizer.lr

    return Scene(update, state)


for _Optimizer in OPTIMIZERS:
    for _steps in (0, 300):  # small whole numbers take no memory
        CASES[f"{_Optimizer.__name__} step {_steps + 1}"] = lambda cls=_Optimizer, n=_steps: (
            optimizer_scene(cls, n)
        )


def clip_scene(clip, *limit):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype("float32") for shape in ((4, 3), (3,))]
    grads.append(rng.standard_normal((6, 8)).astype("float32")[:, ::2])

    return Scene(lambda: clip(grads, *limit), lambda: grads)


CASES["clip_grads"] = lambda: clip_scene(rnnfast.clip_grads, 0.1)
CASES["clip_values"] = lambda: clip_scene(rnnfast.clip_values, 0.1)
CASES["gradient_norm"] = lambda: clip_scene(gradient_norm)


def small_trainer(**options):
    model = rnnfast.BetterRnnlm(9, 4, 4, rng=0)
    ids = ids_of(9, 400)
    options = {"batch_size": 4, "time_size": 5, "average": 0.9, "records_per_epoch": 7} | options
    return rnnfast.Trainer(model, rnnfast.Adam(0.01), ids[:300], ids[300:], **options)


def state_of_trainer(trainer):
    arrays, position = trainer.state()
    position["record"] = position["record"][:2]  # the rest is a time
    history = [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in position["history"]
    ]
    return arrays, position | {"history": history}


def step_scene(before=1, **options):
    trainer = small_trainer(**options)
    for _ in range(before):
        trainer._take_step(3)

    return Scene(lambda: trainer._take_step(3), lambda: state_of_trainer(trainer), step=True)


CASES["a step of training"] = step_scene
CASES["the first step of training"] = lambda: step_scene(before=0)
CASES["a step of training that ends a record"] = lambda: step_scene(before=1, average=None)
CASES["a step of training with windows"] = lambda: step_scene(
    before=3, window=10, accumulate=2, max_value=0.5
)


FOLDER = Path(tempfile.mkdtemp())


def files():
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def saved_model():
    rnnfast.Rnnlm(9, 4, 5, rng=0, tie_weights=False).save(FOLDER / "model.npz")


@case("save of a model")
def _():
    saved_model()
    model = rnnfast.Rnnlm(9, 4, 5, rng=1)

    path = FOLDER / "model.npz"
    return Scene(lambda: model.save(path), lambda: (files(), state_of_model(model)))


@case("load of a model")
def _():
    saved_model()
    path = FOLDER / "model.npz"
    return Scene(lambda: rnnfast.Network.load(path).params, files)


@case("a checkpoint: restore")
def _():
    trainer, other = small_trainer(), small_trainer()
    trainer._take_step(3)

    arrays, position = trainer.state()
    state = lambda: state_of_trainer(other)  # noqa: E731
    return Scene(lambda: other.restore(arrays, position), state, step=True)


@case("a checkpoint: its state")
def _():
    trainer = small_trainer()
    trainer._take_step(3)
    return Scene(lambda: len(trainer.state()), lambda: state_of_trainer(trainer))


# ---------------------------------------------------------------- how it fails


class Failing:
    """The library, told where code is, and put behind the memory of NumPy's arrays."""

    def __init__(self, path):
        library = ctypes.PyDLL(path)
        self.call = library.call_failing
        self.call.restype = ctypes.py_object
        self.call.argtypes = ctypes.py_object, ctypes.c_long, ctypes.c_long, ctypes.c_int
        self.blocks, self.seen = library.blocks_in_use, library.calls_seen
        self.blocks.restype = self.seen.restype = ctypes.c_long
        library.code_between.argtypes = ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, rights, *_, name = line.split(maxsplit=5)
            ours = "/rnnfast/kernels/" in name
            if "x" in rights and (ours or "/numpy/" in name or "/libgomp" in name):
                begin, end = (int(number, 16) for number in where.split("-"))
                library.code_between(begin, end, ours)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        table_of = ctypes.pythonapi.PyCapsule_GetPointer
        table_of.restype, table_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        table = table_of(np._core._multiarray_umath._ARRAY_API, None)
        # the number of PyDataMem_SetHandler among the functions that NumPy exports
        address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[304]
        self.name = ctypes.create_string_buffer(b"mem_handler")
        at = ctypes.addressof(ctypes.c_char.in_dll(library, "handler"))
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)
        set_handler(new(at, ctypes.cast(self.name, ctypes.c_char_p), None))


def sweep(failing, name, way, begin, stride):
    """Fail every stride-th allocation of a case from number `begin` on; how many calls failed."""
    make, (count, whose) = CASES[name], WAYS[way]
    scene = make()
    probed = frozen(scene.probe())
    expected = frozen(scene.call()), frozen(scene.state())
    scene = make()
    scene.call()
    done = frozen(scene.state())
    n, failed = begin, 0
    while True:
        scene = make()
        before = frozen(scene.state())
        try:
            failing.call(scene.call, n, count, whose)
        except MemoryError:
            failed += 1
        except Exception as error:
            if whose == OF_OURS or not any(text in str(error) for text in NOT_OURS):
                raise AssertionError(f"allocation {n}: {error!r}") from error
            failed += 1
        else:
            if failing.seen() < n:
                return failed
            # whose allocation it was has done without it
            found = frozen(scene.state())
            assert found == done, f"allocation {n}: no error, but {differences(done, found)}"
            n += stride
            continue
        if scene.step and whose == OF_ALL:
            n += stride
            continue
        changed = differences(before, frozen(scene.state()))
        # small objects that are asked for when a kernel is done: what it has written stays
        parts = (*scene.written, *WRITTEN * (whose == OF_ALL))
        changed = [where for where in changed if not any(part in where for part in parts)]
        if changed and not (whose == OF_ALL and not differences(done, frozen(scene.state()))):
            raise AssertionError(f"allocation {n}: changed {changed}")
        if not changed:
            kept = True
            try:
                found = frozen(scene.probe())
            except RuntimeError:
                assert whose == OF_ALL or scene.may_refuse, f"allocation {n}: nothing is kept"
                kept = False
            if kept:
                assert found == probed, f"allocation {n}: had kept {differences(probed, found)}"
            found = frozen(scene.call()), frozen(scene.state())
            wrong = differences(expected, found)
            wrong = [] if not kept else [w for w in wrong if not any(p in w for p in parts)]
            assert not wrong, f"allocation {n}: then differs {wrong}"
        n += stride


def differences(one, other, where=""):
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{where}.{key}")]
    if (
        isinstance(one, (list, tuple))
        and isinstance(other, (list, tuple))
        and len(one) == len(other)
    ):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for k, pair in pairs for d in differences(*pair, f"{where}[{k}]")]
    return [] if one == other else [where or "it"]


def leaked(failing, name, begin, stride, times=20):
    """The n for which calls that fail lose a block of memory each, or more.

    Of arrays and of our own modules: CPython 3.11 itself loses some where small objects fail.
    """
    make, (count, whose) = CASES[name], WAYS["all from there"]
    n, lost = begin, []
    while True:
        for calls in (3, times):  # the first ones fill what is kept for later
            before = blocks_in_use(failing)
            for _ in range(calls):
                scene = make()
                with contextlib.suppress(MemoryError):
                    failing.call(scene.call, n, count, whose)
                    return lost
                del scene
        if blocks_in_use(failing) - before >= times:
            lost.append(n)
        n += stride


def blocks_in_use(failing):
    """But for those of names that Python has looked up, and of what nobody reaches any more."""
    gc.collect()
    sys._clear_type_cache()
    return failing.blocks()


def main(library, stride, *names):
    failing, stride = Failing(library), int(stride)
    unseen = []

    def hook(event):
        # a generator that is closed needs memory, and so does a ZipFile
        if not isinstance(event.object, GeneratorType) and event.object is not ZipFile.__del__:
            unseen.append(f"{event.err_msg}: {event.object!r:.60}: {event.exc_value!r}")

    sys.unraisablehook = hook
    faults = 0
    for name in names or CASES:
        for way in WAYS:
            print(f"{name}, {way}: ", end="", flush=True)
            begin = 1 + SEED % stride
            try:
                failed = sweep(failing, name, way, begin, stride)
                assert not unseen, f"not raised: {unseen}"
                if WAYS[way][1] == OF_OURS:
                    lost = leaked(failing, name, begin, stride, 20 if stride == 1 else 6)
                    assert not lost, f"memory is lost where the allocations {lost} fail"
                print(f"{failed} failed", flush=True)
            except Exception as error:
                faults += 1
                print(f"FAULT {type(error).__name__}: {error}", flush=True)
                unseen.clear()
    return faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
