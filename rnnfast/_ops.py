"""Where layers and losses take their arithmetic from, in copies and pickles."""

import importlib
from types import ModuleType


class HasOps:
    """Has an attribute `ops`. A module cannot be copied or pickled, so its name stands for it.

    What the kernels keep for backward is not copied: a copy needs a forward of its own.
    """

    def __getstate__(self):
        named = {"ops": self.ops.__name__} if isinstance(self.ops, ModuleType) else {}
        kept = dict.fromkeys(self.__dict__.keys() & {"_cache", "_loss_cache", "_loss_shape"})
        return self.__dict__ | named | kept

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.ops, str):
            self.ops = importlib.import_module(self.ops)
