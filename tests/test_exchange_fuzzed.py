"""Files of PyTorch, safetensors, ONNX and Keras that are changed at random: each is read, or
refused with its name."""

import os

import pytest
from exchanges import library
from hostile import foreign, fuzz

from rnnfast.exchange.files import layers_of

# of Keras, and of what NumPy says to it
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("target", fuzz.FOREIGN)
def test_bytes_that_are_made_up(fuzzed, target):
    """A short form of `hostile/fuzz.py`."""
    library(foreign.FILES[target.partition("_")[0]].library)
    os.chdir(fuzzed.folder)
    assert fuzz.run(fuzzed, target, seed=0, count=40) == 40


@pytest.mark.parametrize(
    ("kind", "layers"),
    {
        "torch": "TimeEmbedding TimeLSTM TimeAffine",
        "safetensors": "TimeEmbedding TimeLSTM TimeAffine",
        "onnx": "TimeLSTM",
        "keras": "TimeEmbedding TimeBiLSTM TimeAffine TimeGRU",
        "hdf5": "TimeBiLSTM TimeAffine TimeGRU",
    }.items(),
)
def test_what_is_changed_is_valid(fuzzed, kind, layers, tmp_path):
    library(foreign.FILES[kind].library)
    path = tmp_path / f"it{foreign.FILES[kind].ending}"
    path.write_bytes(fuzzed.file(kind).data)
    found = layers_of(path, foreign.KINDS)
    assert [type(layer).__name__ for layer in found.values()] == layers.split()
