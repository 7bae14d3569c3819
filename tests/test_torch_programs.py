"""rnnfast.torch in other people's programs: what is done by torch.nn instead, compilers, exporters,
copies, parametrizations, and models that are accelerated."""

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; programs are of it")

from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402
from torch_cases import NAMES, assert_same, pair, tensors_of  # noqa: E402

import rnnfast.torch  # noqa: E402
from rnnfast.torch import accelerate, last_path, restore  # noqa: E402

nn = torch.nn
OURS = {name: getattr(rnnfast.torch, name) for name in NAMES}


class Model(nn.Module):
    """Modules at several places, one of them shared."""

    def __init__(self, name="LSTM"):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.rnn = getattr(nn, name)(3, 4, num_layers=2, batch_first=True)
        self.blocks = nn.ModuleList([nn.ModuleDict({"gru": nn.GRU(4, 4)}), nn.RNN(4, 4)])
        self.again = self.blocks[1]
        self.out = nn.Linear(4, 7)

    def forward(self, ids):
        x, _ = self.rnn(self.embedding(ids))
        x, _ = self.blocks[0]["gru"](x)
        x, _ = self.blocks[1](x)
        x, _ = self.again(x)
        return self.out(x)


def recurrent(model):
    return [m for m in model.modules() if isinstance(m, nn.RNNBase)]


def paths(model):
    return {last_path(module) for module in recurrent(model)}


def same_as_torch(name, call, reason, **options):
    """What `call` does with both modules is the same, and why torch.nn has done it."""
    theirs, ours = pair(name, 3, 4, **options)
    assert last_path(ours) is None
    results = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        try:
            results.append(tensors_of(call(module)))
        except RuntimeError as error:  # PyTorch does not do everything either
            results.append(str(error))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert_same(*results, torch.float32)
    assert last_path(ours) == reason


X = torch.linspace(-1, 1, 30).reshape(5, 2, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of dual numbers' own scripts
@pytest.mark.parametrize("name", NAMES)
def test_other_programs_are_done_by_torch(name):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    class Dispatch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    def within(context):
        def call(module):
            with context():
                return [t.float() for t in tensors_of(module(X))]

        return call

    def dual(module):
        with forward_ad.dual_level():
            out, _ = module(forward_ad.make_dual(X, torch.ones_like(X)))
            return forward_ad.unpack_dual(out).tangent

    def vmap(module):
        return torch.vmap(lambda x: module(x)[0], in_dims=1)(X)

    def jvp(module):
        return torch.func.jvp(lambda x: module(x)[0], (X,), (torch.ones_like(X),))

    def grad(module):
        return torch.func.grad(lambda x: module(x)[0].sum())(X)

    def subclass(module):
        kind = type("Own", (torch.Tensor,), {})
        out, _ = module(X.as_subclass(kind))
        assert type(out) is kind
        return out.as_subclass(torch.Tensor)

    transform = "torch: a transform of torch.func"
    same_as_torch(name, within(lambda: torch.autocast("cpu", torch.bfloat16)), "torch: autocast")
    same_as_torch(name, within(Mode), "torch: a mode of torch functions")
    same_as_torch(name, within(Dispatch), "torch: a mode of torch dispatch")
    same_as_torch(name, dual, "torch: forward-mode differentiation")
    same_as_torch(name, jvp, transform)
    same_as_torch(name, grad, transform)
    same_as_torch(name, vmap, transform)
    same_as_torch(name, subclass, "torch: the input is a Own")


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:The PyTorch API of nested")
def test_other_tensors_are_done_by_torch():
    _, ours = pair("LSTM", 3, 4)
    ours.to("meta")(X.to("meta"))
    assert last_path(ours) == "torch: the input is on the device meta"
    for dtype in (torch.bfloat16, torch.float16):
        same_as_torch(
            "GRU",
            lambda m, dtype=dtype: [t.float() for t in m.to(dtype)(X.to(dtype))],
            f"torch: the input is {dtype}",
        )
    same_as_torch("LSTM", lambda m: m(X), "torch: proj_size", proj_size=2)
    negative = torch.complex(X, -X).conj().imag
    assert negative.is_neg()
    same_as_torch("RNN", lambda m: m(negative), "torch: the input is not plain memory")
    nested = torch.nested.nested_tensor([X[0], X[1]])
    same_as_torch("RNN", lambda m: m(nested), "torch: the input is not plain memory")
    sparse = X.to_sparse()
    same_as_torch("RNN", lambda m: m(sparse), "torch: the input is not plain memory")
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    _, ours = pair("GRU", 3, 4)
    with pytest.raises(Exception, match=r"fake|Fake"):
        ours(fake)
    assert last_path(ours) == "torch: the input is a FakeTensor"


def unaligned(tensor):
    """A copy as those of files, between whose headers numbers may stand anywhere."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 1)
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape).copy_(tensor)


def test_memory_that_is_not_aligned_is_read_by_torch():
    h = torch.ones(1, 2, 4)

    def weight(module):
        module.weight_hh_l0.data = unaligned(module.weight_hh_l0.data)
        return module(X)

    same_as_torch("GRU", lambda m: m(unaligned(X)), "torch: the input is not aligned")
    same_as_torch("GRU", lambda m: m(X, unaligned(h)), "torch: an initial state is not aligned")
    same_as_torch("GRU", weight, "torch: a weight is not aligned")

    def gradients(module, to_files=lambda tensor: tensor, between=lambda module: None):
        with torch.autograd.graph.saved_tensors_hooks(to_files, lambda tensor: tensor):
            out, _ = module(X)
        between(module)
        out.backward(unaligned(torch.ones_like(out)))
        return [p.grad for p in module.parameters()]

    def other_memory(module):
        module.weight_hh_l0.data = unaligned(module.weight_hh_l0.data)

    same_as_torch("GRU", gradients, "rnnfast")
    same_as_torch("GRU", lambda m: gradients(m, unaligned), "rnnfast")
    same_as_torch("GRU", lambda m: gradients(m, between=other_memory), "rnnfast")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_between_forward_and_backward_are_the_error_of_torch(dtype):
    def between(module):
        out, _ = module(X)
        module.to(dtype)
        out.sum().backward()

    same_as_torch("LSTM", between, "rnnfast")


def test_default_devices():
    """Programs set that of the CPU where there is no other one."""
    theirs, ours = pair("LSTM", 3, 4, num_layers=2, dropout=0.5)
    for device, path in (("cpu", "rnnfast"), ("meta", "torch: a mode of torch functions")):
        results = []
        for module in (ours, theirs):
            torch.manual_seed(0)
            module.zero_grad()
            h = torch.zeros(2, 2, 4)
            with torch.device(device):
                out, _ = module(X, (h, h))
                out.sum().backward()
            results.append([out, *(p.grad for p in module.parameters())])
        assert_same(*results, torch.float32)
        assert last_path(ours) == path


def test_last_path_says_what_it_expects():
    _, ours = pair("RNN", 3, 4)
    assert last_path(ours) is None
    ours(X)
    assert last_path(ours) == "rnnfast"
    assert last_path(nn.RNN(3, 4)).startswith("torch: the module is torch.nn's own")
    with pytest.raises(TypeError, match=r"expected a recurrent module .* got Linear"):
        last_path(nn.Linear(2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_parametrizations_and_pruning(name):
    def weight_norm(module):
        parametrizations.weight_norm(module, "weight_hh_l0")
        parametrizations.spectral_norm(module, "weight_ih_l0")

    def orthogonal(module):
        parametrizations.orthogonal(module, "weight_hh_l1")

    def old_weight_norm(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(module, "weight_hh_l0")

    def pruned(module):
        prune.l1_unstructured(module, "weight_ih_l0", 0.5)
        prune.random_unstructured(module, "bias_hh_l1", 0.5)

    def undone(module):
        weight_norm(module)
        parametrize.remove_parametrizations(module, "weight_hh_l0")
        prune.l1_unstructured(module, "weight_ih_l1", 0.5)
        prune.random_unstructured(module, "bias_hh_l1", 0.5)
        prune.remove(module, "bias_hh_l1")

    def replaced(module):
        module.weight_hh_l0 = nn.Parameter(torch.ones_like(module.weight_hh_l0) / 9)

    def tied(module):
        module.weight_hh_l1 = module.weight_hh_l0

    changes = [weight_norm, old_weight_norm, pruned, undone, replaced, tied]
    for change in changes + [orthogonal] * (name == "RNN"):
        results = []
        modules = pair(name, 3, 4, num_layers=2)
        for module in modules:
            torch.manual_seed(0)
            change(module)
            for _ in range(2):  # what spectral_norm keeps goes on by a step in every call
                module(X)[0].square().sum().backward()
            results.append([module(X)[0], *(p.grad for p in module.parameters())])
        assert_same(*results, torch.float32)
        assert last_path(modules[1]) == "rnnfast", change


@pytest.mark.parametrize("name", NAMES)
def test_functional_call_and_swapped_parameters(name):
    theirs, ours = pair(name, 3, 4)
    given = {key: value.detach() * 2 for key, value in ours.named_parameters()}
    results = [torch.func.functional_call(module, given, (X,)) for module in (ours, theirs)]
    assert_same(*map(tensors_of, results), torch.float32)
    assert last_path(ours) == "rnnfast"
    assert_same(*(tensors_of(module(X)) for module in (ours, theirs)), torch.float32)


def test_weights_that_are_not_there_are_the_error_of_torch():
    theirs, ours = pair("LSTM", 3, 4)
    errors = []
    for module in (theirs, ours):
        module.weight_hh_l0 = None
        with pytest.raises(Exception) as raised:  # noqa: PT011
            module(X)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_breaks_the_graph_and_is_right(name):
    """Nor is what our forward consists of compiled."""
    torch._dynamo.reset()
    model = Model(name)
    ours = accelerate(copy.deepcopy(model))
    ids = torch.arange(10).reshape(2, 5) % 7
    for backend in ("eager", "aot_eager"):
        compiled = torch.compile(ours, backend=backend)
        results = []
        for one in (compiled, model):
            one.zero_grad()
            out = one(ids)
            out.square().sum().backward()
            with torch.no_grad():
                results.append([out, one(ids)])
        results = [
            [*outs, *(p.grad for p in m.parameters())]
            for outs, m in zip(results, (ours, model), strict=True)
        ]
        assert_same(*results, torch.float32)
        assert paths(ours) == {"rnnfast"}
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # at which the compiler looks
@pytest.mark.parametrize("name", NAMES)
def test_compiled_steps_of_training(name):
    """Nor what our backward consists of: graphs are those of torch.nn."""
    torch.manual_seed(0)
    model = Model(name)
    ids = torch.arange(10).reshape(2, 5) % 7
    results, graphs = [], []
    for one in (accelerate(copy.deepcopy(model)), model):
        torch._dynamo.reset()
        found = []

        def noted(graph, _, found=found):
            found.append([str(node.target) for node in graph.graph.nodes])
            return graph.forward

        @torch.compile(backend=noted)
        def step(one):
            loss = one(ids).square().mean()
            loss.backward()
            return loss

        results.append([*(step(one) for _ in range(2)), *(p.grad for p in one.parameters())])
        graphs.append(found)
    torch._dynamo.reset()
    assert_same(*results, torch.float32)
    assert graphs[0] == graphs[1] != []


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The tensor attributes .* assigned during export")
@pytest.mark.parametrize("name", NAMES)
def test_traced_scripted_and_exported_models_are_those_of_torch(name):
    model = Model(name).eval()
    ours = accelerate(copy.deepcopy(model))
    ids = torch.arange(10).reshape(2, 5) % 7
    expected = model(ids)
    traced = torch.jit.trace(ours, ids)
    assert f"aten::{'rnn_tanh' if name == 'RNN' else name.lower()}" in str(traced.inlined_graph)
    assert_same([traced(ids)], [expected], torch.float32)
    exported = torch.export.export(ours, (ids,)).module()
    assert_same([exported(ids)], [expected], torch.float32)
    graph = torch.fx.symbolic_trace(ours)
    assert "rnn" in {node.target for node in graph.graph.nodes if node.op == "call_module"}
    assert_same([graph(ids)], [expected], torch.float32)
    scripted = torch.jit.script(ours)
    assert_same([scripted(ids)], [expected], torch.float32)
    assert_same([ours(ids)], [expected], torch.float32)
    assert [type(m) for m in recurrent(ours)] == [type(m) for m in recurrent(model)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_symbolic_states_of_an_input_that_is_there():
    """As those of a decoder, which begins with nothing else."""

    class Decoder(nn.Module):
        def __init__(self, rnn):
            super().__init__()
            self.rnn = rnn

        def forward(self, h, c):
            return self.rnn(torch.zeros(5, 2, 3), (h, c))[0]

    h = torch.ones(1, 2, 4)
    results = [torch.fx.symbolic_trace(Decoder(one))(h, h) for one in pair("LSTM", 3, 4)]
    assert_same(*([result] for result in results), torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name):
    """They have the parameters, and neither memory nor a last path."""
    theirs, ours = pair(name, 3, 4, num_layers=2, dropout=0.25)
    ours(X)[0].sum().backward()
    assert last_path(ours) == "rnnfast"
    file = io.BytesIO()
    torch.save(ours, file)
    copies = [
        copy.copy(ours),
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(io.BytesIO(file.getvalue()), weights_only=False),
    ]
    assert b"Memory" not in file.getvalue()
    for one in copies:
        assert type(one) is OURS[name]
        assert last_path(one) is None
        assert {*vars(one)} == {*vars(theirs)}
        torch.manual_seed(1)
        results = tensors_of(one(X))
        torch.manual_seed(1)
        assert_same(results, tensors_of(theirs(X)), torch.float32)
        assert last_path(one) == "rnnfast"
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert pickle.loads(pickle.dumps(vars(ours)["_rnnfast"])).path is None


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_parametrized_modules(name):
    _, ours = pair(name, 3, 4)
    parametrizations.weight_norm(ours, "weight_hh_l0")
    ours(X)[0].sum().backward()
    with torch.no_grad():
        ours(X)  # or torch.nn's module could not be copied either
    one = copy.deepcopy(ours)  # by a function of parametrizations' own, which copies attributes
    assert last_path(one) is None
    assert_same(tensors_of(one(X)), tensors_of(ours(X)), torch.float32)
    assert last_path(one) == "rnnfast"


@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes_and_memory_of_parameters(name):
    theirs, ours = pair(name, 3, 4)
    for change in (
        lambda m: m.double(),
        lambda m: m.float(),
        lambda m: m.to(torch.float64),
        lambda m: m.share_memory() or m,
        lambda m: m.flatten_parameters() or m,
        lambda m: m.requires_grad_(False),
        lambda m: m.eval(),
    ):
        results = [change(module)(X.to(module.weight_ih_l0.dtype)) for module in (ours, theirs)]
        assert_same(*map(tensors_of, results), torch.float32)
        assert last_path(ours) == "rnnfast"


def test_inputs_can_be_resized_afterwards():
    """As they can be after torch.nn."""
    _, ours = pair("GRU", 3, 4)
    x = X.clone()
    ours(x)
    x.resize_(50, 2, 3)
    ours.weight_ih_l0.untyped_storage().resize_(1000)


def test_accelerate_turns_every_module_and_restore_turns_them_back():
    model = Model()
    ids = torch.arange(10).reshape(2, 5) % 7
    expected, before = model(ids), dict(model.named_parameters())
    modules, calls = recurrent(model), []
    model.rnn.register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.Adam(model.parameters())
    assert accelerate(model) is model
    assert recurrent(model) == modules
    assert model.again is model.blocks[1]
    assert [type(m) for m in modules] == [OURS["LSTM"], OURS["GRU"], OURS["RNN"]]
    assert all(p is before[name] for name, p in model.named_parameters())
    assert_same([model(ids)], [expected], torch.float32)
    model(ids).sum().backward()
    optimizer.step()
    assert len(calls) == 2
    assert paths(model) == {"rnnfast"}
    assert accelerate(model) is model  # again
    changed = model(ids)
    assert restore(model) is model
    assert [type(m) for m in modules] == [nn.LSTM, nn.GRU, nn.RNN]
    assert_same([model(ids)], [changed], torch.float32)
    assert all({*vars(m)} == {*vars(type(m)(3, 4))} | {*vars(m)} - {"_rnnfast"} for m in modules)
    assert type(accelerate(nn.GRU(2, 3))) is OURS["GRU"]
    assert type(restore(OURS["GRU"](2, 3))) is nn.GRU
    for function in (accelerate, restore):
        with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got OrderedDict"):
            function(model.state_dict())


def test_accelerate_says_what_it_leaves():
    class Own(nn.LSTM):
        def forward(self, input, hx=None):
            return "own"

    model = nn.ModuleDict({"own": Own(2, 3), "set": nn.GRU(2, 3), "rnn": nn.RNN(2, 3)})
    model["normed"] = parametrizations.weight_norm(nn.GRU(2, 3), "weight_hh_l0")
    model["cell"] = nn.LSTMCell(2, 3)
    model["set"].forward = lambda *_: "set"
    with pytest.warns(UserWarning, match="accelerate: left as they are") as warned:
        accelerate(model)
    (message,) = [str(w.message) for w in warned]
    for part in ("own is of class Own", "set has a forward set", "normed is of class Parametrized"):
        assert part in message
    assert "cell" not in message
    assert type(model["rnn"]) is OURS["RNN"]
    assert type(model["cell"]) is nn.LSTMCell
    assert (model["own"](X), model["set"](X)) == ("own", "set")
    parametrizations.weight_norm(model["rnn"], "weight_hh_l0")
    with pytest.warns(UserWarning, match=r"restore: .* rnn is of class ParametrizedRNN"):
        restore(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accelerate(Model())
        accelerate(model["rnn"])  # which is ours, of whatever class
        restore(model["own"])


def test_subclasses_of_ours():
    class Mine(rnnfast.torch.LSTM):
        def forward(self, input, hx=None):
            out, _ = super().forward(input, hx)
            return out

    module = Mine(3, 4)
    assert module(X).shape == (5, 2, 4)
    assert last_path(module) == "rnnfast"
    assert module.__prepare_scriptable__() is module  # it has a forward of its own
    with pytest.warns(UserWarning, match="the model is of class Mine"):
        restore(module)


class Rows(torch.utils.data.Dataset):
    """Rows that a model of ours makes, in the process of a worker."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 12

    def __getitem__(self, k):
        with torch.no_grad():
            made = self.model(torch.arange(k, k + 5)[None] % 7)[0]
        return torch.arange(k, k + 5) % 7, made, paths(self.model) == {"rnnfast"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_training_with_workers_of_a_data_loader():
    """The parent has computed, with threads, before it forks workers, which compute too."""
    torch.manual_seed(0)
    model = accelerate(Model())
    ids = torch.arange(400).reshape(20, 20) % 7
    model(ids).sum().backward()
    state = copy.deepcopy(model.state_dict())
    context = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    loader = torch.utils.data.DataLoader(
        Rows(copy.deepcopy(model)), 4, num_workers=2, multiprocessing_context=context
    )
    losses = []
    for one in (model, restore(Model())):
        one.load_state_dict(state)
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        losses.append([])
        for _ in range(2):
            for rows, made, by_ours in loader:
                assert by_ours.all()
                optimizer.zero_grad()
                loss = (one(rows) - made).square().mean() + one(rows).square().mean()
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.item())
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_whole_models_in_processes_that_are_spawned():
    code = (
        "import pickle, sys, torch\n"
        "model = pickle.load(sys.stdin.buffer)\n"
        "from rnnfast.torch import last_path\n"
        "model(torch.zeros(5, 2, 3))\n"
        "print(last_path(model))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(OURS["GRU"](3, 4)),
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode().strip() == "rnnfast", done.stderr


def test_packed_sequences_and_modes_of_modules():
    """Two modules in one model, each of which says its own."""
    model = nn.ModuleList([OURS["GRU"](3, 4), OURS["LSTM"](3, 4)])
    model[0](pack_sequence([torch.randn(2, 3)]))
    model[1].bfloat16()(X.bfloat16())
    assert [*map(last_path, model)] == ["rnnfast", "torch: the input is torch.bfloat16"]


def test_importing_it_imports_no_compiler():
    """Which takes as long as PyTorch does."""
    code = (
        "import sys, rnnfast.torch; print('torch._dynamo' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr
