"""What the JSON of a checkpoint has: every field of it, checked before anything is made of it."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from .._checks import is_number
from ..archive import require_names
from ..errors import InputError
from ..text.vocabulary import LEVELS
from .settings import Settings

Check: TypeAlias = Callable[[str, Any], object]
"""Called with the name of a field and its value; raises InputError where that is none."""

FIRST_SETTINGS = (  # that there were in version 1
    *("text", "level", "cell", "hidden", "embedding", "layers"),
    *("batch", "time", "epochs", "lr", "optimizer", "seed"),
)
LATER_SETTINGS = ("precision",)  # which are left out where they are None
PATH_MOST = 4096  # characters
WHOLE_MOST = 2**63 - 1
TAKEN_MOST = 2**53  # steps or tokens that a training may have behind it: more can be counted


def require_meta(version: int, meta: Any, *, resumable: bool) -> None:
    """Raise InputError, with the name of the field, unless a checkpoint has all that is resumed or
    loaded from, and nothing else. `resumable` is whether it has a position."""
    optional: set[str] = set()
    checks, of_position = META, POSITION | {"random_state": of_any_name(GENERATOR)}
    if version < 4:  # since then these are arrays
        checks = checks | {"context": each(whole)}
        of_position = of_position | {"history": each(having(RECORD))}
    if resumable:
        checks = checks | {"position": having(of_position, LATER.get(version, ()))}
    if version < 3:
        checks = checks | {"settings": having(SETTINGS, SETTINGS.keys() - FIRST_SETTINGS)}
        optional = {"text_bytes", "model"}
    having(checks, optional)("", meta)
    _require_tokens(**meta["vocabulary"])
    if version > 2 and (meta["text_bytes"] is None) != (meta["settings"]["text"] is None):
        raise InputError("text_bytes: expected the size of a text that has a path, and of no other")
    if meta["vocabulary"]["level"] != meta["settings"]["level"]:
        raise InputError("vocabulary.level: expected that of the settings, got another")


def _require_tokens(tokens: list[str], level: str) -> None:
    """Raise InputError unless a text can have these tokens."""
    for k, token in enumerate(tokens):
        if len(token) != 1 if level == "char" else token.split() != [token]:
            raise InputError(f"vocabulary.tokens[{k}]: expected a {level}, got {_short(token)}")
        if not token.isprintable():  # a half of a surrogate pair is none, as others
            token.encode()


def require_position(position: Any) -> None:
    """Raise InputError, with the name of the field, unless `Trainer.restore` can take it."""
    having(POSITION, NEWER)("", position)
    counts = {name: position.get(name, 0) for name in COUNTS} | {"record[1]": position["record"][1]}
    for name, value in counts.items():
        if value > TAKEN_MOST:
            raise InputError(f"{name}: expected at most 2^53 to carry on from, got {value}")


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    whole: bool = False,
    finite: bool = True,
) -> Any:
    """A number of a checkpoint, as it is."""
    good = is_number(value) and (isinstance(value, int) or not whole)
    if isinstance(value, int):
        good = good and abs(value) <= WHOLE_MOST
    if not good or value < least or (finite and not math.isfinite(value)):
        kind = "whole " if whole else "finite " if finite else ""
        above = "" if math.isinf(least) else f" of at least {least}"
        most = ", below 2^63" if isinstance(value, int) else ""
        raise InputError(f"{name}: expected a {kind}number{above}{most}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    """What a value is, which may be large."""
    return f"{value!r:.60}" if isinstance(value, (str, int, float)) else type(value).__name__


def real(*, least: float = -math.inf, finite: bool = True) -> Check:
    return lambda name, value: number(name, value, least=least, finite=finite)


def whole(name: str, value: Any) -> None:
    number(name, value, least=0, whole=True)


def below(most: int) -> Check:
    """A whole number from 0 on, below a power of two; it may be larger than `number` takes."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < most:
            end = f"2^{most.bit_length() - 1}"
            raise InputError(
                f"{name}: expected a whole number from 0 on, below {end}, got {_short(value)}"
            )

    return check


def text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a text, got {_short(value)}")


def path(name: str, value: Any) -> None:
    text(name, value)
    if len(value) > PATH_MOST or any(unicodedata.category(mark) == "Cc" for mark in value):
        raise InputError(f"{name}: expected a path, got {_short(value)}")


def like(pattern: str) -> Check:
    """A text that a regular expression fits."""

    def check(name: str, value: Any) -> None:
        text(name, value)
        if not re.fullmatch(pattern, value):
            raise InputError(f"{name}: expected a text like {pattern}, got {_short(value)}")

    return check


def maybe(check: Check) -> Check:
    """None, or what another check lets through."""
    return lambda name, value: None if value is None else check(name, value)


def each(check: Check) -> Check:
    """A list of any number of things."""

    def of_list(name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise InputError(f"{name}: expected a list, got {_short(value)}")
        for k, item in enumerate(value):
            check(f"{name}[{k}]", item)

    return of_list


def of_each(*checks: Check) -> Check:
    """A list of as many things as there are checks."""

    def of_list(name: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) != len(checks):
            raise InputError(f"{name}: expected a list of {len(checks)}, got {_short(value)}")
        for k, check in enumerate(checks):
            check(f"{name}[{k}]", value[k])

    return of_list


def anything(name: str, value: Any) -> None:
    pass


def mapping(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{name}: expected an object, got {_short(value)}")


def having(checks: Mapping[str, Check], optional: Iterable[str] = ()) -> Check:
    """An object with these fields and no others."""
    optional = frozenset(optional)

    def check(name: str, value: Any) -> None:
        mapping(name or "the metadata", value)
        there = [key for key in checks if key not in optional or key in value]
        try:
            require_names(there, value)
        except InputError as error:
            raise InputError(f"{name}: {error}" if name else str(error)) from None
        for key in there:
            checks[key](f"{name}.{key}" if name else key, value[key])

    return check


def of_any_name(check: Check) -> Check:
    """An object of things of one kind."""

    def of_each_name(name: str, value: Any) -> None:
        mapping(name, value)
        for key in value:
            check(f"{name}.{key:.60}", value[key])

    return of_each_name


GENERATOR = having(
    {
        "bit_generator": like("PCG64"),
        "state": having({"state": below(2**128), "inc": below(2**128)}),
        "has_uint32": below(2),
        "uinteger": below(2**32),
    }
)
SETTINGS: dict[str, Check] = {
    **{field.name: anything for field in fields(Settings)},  # which look at the values
    "lr": real(least=0),
    "text": maybe(path),
}
META: dict[str, Check] = {
    "settings": having(SETTINGS, LATER_SETTINGS),
    "vocabulary": having({"tokens": each(text), "level": like("|".join(LEVELS))}),
    "sha256": like("[0-9a-f]{64}"),
    "text_bytes": maybe(whole),
    "model": mapping,
    "random_state": GENERATOR,
}
RECORD: dict[str, Check] = {
    "epoch": real(least=0),
    "step": whole,
    "lr": real(least=0),
    "train_loss": real(finite=False),
    "valid_loss": maybe(real(finite=False)),
    "valid_perplexity": maybe(real(finite=False)),
    "valid_bits_per_token": maybe(real(finite=False)),
    "tokens_per_second": real(least=0),
}
COUNTS = ("epoch", "block", "step", "optimizer_steps", "earlier")
POSITION: dict[str, Check] = {
    **dict.fromkeys(COUNTS, whole),
    **dict.fromkeys(("lr", "peak_lr"), real(least=0)),
    "best_loss": maybe(real()),
    "record": of_each(real(), real(least=0), real(least=0)),
    "carried": each(text),
    "random_state": mapping,
}
NEWER = {"earlier", "peak_lr"}
LATER = {1: {"carried", "random_state", *NEWER}, 2: NEWER}
"""Fields of a position that an earlier version did not have."""
