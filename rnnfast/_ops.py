"""Where layers and losses take their arithmetic from, in copies and pickles."""

import importlib
from types import ModuleType
from typing import Any, TypeAlias

from . import kernels

Ops: TypeAlias = Any
"""A module with the functions of `rnnfast.reference.ops`, or an object that has them."""
KEPT = {"_kept", "_memory", "_left", "_good", "_filled"}
"""What belongs to one object and its ops: it is made again where it is None."""


class HasOps:
    """Has an attribute `ops`; setting it drops what the ops before kept for backward.

    A module cannot be copied or pickled, so its name stands for it. What the kernels keep for
    backward is not copied: a copy needs a forward of its own.
    """

    default_ops: Ops = kernels
    _ops: Ops

    def __init__(self, ops: Ops | None = None) -> None:
        self.ops = self.default_ops if ops is None else ops

    @property
    def ops(self) -> Ops:
        """The module that the arithmetic is taken from."""
        return self._ops

    @ops.setter
    def ops(self, ops: Ops) -> None:
        self.__dict__ |= self._nothing_kept() | {"_ops": ops}

    def __getstate__(self) -> dict[str, Any]:
        named = {"_ops": self.ops.__name__} if isinstance(self.ops, ModuleType) else {}
        return self.__dict__ | named | self._nothing_kept()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._ops, str):
            self._ops = importlib.import_module(self._ops)

    def _nothing_kept(self) -> dict[str, None]:
        return dict.fromkeys(self.__dict__.keys() & KEPT)
