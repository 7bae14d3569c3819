"""What a checkpoint keeps of a model and its optimizer, every array by a name.

"param/recurrent.0.Wx"         a parameter
"optimizer/recurrent.0.Wx/m"   what the optimizer keeps for it
"carried/recurrent.0/0"        what a layer carries from block to block, as `get_state` counts it
"carried/recurrent.0/0/2"      what it carried two blocks ago
"average/recurrent.0.Wx"       what validation sees instead of the parameter
"best/recurrent.0.Wx"          the parameter where validation was best
"history"                      see `History`
"context"                      what the model reads before it writes, as ids (M,)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._types import Array, Shape
from ..archive import PART, require_like, require_names
from ..errors import InputError
from ..layers.recurrent import TimeRecurrent
from ..models import Network
from .ranks import OneRank

Carried: TypeAlias = list[tuple[Array | None, ...]]
"""What `get_state` of a network returns."""


def arrays_of(model: Network, optimizer: Any, carried: Sequence[Carried]) -> dict[str, Array]:
    """The arrays themselves, by name; `carried` are states, the newest of which comes last."""
    params = model.named_params()
    arrays = {f"param/{name}": W for name, W in params.items()}
    for name, slots in zip(params, optimizer.state, strict=False):  # none before the first update
        named = zip(optimizer.slots, slots, strict=True)
        arrays |= {f"optimizer/{name}/{slot}": array for slot, array in named}
    for age, states in enumerate(reversed(carried)):
        for names, parts in zip(_carried_names(model, age), states, strict=True):
            arrays |= {
                name: np.asarray(part)
                for name, part in zip(names, parts, strict=True)
                if part is not None
            }
    return arrays


def _carried_names(model: Network, age: int) -> list[list[str]]:
    """Names of the states that each recurrent layer carried so many blocks ago."""
    behind = f"/{age}" if age else ""
    return [
        [f"carried/{name}/{k}{behind}" for k in range(len(parts))]
        for name, parts in zip(model.recurrent_names, model.get_state(), strict=True)
    ]


def copies(states: Carried) -> Carried:
    """Carried that no block changes."""
    return [tuple(None if part is None else np.array(part) for part in parts) for parts in states]


def of_all_ranks(
    model: Network, carried: Sequence[Carried], ranks: OneRank, rows: slice
) -> list[Carried]:
    """Carried states with the rows of all ranks, from those with the rows of each, here `rows`.

    Raises InputError for a layer of somebody's own whose states do not have them as it says.
    """
    if ranks.size == 1:
        return list(carried)
    with ranks.together():
        for states in carried:
            _require_rows(model, states, rows.stop - rows.start)
    return [
        [
            tuple(None if part is None else ranks.gathered(part, axis) for part in parts)
            for parts, axis in zip(states, _axes_of_rows(model), strict=True)
        ]
        for states in carried
    ]


def rows_of(model: Network, states: Carried, rows: slice) -> Carried:
    """Some rows of carried states."""
    return [
        tuple(None if part is None else part[(*[slice(None)] * axis, rows)] for part in parts)
        for parts, axis in zip(states, _axes_of_rows(model), strict=True)
    ]


def _require_rows(model: Network, states: Carried, rows: int) -> None:
    names = zip(model.recurrent_names, states, _axes_of_rows(model), strict=True)
    for name, parts, axis in names:
        for part in parts:
            if part is not None and (part.ndim <= axis or part.shape[axis] != rows):
                raise InputError(
                    f"layer {name}: expected {rows} rows along axis {axis} of its states, got "
                    f"shape {part.shape}; with several ranks, a layer whose rows are along another "
                    "axis needs a method state_shape(rows) that says which"
                )


def _axes_of_rows(model: Network) -> list[int]:
    """Which axis of a state counts the rows of a batch, for each recurrent layer."""
    return [
        layer.state_shape("N").index("N") if hasattr(layer, "state_shape") else 0
        for layer in model.recurrent_layers
    ]


def weights_as(kind: str, model: Network, weights: Sequence[Array]) -> dict[str, Array]:
    """Weights, if there are any, which are not those that the model has, by their names."""
    if not weights:
        return {}
    names = [f"{kind}/{name}" for name in model.named_params()]
    return dict(zip(names, weights, strict=True))


def taken_out(
    kinds: Sequence[str], arrays: Mapping[str, Array], model: Network
) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """The arrays of a checkpoint without what `weights_as` has named, and that by kind.

    Raises InputError with the name of what does not fit.
    """
    rest = dict(arrays)
    found: dict[str, dict[str, Array]] = {}
    for kind in kinds:
        found[kind] = {name: rest.pop(name) for name in arrays if name.startswith(f"{kind}/")}
        names = weights_as(kind, model, model.params)
        if found[kind]:
            require_names(names, found[kind])
        for name, array in found[kind].items():
            require_like(name, array, names[name])
            require_finite(name, array)
    return rest, found


def copies_of(kind: str, weights: Mapping[str, Array], model: Network) -> list[Array]:
    """Copies of what `taken_out` has found of a kind, in the order of the parameters."""
    names = weights_as(kind, model, model.params)
    return [_copy_like(W, weights[name]) for name, W in names.items() if weights]


def require_state(
    model: Network,
    optimizer: Any,
    arrays: Mapping[str, Array],
    *,
    steps: int,
    carried: Sequence[str],
    earlier: int,
    rows: int,
) -> None:
    """Raise InputError, with the name of what does not fit, unless `restore` can take all this."""
    if not set(carried) <= arrays.keys() or len(set(carried)) < len(carried):
        raise InputError("carried: expected names of arrays that there are, each once, got others")
    states = _all_carried_names(model, earlier, carried)
    params = model.named_params()
    slots = _slot_names(params, optimizer, steps)
    known = set(carried)
    there = [key for of_age in states for keys in of_age for key in keys if key in known]
    require_names(there, carried)
    own = [key for name in params for key in (f"param/{name}", *slots[name])]
    require_names([*own, *there], arrays)
    for name, W in params.items():
        for key in (f"param/{name}", *slots[name]):
            require_like(key, arrays[key], W)
    for of_age in states:
        for keys, layer in zip(of_age, model.recurrent_layers, strict=True):
            for key in keys:
                if key in known and isinstance(layer, TimeRecurrent):
                    shape, saved = layer.state_shape(rows), arrays[key]
                    if saved.shape != shape or saved.dtype != layer.dtype:
                        raise InputError(
                            f"{key}: expected {layer.dtype} {shape}, "
                            f"got {saved.dtype} {saved.shape}"
                        )
    for key in (*own, *there):
        require_finite(key, arrays[key])


def _all_carried_names(
    model: Network, earlier: int, carried: Sequence[str]
) -> list[list[list[str]]]:
    """`_carried_names` of the `earlier` blocks and of the newest, which comes last."""
    if earlier > len(carried):  # every block carries something
        raise InputError(f"earlier: expected at most {len(carried)}, got {earlier}")
    return [_carried_names(model, age) for age in range(earlier, -1, -1)]


def _slot_names(params: Iterable[str], optimizer: Any, steps: int) -> dict[str, list[str]]:
    """Names of what an optimizer keeps for each parameter: nothing before its first step."""
    kept = optimizer.slots if steps else ()
    return {name: [f"optimizer/{name}/{slot}" for slot in kept] for name in params}


def restore(
    model: Network,
    optimizer: Any,
    arrays: Mapping[str, Array],
    *,
    steps: int,
    carried: Sequence[str],
    earlier: int,
    rows: int,
    random_state: Any,
) -> list[Carried]:
    """Copy into a model and its optimizer what `arrays_of` another of the same sizes returned.

    `steps` is how many updates the optimizer has done; `carried` are the names of the arrays that
    are carried states, and `rows` is how many rows those have. The newest of them is the model's,
    the `earlier` before it are returned.
    Raises InputError with the name of what does not fit; nothing has changed then.
    """
    require_state(
        model, optimizer, arrays, steps=steps, carried=carried, earlier=earlier, rows=rows
    )
    params = model.named_params()
    slots = _slot_names(params, optimizer, steps)
    states = _all_carried_names(model, earlier, carried)
    before = model.get_state(), model.random_state()
    found = [[tuple(arrays.get(key) for key in keys) for keys in of_age] for of_age in states]
    # all that needs memory comes first
    newest, older = found.pop(), [copies(of_age) for of_age in found]
    state = [
        tuple(_copy_like(W, arrays[key]) for key in slots[name])
        for name, W in params.items()
        if steps
    ]
    try:
        model.set_random_state(random_state)
        model.set_state(newest)
        model.set_params({name: arrays[f"param/{name}"] for name in params})
    except BaseException:
        model.set_state(before[0])
        model.set_random_state(before[1])
        raise
    optimizer.steps, optimizer.state = steps, state
    return older


def params_of(
    arrays: Mapping[str, Array], shapes: Mapping[str, Shape], dtype: str
) -> dict[str, Array]:
    """The parameters in a checkpoint, by name, which must have these names, shapes and dtype."""
    prefix = "param/"
    params = {n.removeprefix(prefix): W for n, W in arrays.items() if n.startswith(prefix)}
    require_names(shapes, params)
    for name, shape in shapes.items():
        W = params[name]
        if W.shape != shape or W.dtype != dtype:
            raise InputError(
                f"{prefix}{name}: expected {shape} of {dtype} by the settings, "
                f"got {W.shape} of {W.dtype}"
            )
        require_finite(prefix + name, params[name])
    return params


def named(
    arrays: Mapping[str, Array],
    params: Sequence[str],
    recurrent: Sequence[str],
    slots: Sequence[str],
) -> dict[str, Array]:
    """The arrays of a checkpoint of version 1, which were counted, by their names."""
    names = {f"param/{k}": f"param/{name}" for k, name in enumerate(params)}
    for k, name in enumerate(params):
        names |= {f"optimizer/{k}/{s}": f"optimizer/{name}/{slot}" for s, slot in enumerate(slots)}
    for k, name in enumerate(recurrent):
        names |= {f"carried/{k}/{s}": f"carried/{name}/{s}" for s in range(2)}
    return {names.get(name, name): array for name, array in arrays.items()}


def require_finite(name: str, array: Array) -> None:
    """Raise InputError where an array of a checkpoint holds NaN or an infinity."""
    flat = array.reshape(-1, order="A")
    # in parts: there is no array of bools of its size
    if not all(np.isfinite(flat[k : k + PART]).all() for k in range(0, flat.size, PART)):
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity")


def _copy_like(like: Array, array: Array) -> Array:
    """A copy whose numbers stand in the order of those of another array."""
    copy = np.empty_like(like)
    copy[...] = array
    return copy
