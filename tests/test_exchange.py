"""Models as safetensors, and `rnnfast export` and `rnnfast import` of every kind of file."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from exchanges import D, H, V, block, close, library, require_same_weights, stack

import rnnfast
from rnnfast import exchange
from rnnfast.cli import main
from rnnfast.exchange.files import layers_of

# of Keras, and of what NumPy says to it
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# safetensors


def models():
    return {
        "language": rnnfast.LanguageModel(
            V, embedding=H, hidden=H, layers=2, tie_weights=True, dropout=0.1, rng=0
        ),
        "seq2seq": rnnfast.AttentionSeq2seq(V, D, H, rng=0),
        "network": rnnfast.Network(
            {"stack": stack("gru", 2, True, reset_after=True)}, rnnfast.TimeSquaredLoss()
        ),
        "regressor": rnnfast.SequenceRegressor(hidden_size=3, epochs=1).fit(
            np.ones((2, 3, 2)), np.ones(2)
        ),
    }


@pytest.mark.parametrize("name", ["language", "seq2seq", "network", "regressor"])
def test_models_as_safetensors(name, tmp_path):
    library("safetensors")
    from safetensors.numpy import load_file

    model = models()[name]
    path = tmp_path / "model"
    model.save(path, format="safetensors")
    again = type(model).load(path)
    network = getattr(model, "network_", model)
    params = network.named_params()
    found = getattr(again, "network_", again).named_params()
    assert params.keys() == found.keys()
    for key, W in params.items():
        np.testing.assert_array_equal(found[key], W, strict=True)
    if name != "regressor":
        assert load_file(path).keys() <= params.keys()
        assert again.config() == model.config()


def test_safetensors_that_are_damaged(tmp_path):
    library("safetensors")
    model, path = models()["language"], tmp_path / "model"
    model.save(path, format="safetensors")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for size in range(0, len(data), 61):
        path.write_bytes(data[:size])
        with pytest.raises(rnnfast.InputError, match="model"):
            rnnfast.Network.load(path)
    for _ in range(500):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            again = rnnfast.Network.load(path)
        except rnnfast.InputError:
            continue
        require_same_weights(again, model)
        assert again.config() == model.config()


def test_safetensors_of_others(tmp_path):
    library("safetensors")
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "x")
    with pytest.raises(rnnfast.InputError, match="holds tensors, but no model of rnnfast"):
        rnnfast.Network.load(tmp_path / "x")
    for meta in ({"rnnfast": "{}", "crc32": "0"}, {"rnnfast": "{}"}, {"other": "x"}):
        save_file({"x": np.ones(3)}, tmp_path / "x", metadata=meta)
        with pytest.raises(rnnfast.InputError):
            rnnfast.Network.load(tmp_path / "x")
    with pytest.raises(ValueError, match="format: expected 'npz' or 'safetensors', got 'zip'"):
        models()["language"].save(tmp_path / "y", format="zip")
    assert not (tmp_path / "y").exists()


# the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the quick brown fox. " * 60)
    settings = rnnfast.Settings(
        folder / "text.txt", hidden=H, embedding=D, batch=2, time=5, epochs=1
    )
    rnnfast.Run.start(folder / "run", settings, verbose=False).fit(verbose=False)
    return folder / "run"


@pytest.mark.parametrize("kind", ["npz", "safetensors", "torch", "onnx"])
def test_export_and_import(kind, trained, tmp_path, monkeypatch, capsys):
    for name in {"npz": [], "safetensors": ["safetensors"], "onnx": ["onnx"]}.get(kind, ["torch"]):
        library(name)
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained), "--to", kind]) == 0
    ending = ".pt" if kind == "torch" else f".{kind}"
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"model: run{ending}, [\d,]+ bytes\nvocabulary: run{ending}.vocabulary.json, .*\n", out
    )
    run = rnnfast.Run.load(trained)
    vocabulary = json.loads((tmp_path / f"run{ending}.vocabulary.json").read_text())
    assert rnnfast.Vocabulary(**vocabulary).tokens == run.vocabulary.tokens
    if kind in ("npz", "safetensors"):
        require_same_weights(rnnfast.Network.load(f"run{ending}"), run.model)
        return
    command = ["import", f"run{ending}", "--kind", "embedding=embedding", "--out", "back.npz"]
    assert main(command) == 0
    assert "back.npz" in capsys.readouterr().out
    back = rnnfast.Network.load("back.npz")
    if kind == "torch":
        require_same_weights(back, run.model)
        ids = np.array([[1, 2, 3]])
        run.model.eval()
        close(back.predict(ids), run.model.predict(ids))
    assert main(command) == 1
    assert "already there; give another --out" in capsys.readouterr().err


def test_export_replaces_nothing_and_leaves_no_half(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["export", str(trained), "--to", "npz", "--out", "a.npz"]
    (tmp_path / "a.npz.vocabulary.json").write_text("mine")
    assert main(command) == 1
    told = "rnnfast: error: a.npz.vocabulary.json is already there; give another --out\n"
    assert capsys.readouterr() == ("", told)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "a.npz.vocabulary.json").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rnnfast.cli.export.write_atomically", full)
        assert main(command) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(command) == 0


@pytest.mark.parametrize("kind", ["npz", "safetensors", "torch", "onnx"])
def test_export_of_rounded_products(kind, trained, tmp_path, monkeypatch, capsys):
    """Ours keep the precision; others have no place for it, which is said."""
    if kind != "npz":
        library(kind)
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden": H, "embedding": D, "batch": 2, "time": 5, "epochs": 1}
    settings = rnnfast.Settings(trained.parent / "text.txt", **sizes, precision="bfloat16")
    rnnfast.Run.start("rounds", settings, verbose=False).fit(verbose=False)
    assert main(["export", "rounds", "--to", kind]) == 0
    told = "products: in float32 there, in bfloat16 in the run; outputs" in capsys.readouterr().out
    assert told == (kind in ("torch", "onnx"))
    if not told:
        assert rnnfast.Network.load(f"rounds.{kind}").precision == "bfloat16"


@pytest.mark.parametrize("to", ["torch", "keras"])
def test_layers_with_rounded_products_go_as_others(to):
    """With the weights that they have, for products in float32."""
    library(to)
    W, b = block()[0], np.ones(D, "f4")
    for layer in (
        stack("lstm", both=True, precision="bfloat16"),
        rnnfast.TimeAffine(W, b, precision="bfloat16"),
    ):
        there = getattr(exchange, f"to_{to}")(layer)
        back = getattr(exchange, f"from_{to}")(there)
        require_same_weights(back, layer)
        assert back.precision == "float32"


def test_files_that_cannot_be_imported(tmp_path, monkeypatch, capsys):
    library("torch")
    import torch

    monkeypatch.chdir(tmp_path)

    class Bad:
        def __reduce__(self):
            return os.system, ("touch executed",)

    torch.save({"x": Bad()}, "code.pt")
    torch.save([1], "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "list.pt").read_bytes()[:99])
    odd = {
        "sparse": torch.eye(9).to_sparse(),
        "without numbers": torch.empty(9, 9, device="meta"),
    }
    torch.save({f"{name}.weight": tensor for name, tensor in odd.items()}, "odd.pt")
    torch.save({3: torch.eye(9)}, "three.pt")
    kinds = [word for name in odd for word in ("--kind", f"{name}=embedding")]
    assert main(["import", "odd.pt", *kinds]) == 1
    err = capsys.readouterr().err
    assert [f"{name}.weight: expected a dense tensor" in err for name in odd] == [True, True]
    for name, told in {
        "three.pt": "it holds 3, expected names of tensors",
        "code.pt": "code.pt is no file of PyTorch's, or is damaged",
        "list.pt": "expected a state dict",
        "cut.pt": "cut.pt is no file of PyTorch's",
        "missing.pt": "does not exist",
        "model.bin": "a file whose name ends with one of .pt, .pth, .safetensors",
    }.items():
        assert main(["import", name]) == 1
        assert told in capsys.readouterr().err
    assert main(["import", "list.pt", "--kind", "x=y"]) == 1
    assert "--kind: expected NAME=embedding or NAME=linear, got 'x=y'" in capsys.readouterr().err
    assert not os.path.exists("executed")
    torch.save(
        torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(2, 3)}).state_dict(),
        "ab.pt",
    )
    assert main(["import", "ab.pt"]) == 1
    assert (
        "b: expected 3 inputs, which the layer before has as outputs, got 2"
        in capsys.readouterr().err
    )
    assert sorted(os.listdir()) == sorted(
        f"{name}.pt" for name in ("ab", "code", "cut", "list", "odd", "three")
    )


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"a.weight": np.ones((0, D), "f4")}, r"a\.weight: expected numbers, got none: its shape"),
        ({"b.weight": np.ones((10**12, 0), "f4")}, r"b\.weight: expected numbers, got none"),
        ({"b.weight_ih_l" + "9" * 5000: np.ones(1, "f4")}, r"b\.weight_ih_l9{400,} \.\.\."),
        ({"xs.weight": np.ones((H, D), "f4"), "xs.bias": np.ones(H, "f4")}, "no layer named xs"),
        ({"a.weight": np.ones((2, 2), "f4"), "a.bias": np.ones(3, "f4")}, r"a\.bias: expected"),
        ({"weight": np.ones((2, 2), "f4"), "bias": np.ones(2, "f4"),
          "a.weight": np.ones((2, 2), "f4")}, "expected names that are texts, got ''"),
    ],
)  # fmt: skip
def test_states_in_files_that_make_no_network(states, told, tmp_path):
    library("safetensors")
    from safetensors.numpy import save_file

    save_file(states, tmp_path / "it.safetensors")
    with pytest.raises(rnnfast.InputError, match=told) as caught:
        layers_of(tmp_path / "it.safetensors", {"a": "embedding", "b": "linear"})
    assert "it.safetensors" in str(caught.value)


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, rnnfast, rnnfast.exchange; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {"torch", "onnx", "onnxruntime", "keras", "h5py", "safetensors", "ml_dtypes"}
    assert not others & set(done.stdout.split())
