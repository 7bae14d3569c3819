"""Networks: layers that take what others return, and a loss at the end."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from .._types import Array
from .steps import Step, keywords, plan

Call: TypeAlias = Callable[..., Any]
"""call(layer, step, positional arguments, **more) -> output of the layer"""

States: TypeAlias = list[Array]
"""What recurrent layers remember: an array (S, N, H) for each, of h, then c where there is one."""


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
    recurrent_layers : the layers that carry a state
    params, grads : lists of arrays, in the order of the layers

    Raises
    ------
    TypeError, ValueError
        Where a name is no text, is that of no earlier layer, or two parameters would have one;
        where the output of a layer is used by none.

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
    params: list[Array]
    grads: list[Array]
    _loss_name = "loss"
    _training = True

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
        self.layers, self.loss_layer = list(layers.values()), loss_layer
        self.layer_names = tuple(layers)
        self._takes = self._asked.union(*(step.takes for step in self._steps))
        self._infer_takes = self._asked.union(*(step.infer_takes for step in self._steps))
        self._loss_takes = keywords(loss_layer.forward, 2)
        self.recurrent_layers = [layer for layer in self.layers if hasattr(layer, "reset_state")]
        named = self._named("params")
        names = [name for name, _ in named]
        if len(set(names)) < len(names):
            raise ValueError(
                "layers: expected names that give every parameter a name of its own, got "
                f"{', '.join(self.layer_names)}, and {self._loss_name} for the loss"
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
        layers = zip(self.layer_names, self.layers, strict=True)
        return [
            (f"{name}.{own}", array)
            for name, layer in (*layers, (self._loss_name, self.loss_layer))
            for own, array in _arrays_of(layer, kind).items()
        ]

    def predict(self, xs: Any, **options: Any) -> Array:
        """Input of the first layer -> output of the last.

        In language models, ids (N, T) -> logits (N, T, V) of the token that follows each.
        """
        self._check_options(options, self._takes)
        with self._state_kept_on_error():
            return self._outputs(xs, options, forward_with(options))

    def forward(self, xs: Any, ts: Any, **options: Any) -> float:
        """Input xs and targets ts -> loss, a float.

        In language models, ids xs and ts, both (N, T) -> mean cross entropy in nats.
        """
        self._check_options(options, self._takes | self._loss_takes)
        of_layers = {name: options[name] for name in options.keys() & self._takes}
        of_loss = {name: options[name] for name in options.keys() & self._loss_takes}
        with self._state_kept_on_error():
            return self.loss_layer.forward(self.predict(xs, **of_layers), ts, **of_loss)

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
        All layers of this package have `infer`. A layer without is called by `forward`; if it
        carries a state, that is put back, which several threads must not do at once.
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
            more |= {name: options[name] for name in options.keys() & step.infer_takes}
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

    def backward(self, dout: float = 1) -> Any:
        """Fill `grads` with the gradients of the last forward, times `dout`."""
        arrived = {self.layer_names[-1]: self.loss_layer.backward(dout)}
        for step, layer in zip(reversed(self._steps), reversed(self.layers), strict=True):
            gradient = arrived.pop(step.name, None)
            if gradient is None:  # nothing that the loss depends on is made of its output
                for dW in layer.grads:
                    dW[...] = 0
                continue
            for name, part in step.by_source(layer.backward(gradient)):
                arrived[name] = arrived[name] + part if name in arrived else part

    @property
    def training(self) -> bool:
        """Whether layers compute as in training, or as in evaluation; setting it tells them."""
        return self._training

    @training.setter
    def training(self, training: bool) -> None:
        self._training = bool(training)
        for layer in (*self.layers, self.loss_layer):
            layer.training = self._training

    def train(self) -> None:
        """Let every layer and the loss compute as in training."""
        self.training = True

    def eval(self) -> None:
        """Let every layer and the loss compute as in evaluation."""
        self.training = False

    def random_state(self) -> dict[str, Any]:
        """States, as JSON has them, of the layers' random generators by the layers' names.

        A layer has one if its attribute `rng` is a `numpy.random.Generator`.
        """
        return {name: _as_json(rng.bit_generator.state) for name, rng in self._generators().items()}

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
            kind = type(rng.bit_generator)
            try:
                kind().state = states[name]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"states[{name!r}]: expected the state of a {kind.__name__}, got another: "
                    f"{error}"
                ) from error
        for name, rng in generators.items():
            rng.bit_generator.state = states[name]

    def _generators(self) -> dict[str, np.random.Generator]:
        named = (
            *zip(self.layer_names, self.layers, strict=True),
            (self._loss_name, self.loss_layer),
        )
        found = {name: getattr(layer, "rng", None) for name, layer in named}
        return {name: rng for name, rng in found.items() if isinstance(rng, np.random.Generator)}

    def reset_state(self) -> None:
        """Let every recurrent layer start its next block from zeros."""
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self) -> list[tuple[Array | None, ...]]:
        """The carried states, for `set_state`: a tuple per recurrent layer of (N, H) or None."""
        return [layer.get_state() for layer in self.recurrent_layers]

    def set_state(self, states: Iterable[Iterable[Array | None]]) -> None:
        """Carry on from states that `get_state` returned."""
        for layer, state in zip(self.recurrent_layers, states, strict=True):
            layer.set_state(*state)

    @contextmanager
    def carrying_state(self) -> Iterator[None]:
        """Within it, a block starts from the state that the block before left, the first from
        zeros; afterwards the layers are as stateful, and in the state, as they were."""
        carried = self.get_state()
        stateful = [layer.stateful for layer in self.recurrent_layers]
        try:
            self.reset_state()
            for layer in self.recurrent_layers:
                layer.stateful = True
            yield
        finally:
            for layer, before in zip(self.recurrent_layers, stateful, strict=True):
                layer.stateful = before
            self.set_state(carried)

    @contextmanager
    def _state_kept_on_error(self) -> Iterator[None]:
        """A block that an error ends, such as a target out of range, has not been read."""
        carried = self.get_state()
        try:
            yield
        except Exception:
            self.set_state(carried)
            raise


def forward_with(options: dict[str, Any]) -> Call:
    """What calls `forward` of a layer, with those of the options that it takes."""

    def call(layer: Any, step: Step, args: Sequence[Any], **more: Any) -> Any:
        more |= {name: options[name] for name in options.keys() & step.takes}
        return layer.forward(*args, **more)

    return call


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


def _arrays_of(layer: Any, kind: str) -> dict[str, Array]:
    """`params` or `grads` of a layer by name, or by position where it has no names for them."""
    if hasattr(layer, f"named_{kind}"):
        return getattr(layer, f"named_{kind}")()
    return {str(k): array for k, array in enumerate(getattr(layer, kind))}


def _as_json(state: Any) -> Any:
    """The state of a bit generator without arrays and numbers of NumPy's."""
    if isinstance(state, dict):
        return {key: _as_json(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
