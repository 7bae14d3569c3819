"""Where layers and losses take their arithmetic from, in copies and pickles."""

import importlib
from types import ModuleType


class HasOps:
    """Has an attribute `ops`. A module cannot be copied or pickled, so its name stands for it."""

    def __getstate__(self):
        named = {"ops": self.ops.__name__} if isinstance(self.ops, ModuleType) else {}
        return self.__dict__ | named

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.ops, str):
            self.ops = importlib.import_module(self.ops)
