"""How the compiled modules were built."""

COMPILER: str
BOUNDS_CHECKED: bool
