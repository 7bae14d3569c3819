"""What a checkpoint of a run stands for: each part of it made, after it was checked."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from .._checks import as_ids
from .._types import Array, Ids
from ..archive import damage, load_archive, load_meta
from ..errors import InputError
from ..models.language_models import LAYER_OF_CELL, LanguageModel, param_shapes
from ..text.lanes import PADDING
from ..text.vocabulary import Vocabulary
from . import checkpoint
from .fields import require_meta
from .history import History, Record, taken_from
from .run_files import BEST, LAST, no_run
from .settings import BEFORE, Settings

Contents: TypeAlias = tuple[Path, int, dict[str, Array], dict[str, Any]]
"""Of a file: its path, the version of its format, its arrays, and its metadata."""


def read_first(folder: Path, names: Sequence[str]) -> Contents:
    """The contents of the first file of a run folder that is there, of these names."""
    name = next((name for name in names if (folder / name).exists()), None)
    if name is None:
        raise no_run(folder)
    return folder / name, *load_archive(folder / name, "checkpoint")


def require_best(folder: Path) -> None:
    """Raise InputError where a folder has not the weights that validated best, as far as last.npz
    can say so: where best.npz is lost, or another run's."""
    last: dict[str, Any] = {}
    with suppress(InputError):  # then best.npz stands for itself
        last = _meta(folder / LAST)
    if not last:
        return
    run = f"Run.resume({str(folder)!r})"
    if (folder / BEST).exists():  # asked once last.npz, which is written later, has been read
        if _are_of_two(last, _meta(folder / BEST)):
            raise InputError(
                f"{folder / BEST} is of another run than {LAST}; put that of this run back, or "
                f"move {BEST} to a folder of its own, which is enough to use it"
            )
    elif last["position"]["best_loss"] is not None:
        raise InputError(
            f"{folder / BEST} is not there, which had the weights that validated best; put it "
            f"back, or take those of {LAST} in Python: {run}.model"
        )


def _meta(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, checked."""
    version, meta = load_meta(path, "checkpoint")
    with damage(path, "checkpoint"):
        require_meta(version, meta, resumable=path.name == LAST)
    return meta


def _are_of_two(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether metadata is that of two runs, of which one may be by an older version that kept less;
    `Run.resume` may have changed some of the settings."""
    pairs = [(one["settings"], other["settings"]), (one.get("model", {}), other.get("model", {}))]
    return any(one[name] != other[name] for name in ("sha256", "vocabulary")) or any(
        first[name] != second[name]
        for first, second in pairs
        for name in first.keys() & second.keys() - {"epochs", "text"}
    )


@dataclass
class SavedRun:
    """What a run was as it was saved.

    `position` is where its training stood, with all the arrays of `Trainer.state`; it is empty in a
    checkpoint that is only to be used, which has the weights alone, and no history.
    """

    settings: Settings
    vocabulary: Vocabulary
    model: LanguageModel
    rng: np.random.Generator
    sha256: str  # of the text
    text_bytes: int | None  # of its file; None where it is in none, or this was not kept
    context: Ids  # that are read before sampling
    arrays: dict[str, Array]
    position: dict[str, Any]

    @property
    def history(self) -> History:
        """That of its training, which a checkpoint to be used does not have."""
        return taken_from(self.arrays)[0]

    @classmethod
    def from_contents(cls, contents: Contents) -> Self:
        """Raises InputError, with the path, where anything is not as a run would have written it;
        nothing is made before its size was compared with that of the file."""
        path, version, arrays, meta = contents
        with damage(path, "checkpoint"):
            require_meta(version, meta, resumable=path.name == LAST)
            position = meta.get("position", {})
            settings = Settings(**(BEFORE | meta["settings"]))
            vocabulary = Vocabulary(**meta["vocabulary"])
            if settings.layers > len(arrays):
                raise InputError(
                    f"layers: expected one or more with weights, got {settings.layers}"
                )
            shapes = param_shapes(
                LAYER_OF_CELL[settings.cell].cell,
                len(vocabulary),
                settings.embedding,
                settings.hidden,
                settings.layers,
                settings.tie_weights,
            )
            optimizer = settings.new_optimizer()
            if version == 1:
                recurrent = [f"recurrent.{k}" for k in range(settings.layers)]
                arrays = checkpoint.named(arrays, list(shapes), recurrent, optimizer.slots)
                if position:
                    carried = [array for array in arrays if array.startswith("carried/")]
                    position |= {"carried": carried, "random_state": {}}
            if version < 4:
                arrays = arrays | _arrays_in_json(meta, position)
            if "context" not in arrays:
                raise InputError("context: expected an array, got none")
            arrays = dict(arrays)
            context = as_ids("context", arrays.pop("context"), len(vocabulary), ("M",))
            # before there is a model of these sizes, which has these arrays for its weights
            params = checkpoint.params_of(arrays, shapes, settings.dtype)
            config = _config_of_new(settings) | meta.get("model", {})
            model = LanguageModel.from_params(params, **config)
            if model.precision != (settings.precision or settings.dtype):
                raise InputError("settings.precision: expected that of the model, got another")
            ignored = model.affine.ignore_label
            if ignored != PADDING:
                raise InputError(f"model.affine.ignore_label: expected {PADDING}, got {ignored}")
            _require_known_arrays(model, optimizer, arrays, position, settings.batch)
            if position:
                model.set_random_state(position["random_state"])
            rng = np.random.default_rng()
            rng.bit_generator.state = meta["random_state"]
        text_bytes = meta.get("text_bytes")
        return cls(
            settings,
            vocabulary,
            model,
            rng,
            meta["sha256"],
            text_bytes,
            context,
            arrays,
            position,
        )


def meta_of(run: Any) -> dict[str, Any]:
    """The metadata of anything that has the parts of a `SavedRun`, but for its position."""
    settings = asdict(run.settings)
    if settings["precision"] is None:  # as in versions that know of no other
        del settings["precision"]
    return {
        "settings": settings,
        "vocabulary": {"tokens": run.vocabulary.tokens, "level": run.vocabulary.level},
        "sha256": run.sha256,
        "text_bytes": run.text_bytes,
        "model": run.model.config(),
        "random_state": run.rng.bit_generator.state,
    }


def _config_of_new(settings: Settings) -> dict[str, Any]:
    """What `config` of a new model returns, whose weights need not be made for that."""
    small = {"hidden": 1, "embedding": 1, "layers": 1}
    config = LanguageModel(1, rng=0, **(settings.of_model | small)).config()
    config["recurrent"] *= settings.layers
    config["dropout"] = config["dropout"][:1] * (settings.layers + 1)
    return config


def _arrays_in_json(meta: Mapping[str, Any], position: dict[str, Any]) -> dict[str, Array]:
    """What was JSON before version 4; the history is taken out of the position."""
    arrays = {"context": np.array(meta["context"], np.int64)}
    if position:
        history = History.of(Record(**line) for line in position.pop("history"))
        arrays["history"] = history.rows
    return arrays


def _require_known_arrays(
    model: LanguageModel,
    optimizer: Any,
    arrays: dict[str, Array],
    position: Mapping[str, Any],
    rows: int,
) -> None:
    """Raise InputError unless a checkpoint has the arrays that `Trainer.state` returns, or, without
    a position, the parameters alone."""
    if not position:
        steps, carried, earlier = 0, [], 0
    else:
        _, arrays = taken_from(arrays)
        arrays, _ = checkpoint.taken_out(("average", "best"), arrays, model)
        steps, carried = position["optimizer_steps"], position["carried"]
        earlier = position.get("earlier", 0)
    checkpoint.require_state(
        model, optimizer, arrays, steps=steps, carried=carried, earlier=earlier, rows=rows
    )
