"""Files of earlier versions are read."""

import base64
import io
import zlib

import numpy as np
import pytest
from hostile import make
from old_files import OLD

import rnnfast
from rnnfast.archive import FORMATS, load_archive
from rnnfast.textbook.base_model import BaseModel


@pytest.fixture
def old(tmp_path):
    """Writes a file of a format; returns its path, and the arrays that NumPy finds in it."""

    def write(name, path):
        data = zlib.decompress(base64.b64decode(OLD[name]))
        (path := tmp_path / path).parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with np.load(io.BytesIO(data)) as arrays:
            return path, {key: arrays[key] for key in arrays.files if key != "meta.json"}

    return write


def test_there_is_one_of_each():
    versions = {f"{kind} {version}" for kind, known in FORMATS.items() for version in known}
    assert OLD.keys() == versions - {"checkpoint 4"}


@pytest.mark.parametrize("name", OLD)
def test_they_say_what_they_are(name, old):
    path, _ = old(name, "file")
    kind, version = name.split()
    assert load_archive(path, kind)[0] == int(version)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_checkpoint_is_resumed(version, old, tmp_path):
    path, arrays = old(f"checkpoint {version}", "run/last.npz")
    (tmp_path / "text.txt").write_text(make.TEXT)
    with pytest.raises(rnnfast.InputError, match=r"best\.npz is not there"):
        rnnfast.Run.load(path.parent)
    before = make.Valid("checkpoint", path.read_bytes()).with_field(("position", "best_loss"), None)
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "last.npz").write_bytes(before)
    loaded = rnnfast.Run.load(tmp_path / "before")
    assert len(loaded.sample(5)) == 5
    with pytest.raises(rnnfast.InputError, match=r"/nowhere/text.txt does not exist"):
        rnnfast.Run.resume(path.parent)
    resumed = rnnfast.Run.resume(path.parent, text=tmp_path / "text.txt", verbose=False)
    names = resumed.model.named_params()
    saved = [arrays[f"param/{name if version > 1 else k}"] for k, name in enumerate(names)]
    for run in (loaded, resumed):
        for W, expected in zip(run.model.params, saved, strict=True):
            np.testing.assert_array_equal(W, expected, strict=True)
    first = next(iter(names)) if version > 1 else 0
    slot = "m" if version > 1 else 0
    moments = resumed.trainer.optimizer.state[0][0]
    np.testing.assert_array_equal(moments, arrays[f"optimizer/{first}/{slot}"], strict=True)
    assert (resumed.trainer.step, resumed.trainer.epoch) == (40, 1)
    assert resumed.trainer.history[-1].step <= 40
    assert [line.valid_loss is None for line in resumed.trainer.history].count(False) == 1
    assert len(resumed.context) == 20
    resumed.fit(verbose=False)
    assert resumed.trainer.epoch == 2
    assert load_archive(path, "checkpoint")[0] == FORMATS["checkpoint"][-1]
    rnnfast.Run.resume(path.parent, verbose=False)  # the path is the new one


def test_a_model_is_loaded(old):
    path, arrays = old("model 1", "model.npz")
    model = rnnfast.Network.load(path)
    assert type(model) is rnnfast.Rnnlm
    for name, W in model.named_params().items():
        np.testing.assert_array_equal(W, arrays[f"param/{name}"], strict=True)


def test_parameters_are_loaded(old):
    path, _ = old("parameters 1", "Model.pkl")
    model = BaseModel()
    model.params = [np.zeros((3, 4), "f4"), np.zeros(5, "f4")]
    model.load_params(path)
    assert model.params[0].tolist() == np.ones((3, 4)).tolist()
    assert model.params[1].tolist() == [0, 1, 2, 3, 4]
