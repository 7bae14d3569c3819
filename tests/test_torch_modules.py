"""rnnfast.torch beside torch.nn, with the same state dict: outputs and gradients."""

import contextlib
import itertools
import sys
import unittest
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from forms import SEED, form

torch = pytest.importorskip("torch", reason="PyTorch is not installed; its modules are judges")

from torch.nn.utils.rnn import (  # noqa: E402
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from torch_cases import FORMS, NAMES, assert_same, draw, pair, run, tensors_of  # noqa: E402

import rnnfast.torch  # noqa: E402
from rnnfast.torch import last_path  # noqa: E402


def test_drawn_options_inputs_and_gradients():
    rng = np.random.default_rng([SEED, 13])
    for _ in range(form(150, 4000)):
        case = draw(rng)
        theirs, ours = pair(case["name"], *case["sizes"], **case["options"])
        try:
            assert_same(run(case, ours), run(case, theirs), case["options"]["dtype"])
            assert last_path(ours) == "rnnfast"
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("name", NAMES)
def test_larger_sizes(name):
    """Of several panels, blocks and threads."""
    case = {
        "name": name,
        "sizes": (70, 130),
        "options": {"num_layers": 2, "bidirectional": True, "dtype": torch.float32},
        "form": "batched",
        "N": 33,
        "T": 40,
        "training": True,
        "states": True,
        "needs": [True] * 3,
        "frozen": [],
        "arrives": [True] * 3,
        "layout": "plain",
        "seed": 1,
    }
    for shape in ("batched", "packed"):
        case["form"], case["options"]["batch_first"] = shape, shape == "packed"
        theirs, ours = pair(name, *case["sizes"], **case["options"])
        assert_same(run(case, ours), run(case, theirs), torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_are_made_as_those_of_torch(name):
    """Constructors, numbers drawn for weights, parameters, representation."""
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "batch_first": True}
    modules = []
    for package in (torch.nn, rnnfast.torch):
        torch.manual_seed(0)
        modules.append(getattr(package, name)(3, 4, bias=False, **options))
    theirs, ours = modules
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        getattr(rnnfast.torch, name)(3, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_have_the_strides_of_torch(name, batch_first):
    """So that a program's `view` works, or does not, as it did."""
    theirs, ours = pair(name, 3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    packed = pack_sequence([torch.randn(n, 3) for n in (5, 2)])
    for given in (torch.randn(5, 2, 3), torch.randn(5, 3), packed):
        strides = [[out.stride() for out in tensors_of(m(given))] for m in (theirs, ours)]
        assert strides[0] == strides[1]


def test_packed_sequences_keep_their_indices():
    theirs, ours = pair("LSTM", 3, 4, batch_first=True)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([2, 6, 3, 6])
    for options in ({"enforce_sorted": False}, {}):
        order = lengths if options else lengths.sort(descending=True).values
        given = pack_padded_sequence(x, order, batch_first=True, **options)
        results = []
        for module in (ours, theirs):
            out, states = module(given)
            assert type(out) is PackedSequence
            results.append([*pad_packed_sequence(out, batch_first=True), *states, *out[1:]])
            assert all(a is b for a, b in zip(out[1:], given[1:], strict=True))
        assert torch.equal(results[0][1], results[1][1])  # the lengths
        for one in results:
            del one[1], one[3:]
        assert_same(*results, torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_draws_from_the_generator_of_torch(name):
    """The same numbers for a seed, and the same number of them."""
    for shape in FORMS[::2]:
        theirs, ours = pair(name, 3, 8, num_layers=3, dropout=0.5)
        given = torch.randn(5, 2, 3)
        if shape == "packed":
            given = pack_sequence([torch.randn(n, 3) for n in (5, 2)])
        results = []
        for module in (ours, theirs):
            torch.manual_seed(5)
            results.append([*tensors_of(module(given)), torch.rand(3)])
        assert last_path(ours) == "rnnfast"
        assert_same(*results, torch.float32)
        with torch.no_grad():
            assert not torch.equal(*(tensors_of(ours(given))[0] for _ in range(2)))
        ours.eval()
        assert torch.equal(*(tensors_of(ours(given))[0] for _ in range(2)))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_raise_the_errors_of_torch(name):
    theirs, ours = pair(name, 3, 4, num_layers=2)
    h = torch.zeros(2, 5, 4)
    states = (h, h) if name == "LSTM" else h
    x, packed = torch.randn(6, 5, 3), pack_sequence([torch.randn(2, 3)])

    def with_first(first):
        return (first, h) if name == "LSTM" else first

    wrong = [
        (torch.randn(3),),
        (torch.randn(2, 2, 2, 3),),
        (torch.randn(6, 5, 4),),
        (torch.randn(0, 5, 3),),
        (torch.randn(6, 3), states),
        (x, with_first(h[:1])),
        (x, with_first(h[:, :4])),
        (x, with_first(h[0])),
        (x.double(),),
        (x, with_first(h.double())),
        (x.long(),),
        (packed._replace(data=packed.data.double()),),
        (x, with_first([1.0])),
        (None,),
        (x.numpy(),),
    ]
    if name == "LSTM":
        wrong += [(x, h), (x, (h,)), (x, (h, h[:1]))]
    else:
        wrong += [(packed, states)]  # of which an LSTM reads what it must not
    messages = []
    for arguments in wrong:
        for module in (theirs, ours):
            try:
                messages.append(f"{module(*arguments)}")  # there are some that it does not refuse
            except Exception as error:
                messages.append(f"{type(error)} {error}")
        assert messages[-2] == messages[-1]
        assert last_path(ours).startswith("torch: ")
    assert sum("Error" in message for message in messages) > 12


def test_batch_sizes_that_are_not_those_of_the_data_are_not_believed():
    """They say how much memory is read."""
    _, ours = pair("GRU", 3, 4)
    sizes = [torch.tensor(n, dtype=torch.int64) for n in ([5, 5], [1, 2], [3, -1, 1], [], [3, 0])]
    for batch_sizes in (*sizes, torch.tensor([2.0, 1.0]), torch.tensor([float("nan"), 1.0])):
        wrong = PackedSequence(torch.randn(3, 3), batch_sizes)
        with contextlib.suppress(RuntimeError, IndexError, TypeError):
            ours(wrong)
        assert last_path(ours).startswith("torch: ")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_is_done_by_torch(name):
    theirs, ours = pair(name, 3, 4)
    x = torch.randn(5, 0, 3)
    assert_same(tensors_of(ours(x)), tensors_of(theirs(x)), torch.float32)
    assert last_path(ours) == "torch: the input has the shape (5, 0, 3)"


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", NAMES)
def test_test_inputs_of_torch_itself(name, monkeypatch):
    """Those by which PyTorch tests its modules."""
    # which the file imports for tests of its own
    stub = SimpleNamespace(TestCase=unittest.TestCase, assert_expected_inline=None)
    monkeypatch.setitem(sys.modules, "expecttest", stub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        common = pytest.importorskip(
            "torch.testing._internal.common_modules",
            reason="this PyTorch has no test inputs",
            exc_type=ImportError,
        )
    (info,) = (i for i in common.module_db if i.module_cls is getattr(torch.nn, name))
    count = 0
    for dtype, training in itertools.product((torch.float64, torch.float32), (False, True)):
        options = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": training}
        for given in info.module_inputs_func(info, **options):
            made, call = given.constructor_input, given.forward_input
            results = []
            modules = pair(name, *made.args, **made.kwargs)
            for module in modules:
                module.to(dtype).train(training)
                leaves = tensors_of([arg for arg in call.args if arg is not None])
                for leaf in leaves:
                    leaf.grad = None
                outputs = tensors_of(module(*call.args, **call.kwargs))
                torch.autograd.backward([out.sum() for out in outputs])
                grads = [leaf.grad for leaf in (*leaves, *module.parameters())]
                results.append([*outputs, *grads])
            assert_same(*reversed(results), dtype)
            path = "torch: proj_size" if modules[1].proj_size else "rnnfast"
            assert last_path(modules[1]) == path
            count += 1
    assert count > 20


@pytest.mark.parametrize("name", NAMES)
def test_training_follows_the_losses_of_torch(name):
    torch.manual_seed(0)
    x, targets = torch.randn(12, 8, 5, dtype=torch.float64), torch.randn(12, 8, 3).double()
    losses = []
    linear = torch.nn.Linear(6, 3, dtype=torch.float64).state_dict()
    for module in pair(name, 5, 6, num_layers=2, dtype=torch.float64):
        model = torch.nn.ModuleDict({"rnn": module, "out": torch.nn.Linear(6, 3)}).double()
        model["out"].load_state_dict(linear)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        losses.append([])
        for _ in range(50):
            optimizer.zero_grad()
            loss = (model["out"](model["rnn"](x)[0]) - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert last_path(model["rnn"]) == "rnnfast"
    assert losses[0][-1] < 0.95 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-8)


def test_numbers_of_threads_are_those_of_torch():
    """Results are the same bits for any, so it is seen where kernels are called."""
    import rnnfast.torch.stack as stack

    _, ours = pair("LSTM", 3, 4)
    asked, threads = [], torch.get_num_threads()
    kernel = stack.recurrent_forward, stack.recurrent_backward
    try:
        for name, function in zip(("recurrent_forward", "recurrent_backward"), kernel, strict=True):

            def noted(*args, threads, function=function, **kwargs):
                asked.append(threads)
                return function(*args, threads=threads, **kwargs)

            setattr(stack, name, noted)
        for n in (1, 2):
            torch.set_num_threads(n)
            ours(torch.randn(2, 3, 3))[0].sum().backward()
    finally:
        torch.set_num_threads(threads)
        stack.recurrent_forward, stack.recurrent_backward = kernel
    assert asked == [1, 1, 2, 2]
