"""Valid files of other programs, and what may be changed in them; each needs its library.

`data` are the bytes of a file. In one with JSON, `meta` is that, and `with_meta` gives the bytes
with another; so it is with `pickle`. `with_drawn` changes what a library knows in its file, and
draws from a generator seeded with the bytes that it is given: where bytes of a file are changed,
few files can still be read.
"""

import contextlib
import io
import json
import os
import random
import struct
import zipfile

import numpy as np

KINDS = {"embedding": "embedding"}  # see `from_torch`
SIZES = [(), (0,), (1,), (0, 10**12), (10**9, 0), (2, 2), (3, 12), (4, 16), (2, 3, 4), (1,) * 20]
DTYPES = ["f2", "f4", "f8", ">f4", "i4", "u1", "?", "c8"]
TEXTS = ["", "a", "é", "..", "a/b", "a.b", "a_b", "xs", "loss", "x" * 300, "9" * 5000, "1_0", "-1"]
INTEGERS = [0, 1, -1, 2, 3, 16, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63)]


def state_dict():
    """Of a small model; safetensors has its names in the order of the alphabet."""
    lstm = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": 16, "bias_hh_l0": 16}
    shapes = {"embedding.weight": (7, 3), "out.weight": (7, 4), "out.bias": 7}
    shapes |= {f"lstm.{name}": shape for name, shape in lstm.items()}
    return {name: np.full(shape, 0.5, "f4") for name, shape in sorted(shapes.items())}


class Zip:
    """An archive whose member `changes` can be another."""

    def __init__(self, data, changes):
        self.data = data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.members = {info.filename: archive.read(info) for info in archive.infolist()}
        self.changes = next(name for name in self.members if name.endswith(changes))

    def changed(self, data, name=None):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for own, before in self.members.items():
                archive.writestr(own, data if own == (name or self.changes) else before)
        return file.getvalue()


class Torch(Zip):
    ending, library = ".pt", "torch"

    def __init__(self, folder):
        import torch

        file = io.BytesIO()
        torch.save({name: torch.from_numpy(W) for name, W in state_dict().items()}, file)
        super().__init__(file.getvalue(), "data.pkl")
        self.pickle = self.members[self.changes]

    with_pickle = Zip.changed


class Safetensors:
    ending, library = ".safetensors", "safetensors"

    def __init__(self, folder):
        from safetensors.numpy import save

        self.data = save(state_dict())
        end = 8 + struct.unpack_from("<Q", self.data)[0]
        self.meta, self.numbers = json.loads(self.data[8:end]), self.data[end:]

    def with_meta(self, header):
        return struct.pack("<Q", len(header)) + header + self.numbers


class Onnx:
    ending, library = ".onnx", "onnx"

    def __init__(self, folder):
        import rnnfast

        path = folder / "valid.onnx"
        model = rnnfast.LanguageModel(7, embedding=4, hidden=4, layers=1, rng=0)
        rnnfast.exchange.to_onnx(model, path)
        self.data = path.read_bytes()

    def with_drawn(self, data):
        """Fields of a few messages are missing, doubled, or have other values."""
        import onnx

        rng, model = random.Random(data), onnx.ModelProto()
        model.ParseFromString(self.data)
        for _ in range(rng.choice([1, 1, 2, 3])):
            message = rng.choice([*_messages(model)])
            present = [field for field, _ in message.ListFields()]
            if not present or rng.random() < 0.3:
                present = message.DESCRIPTOR.fields
            with contextlib.suppress(TypeError, ValueError):  # no value of this field
                _change(rng, message, rng.choice(present))
        return model.SerializeToString()


def _messages(message):
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from _messages(each)


def _change(rng, message, field):
    name, is_message = field.name, field.message_type is not None
    value = rng.choice([*TEXTS, *INTEGERS, b"", b"\xff", float("nan"), 1e38])
    values = getattr(message, name)
    if rng.random() < 0.3:
        message.ClearField(name)
    elif not field.is_repeated:
        values.SetInParent() if is_message else setattr(message, name, value)
    elif len(values) and rng.random() < 0.4:
        del values[rng.randrange(len(values))]
    elif is_message:
        values.add().CopyFrom(rng.choice([*values]))
    else:
        values.insert(rng.randrange(len(values) + 1), value)


def keras_model(save, path, embeds):
    """The bytes that Keras writes for a small model."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers, all_steps = keras.layers, {"return_sequences": True}
    both = layers.Bidirectional(layers.LSTM(2, **all_steps))
    parts = [both, layers.Dense(3), layers.GRU(3, **all_steps)]  # in the order of the alphabet
    model = keras.Sequential([layers.Embedding(7, 3), *parts] if embeds else parts)
    model(np.ones((1, 2) if embeds else (1, 2, 3)))
    getattr(model, save)(path)
    return path.read_bytes()


class Keras(Zip):
    ending, library = ".keras", "keras"

    def __init__(self, folder):
        super().__init__(keras_model("save", folder / "valid.keras", True), "config.json")
        self.meta = json.loads(self.members[self.changes])
        self.weights = Hdf5(folder, self.members["model.weights.h5"])

    with_meta = Zip.changed

    def with_drawn(self, data):
        return self.changed(self.weights.with_drawn(data), "model.weights.h5")


class Hdf5:
    ending, library = ".weights.h5", "keras"

    def __init__(self, folder, data=None):
        path = folder / "valid.weights.h5"
        self.data = data or keras_model("save_weights", path, False)

    def with_drawn(self, data):
        """A few groups and datasets are missing, elsewhere, or something else."""
        import h5py

        rng, file = random.Random(data), io.BytesIO(self.data)
        with h5py.File(file, "r+") as weights:
            for _ in range(rng.choice([1, 1, 2])):
                names = []
                weights["layers"].visit(names.append)
                # HDF5 has no such name, dtype or size, or the group is gone
                with contextlib.suppress(KeyError, OSError, RuntimeError, TypeError, ValueError):
                    _change_member(h5py, rng, weights["layers"], rng.choice(names), names)
        return file.getvalue()


def _change_member(h5py, rng, layers, name, names):
    shape, other = getattr(layers[name], "shape", (2, 3)), rng.choice(names)
    shape = shape if np.prod(shape, dtype=float) < 1000 else (2, 3)  # a change before this one
    beside = "/".join([*name.split("/")[:-1], rng.choice([*TEXTS, "0", "9", "vars", "cell"])])
    what = rng.randrange(10)
    if what == 0:
        layers.move(name, beside)
    elif what == 1:
        layers[beside] = layers[other]  # a second name
    else:
        del layers[name]
    if what == 2:
        layers.create_group(name)
    elif what == 3:
        layers[name] = np.ones(shape, rng.choice(DTYPES))
    elif what == 4:
        layers.create_dataset(name, rng.choice(SIZES), "f4")
    elif what == 5:
        layers.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))  # of no bytes
    elif what == 6:
        layers[name] = rng.choice(["a", 1.5, h5py.Empty("f4"), np.dtype("f4")])
    elif what == 7:
        layers[name] = h5py.SoftLink(f"/layers/{other}")
    elif what == 8:
        layers[name] = h5py.ExternalLink("valid.weights.h5", f"/layers/{other}")
    elif what == 9:
        layers[name] = np.full(shape, rng.choice([np.nan, np.inf, 3e38]), "f4")


FILES = {
    "torch": Torch,
    "safetensors": Safetensors,
    "onnx": Onnx,
    "keras": Keras,
    "hdf5": Hdf5,
}
