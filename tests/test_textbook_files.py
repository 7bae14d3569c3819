"""`BaseModel` of `rnnfast.textbook`: the book's pickles are read, and none is executed; what is
written is none, and comes back exactly.
"""

import os
import pickle
import zipfile

import numpy as np
import pytest

import rnnfast
from rnnfast.textbook import _pickled
from rnnfast.textbook.base_model import BaseModel

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Model(BaseModel):
    def __init__(self, seed=0, dtype="f"):
        rng = np.random.default_rng(seed)
        W = rng.normal(size=(3, 4)).astype(dtype)
        self.params = [W, rng.normal(size=5).astype(dtype), W.T]
        self.grads = [np.zeros_like(W) for W in self.params]


class Shell:
    """Executes a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.path.exists("executed")


def book_file(arrays, protocol=None, name="Model.pkl"):
    """As the book writes it."""
    with open(name, "wb") as file:
        pickle.dump(arrays, file, protocol)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_what_is_saved_comes_back_exactly(dtype):
    saved, loaded = Model(1, dtype), Model(2, dtype)
    before = [id(W) for W in loaded.params]
    saved.save_params()
    assert os.listdir() == ["Model.pkl"]
    loaded.load_params()
    for W, expected in zip(loaded.params, saved.params, strict=True):
        assert W.tobytes() == expected.tobytes()
    assert [id(W) for W in loaded.params] == before
    assert loaded.params[2].base is loaded.params[0]


def test_the_default_name_is_that_of_the_class():
    class Another(Model):
        pass

    Another().save_params()
    Model().save_params("a file")
    assert sorted(os.listdir()) == ["Another.pkl", "a file"]


def test_what_is_written_is_no_pickle():
    Model().save_params()
    assert zipfile.is_zipfile("Model.pkl")
    with open("Model.pkl", "rb") as file, pytest.raises(pickle.UnpicklingError):
        pickle.load(file)
    with np.load("Model.pkl", allow_pickle=False) as arrays:
        assert (arrays["0"] == Model().params[0]).all()


def test_an_order_of_bytes_that_there_is_not():
    data = pickle.dumps([np.arange(3, dtype=">f8")], 3)
    assert data.count(b"X\1\0\0\0>") == 1
    with pytest.raises(ValueError, match="expected an order of bytes, got ','"):
        _pickled.read_arrays(data.replace(b"X\1\0\0\0>", b"X\1\0\0\0,"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_books_files_are_read(protocol):
    """float16, in any order of memory."""
    params = [W.astype(np.float16) for W in Model(1).params]
    params[0] = np.asfortranarray(params[0])
    book_file(params, protocol)
    model = Model(2)
    model.load_params()
    for W, expected in zip(model.params, params, strict=True):
        assert (expected == W).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_floats_and_other_arrays_are_read(protocol):
    saved = [1.5, np.float32(2.5), np.arange(3, dtype=">f8"), np.zeros((2, 0, 3), "f2"), (), []]
    found = _pickled.read_arrays(pickle.dumps(tuple(saved[:3]), protocol))
    assert [array.tolist() for array in found] == [1.5, 2.5, [0, 1, 2]]
    if protocol > 2:  # before, no bytes are written as a call of `bytes`
        assert _pickled.read_arrays(pickle.dumps(saved[3:4], protocol))[0].shape == (2, 0, 3)
    for empty in saved[4:]:
        assert _pickled.read_arrays(pickle.dumps(empty, protocol)) == []


def test_files_of_both_versions_of_numpy_are_read():
    """Whose functions stand in modules of different names."""
    data = pickle.dumps([np.arange(3, dtype="f2")], 0)
    core = b"numpy._core" if b"numpy._core" in data else b"numpy.core"
    for name in (b"numpy._core", b"numpy.core"):
        (found,) = _pickled.read_arrays(data.replace(core, name))
        assert found.tolist() == [0, 1, 2]


def test_other_functions_of_these_names_are_refused():
    data = pickle.dumps([np.arange(3, dtype="f2")], 0)
    core = b"numpy._core" if b"numpy._core" in data else b"numpy.core"
    for name in (b"numpy", b"os"):
        with pytest.raises(ValueError, match=r"a call of .* _reconstruct"):
            _pickled.read_arrays(data.replace(core, name))


def test_shapes_that_are_none():
    data = pickle.dumps([np.zeros((3, 2), "f2")], 2)
    for rows in (b"J\xff\xff\xff\xff", b"K\x02"):  # -1, 2
        assert data.count(b"K\x03K\x02") == 1
        with pytest.raises(ValueError, match="6 numbers says that it has shape"):
            _pickled.read_arrays(data.replace(b"K\x03K\x02", rows + b"K\x02"))


BAD = {
    "a call": [Shell()],
    "a call in an array": [np.array([Shell()], object)],
    "a call for its arguments": [np.zeros(2), [Shell()]],
    "a function": [os.system],
    "a class": [Model],
    "an instance": [Model()],
    "a dict": {"W": np.zeros(2)},
    "a number": 3,
    "whole numbers": [np.zeros(2, int)],
    "texts": ["W"],
    "an array": np.zeros(3),
    "records": [np.zeros(2, [("a", "f4")])],
    "objects": [np.array([None])],
    "a matrix of the class that is no array": [np.ma.array([1.0])],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BAD)
def test_nothing_else_is_read_or_executed(name, protocol):
    book_file(BAD[name], protocol)
    model = Model()
    before = [W.copy() for W in model.params]
    with pytest.raises(rnnfast.InputError, match=r"Model\.pkl.*expected"):
        model.load_params()
    assert all((old == W).all() for W, old in zip(model.params, before, strict=True))


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch executed'\ntR.",
        b"(S'touch executed'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch executed'\no.",
        b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
        b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85\x81.",
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x02U\x01aQ.",  # persistent
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # a place in the memo that would take all memory
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes that would, too
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b".",
        b"no pickle",
        b"PK\x03\x04 no archive",
    ],
)
def test_programs_are_refused(program):
    with open("Model.pkl", "wb") as file:
        file.write(program)
    with pytest.raises(rnnfast.InputError, match=r"Model\.pkl"):
        Model().load_params()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damaged_pickles_change_nothing(protocol):
    """Every byte in turn: read, maybe to other numbers, or refused."""
    data = pickle.dumps([np.arange(4, dtype="f2").reshape(2, 2)], protocol)
    for k in range(len(data)):
        for byte in (data[k] ^ 1, data[k] ^ 0x80):
            with open("Model.pkl", "wb") as file:
                file.write(data[:k] + bytes([byte]) + data[k + 1 :])
            model = Model()
            model.params = [np.full((2, 2), 7.0)]
            try:
                model.load_params()
            except rnnfast.InputError:
                assert (model.params[0] == 7).all()


def test_files_of_another_model_are_refused():
    model = Model()
    others = {
        "expected 3 arrays as the model has, got 1": [np.zeros((3, 4), "f2")],
        r"params\[1\]: expected real numbers of shape \(5,\)": [
            *(np.zeros((3, 4), "f2"), np.zeros(6, "f2"), np.zeros((4, 3), "f2"))
        ],
    }
    before = [W.copy() for W in model.params]
    for message, arrays in others.items():
        book_file(arrays)
        with pytest.raises(rnnfast.InputError, match=message):
            model.load_params()
        other = Model()
        other.params = arrays
        other.save_params()
        with pytest.raises(rnnfast.InputError, match=message):
            model.load_params()
    assert all((old == W).all() for W, old in zip(model.params, before, strict=True))


def test_a_file_that_is_not_there():
    with pytest.raises(OSError, match=r"No file: Model\.pkl"):
        Model().load_params()


def test_a_model_of_the_library_is_another_kind_of_file():
    rnnfast.SimpleRnnlm(3, 2, 2, rng=0).save("Model.pkl")
    with pytest.raises(rnnfast.InputError, match="rnnfast parameters 1"):
        Model().load_params()


def test_a_base_model_has_no_layers():
    model = BaseModel()
    assert (model.params, model.grads) == (None, None)
    for method in (model.forward, model.backward):
        with pytest.raises(NotImplementedError):
            method()
