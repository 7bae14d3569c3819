"""Weights and state dicts that go to PyTorch and come from there."""

import re
import zipfile

import numpy as np
import pytest
from exchanges import (
    D,
    H,
    V,
    block,
    close,
    dtypes,
    every_kind,
    library,
    require_same_weights,
    sizes,
    stack,
)

import rnnfast
from rnnfast import exchange
from rnnfast.exchange.files import layers_of


@every_kind
@sizes
@dtypes
def test_modules_of_torch(kind, layers, both, dtype):
    torch = library("torch")
    layer = stack(kind, layers, both, dtype)
    if kind == "gru":
        with pytest.raises(rnnfast.InputError, match="reset_after=True, the only one that PyTorch"):
            exchange.to_torch(layer)
        return
    module = exchange.to_torch(layer)
    close(module(torch.from_numpy(block(dtype)))[0].detach(), layer.forward(block(dtype)), dtype)
    states = module.state_dict()
    for source in (module, states, {name: W.numpy() for name, W in states.items()}):
        back = exchange.from_torch(source, activation="relu" if kind == "relu" else "tanh")
        expected = {
            (1, False): "TimeGRU TimeLSTM TimeRNN",
            (1, True): "TimeBiGRU TimeBiLSTM TimeBiRNN",
        }
        assert type(back).__name__ in expected.get((layers, both), "TimeStack")
        require_same_weights(back, layer)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
@dtypes
def test_layers_of_torch(name, bias, dtype):
    torch = library("torch")
    torch.manual_seed(0)
    kind = {"f4": torch.float32, "f8": torch.float64}[dtype]
    module = getattr(torch.nn, name)(D, H, 2, bias=bias, bidirectional=True, dtype=kind)
    layer = exchange.from_torch(module)
    expected = module(torch.from_numpy(block(dtype)).transpose(0, 1))[0].transpose(0, 1)
    close(layer.forward(block(dtype)), expected.detach(), dtype)
    for W in layer.params:  # of its own
        W[...] = 0
    assert all(p.detach().any() for p in module.parameters())


def test_a_model_of_torch():
    torch = library("torch")
    torch.manual_seed(0)
    nn = torch.nn
    parts = nn.ModuleDict({"out": nn.Linear(H, V), "plain": nn.Linear(H, 2, bias=False)})
    rnn = nn.LSTM(D, H, 2, dropout=0.25)
    model = nn.ModuleDict({"table": nn.Embedding(V, D), "rnn": rnn, "parts": parts})
    layers = exchange.from_torch(model)
    assert list(layers) == ["table", "rnn", "parts.out", "parts.plain"]
    assert (layers["rnn"].dropout, layers["rnn"].num_layers) == (0.25, 2)
    kinds = {"table": "embedding", "parts.plain": "linear"}
    again = exchange.from_torch(model.state_dict(), kinds=kinds)
    assert again.keys() == layers.keys()
    for name in layers:
        require_same_weights(again[name], layers[name])
    for name, module in (("table", model["table"]), ("parts.out", model["parts"]["out"])):
        back = exchange.to_torch(layers[name])
        assert type(back) is type(module)
        for key, W in module.state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[key], W)
    x = block()[..., :1] + np.zeros(H, "f4")
    out = layers["parts.out"].forward(x)
    close(out, model["parts"]["out"](torch.from_numpy(x)).detach())
    ids = [[0, 3], [10, 1]]
    np.testing.assert_array_equal(
        layers["table"].forward(ids), model["table"](torch.tensor(ids)).detach()
    )


def test_a_state_dict_that_does_not_fit_is_refused_with_all_that_is_wrong():
    layer = np.ones
    states = {
        "a.weight_ih_l0": layer((4 * H, D)), "a.weight_hh_l0": layer((4 * H, H)),
        "a.bias_ih_l0": np.full(4 * H, np.nan), "a.weight_ih_l1": layer((4 * H, 2)),
        "b.weight": layer((2, 2)), "c.weight": layer((2, 3)), "c.bias": layer(3),
        "d.running_mean": layer(3), "e.weight_ih_l0": layer((3, 2), "f2"),
        "f.weight_hr_l0": layer((3, 2)), "g.weight": layer(3), "g.bias": layer(3),
        "h.weight_ih_l0": layer((3 * H, D)), "h.weight_hh_l0": layer((3 * H, H)),
        "h.bias_ih_l0": layer(3 * H), "h.bias_hh_l0": layer(2 * H),
        "i.weight_ih_l0": layer((2 * H, D)), "i.weight_hh_l0": layer((2 * H, H)),
        "j.weight_ih_l0": layer((3, 2)), "j.weight_hh_l999999": layer((3, 1)),
    }  # fmt: skip
    with pytest.raises(rnnfast.InputError) as caught:
        exchange.from_torch(states)
    first, *faults = str(caught.value).splitlines()
    assert first == "from_torch: the weights do not fit:"
    for told in [
        "a.bias_ih_l0: expected finite numbers, got NaN or infinity",
        "a.bias_hh_l0: missing",
        "a.weight_hh_l1: missing",
        "b.weight: alone, it is of an embedding or of a linear layer without a bias; "
        'say which in kinds, as {"b": "embedding"}',
        "c.bias: expected (2,) of float64, got (3,) of float64",
        "d.running_mean: not of an RNN, LSTM, GRU or Linear",
        "e.weight_ih_l0: expected float32 or float64, got float16; convert it",
        "e.weight_hh_l0: missing",
        "f.weight_hr_l0: a projection (proj_size), which there is not here",
        "g.weight: expected 2 axes, got shape (3,)",
        f"h.bias_hh_l0: expected ({3 * H},) of float64, got ({2 * H},) of float64",
        f"i.weight_hh_l0: expected (G*H, H) with G 1, 3 or 4, got ({2 * H}, {H})",
        "j.: 2 tensors cannot have a layer 999999",
    ]:
        assert f"  {told}" in faults


def test_other_things_are_no_weights():
    for source in (None, 3, "model.pt", [np.ones(3)]):
        with pytest.raises(TypeError, match="expected a module of PyTorch's or a state dict"):
            exchange.from_torch(source)
    with pytest.raises(ValueError, match="activation: expected one of tanh, relu"):
        exchange.from_torch({}, activation="elu")
    with pytest.raises(rnnfast.InputError, match="no tensors"):
        exchange.from_torch({})


def test_modules_of_torch_that_there_are_not_here():
    torch = library("torch")
    for module, told in {
        torch.nn.LSTM(3, 4, proj_size=2): "weight_hr_l0: a projection",
        torch.nn.GRU(2, 3).half(): "got float16; convert it by .float()",
        torch.nn.Sequential(torch.nn.Conv1d(2, 2, 2), torch.nn.ReLU()): "0: a Conv1d, for which",
        torch.nn.ReLU(): "source: a ReLU without recurrent, linear or embedding layers",
    }.items():
        with pytest.raises(rnnfast.InputError, match=re.escape(told)):
            exchange.from_torch(module)
    with pytest.raises(TypeError, match="expected a recurrent layer such as TimeLSTM"):
        exchange.to_torch(rnnfast.TimeDropout(0.5))
    layer = stack("lstm", reverse=True)
    with pytest.raises(rnnfast.InputError, match="forward, as all of PyTorch's, got reverse"):
        exchange.to_torch(layer)
    layer = stack("lstm", zoneout=0.1, zoneout_mean=True)
    with pytest.raises(rnnfast.InputError, match="set zoneout_mean to False"):
        exchange.to_torch(layer)


def test_states_that_are_lists():
    with pytest.raises(rnnfast.InputError, match=r"a\.bias: expected a tensor or an array, got li"):
        exchange.from_torch({"a.weight": np.ones((2, 2), "f4"), "a.bias": [[1], [1, 2]]})


def test_files_of_torch_that_have_more_in_them_than_bytes(tmp_path):
    library("torch")
    import torch

    W = torch.ones(300, 300)
    torch.save({"a.weight": W, "b.weight": W}, tmp_path / "tied.pt")
    tied = layers_of(tmp_path / "tied.pt", {"a": "embedding", "b": "linear"})
    assert [layer.params[0].shape for layer in tied.values()] == [(300, 300)] * 2
    torch.save({"a.weight": W}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert layers_of(tmp_path / "old.pt", {"a": "embedding"}).keys() == {"a"}
    torch.save({f"{k}.weight": W for k in range(1000)}, tmp_path / "names.pt")
    torch.save({"a.weight": torch.ones(1, 1).expand(30_000, 30_000)}, tmp_path / "wide.pt")
    with (
        zipfile.ZipFile(tmp_path / "tied.pt") as archive,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    # two entries of the directory for one member
    data = (tmp_path / "tied.pt").read_bytes()
    begin, end = data.index(b"PK\1\2"), data.rindex(b"PK\6\6")
    start = data.rindex(b"PK\1\2", 0, data.rindex(b"data/0"))
    more = 9 * data[start : data.index(b"PK\1\2", start + 4)]
    count = int.from_bytes(data[-12:-10], "little") + 9
    size, tail = (end - begin + len(more)).to_bytes(4, "little"), data[-22:]
    tail = tail[:8] + 2 * count.to_bytes(2, "little") + size + begin.to_bytes(4, "little") + b"\0\0"
    (tmp_path / "entries.pt").write_bytes(data[:begin] + more + data[begin:end] + tail)
    for name, told in {
        "names.pt": r"\.weight: expected arrays of as many bytes as the file has, got more",
        "wide.pt": r"a\.weight: expected arrays of as many bytes as the file has, got more",
        "packed.pt": "packed.pt is no file of PyTorch's, .* is compressed",
        "entries.pt": "data/0: expected arrays of as many bytes as the file has",
    }.items():
        with pytest.raises(rnnfast.InputError, match=told):
            layers_of(tmp_path / name, {"a": "embedding"})
