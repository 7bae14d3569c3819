"""Where layers and losses take their arithmetic from, in copies and pickles."""

import importlib
from types import ModuleType

KEPT = {"_cache", "_loss_cache", "_loss_shape"}


class HasOps:
    """Has an attribute `ops`; setting it drops what the ops before kept for backward.

    A module cannot be copied or pickled, so its name stands for it. What the kernels keep for
    backward is not copied: a copy needs a forward of its own.
    """

    @property
    def ops(self):
        """The module that the arithmetic is taken from."""
        return self._ops

    @ops.setter
    def ops(self, ops):
        self.__dict__ |= dict.fromkeys(self.__dict__.keys() & KEPT) | {"_ops": ops}

    def __getstate__(self):
        named = {"_ops": self.ops.__name__} if isinstance(self.ops, ModuleType) else {}
        kept = dict.fromkeys(self.__dict__.keys() & KEPT)
        return self.__dict__ | named | kept

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self._ops, str):
            self._ops = importlib.import_module(self._ops)
