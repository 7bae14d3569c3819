"""Networks: layers that take what others return, and a loss at the end."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from operator import attrgetter
from os import PathLike
from typing import Any, Self, TypeAlias

import numpy as np

from .._checks import as_batch_part
from .._ops import HasOps, Ops
from .._random import Generator, PutBackOnError, set_state_of, state_of
from .._types import Array, ArrayLike, BatchPart, Ids
from ..archive import require_like, require_names
from ..layers.base import Layer, same
from ..layers.recurrent import TimeRecurrent
from . import saving
from .saving import Format, arrays_of, known
from .steps import Step, keywords, plan

Call: TypeAlias = Callable[..., Any]
"""call(layer, step, positional arguments, **more) -> output of the layer"""

States: TypeAlias = list[Array]
"""What recurrent layers remember: an array (S, N, H) for each, of h, then c where there is one."""

_CONFIG = ("layers", "loss", "inputs")


@known
class Network:
    """Layers, each taking what the one before returns unless told otherwise, and a loss.

    Parameters
    ----------
    layers : list of layers, or dict of layers by name
        In the order in which they compute. In a list, a layer's name is its position: "0", "1"...
    loss_layer : loss of what the last layer returns, as in `rnnfast.losses`
    inputs : dict of str to str or tuple of str, keyword-only
        What a layer takes, by its name: names of earlier layers, "xs" for the input of the
        network, or, where there is no layer of that name, of keyword arguments of `forward`,
        `predict` and `infer`, which are then required. A layer gets them in this order as
        positional arguments, and its `backward` returns as many gradients, in a tuple if there are
        several, None where an input has none. An output that several layers take gets the sum of
        their gradients.

    Attributes
    ----------
    layers, loss_layer : list of layers, and the loss as given
    layer_names : names of the layers
    recurrent_layers, recurrent_names : the layers that carry a state, and their names
    params, grads : lists of arrays, in the order of the layers

    Raises
    ------
    TypeError, ValueError
        Where a name is no printable text, is that of no earlier layer or of the loss ("loss"), or
        two parameters would have one; where a layer stands in two places, or its output is used by
        none.

    Notes
    -----
    The keyword arguments of `forward`, `predict` and `infer` go to those layers whose own method
    takes an argument of that name, and in `forward` to such a loss. One that nobody takes is a
    TypeError.

    Examples
    --------
    >>> import numpy as np, rnnfast
    >>> class Sum:
    ...     params, grads = [], []
    ...     def forward(self, a, b):
    ...         return a + b
    ...     def backward(self, dout):
    ...         return dout, dout
    >>> layers = {"hidden": rnnfast.TimeAffine(np.eye(3), np.zeros(3)), "sum": Sum()}
    >>> network = rnnfast.Network(
    ...     layers, rnnfast.TimeSquaredLoss(), inputs={"sum": ("xs", "hidden")})
    >>> network.predict(np.ones((1, 1, 3)))
    array([[[2., 2., 2.]]])
    """

    layers: list[Any]
    layer_names: tuple[str, ...]
    loss_layer: Any
    recurrent_layers: list[Any]
    recurrent_names: tuple[str, ...]
    params: list[Array]
    grads: list[Array]
    _loss_name = "loss"
    _training = True
    _batch_part: BatchPart = None

    def __init__(
        self,
        layers: Sequence[Any] | Mapping[str, Any],
        loss_layer: Any,
        *,
        inputs: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        if not isinstance(layers, Mapping):
            layers = {str(k): layer for k, layer in enumerate(layers)}
        self._steps, self._asked = plan(layers, inputs or {})
        if self._loss_name in layers:
            raise ValueError(
                f"layers: expected no layer named {self._loss_name}, which is the name of the loss"
            )
        # a layer keeps what backward needs of its last forward only
        if len({id(layer) for layer in (*layers.values(), loss_layer)}) <= len(layers):
            raise ValueError(
                "layers: expected every layer in one place, got the same one in two of "
                f"{', '.join(layers)}, {self._loss_name}; make another layer of the same weights, "
                "whose gradients add to those of the first"
            )
        self.layers, self.loss_layer = list(layers.values()), loss_layer
        self.layer_names = tuple(layers)
        self._takes = self._asked.union(*(step.takes for step in self._steps))
        self._infer_takes = self._asked.union(*(step.infer_takes for step in self._steps))
        self._loss_takes = keywords(loss_layer.forward, 2)
        self._forward_takes = self._takes | self._loss_takes
        recurrent = {name: layer for name, layer in layers.items() if hasattr(layer, "reset_state")}
        self.recurrent_layers, self.recurrent_names = list(recurrent.values()), tuple(recurrent)
        named = self._named("params")
        names = [name for name, _ in named]
        if len(set(names)) < len(names):
            raise ValueError(
                "layers: expected names that give every parameter a name of its own, got "
                f"{', '.join(self.layer_names)}"
            )
        self.params = [W for _, W in named]
        self.grads = [dW for _, dW in self._named("grads")]

    def named_params(self) -> dict[str, Array]:
        """`params` by name, in their order: "embedding.W", "recurrent.0.Wx" and so on.

        A name is that of the layer, "loss" for the loss, a dot, and the layer's own name of the
        parameter, or its position where the layer has no `named_params`.
        """
        return dict(self._named("params"))

    def named_grads(self) -> dict[str, Array]:
        """`grads` by the names of the parameters, in their order."""
        return dict(self._named("grads"))

    def _named(self, kind: str) -> list[tuple[str, Array]]:
        """Names and arrays of `params` or `grads`."""
        return [
            (f"{name}.{own}", array)
            for name, layer in self._everyone()
            for own, array in arrays_of(layer, kind).items()
        ]

    def _everyone(self) -> list[tuple[str, Any]]:
        """The layers and, last, the loss, with their names."""
        layers = zip(self.layer_names, self.layers, strict=True)
        return [*layers, (self._loss_name, self.loss_layer)]

    def set_params(self, params: Mapping[str, ArrayLike]) -> None:
        """Write arrays into the parameters, by the names of `named_params`.

        Raises InputError where names, shapes or dtypes are not those of the parameters, ValueError
        where one is read-only; nothing has changed then.
        """
        own = self.named_params()
        require_names(own, params)
        given = {name: np.asarray(params[name]) for name in own}
        for name, W in own.items():
            require_like(name, given[name], W)
            if not W.flags.writeable:
                raise ValueError(f"{name}: expected a writable array, got a read-only one")
        for name, W in own.items():
            W[...] = given[name]

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all of the model but its weights.

        A subclass whose constructor takes other arguments than `Network` has a `config` of its
        own. It returns keyword arguments of the constructor, unless there is a `from_params` too.
        """
        saving.require_constructor(self, self.layers, self.loss_layer, inputs={})
        layers = zip(self.layer_names, self.layers, strict=True)
        return {
            "layers": {name: saving.described(name, layer) for name, layer in layers},
            "loss": saving.described(self._loss_name, self.loss_layer),
            "inputs": {step.name: list(step.sources) for step in self._steps},
        }

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, Array],
        *,
        ops: Ops | None = None,
        classes: saving.Classes | None = None,
        **config: Any,
    ) -> Self:
        """A model with these weights, by name, and what `config` of another has returned.

        Weights are used as they are where the layers are made of them, and copied into a subclass
        that has a `config` but no `from_params` of its own. `ops` and `classes` as in `load`.
        """
        if cls.config is not Network.config:
            model = cls(**config)
            model.set_params(params)
            model._use(ops)
            return model
        layers, loss, inputs = (saving.field(config, name, dict) for name in _CONFIG)
        require_names(_CONFIG, config)
        require_names(layers, inputs)
        inputs = {name: saving.field(inputs, name, list, "inputs of ") for name in layers}
        made = {
            name: saving.made(name, layer, params, classes or {}, ops)
            for name, layer in layers.items()
        }
        loss_layer = saving.made(cls._loss_name, loss, params, classes or {}, ops)
        return cls(made, loss_layer, inputs=inputs)

    def save(self, path: str | PathLike[str], *, format: Format = "npz") -> None:
        """Write the model to one file, which is there whole or not at all.

        `format` is "npz", a file of NumPy's, or "safetensors", which many programs read and the
        library safetensors writes: its tensors have the names of `named_params`. Either holds the
        weights, and all that `load` needs to make the model again: names, inputs and options of
        the layers, and the names of their classes. Not kept are carried states, states of random
        generators, gradients, `training`, `batch_part` and `ops`; a `Trainer` keeps the first two.
        Parameters that are the same memory, or its transpose (tied weights), are so again after
        `load`; other views of common memory become separate arrays.

        A layer of one's own is made again by `Class(*params, **layer.config())`, its weights being
        given by name if it has `named_params`, or by `Class.from_params(params by name,
        **layer.config())` if it has that; `config` may be missing where there is nothing else to
        give.

        Raises
        ------
        TypeError
            Where a layer or a subclass could not be made again; there is no file then.
        InputError
            Where a weight is NaN, which `load` would refuse; there is no new file then.
        ValueError, ImportError
            For another format; where safetensors is not installed.
        OSError
            Where the file cannot be written; what was there before is still there.
        """
        saving.save(path, self, format)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        classes: Mapping[str, type] | None = None,
        ops: Ops | None = None,
    ) -> Self:
        """The model that `save` wrote, in either format, with the same weights, bit for bit.

        `Network.load` takes any network; that of a subclass, such as `Rnnlm.load`, takes its own.
        Nothing in the file is executed.

        Parameters
        ----------
        path : path of the file
        classes : dict of classes by name, keyword-only (like what follows)
            Those classes of layers, losses and models in the file that are not rnnfast's:
            `{"Sum": Sum}`. Only names are in the file; none is imported.
        ops : module with the arithmetic, see `rnnfast.layers`; by default that of the layers

        Raises
        ------
        InputError
            Where there is no such file, it is damaged, or something in it is missing, unknown or
            does not fit; the message names the file and what it is.

        Examples
        --------
        >>> import pathlib, rnnfast, tempfile
        >>> model = rnnfast.Rnnlm(10, 4, 8, rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.npz")
        ...     model.save(path)
        ...     again = rnnfast.Rnnlm.load(path)
        >>> bool((again.predict([[1, 2, 3]]) == model.predict([[1, 2, 3]])).all())
        True
        """
        model: Self = saving.load(path, cls, classes, ops)
        return model

    def _use(self, ops: Ops | None) -> None:
        """Let the layers take their arithmetic from `ops`, unless that is None."""
        for _, layer in self._everyone():
            if ops is not None and isinstance(layer, HasOps):
                layer.ops = ops

    def _by_place(self) -> dict[tuple[int, int], Array]:
        """The parameters by the number of their layer and their own; the loss is the last."""
        layers = enumerate(self._everyone())
        return {(i, k): W for i, (_, layer) in layers for k, W in enumerate(layer.params)}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tied": saving.tied(self._by_place())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy: weights that were views of others are made so again."""
        ties = state["_tied"]
        self.__dict__ |= {name: value for name, value in state.items() if name != "_tied"}
        layers, params = self._everyone(), self._by_place()
        for (i, k), place in ties.items():
            W = params[place["to"]]
            if not np.may_share_memory(W, params[i, k]):  # as they do in a shallow copy
                layers[i][1].params[k] = W.T if place["transposed"] else W
        self.params = [W for _, W in self._named("params")]
        self.grads = [dW for _, dW in self._named("grads")]

    def predict(self, xs: Any, **options: Any) -> Array:
        """Input of the first layer -> output of the last.

        In language models, ids (N, T) -> logits (N, T, V) of the token that follows each.
        """
        self._check_options(options, self._takes)
        with self.unchanged_on_error():
            output: Array = self._outputs(xs, options, forward_with(options))
        return output

    def forward(self, xs: Any, ts: Any, *, need_gradient: bool = True, **options: Any) -> float:
        """Input xs and targets ts -> loss, a float.

        In language models, ids xs and ts, both (N, T) -> mean cross entropy in nats.
        Without `need_gradient`, layers and losses that can save work do so, and backward cannot
        follow.
        """
        self._check_options(options, self._forward_takes)
        if not need_gradient and "need_gradient" in self._forward_takes:
            options["need_gradient"] = False
        of_layers = _among(options, self._takes)
        of_loss = _among(options, self._loss_takes)
        with self.unchanged_on_error():
            loss: float = self.loss_layer.forward(self._loss_input(xs, of_layers), ts, **of_loss)
        return loss

    def _loss_input(self, xs: Any, options: dict[str, Any]) -> Any:
        """What the loss takes, from a forward of the layers."""
        return self.predict(xs, **options)

    def infer(
        self, xs: Any, states: Sequence[Array | None] | None = None, **options: Any
    ) -> tuple[Array, States]:
        """What `predict` returns where the recurrent layers start from `states`, and the states
        after it.

        Nothing is set: neither the states that are carried nor what `backward` needs. So several
        threads may call it at once.

        Parameters
        ----------
        xs : input of the first layer
        states : list of arrays (S, N, H), as returned, or None for zeros
            One for each recurrent layer: h, then c where there is one.

        Returns
        -------
        output of the last layer, states

        Notes
        -----
        All layers of this package have `infer`, which computes as in evaluation. A layer without
        is called by `forward`; if it carries a state, that is put back, which several threads must
        not do at once.
        """
        self._check_options(options, self._infer_takes)
        call, after = self._infer_with(states, options)
        return self._outputs(xs, options, call), after

    def _outputs(self, xs: Any, options: dict[str, Any], call: Call) -> Any:
        """Output of the last layer."""
        return self._run({"xs": xs} | {name: options[name] for name in self._asked}, call)

    def _run(self, values: dict[str, Any], call: Call, first: int = 0) -> Any:
        """Output of the last layer, from what those before layer number `first` have returned."""
        for layer, step in zip(self.layers[first:], self._steps[first:], strict=True):
            values[step.name] = call(layer, step, [values[name] for name in step.sources])
            for name in step.done:
                del values[name]
        return values[self.layer_names[-1]]

    def _infer_with(
        self, states: Sequence[Array | None] | None, options: dict[str, Any]
    ) -> tuple[Call, States]:
        """What calls `infer` of a layer, and the list that it adds the states after it to."""
        count = len(self.recurrent_layers)
        if states is not None and len(states) != count:
            raise ValueError(
                f"states: expected {count} arrays, one for each recurrent layer, got {len(states)}"
            )
        before, after = iter([None] * count if states is None else states), []

        def call(layer: Any, step: Step, args: Sequence[Any], **more: Any) -> Any:
            more |= _among(options, step.infer_takes)
            if not hasattr(layer, "reset_state"):
                return getattr(layer, "infer", layer.forward)(*args, **more)
            infer = getattr(layer, "infer", None) or partial(_infer_by_forward, layer)
            output, state = infer(*args, states=next(before), **more)
            after.append(state)
            return output

        return call, after

    def _check_options(self, options: dict[str, Any], known: frozenset[str]) -> None:
        """Raise TypeError for keyword arguments that no layer takes, or that are missing."""
        if options.keys() <= known and self._asked <= options.keys():
            return
        taken = f"the layers of this network take {', '.join(sorted(known)) or 'none'}"
        for name in sorted(options.keys() - known):
            raise TypeError(f"{name}: expected no such keyword argument; {taken}")
        missing = ", ".join(sorted(self._asked - options.keys()))
        raise TypeError(f"{missing}: expected as keyword argument, since inputs names it; {taken}")

    def backward(self, dout: float = 1, *, sparse: bool = False) -> Any:
        """Fill `grads` with the gradients of the last forward, times `dout`.

        With `sparse`, layers that can (`TimeEmbedding`) write only the rows that change; the
        gradients are the same, as long as nobody else has written into these since the last such
        call. `grad_rows` says which rows may differ from zero.

        Raises RuntimeError without a forward before it, or where `params` and `grads` are no longer
        the arrays of the layers: an optimizer would change others than those that compute.
        """
        self._require_good_arrays()
        arrived = {self.layer_names[-1]: self.loss_layer.backward(dout)}
        for step, layer in zip(reversed(self._steps), reversed(self.layers), strict=True):
            gradient = arrived.pop(step.name, None)
            if gradient is None:  # nothing that the loss depends on is made of its output
                for dW in layer.grads:
                    dW[...] = 0
                continue
            options = {"sparse": True} if sparse and step.sparse else {}
            for name, part in step.by_source(layer.backward(gradient, **options)):
                arrived[name] = arrived[name] + part if name in arrived else part

    def grad_rows(self) -> list[Ids | None]:
        """For each of `grads`, the numbers of its rows that may differ from zero, increasing, or
        None where they are not known: `rows` of the optimizers, of `clip_grads` and `clip_values`.

        Layers know after a `backward` with `sparse`, if they have the methods `grad_rows` and
        `set_grad_rows`.
        """
        known: dict[int, Ids | None] = {}
        for layer in self.layers:
            if hasattr(layer, "grad_rows"):
                known |= zip(map(id, layer.grads), layer.grad_rows(), strict=True)
        return [known.get(id(dW)) for dW in self.grads]

    def set_grad_rows(self, rows: Sequence[Ids | None]) -> None:
        """Let `grad_rows` return these: somebody has written into `grads`, such as a sum over
        several blocks or processes, and here they may differ from zero. Others must be zero."""
        known = dict(zip(map(id, self.grads), rows, strict=True))
        for layer in self.layers:
            if hasattr(layer, "set_grad_rows"):
                layer.set_grad_rows([known.get(id(dW)) for dW in layer.grads])

    def _require_good_arrays(self) -> None:
        """Raise RuntimeError where somebody has put others into the lists of a layer or these, and
        TypeError where one cannot be written: before any is."""
        everyone = [*self.layers, self.loss_layer]
        for kind in ("params", "grads"):
            own = list(chain.from_iterable(map(attrgetter(kind), everyone)))
            listed = getattr(self, kind)
            if same(own, listed):
                continue
            ids = set(map(id, own))  # more than are listed, where weights are tied
            others = [k for k, array in enumerate(listed) if id(array) not in ids]
            if others:
                raise RuntimeError(
                    f"{type(self).__name__}.backward: expected in {kind} the arrays of the layers, "
                    f"got another one as {list(self.named_params())[others[0]]}; write into "
                    "arrays, or make a new network of layers whose arrays were replaced"
                )
        for layer in everyone:
            if isinstance(layer, Layer):
                layer._writable_grads()

    @property
    def training(self) -> bool:
        """Whether layers compute as in training, or as in evaluation; setting it tells them."""
        return self._training

    @training.setter
    def training(self, training: bool) -> None:
        self._training = bool(training)
        for _, layer in self._everyone():
            layer.training = self._training

    @property
    def batch_part(self) -> BatchPart:
        """(first row, rows of the whole batch) where the rows that come are a part of a batch, of
        which other processes have the rest; None where they are all. Setting it tells every layer
        and the loss. Layers that draw masks draw those that the whole batch would have in these
        rows, and their generators are afterwards as after the whole batch.

        Raises ValueError unless 0 <= first row < rows; nothing has changed then.
        """
        return self._batch_part

    @batch_part.setter
    def batch_part(self, part: BatchPart) -> None:
        self._batch_part = as_batch_part(part)
        for _, layer in self._everyone():
            layer.batch_part = self._batch_part

    def train(self) -> None:
        """Let every layer and the loss compute as in training."""
        self.training = True

    def eval(self) -> None:
        """Let every layer and the loss compute as in evaluation."""
        self.training = False

    @contextmanager
    def in_evaluation(self) -> Iterator[None]:
        """Within it, every layer and the loss compute as in evaluation; afterwards as before."""
        everyone = [layer for _, layer in self._everyone()]
        before = self._training, [getattr(layer, "training", True) for layer in everyone]
        self.eval()
        try:
            yield
        finally:
            self._training = before[0]
            for layer, training in zip(everyone, before[1], strict=True):
                layer.training = training

    def random_state(self) -> dict[str, Any]:
        """States, as JSON has them, of the layers' random generators by the layers' names.

        A layer has one if its attribute `rng` is a `numpy.random.Generator` or `RandomState`.
        """
        return {name: _as_json(state_of(rng)) for name, rng in self._generators().items()}

    def set_random_state(self, states: Mapping[str, Any]) -> None:
        """Let the layers' generators carry on from what `random_state` returned.

        Raises ValueError where names or states do not fit; nothing has changed then.
        """
        generators = self._generators()
        if states.keys() != generators.keys():
            raise ValueError(
                f"states: expected those of the layers {', '.join(generators) or '(none)'}, "
                f"got {', '.join(states) or 'none'}"
            )
        for name, rng in generators.items():
            kind, scratch = _new_like(rng)
            try:
                set_state_of(scratch, states[name])
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"states[{name!r}]: expected the state of a {kind}, got another: {error}"
                ) from error
        for name, rng in generators.items():
            set_state_of(rng, states[name])

    def _generators(self) -> dict[str, Generator]:
        found = {name: getattr(layer, "rng", None) for name, layer in self._everyone()}
        return {name: rng for name, rng in found.items() if isinstance(rng, Generator)}

    def reset_state(self) -> None:
        """Let every recurrent layer start its next block from zeros."""
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self) -> list[tuple[Array | None, ...]]:
        """The carried states, for `set_state`: what `get_state` of each recurrent layer returns."""
        return [layer.get_state() for layer in self.recurrent_layers]

    def set_state(self, states: Iterable[Iterable[Array | None]]) -> None:
        """Carry on from states that `get_state` returned.

        Raises ValueError where they are not as many as recurrent layers, or one does not fit its
        layer; nothing has changed then.
        """
        states = list(states)
        if len(states) != len(self.recurrent_layers):
            raise ValueError(
                f"states: expected {len(self.recurrent_layers)}, one for each recurrent layer, "
                f"got {len(states)}"
            )
        before = self.get_state()
        try:
            for layer, state in zip(self.recurrent_layers, states, strict=True):
                layer.set_state(*state)
        except Exception:
            for layer, state in zip(self.recurrent_layers, before, strict=True):
                layer.set_state(*state)
            raise

    @contextmanager
    def carrying_state(self) -> Iterator[None]:
        """Within it, a block starts from the state that the block before left, the first from
        zeros; afterwards the layers are as stateful, and in the state, as they were."""
        put_back = self._left_before()
        stateful = [layer.stateful for layer in self.recurrent_layers]
        try:
            self.reset_state()
            for layer in self.recurrent_layers:
                layer.stateful = True
            yield
        finally:
            for layer, before in zip(self.recurrent_layers, stateful, strict=True):
                layer.stateful = before
            put_back()

    def unchanged_on_error(self) -> AbstractContextManager[None]:
        """Within it, an error, such as a target out of range, puts back the states that are carried
        and the layers' generators, and of what has been computed nothing is kept for `backward`."""
        return _UnchangedOnError(self)

    def _left_before(self) -> Callable[[], None]:
        """What brings back the states that are carried now."""
        each = [
            layer._left_before()
            if isinstance(layer, TimeRecurrent) and type(layer).set_state is TimeRecurrent.set_state
            else partial(_set_again, layer, layer.get_state())
            for layer in self.recurrent_layers
        ]

        def put_back() -> None:
            for own in each:
                own()

        return put_back


class _UnchangedOnError:
    """What `Network.unchanged_on_error` is; a class, since one made of a generator needs memory at
    the end even where all goes well."""

    def __init__(self, network: Network) -> None:
        everyone = [*network.layers, network.loss_layer]
        self._kept = [(layer, getattr(layer, "_kept", None)) for layer in everyone]
        self._put_back = network._left_before()
        generators = [getattr(layer, "rng", None) for layer in everyone]
        self._drawing = PutBackOnError(*(rng for rng in generators if isinstance(rng, Generator)))

    def __enter__(self) -> None:
        pass

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        if error is not None:
            for layer, before in self._kept:
                if before is not getattr(layer, "_kept", None):
                    layer._kept = None
            try:
                self._put_back()
            finally:
                self._drawing.__exit__(error, *rest)


def _set_again(layer: Any, states: Sequence[Array | None]) -> None:
    layer.set_state(*states)


def forward_with(options: dict[str, Any]) -> Call:
    """What calls `forward` of a layer, with those of the options that it takes."""

    def call(layer: Any, step: Step, args: Sequence[Any], **more: Any) -> Any:
        return layer.forward(*args, **more, **_among(options, step.takes))

    return call


def _among(options: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Those of the options that have one of these names."""
    return {name: options[name] for name in options.keys() & names} if options else options


def _infer_by_forward(layer: Any, *args: Any, states: Array | None, **options: Any) -> Any:
    """`infer` of a layer that carries a state and has none of its own."""
    carried, stateful = layer.get_state(), layer.stateful
    try:
        layer.reset_state()
        if states is not None:
            layer.set_state(*states)
        layer.stateful = True
        return layer.forward(*args, **options), np.stack(layer.get_state())
    finally:
        layer.stateful = stateful
        layer.set_state(*carried)


def _new_like(rng: Generator) -> tuple[str, Generator]:
    """What the numbers of a generator come from, and another generator that has the same."""
    if isinstance(rng, np.random.RandomState):
        kind = state_of(rng)["bit_generator"]
        return kind, np.random.RandomState(getattr(np.random, kind)())
    bits = type(rng.bit_generator)
    return bits.__name__, np.random.Generator(bits())


def _as_json(state: Any) -> Any:
    """The state of a bit generator without arrays and numbers of NumPy's."""
    if isinstance(state, dict):
        return {key: _as_json(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
