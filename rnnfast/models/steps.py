"""Which layer of a network takes what: positions, and keyword arguments by their names."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._types import Array


@dataclass(frozen=True, slots=True)
class Step:
    """How a layer is called."""

    name: str
    sources: tuple[str, ...]  # of its positional arguments
    done: tuple[str, ...]  # sources that no later layer takes
    givers: tuple[str | None, ...]  # sources, with None for those that are no layer
    takes: frozenset[str]  # keyword arguments of its `forward`
    infer_takes: frozenset[str]  # and of its `infer`
    sparse: bool  # whether its `backward` takes that, and it has what belongs to it

    def by_source(self, gradients: Any) -> list[tuple[str, Array]]:
        """What `backward` of the layer returned, by the layers that it is for."""
        if gradients is None:
            return []
        if len(self.sources) == 1:
            gradients = (gradients,)
        if not isinstance(gradients, (tuple, list)) or len(gradients) != len(self.sources):
            got = len(gradients) if isinstance(gradients, (tuple, list)) else "none"
            raise ValueError(
                f"backward of layer {self.name}: expected a tuple of gradients, one for each of "
                f"its inputs {', '.join(self.sources)}, None where there is none, got {got}"
            )
        return [
            (name, gradient)
            for name, gradient in zip(self.givers, gradients, strict=True)
            if name is not None and gradient is not None
        ]


def plan(
    layers: Mapping[str, Any], inputs: Mapping[str, str | Sequence[str]]
) -> tuple[list[Step], frozenset[str]]:
    """How each layer is called, and the keyword arguments that are somebody's inputs."""
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    for name in layers:
        if not isinstance(name, str) or not name:
            raise TypeError(f"layers: expected names that are texts, got {name!r}")
        if not name.isprintable() or "\\" in name:  # an archive would change it
            raise ValueError(
                f"layers: expected names of printable characters but the backslash, got {name!r}"
            )
    if "xs" in layers:
        raise ValueError("layers: expected no layer named xs, which is the input of the network")
    for name in inputs.keys() - layers.keys():
        raise ValueError(f"inputs: expected names of layers ({', '.join(layers)}), got {name!r}")
    sources, known, before, asked = {}, {"xs"}, "xs", set()
    for name in layers:
        taken = inputs.get(name, before)
        sources[name] = (taken,) if isinstance(taken, str) else tuple(taken)
        if not sources[name]:
            raise ValueError(f"inputs: expected at least one input of {name}, got none")
        for source in sources[name]:
            if source in layers and source not in known:
                raise ValueError(
                    f"inputs: expected earlier layers as inputs of {name}, got {source!r}, "
                    "which comes later; give the layers in the order in which they compute"
                )
            if source not in known and not (isinstance(source, str) and source.isidentifier()):
                raise ValueError(
                    f"inputs: expected for {name} names of layers before it "
                    f"({', '.join(known - {'xs'}) or 'none'}), xs, or names of keyword arguments, "
                    f"got {source!r}"
                )
            if source not in known:
                asked.add(source)
        known.add(name)
        before = name
    last_use = {source: name for name in layers for source in sources[name]}
    for name in layers.keys() - {before} - last_use.keys():
        raise ValueError(f"inputs: expected a layer that takes the output of {name}, got none")
    return [
        Step(
            name=name,
            sources=sources[name],
            done=tuple(source for source, last in last_use.items() if last == name),
            givers=tuple(source if source in layers else None for source in sources[name]),
            takes=keywords(layer.forward, len(sources[name])),
            infer_takes=keywords(getattr(layer, "infer", layer.forward), len(sources[name]))
            - {"states"},
            sparse=hasattr(layer, "set_grad_rows")
            and "sparse" in keywords(getattr(layer, "backward", layer.forward), 1),
        )
        for name, layer in layers.items()
    ], frozenset(asked)


def keywords(method: Callable[..., Any], given: int) -> frozenset[str]:
    """Arguments that a method takes by name, besides the `given` first, which go by position."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except ValueError:  # a compiled one may not say
        return frozenset()
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    free = (*by_position[given:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY))
    return frozenset(p.name for p in free if p.kind is not p.POSITIONAL_ONLY)
