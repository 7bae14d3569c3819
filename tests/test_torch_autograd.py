"""rnnfast.torch in autograd: what is kept, freed, given back, and differentiated twice."""

import copy
import gc
import io
import threading
import weakref

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; its autograd is asked")

from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_cases import NAMES, assert_same, pair, tensors_of  # noqa: E402

from rnnfast.torch import function, last_path, stack  # noqa: E402

SIZES = (3, 4)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def small(name, **options):
    return pair(name, *SIZES, dtype=torch.float64, **options)


def grads_of(module):
    return [parameter.grad for parameter in module.parameters()]


@pytest.fixture
def memories(monkeypatch):
    """Weak references to all memory of forwards, while there is one that has not been freed."""
    made = []

    class Noted(stack.Memory):
        __slots__ = ("__weakref__",)

        def __init__(self, call):
            super().__init__(call)
            made.append(weakref.ref(self))

    monkeypatch.setattr(stack, "Memory", Noted)
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}])
def test_gradients_by_differences_once_and_twice(name, options):
    _, ours = small(name, **options)
    count = ours.num_layers * (1 + ours.bidirectional)
    states = [double(count, 2, 4) for _ in range(1 + (name == "LSTM"))]

    def of(x, *rest):
        torch.manual_seed(0)  # the same masks
        hx = rest[: len(states)]
        given = dict(zip([n for n, _ in ours.named_parameters()], rest[len(states) :], strict=True))
        out = torch.func.functional_call(ours, given, (x, hx if len(hx) > 1 else hx[0]))
        return tuple(tensors_of(out))

    inputs = (double(3, 2, 3), *states, *ours.parameters())
    assert torch.autograd.gradcheck(of, inputs, fast_mode=True)
    assert last_path(ours) == "rnnfast"
    assert torch.autograd.gradgradcheck(of, inputs, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_packed_sequences_by_differences_once_and_twice(name):
    _, ours = small(name, num_layers=2, bidirectional=True)
    packed = pack_sequence([double(n, 3) for n in (2, 4, 1)], enforce_sorted=False)

    def of(data, *weights):
        given = dict(zip([n for n, _ in ours.named_parameters()], weights, strict=True))
        return tuple(
            tensors_of(torch.func.functional_call(ours, given, (packed._replace(data=data),)))
        )

    inputs = (packed.data.detach().requires_grad_(), *ours.parameters())
    assert torch.autograd.gradcheck(of, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(of, inputs, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_of_what_depends_on_itself(name):
    """An input that was made of the weights: their gradient has two parts, each of them once."""
    results = []
    for module in small(name):
        x = torch.ones(5, 2, 3, dtype=torch.float64) * module.weight_ih_l0.sum()
        (first,) = torch.autograd.grad(
            module(x)[0].square().sum(), module.weight_ih_l0, create_graph=True
        )
        first.square().sum().backward()
        results.append([first, *grads_of(module)])
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_only_some_outputs_get_a_gradient(name, monkeypatch):
    """The others are undefined, and no zeros are made for them."""
    arrived, backward = [], stack.backward

    def noted(call, memory, dout, dlast, *others):
        arrived.append([d is not None for d in (dout, *dlast)])
        return backward(call, memory, dout, dlast, *others)

    monkeypatch.setattr(stack, "backward", noted)
    outputs = 2 + (name == "LSTM")
    for k in range(outputs):
        for part in (slice(None), slice(0, 1), slice(1, 2)):
            results = []
            for module in small(name, num_layers=2):
                x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
                module.zero_grad()
                tensors_of(module(x))[k][part].square().sum().backward()
                results.append([x.grad, *grads_of(module)])
            assert_same(*results)
            assert arrived.pop() == [place == k for place in range(outputs)]


@pytest.mark.parametrize("name", NAMES)
def test_only_what_requires_a_gradient_gets_one(name, monkeypatch):
    """And nothing else is computed."""
    asked = []
    kernel = stack.recurrent_backward

    def noted(cell, dhs, dstates, cache, weights, grads, **options):
        asked.append((options["need_dx"], [grad is not None for grad in grads]))
        return kernel(cell, dhs, dstates, cache, weights, grads, **options)

    monkeypatch.setattr(stack, "recurrent_backward", noted)
    theirs, ours = small(name, num_layers=2)
    expected = {
        "x": [(True, [False] * 4)] * 2,
        "weight_hh_l1": [(False, [False, True, False, False])],
        "bias_ih_l0": [(True, [False] * 4), (False, [False, False, True, False])],
        "h": [(True, [False] * 4), (False, [False] * 4)],
    }
    for one, calls in expected.items():
        results = []
        asked.clear()
        for module in (theirs, ours):
            leaves = dict(module.named_parameters()) | {
                "x": torch.ones(4, 2, 3, dtype=torch.float64),
                "h": torch.zeros(2, 2, 4, dtype=torch.float64),
            }
            for key, leaf in leaves.items():
                leaf.grad = None
                leaf.requires_grad_(key == one)
            h = leaves["h"]
            out, _ = module(leaves["x"], (h, torch.zeros_like(h)) if name == "LSTM" else h)
            out.square().sum().backward()
            results.append([leaf.grad for leaf in leaves.values()])
        assert_same(*results)
        assert asked == calls


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_where_nothing_requires_a_gradient(name, memories, monkeypatch):
    monkeypatch.setattr(function, "apply", None)  # there is no function at all
    theirs, ours = small(name)
    x = torch.ones(4, 2, 3, dtype=torch.float64)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            results = [tensors_of(module(x)) for module in (ours, theirs)]
            assert_same(*results)
            assert [t.is_inference() for t in results[0]] == [t.is_inference() for t in results[1]]
    ours.requires_grad_(False)
    out, _ = ours(x)
    assert not out.requires_grad
    assert out.grad_fn is None
    assert last_path(ours) == "rnnfast"
    assert memories == []


@pytest.mark.parametrize("name", NAMES)
def test_several_forwards_before_a_backward(name):
    """Gradients add up, in whatever order they come."""
    xs = [torch.randn(t, n, 3, dtype=torch.float64) for t, n in ((4, 2), (3, 5), (6, 1))]
    for order in ((0, 1, 2), (2, 0, 1)):
        results = []
        for module in small(name):
            torch.manual_seed(0)
            module.reset_parameters()
            outs = [module(x)[0].square().sum() for x in xs]
            for k in order:
                outs[k].backward()
            sum(module(x)[0].sum() for x in xs).backward()
            results.append(grads_of(module))
        assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_backward_twice(name):
    """Where the graph is retained; PyTorch's error where it is not."""
    results = []
    for module in small(name, num_layers=2):
        x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
        loss = module(x)[0].square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        results.append([x.grad, *grads_of(module)])
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_changes_in_place_before_backward_are_the_error_of_torch(name):
    for part in range(3):
        _, ours = small(name)
        x, h = double(4, 2, 3) * 1, double(1, 2, 4) * 1
        out, _ = ours(x, (h, h.clone()) if name == "LSTM" else h)
        with torch.no_grad():
            (ours.weight_hh_l0, x, h)[part].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_outputs_may_be_changed_in_place(name):
    """What backward needs is not theirs."""
    results = []
    for module in small(name, num_layers=2, batch_first=True):
        torch.manual_seed(0)
        out, last = module(double(2, 4, 3))
        if module.__class__.__module__.startswith("torch."):
            out, last = out * 1, last if name == "LSTM" else last * 1
        states = tensors_of(last)
        loss = states[0].sum()
        out.mul_(2)
        out[:, -1].add_(1)
        torch.nn.functional.relu(out, inplace=True)
        (loss + out.square().sum()).backward()
        results.append(grads_of(module))
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_weights_written_without_a_version_are_seen(name):
    """Nothing of them is kept: neither packed nor by their address."""
    theirs, ours = small(name)
    x = torch.ones(4, 2, 3, dtype=torch.float64)
    for module in (theirs, ours):
        module(x)[0].sum().backward()
        module.weight_hh_l0.data.mul_(2)
        module.weight_ih_l0.data = torch.ones(module.weight_ih_l0.shape, dtype=torch.float64)
        module.bias_ih_l0.detach().numpy()[...] = 0.5
        module.zero_grad()
        module(x)[0].sum().backward()
    assert_same([ours(x)[0], *grads_of(ours)], [theirs(x)[0], *grads_of(theirs)])


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_something_else_at_the_same_address(name):
    theirs, ours = small(name)
    x = torch.ones(4, 2, 3, dtype=torch.float64)
    paths = []
    columns_first = lambda W: W.as_strided(W.shape, (1, len(W)))  # noqa: E731
    for change in (torch.detach, columns_first, torch.detach, torch._neg_view):
        results = []
        for module in (theirs, ours):
            module.zero_grad()
            module.weight_hh_l0.data = change(module.weight_hh_l0.data)
            out, _ = module(x)
            out.sum().backward()
            results.append([out, *grads_of(module)])
        assert_same(*results)
        paths.append(last_path(ours))
    assert paths == [*["rnnfast"] * 3, "torch: a weight is not plain memory"]


@pytest.mark.parametrize("name", NAMES)
def test_the_two_gradients_of_biases_are_two(name):
    """Clipping them in place, for one, must not do it twice."""
    _, ours = small(name, num_layers=2, bidirectional=True)
    ours(double(4, 2, 3))[0].sum().backward()
    addresses = {grad.untyped_storage().data_ptr() for grad in grads_of(ours)}
    assert len(addresses) == len(grads_of(ours))
    assert all(g.is_contiguous() for g in grads_of(ours))


def test_memory_is_freed_with_the_graph(memories):
    """By autograd after backward, though somebody keeps the outputs; one is kept for reuse."""
    _, ours = small("LSTM", num_layers=2)
    outs = [ours(double(4, 2, 3)) for _ in range(3)]
    assert len(memories) == 3
    for out, _ in outs:
        out.sum().backward()
    alive = [memory() for memory in memories if memory() is not None]
    assert len(alive) == 1
    out, _ = ours(double(4, 2, 3))  # in which it is used again
    assert len(memories) == 3
    del outs, alive
    gc.disable()  # nothing waits for the collector
    try:
        out.sum().backward()
        retained = ours(double(4, 2, 3))[0].sum()
        retained.backward(retain_graph=True)
        assert sum(memory() is not None for memory in memories) == 1
        del out, retained
        del ours
        assert sum(memory() is not None for memory in memories) == 0
    finally:
        gc.enable()


def test_memory_is_freed_without_backward(memories):
    _, ours = small("GRU")
    kept = weakref.ref(x := double(4, 2, 3))
    out = ours(x)
    del out, x
    assert kept() is None
    del ours
    assert [memory() for memory in memories] == [None]


@pytest.mark.parametrize("name", NAMES)
def test_backward_in_other_threads(name):
    """A thread that has made no forward, and several at once on one module and on one graph."""
    theirs, ours = small(name, num_layers=2)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for module in (theirs, ours):
        losses = [module(x)[0].square().sum() for _ in range(4)]
        shared = module(x)[0].square().sum()
        work = [loss.backward for loss in losses]
        work += [lambda shared=shared: shared.backward(retain_graph=True)] * 4
        work += [lambda module=module: module(x)[0].square().sum().backward()] * 4
        threads = [threading.Thread(target=target) for target in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_same(grads_of(ours), grads_of(theirs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(name, reentrant):
    """Saved tensors are dropped, and made by a forward of their own."""
    results = []
    for module in small(name, num_layers=2, dropout=0.5):
        torch.manual_seed(0)
        x = double(4, 2, 3)
        out, _ = checkpoint(module, x, use_reentrant=reentrant)
        out.square().sum().backward()
        results.append([x.grad, *grads_of(module)])
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_saved_tensors(name):
    """Others than those that were saved come back: of large ones, or of all."""
    for least in (0, 1):
        results = []
        for module in small(name, num_layers=2, dropout=0.5):
            torch.manual_seed(0)
            x = double(4, 2, 3)
            h = double(2, 2, 4)

            def moved(tensor, least=least):
                return tensor.clone() if tensor.numel() >= least else tensor

            with torch.autograd.graph.saved_tensors_hooks(moved, lambda tensor: tensor):
                out, _ = module(x * 1, (h, h) if name == "LSTM" else h)
            module.weight_hh_l1.data.zero_()  # of which those that come back know nothing
            out.square().sum().backward()
            results.append([x.grad, h.grad, *grads_of(module)])
        assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_that_write_saved_tensors_to_files_or_pack_them(name):
    """What is saved are tensors like others."""

    def written(tensor):
        file = io.BytesIO()
        torch.save(tensor, file)
        return file

    def read(file):
        file.seek(0)
        return torch.load(file)

    def packed(tensor):
        largest = 1 + tensor.abs().max()
        return tensor / largest, largest

    def unpacked(pair):
        return pair[0] * pair[1]

    copied = (lambda tensor: copy.deepcopy(tensor.detach()), lambda tensor: tensor)
    for hooks in ((written, read), (packed, unpacked), copied):
        results = []
        for module in small(name, num_layers=2):
            x = torch.ones(4, 2, 3, dtype=torch.float64)
            with torch.autograd.graph.saved_tensors_hooks(*hooks):
                out, _ = module(x)
            out.square().sum().backward()
            results.append(grads_of(module))
        assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_may_give_back_other_strides_at_the_same_address(name):
    """As where files are read into memory that an input has left, for one."""

    def together(tensor):
        numbers = tensor.flatten()
        return tensor.as_strided(numbers.shape, (1,)).copy_(numbers).view(tensor.shape)

    results = []
    for unpack in (together, lambda tensor: tensor):
        torch.manual_seed(0)
        _, ours = small(name)
        x = torch.randn(4, 2, 6, dtype=torch.float64)[..., :3]
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            out, _ = ours(x)
        out.square().sum().backward()
        results.append(grads_of(ours))
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_may_give_back_views(name, monkeypatch):
    """As checkpoints do: forward is not computed once more for that."""
    calls, forward = [], stack.forward
    monkeypatch.setattr(stack, "forward", lambda *args: calls.append(1) or forward(*args))
    _, ours = small(name)
    x = double(4, 2, 3)
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, torch.Tensor.detach):
        out, _ = ours(x)
    out.sum().backward()
    assert len(calls) == 1
    out, _ = checkpoint(ours, x, use_reentrant=False)
    out.sum().backward()
    assert len(calls) == 3


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_batches(name):
    """`is_grads_batched` sends tensors through backward that are none in memory."""
    results = []
    for module in small(name):
        x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
        out, _ = module(x)
        given = torch.eye(3, dtype=torch.float64)[:, None, :, None].expand(3, 4, 3, 4)[:, :, :2]
        results.append(
            torch.autograd.grad(out, (x, module.weight_hh_l0), given, is_grads_batched=True)
        )
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("again", [False, True])
def test_gradients_within_vmap(name, again):
    """PyTorch's own example of a Jacobian; of what has been done outside of it."""
    results = []
    for module in small(name):
        x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
        out, _ = module(x)
        inputs = [x, *module.parameters()]

        def products(grad, out=out, inputs=inputs):
            return torch.autograd.grad(out, inputs, grad, retain_graph=True, create_graph=again)

        found = torch.vmap(products)(torch.eye(32, dtype=torch.float64).view(32, 4, 2, 4))
        if again:
            sum(each.square().sum() for each in found).backward()
        results.append([*found, *grads_of(module)])
    assert_same(*results)


def test_second_derivatives_with_weights_frozen_by_then():
    results = []
    for module in small("GRU"):
        x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
        loss = module(x)[0].square().sum()
        module.requires_grad_(False)
        results.append(torch.autograd.grad(loss, [x], create_graph=True))
    assert_same(*results)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_modules_and_tensors(name):
    seen = []
    for module in small(name):
        module.register_forward_hook(lambda _, __, out: (out[0] * 2, out[1]))
        module.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
        module.register_full_backward_hook(lambda _, g_in, g_out: seen.append((*g_in, g_out[0])))
        module.weight_ih_l0.register_hook(lambda grad: grad * 3)
        x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
        out, _ = module(x)
        out.register_hook(lambda grad: grad + 1)
        out.square().sum().backward()
        seen.append((x.grad, *grads_of(module)))
    assert_same(*seen[::2])
    assert_same(*seen[1::2])


@pytest.mark.parametrize("name", NAMES)
def test_an_input_may_be_given_other_memory(name, monkeypatch):
    """Which has no version: what has been freed is not read, but forward is computed once more."""
    calls, forward = [], stack.forward
    monkeypatch.setattr(stack, "forward", lambda *args: calls.append(1) or forward(*args))
    _, ours = small(name)
    for times in (1, 2):
        x = torch.ones(40, 20, 3, dtype=torch.float64)
        out, _ = ours(x)
        if times == 2:
            x.data = torch.full_like(x, 0.5)
        calls.clear()
        out.square().sum().backward()
        assert len(calls) == times - 1


def test_values_that_are_not_finite():
    for name in NAMES:
        for value in (float("nan"), float("inf"), -float("inf"), 1e30, 1e-310):
            results = []
            for module in small(name, num_layers=2):
                x = torch.zeros(4, 2, 3, dtype=torch.float64)
                x[1, 0, 2] = value
                x.requires_grad_()
                module.zero_grad()
                out = module(x)[0]
                out.sum().backward()
                results.append([out, x.grad, *grads_of(module)])
            assert_same(*results)
