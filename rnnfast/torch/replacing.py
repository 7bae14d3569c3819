"""Modules of a model, turned into ours in place, and back."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from .modules import TORCH_NN, Recurrent


def accelerate(model: Any) -> Any:
    """Turn every `nn.RNN`, `nn.LSTM` and `nn.GRU` in a model into ours, in place.

    Modules stay the objects that they are, with the very parameters, hooks and buffers; only their
    class is another one. So optimizers, state dicts and shared modules go on as before.

    Parameters
    ----------
    model : torch.nn.Module
        Or such a module itself.

    Returns
    -------
    The model.

    Warns
    -----
    UserWarning
        Of recurrent modules that were left as they are, by their names, and why: those of a
        subclass, which may have a forward of its own (modules whose weights are parametrized have
        such a class too: register parametrizations afterwards), and those in which somebody has
        replaced forward.

    Raises
    ------
    TypeError
        For anything but a module.
    """
    return turned(model, {theirs: ours for ours, theirs in TORCH_NN.items()}, "accelerate")


def restore(model: Any) -> Any:
    """Undo `accelerate`: every `RNN`, `LSTM` and `GRU` of ours becomes torch.nn's, in place.

    Arguments, result, warnings and errors are those of `accelerate`.
    """
    return turned(model, TORCH_NN, "restore")


def turned(model: Any, classes: Mapping[Any, Any], name: str) -> Any:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    recurrent, skipped = tuple(TORCH_NN.values()), []
    for path, module in list(model.named_modules()):
        kind = type(module)
        if kind in classes and "forward" not in module.__dict__:
            module.__class__ = classes[kind]
            module.__dict__.pop("_rnnfast", None)
        elif isinstance(module, recurrent) and isinstance(module, Recurrent) == (name == "restore"):
            reason = f"is of class {kind.__name__}" if kind not in classes else "has a forward set"
            skipped.append(f"{path or 'the model'} {reason}")
    if skipped:
        warnings.warn(f"{name}: left as they are: {'; '.join(skipped)}", stacklevel=3)
    return model
