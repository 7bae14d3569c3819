"""Calls whose allocations fail, one after the other: what test_failed_allocations.py runs in a process
of its own, with the library that is made of fail_allocation.c.

python failed_allocations.py LIBRARY STRIDE [CASE ...]: every STRIDE-th allocation of each case fails.
"""

import contextlib
import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forms import SEED
from problems import EVERY_LAYER, OPTIMIZERS, make_problem

import rnnfast
from rnnfast._random import state_of

CASES = {}
# Which allocations fail: the n-th, alone, of whoever asks; the n-th of an array or of our modules, and
# with it all that follow, as where others have used up the memory.
OF_OURS, OF_ALL = range(2)
WAYS = {"one": (1, OF_ALL), "all from there": (10**9, OF_OURS)}
MOST_SWEEPS = 6


@dataclass
class Scene:
    """An object, and a call of it."""

    call: Callable
    state: Callable  # its arrays and other values by name, which a call that fails may not change
    probe: Callable = lambda: None  # what the object had before the call, or RuntimeError
    may_refuse: bool = False  # whether the probe may be refused after a call that failed


def case(name):
    def add(make):
        CASES[name] = make
        return make

    return add


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
    problem = make_problem(name, "float32")
    layer = problem.layer(rnnfast, **options)
    problem.forward(layer)
    problem.backward(layer)
    backward = lambda: problem.backward(layer)  # noqa: E731
    if call == "forward":
        return Scene(lambda: problem.forward(layer), lambda: state_of_layer(layer), backward)
    if call == "infer":
        return Scene(lambda: problem.infer(layer), lambda: state_of_layer(layer), backward)
    return Scene(backward, lambda: state_of_layer(layer))


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


def block_scene(call, **options):
    """A layer that takes an index, lengths and resets."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype("float32") for shape in ((4, 20), (5, 20), (20,))]
    layer = rnnfast.TimeLSTM(*weights, stateful=True)
    xs, index = rng.standard_normal((6, 4)).astype("float32"), rng.integers(0, 6, (3, 7))
    more = {"index": index, "lengths": [7, 0, 3], "reset": rng.random((3, 7)) < 0.3}
    dhs = rng.standard_normal((3, 7, 5)).astype("float32")

    def forward():
        return layer.forward(xs, **more, **options), layer.hs, layer.cs

    def backward():
        return layer.backward(dhs), [dW.copy() for dW in layer.grads], layer.dh, layer.dc

    def state():
        return state_of_layer(layer)

    forward()
    backward()
    return Scene(forward, state, backward) if call == "forward" else Scene(backward, state)


for _call in ("forward", "backward"):
    CASES[f"index, lengths, reset {_call}"] = lambda call=_call: block_scene(call)


@case("embedding sparse backward")
def _():
    rng = np.random.default_rng(0)
    layer = rnnfast.TimeEmbedding(rng.standard_normal((9, 4)).astype("float32"))
    dout = rng.standard_normal((2, 3, 4)).astype("float32")

    def backward(ids):
        layer.forward(ids)
        layer.backward(dout, sparse=True)
        return layer.grads[0].copy(), layer.grad_rows()

    backward(np.array([[1, 2, 3], [2, 2, 8]]))
    other = np.array([[1, 0, 0], [7, 0, 0]])
    # what a failed call has written is made good by the next one
    return Scene(lambda: backward(other), lambda: layer.params)


def ids_of(V, *shape):
    return np.random.default_rng(5).integers(0, V, shape)


def state_of_model(model):
    state = {"params": model.params, "carried": model.get_state(), "rng": model.random_state()}
    return state | {"training": model.training}


def model_scene(call, Model=rnnfast.Rnnlm, **options):
    model = Model(9, 4, 5, num_layers=2, rng=0, **options)
    ids = ids_of(9, 3, 2, 6)

    def backward():
        model.backward()
        return [dW.copy() for dW in model.grads]

    model.forward(ids[0], ids[1])
    backward()
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
CASES["GruLm dropout forward"] = lambda: model_scene("forward", rnnfast.GruLm, dropout=0.5)


@case("Seq2seq with attention forward, backward")
def _():
    model = rnnfast.AttentionSeq2seq(9, 4, 5, rng=0)
    xs, ts = ids_of(9, 2, 2, 6)

    def both():
        loss = model.forward(xs, ts)
        model.backward()
        return loss, [dW.copy() for dW in model.grads]

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


@case("stream")
def _():
    model, rng = rnnfast.Rnnlm(9, 4, 5, rng=0), np.random.default_rng(1)
    call = lambda: list(rnnfast.stream(model, [1, 2], 6, rng=rng))  # noqa: E731
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

    def call():
        return clip(grads, *limit), [dW.copy() for dW in grads]

    return Scene(call, lambda: grads)


CASES["clip_grads"] = lambda: clip_scene(rnnfast.clip_grads, 0.1)
CASES["clip_values"] = lambda: clip_scene(rnnfast.clip_values, 0.1)
CASES["gradient_norm"] = lambda: clip_scene(rnnfast.gradient_norm)


def small_trainer(**options):
    model = rnnfast.Rnnlm(9, 4, 5, rng=0, dropout=0.3)
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

    def step():
        trainer._take_step(3)
        return state_of_trainer(trainer)

    return Scene(step, lambda: state_of_trainer(trainer))


CASES["a step of training"] = lambda: step_scene()
CASES["the first step of training"] = lambda: step_scene(before=0)
CASES["a step of training that ends a record"] = lambda: step_scene(before=1, average=None)
CASES["a step of training with windows"] = lambda: step_scene(
    before=3, window=10, accumulate=2, max_value=0.5
)


@contextlib.contextmanager
def _nothing():
    yield


FOLDER = Path(tempfile.mkdtemp())


def files():
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


def saved_model():
    rnnfast.Rnnlm(9, 4, 5, rng=0, tie_weights=False).save(FOLDER / "model.npz")


@case("save of a model")
def _():
    saved_model()
    model = rnnfast.Rnnlm(9, 4, 5, rng=1)

    def save():
        model.save(FOLDER / "model.npz")
        return [W.tobytes() for W in rnnfast.Network.load(FOLDER / "model.npz").params]

    return Scene(save, lambda: (files(), state_of_model(model)))


@case("load of a model")
def _():
    saved_model()
    path = FOLDER / "model.npz"
    return Scene(lambda: rnnfast.Network.load(path).params, files)


@case("a checkpoint: state, restore")
def _():
    trainer, other = small_trainer(), small_trainer()
    trainer._take_step(3)

    def carry_over():
        other.restore(*trainer.state())
        return state_of_trainer(other)

    return Scene(carry_over, lambda: state_of_trainer(other))


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
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
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
    expected = frozen(scene.call())
    n = begin
    while True:
        scene = make()
        before = frozen(scene.state())
        try:
            failing.call(scene.call, n, count, whose)
        except MemoryError:
            pass
        else:
            if failing.seen() >= n:
                raise AssertionError(f"allocation {n} failed, and nobody noticed")
            return (n - begin) // stride
        after = frozen(scene.state())
        assert after == before, f"allocation {n}: changed {differences(before, after)}"
        probe(scene, probed, n)
        result = frozen(scene.call())
        assert result == expected, f"allocation {n}: then differs {differences(expected, result)}"
        n += stride


def probe(scene, expected, n):
    try:
        result = frozen(scene.probe())
    except RuntimeError:
        if not scene.may_refuse:
            raise
        return
    assert result == expected, f"allocation {n}: had before {differences(expected, result)}"


def differences(one, other, where=""):
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for k, pair in pairs for d in differences(*pair, f"{where}[{k}]")]
    return [] if one == other else [where or "it"]


def main(library, stride, *names):
    failing, stride = Failing(library), int(stride)
    unseen = []
    sys.unraisablehook = lambda event: unseen.append(
        f"{event.err_msg or 'ignored'}: {event.object!r:.60}: {event.exc_value!r}"
    )
    faults = 0
    for name in names or CASES:
        for way in WAYS:
            print(f"{name}, {way}: ", end="", flush=True)
            try:
                failed = sweep(failing, name, way, 1 + SEED % stride, stride)
                assert not unseen, f"not raised: {unseen}"
                print(f"{failed} failed", flush=True)
            except Exception as error:
                faults += 1
                print(f"FAULT {type(error).__name__}: {error}", flush=True)
                unseen.clear()
    return faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
