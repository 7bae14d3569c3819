"""Models as files: their weights, and what is needed to make them again.

A file has an array "param/NAME" for every parameter, and as JSON the name of the model's class and
its `config()`. Names of classes are looked up in the tables below, and among those that the caller
hands over; none is ever imported.
"""

import inspect
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np

from .. import layers, losses
from .._ops import HasOps, Ops
from .._types import Array
from ..archive import damage, load_archive, require_names, require_no_nan, save_archive
from ..errors import InputError
from ..reference import layers as twins
from .tensors import is_safetensors, load_tensors, save_tensors

Model = TypeVar("Model", bound=type)
Name = TypeVar("Name", bound=Hashable)
Format: TypeAlias = Literal["npz", "safetensors"]
PREFIX = "param/"  # of the name of a parameter in an .npz file
Classes = Mapping[str, type]
"""Classes of the caller's own, by their names."""

LAYERS: dict[str, type] = {
    name: getattr(module, name)
    for module in (layers, losses)
    for name in module.__all__
    if name != "Layer" and inspect.isclass(getattr(module, name))
}
MODELS: dict[str, type] = {}


def known(cls: Model) -> Model:
    """Decorator: a model of this package, which `Network.load` finds by the name of its class."""
    MODELS[cls.__name__] = cls
    return cls


def save(path: str | PathLike[str], model: Any, format: Format = "npz") -> None:
    """See `Network.save`."""
    if format not in get_args(Format):
        known = " or ".join(map(repr, get_args(Format)))
        raise ValueError(f"format: expected {known}, got {format!r}")
    params = model.named_params()
    ties = tied(params)
    arrays = {name: W for name, W in params.items() if name not in ties}
    try:
        for name, W in arrays.items():
            if W.dtype.kind == "f":
                require_no_nan(name, W)
    except InputError as error:
        raise InputError(
            f"{path}: not written, since it could not be read again: {error}; take weights from "
            "before they were NaN, or train with a smaller learning rate"
        ) from error
    meta = {"class": class_name(model), "config": model.config(), "tied": ties}
    if format == "safetensors":
        save_tensors(path, "model", arrays, meta)
    else:
        save_archive(path, "model", {PREFIX + name: W for name, W in arrays.items()}, meta)


def load(path: str | PathLike[str], cls: type, classes: Classes | None, ops: Ops | None) -> Any:
    """See `Network.load`."""
    classes = dict(classes or {})
    if taken := classes.keys() & (LAYERS.keys() | MODELS.keys()):
        raise ValueError(f"classes: expected names that rnnfast has not, got {', '.join(taken)}")
    whole = is_safetensors(path)
    _, arrays, meta = (load_tensors if whole else load_archive)(path, "model")
    with damage(path, "model"):
        require_names(("class", "config", "tied"), meta)
        found: Any = _class(meta["class"], {cls.__name__: cls} | classes | MODELS)
        if not issubclass(found, cls):
            raise InputError(
                f"it holds a {found.__name__}, expected a {cls.__name__}; "
                f"{found.__name__}.load takes it"
            )
        config, ties = field(meta, "config", dict), field(meta, "tied", dict)
        prefix = "" if whole else PREFIX
        require_names([name for name in arrays if name.startswith(prefix)], arrays)
        stored = {name.removeprefix(prefix): array for name, array in arrays.items()}
        for name, array in stored.items():
            require_no_nan(name, array)
        params = stored | {name: _untied(stored, name, place) for name, place in ties.items()}
        model = found.from_params(params, ops=ops, classes=classes, **config)
        require_weights(model.named_params(), params)
    return model


def described(name: str, layer: Any) -> dict[str, Any]:
    """What a file has to know of a layer besides its weights, to be made again by `made`."""
    config = layer.config() if hasattr(layer, "config") else {}
    own = list(arrays_of(layer, "params"))
    description = {"class": class_name(layer), "config": config, "params": own}
    try:
        json.dumps(config)
        _maker(type(layer), dict.fromkeys(own), config)
    except TypeError as error:
        raise TypeError(
            f"layer {name}: expected that {type(layer).__name__} can be made again from its "
            f"weights and the keyword arguments, of JSON's kinds, that its method config() "
            f"returns, got {config!r}: {error}"
        ) from error
    return description


def made(
    name: str, description: Any, params: Mapping[str, Array], classes: Classes, ops: Ops | None
) -> Any:
    """The layer that `described` describes, with its share of the weights."""
    where = f"layer {name}: "
    cls = _class(field(description, "class", str, where), {**classes, **LAYERS})
    own = field(description, "params", list, where)
    weights = {key: params[f"{name}.{key}"] for key in own}
    return layer_from(name, cls, weights, field(description, "config", dict, where), ops)


def by_layer(params: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Weights of each layer by their names there, of weights by name: {"affine": {"W": W}}."""
    weights: dict[str, dict[str, Array]] = {}
    for name, W in params.items():
        layer, _, own = name.rpartition(".")
        weights.setdefault(layer, {})[own] = W
    return weights


def layer_from(
    name: str,
    cls: type,
    weights: Mapping[str, Array],
    config: Mapping[str, Any],
    ops: Ops | None,
) -> Any:
    """A layer of a class, made of its weights and what its `config` returned."""
    try:
        layer = _maker(cls, weights, config)()
    except (TypeError, ValueError) as error:
        raise InputError(f"layer {name}, a {cls.__name__}: {error}") from error
    if config:
        require_config(f"layer {name}, a {cls.__name__}: ", layer, config)
    if ops is not None and isinstance(layer, HasOps):
        layer.ops = ops
    return layer


def require_config(where: str, thing: Any, config: Mapping[str, Any]) -> None:
    """Raise InputError unless a layer or a model has the config that it was made of."""
    now = json.loads(json.dumps(thing.config()))  # tuples as lists, as saved
    if config.get("precision") is not None:  # left out of a config where it is the dtype
        now = {"precision": getattr(thing, "precision", None)} | now
    for key, value in config.items():
        became = now.get(key)
        if became != value and json.dumps(became) != json.dumps(value):  # NaN is NaN
            raise InputError(f"{where}{key} cannot be {value!r}, and became {became!r}")


def require_one_precision(layers: Sequence[Any]) -> None:
    """Raise InputError unless the layers of a model round the operands of products alike."""
    if len(found := {layer.precision: None for layer in layers}) > 1:
        raise InputError(f"precision: expected one of all layers, got {' and '.join(found)}")


def require_constructor(model: Any, *args: Any, **options: Any) -> None:
    """Raise TypeError unless a model, which has the config of a base class, could be made as it."""
    try:
        inspect.signature(type(model)).bind(*args, **options)
    except TypeError as error:
        raise TypeError(
            f"{type(model).__name__}: expected a method config of its own, since its constructor "
            f"takes other arguments, got none; see Network.config ({error})"
        ) from error


def require_weights(made: Mapping[str, Array], params: Mapping[str, Array]) -> None:
    """Raise InputError unless a model has the weights that it was to be made of."""
    require_names(made, params)
    for name, W in made.items():
        given = params[name]
        if W is not given and not (W.dtype == given.dtype and np.array_equal(W, given, True)):
            raise InputError(
                f"{name}: expected the array of the file, {given.dtype} {given.shape}, in the "
                f"model that is made of it, got another, {W.dtype} {W.shape}; "
                "its class must take its weights as arguments and keep their values"
            )


def arrays_of(layer: Any, kind: str) -> dict[str, Array]:
    """`params` or `grads` of a layer by name, or by position where it has no names for them."""
    if hasattr(layer, f"named_{kind}"):
        named: dict[str, Array] = getattr(layer, f"named_{kind}")()
        return named
    return {str(k): array for k, array in enumerate(getattr(layer, kind))}


def class_name(thing: Any) -> str:
    """The name of a layer's or model's class, by which it is found again."""
    cls = type(thing)
    own = (LAYERS | MODELS).get(cls.__name__)
    if own not in (None, cls) and cls is not getattr(twins, cls.__name__, None):
        raise TypeError(
            f"{cls.__name__}: expected another name for this class, since rnnfast has a class of "
            "this name, which would be made instead of it; rename it"
        )
    return cls.__name__


def field(meta: Any, name: str, kind: type, where: str = "") -> Any:
    """An entry of the metadata, which must be of a kind."""
    if not isinstance(meta, dict):
        raise InputError(f"{where}expected an object with {name}, got {meta!r}")
    if not isinstance(meta[name], kind):
        raise InputError(f"{where}{name}: expected a {kind.__name__}, got {meta[name]!r}")
    return meta[name]


def _class(name: Any, classes: Classes) -> type:
    if not isinstance(name, str) or name not in classes:
        raise InputError(
            f"the class {name!r} is none of rnnfast's; hand it over, as in "
            f"load(path, classes={{{name!r}: {name}}})"
        )
    return classes[name]


def _maker(cls: Any, weights: Mapping[str, Any], config: Mapping[str, Any]) -> Callable[[], Any]:
    """What makes a layer, its arguments being known to fit: its class of the weights by their
    names, or in order where it has no names, or its `from_params` of a dict of them."""
    make, args, options = cls, [], config
    if hasattr(cls, "from_params"):
        make, args = cls.from_params, [weights]
    elif hasattr(cls, "named_params"):
        options = {**weights, **config}
    else:
        args = [*weights.values()]
    bound = inspect.signature(make).bind(*args, **options)
    return partial(make, *bound.args, **bound.kwargs)


def tied(params: Mapping[Name, Array]) -> dict[Name, dict[str, Any]]:
    """Where a parameter is the memory of one before it, transposed or not: which, and how."""
    places: dict[Any, Name] = {}
    ties = {}
    for name, W in params.items():
        start = W.ctypes.data, W.dtype.str
        for transposed in (False, True):
            like = W.T if transposed else W
            if W.size and (first := places.get((start, like.shape, like.strides))) is not None:
                ties[name] = {"to": first, "transposed": transposed}
                break
        else:
            places[start, W.shape, W.strides] = name
    return ties


def _untied(stored: Mapping[str, Array], name: str, place: Any) -> Array:
    """The array that a tied parameter is."""
    where = f"tied {name}: "
    if name in stored:
        raise InputError(f"{where}expected no array of its own, got one")
    to = field(place, "to", str, where)
    if to not in stored:
        raise InputError(f"{where}expected the name of an array, got {to!r}")
    return stored[to].T if field(place, "transposed", bool, where) else stored[to]
