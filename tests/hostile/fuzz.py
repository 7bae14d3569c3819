"""Feed every reader with bytes that are made up: nothing but an InputError may come out.

    python tests/hostile/fuzz.py [TARGET ...] [--seconds N] [--seed N]
    python tests/hostile/fuzz.py --atheris TARGET [options of libFuzzer]

The first changes valid inputs at random, for N seconds with each target; the second lets atheris
(`pip install atheris`) look for inputs that reach new lines. Both stop at the first that is wrong,
and show it.
"""

import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from hostile import foreign, make

SECONDS = 20  # after which an input counts as one that hangs
INTERESTING = [
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, 10**400, "", "a"),
    *([], {}, [[]], [0], "lstm", "word", float("nan"), float("inf"), "\ud800", "é" * 99, "../x"),
]
COMMANDS = ["train", "eval", "sample", "score", "doctor", "info"]
NUMBERS = ["0", "1", "-1", "1e400", "nan", "inf", "9" * 30, "1.5", "", "0x1", "1_0", " 2", "٣"]
WORDS = [
    *COMMANDS,
    *("run", "text.txt", "missing", "--out", "--resume"),
    *("--text", "--level", "--cell", "--hidden", "--layers", "--dropout", "--lr", "--schedule"),
    *("--window", "--patience", "--seed", "--temperature", "--top-k", "--top-p", "--stop"),
    *("--prime", "--tokens", "--help", "--version", "--", "-", "--length=3", "--samples=2", "word"),
    *("rnn", "gru", "adam", "--optimizer", "\0", "\udcff", "é", "--unknown", "--samples"),
]


class Wrong(Exception):
    """A reader did something else than to take its input or to raise an InputError."""


class Fuzz:
    """The targets, in a folder with valid files; each takes bytes."""

    def __init__(self, folder):
        import rnnfast  # here: atheris has a look at what is imported within its context
        from rnnfast.cli.commands import main
        from rnnfast.exchange import files
        from rnnfast.textbook.base_model import BaseModel
        from rnnfast.training.examination import examine

        self.examine = examine
        self.rnnfast, self.main, self.exchange = rnnfast, main, files
        self.folder = Path(folder)
        self.valid = make.valid_files(folder)
        Regressor = rnnfast.SequenceRegressor
        layers = [rnnfast.TimeEmbedding(np.ones((7, 2), "f4")), rnnfast.TimeDropout(0.5)]
        others = {
            "network": rnnfast.Network(layers, rnnfast.TimeSoftmaxWithLoss()),
            "language": rnnfast.LanguageModel(7, embedding=3, hidden=3, layers=2, dropout=0.1),
            "seq2seq": rnnfast.AttentionSeq2seq(7, 3, 4, rng=0),
            "char": rnnfast.CharRnn.seeded(7, 4),
            "regressor": Regressor(hidden_size=3, epochs=1).fit(np.ones((2, 3, 2)), np.ones(2)),
        }
        for kind, model in others.items():
            model.save(self.folder / kind)
            self.valid[kind] = make.Valid("model", (self.folder / kind).read_bytes())
        self.model = BaseModel()
        self.model.params = [np.zeros((3, 4), "f4"), np.zeros(5, "f4")]
        self.scratch = self.folder / "fuzz"
        (self.scratch / "run").mkdir(parents=True)
        os.chdir(self.folder)

    def read(self, kind, data):
        """What is taken is used too."""
        path = self.scratch / {"checkpoint": "run/last.npz", "model": "model.npz"}.get(kind, "a")
        path.write_bytes(data)
        if kind == "checkpoint":
            self.read_run(path.parent)
            return
        rnnfast = self.rnnfast
        with contextlib.suppress(rnnfast.InputError):
            if kind == "parameters":
                self.model.load_params(path)
            elif kind == "regressor":
                model = rnnfast.SequenceRegressor.load(path)
                model.predict(np.ones((1, 2, 2)))
                model.save(path)
            else:
                model = rnnfast.Network.load(path)
                with contextlib.suppress(TypeError):  # another input than one of ids
                    model.predict([[0, 1]])
                model.save(path)

    def read_run(self, folder):
        """What `rnnfast doctor` says that works does."""
        rnnfast = self.rnnfast
        shutil.copy(self.folder / "run/history.csv", folder)  # the input before may have trained
        (folder / "best.npz").unlink(missing_ok=True)
        works = "; ".join(finding.command for finding in self.examine(folder))
        try:
            rnnfast.Run.load(folder).sample(3)
        except rnnfast.InputError as error:
            if "rnnfast sample" in works:
                raise Wrong("doctor says that sampling works") from error
        try:
            rnnfast.Run.resume(folder, text="text.txt", verbose=False).fit(
                verbose=False, stop=lambda: True
            )
        except (rnnfast.TrainingInterrupted, rnnfast.TrainingDiverged):
            return
        except rnnfast.InputError as error:
            if "rnnfast train --resume" in works:
                raise Wrong("doctor says that training goes on") from error

    def read_foreign(self, kind, data):
        """What is taken makes a network that is the same when it is saved and loaded."""
        path = self.scratch / f"a{foreign.FILES[kind].ending}"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():  # PyTorch's, of pickles
                warnings.simplefilter("ignore", UserWarning)
                layers = self.exchange.layers_of(path, foreign.KINDS)
            network, copy = self.exchange.network_of(layers), self.scratch / "model.npz"
            network.save(copy)
            loaded = self.rnnfast.Network.load(copy)
            for W, own in zip(network.params, loaded.params, strict=True):
                np.testing.assert_array_equal(W, own)
        except self.rnnfast.InputError as error:
            if path.name not in str(error):
                raise Wrong(f"an error without the name of the file: {error}") from error

    def file(self, kind):
        """A valid file. Those of other programs are made when they are asked for."""
        if kind not in self.valid:
            self.valid[kind] = foreign.FILES[kind](self.folder)
        return self.valid[kind]

    # targets

    def give(self, target, data):
        kind, _, part = target.rpartition("_")
        if not kind:
            getattr(self, target)(data)
            return
        if part != "bytes":
            data = getattr(self.file(kind), f"with_{part}")(data)
        (self.read_foreign if kind in foreign.FILES else self.read)(kind, data)

    def pickle(self, data):
        self.read("parameters", data)

    def vocabulary(self, data):
        """A text, and the tokens that it has."""
        path = self.scratch / "text.txt"
        path.write_bytes(data)
        for level in ("char", "word"):
            with contextlib.suppress(self.rnnfast.InputError):
                vocabulary = self.rnnfast.Vocabulary.from_file(path, level, max_size=5)
                ids = vocabulary.encode_file(path)
                text = self.rnnfast.load_text(path)
                if not np.array_equal(ids, vocabulary.encode(text)):
                    raise Wrong("the ids of a file are not those of its text")
                if level == "char" and vocabulary.decode(ids) != text:
                    raise Wrong("the text of ids is another")

    def arguments(self, data):
        """Words of a command line; none trains, for the text has too few characters."""
        words = data.decode("utf-8", "surrogateescape").split("\n")
        (self.scratch / "text.txt").write_text("abc")
        os.chdir(self.scratch)
        (self.scratch / "run" / "last.npz").write_bytes(self.valid["checkpoint"].data)
        if words[:1] == ["train"] and "--text" not in words:
            words += ["--text", "text.txt"]
        if words[:1] not in [[name] for name in COMMANDS]:
            words.insert(0, "-q")  # a usage error, unless it is only about help
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = self.main(words)
            if code not in (0, 1) or (code == 1 and not err.getvalue().startswith("rnnfast: ")):
                raise Wrong(f"{code}: {err.getvalue()}")
        except SystemExit as stop:
            if stop.code not in (0, 2):
                raise Wrong(f"exit code {stop.code}") from None
        finally:
            os.chdir(self.folder)

    def seeds(self, target):
        kind, _, part = target.rpartition("_")
        if part == "bytes":
            return [self.file(kind).data]
        if part == "meta":
            return [json.dumps(self.file(kind).meta).encode()]
        if part == "array":
            return [self.file(kind).members[self.file(kind).first]]
        if part == "drawn":
            return [bytes(8)]
        if kind and part == "pickle":
            return [self.file(kind).pickle]
        if target == "pickle":
            import pickle

            arrays = [np.zeros((3, 4), "f2"), np.arange(5, dtype="f8"), 1.5]
            return [pickle.dumps(arrays, k) for k in range(pickle.HIGHEST_PROTOCOL + 1)]
        if target == "vocabulary":
            return ["the cat\r\nsaw é \U0001f600 <unk> <eos>\n".encode(), b"\xef\xbb\xbfab", b"a"]
        return [
            b"eval\nrun",
            b"sample\nrun\n--length=3",
            b"score\nrun\ntext.txt",
            b"train",
            b"doctor\nrun",
        ]


OWN = [
    *("checkpoint_bytes", "model_bytes", "parameters_bytes", "checkpoint_meta", "model_meta"),
    *("checkpoint_array", "model_array", "pickle", "vocabulary", "arguments", "network_meta"),
    *("language_meta", "seq2seq_meta", "char_meta", "regressor_meta", "regressor_array"),
]
FOREIGN = [
    *("torch_bytes", "torch_pickle", "safetensors_bytes", "safetensors_meta", "onnx_bytes"),
    *("onnx_drawn", "keras_bytes", "keras_meta", "keras_drawn", "hdf5_bytes", "hdf5_drawn"),
]
TARGETS = OWN + FOREIGN


def changed(rng, data, target):
    """Valid bytes with some changes."""
    if target.endswith("_drawn"):
        return rng.randbytes(8)
    if target.endswith("_meta") and rng.random() < 0.9:
        return json.dumps(changed_json(rng, json.loads(data))).encode()
    if target == "arguments":
        words = data.split(b"\n")
        for _ in range(rng.randint(1, 4)):
            word = rng.choice(WORDS + NUMBERS).encode("utf-8", "surrogateescape")
            words.insert(rng.randint(0 if rng.random() < 0.1 else 1, len(words)), word)
        return b"\n".join(words)
    data = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        where = rng.randrange(len(data) + 1)
        size = rng.choice([1, 1, 2, 4, 8, rng.randrange(100)])
        what = rng.randrange(5)
        if what == 0 and where < len(data):
            data[where] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[where : where + size] = rng.randbytes(size)
        elif what == 2:
            del data[where : where + size]
        elif what == 3:
            data[where:where] = data[(other := rng.randrange(len(data) + 1)) : other + size]
        else:
            ends = (b"\0", b"\xff", b"\x7f", b"-1", b"9999999999", b"(", b"]", b"PK\5\6", b"PK\1\2")
            data[where : where + rng.randrange(2)] = rng.choice(ends) * rng.choice([1, 1, 4, 1000])
    return bytes(data)


def changed_json(rng, meta):
    """An object with a few other values, missing or new names."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place, key = {"": meta}, ""
        while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
            place = place[key]
            key = rng.choice([*place]) if isinstance(place, dict) else rng.randrange(len(place))
        what = rng.randrange(6)
        if what == 0:
            del place[key]
        elif what == 1 and isinstance(place, dict):
            value = json.loads(json.dumps(rng.choice(INTERESTING)))
            place[rng.choice(["x", "cell", "W", "class"])] = value
        elif what == 2 and isinstance(place, list):
            place.insert(key, json.loads(json.dumps(rng.choice([*place, *INTERESTING]))))
        elif what == 3 and isinstance(place[key], int):
            place[key] += rng.choice([-1, 1, 2**31, 2**63])
        elif what == 4 and isinstance(place[key], str):
            place[key] += rng.choice(["x", "\0", "\u0301", " "])
        else:
            place[key] = json.loads(json.dumps(rng.choice(INTERESTING)))
        if not isinstance(meta, dict):
            return meta
    return meta


def attempt(fuzz, target, data):
    """One input; raises Wrong, with the input, for what should not happen."""

    def hangs(*_):
        raise TimeoutError(f"has not ended after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        fuzz.give(target, data)
    except Exception as error:
        raise Wrong(f"{target}: {error!r:.500} of {data!r:.3000}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(fuzz, target, seed, *, count=None, seconds=None):
    """How many inputs a target was given, `count` or as many as the seconds allow."""
    rng, end, done = random.Random(f"{target} {seed}"), time.monotonic() + (seconds or 0), 0
    seeds = fuzz.seeds(target)
    while done < count if count is not None else time.monotonic() < end:
        attempt(fuzz, target, changed(rng, rng.choice(seeds), target))
        done += 1
    return done


def main(words):
    import argparse

    if "--atheris" in words:
        return with_atheris(words[words.index("--atheris") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(folder)
        for target in options.targets or TARGETS:
            done = run(fuzz, target, options.seed, seconds=options.seconds)
            print(f"{target}: {done:,} inputs, nothing wrong", flush=True)
        os.chdir("/")
    return 0


def with_atheris(words):
    import atheris

    target, *options = words
    with atheris.instrument_imports(include=["rnnfast", "pickletools", "argparse"]):
        for name in ("cli.commands", "training.runs", "textbook.base_model", "exchange.files"):
            importlib.import_module(f"rnnfast.{name}")
    corpus = tempfile.mkdtemp()
    fuzz = Fuzz(tempfile.mkdtemp())
    for k, data in enumerate(fuzz.seeds(target)):
        Path(corpus, str(k)).write_bytes(data)
    atheris.Setup([target, corpus, "-rss_limit_mb=1000", f"-timeout={SECONDS}", *options],
                  lambda data: attempt_once(fuzz, target, data))  # fmt: skip
    atheris.Fuzz()
    return 0


def attempt_once(fuzz, target, data):
    with contextlib.suppress(SystemExit):
        fuzz.give(target, data)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
