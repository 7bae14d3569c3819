"""Layers that go to other libraries and come from there, and what judges them."""

import os

import numpy as np
import pytest

import rnnfast

KINDS = {
    "rnn": ("rnn", {}), "relu": ("rnn", {"activation": "relu"}), "lstm": ("lstm", {}),
    "gru": ("gru", {}), "gru after": ("gru", {"reset_after": True}),
}  # fmt: skip
D, H, V = 3, 5, 11


def library(name):
    """A library that is optional; the tests that need it say so where it is not there."""
    if name == "keras":
        os.environ.setdefault("KERAS_BACKEND", "torch")
        pytest.importorskip("torch", reason="Keras computes with PyTorch here")
    return pytest.importorskip(name, reason=f"{name} judges, and is not installed")


def stack(kind, layers=1, both=False, dtype="f4", **options):
    cell, own = KINDS[kind]
    made = rnnfast.TimeStack(
        cell, D, H, layers, bidirectional=both, rng=0, dtype=dtype, **own, **options
    )
    return made


def block(dtype="f4"):
    return np.random.default_rng(1).standard_normal((2, 7, D)).astype(dtype)


def require_same_weights(one, other):
    assert len(one.params) == len(other.params)
    for W, expected in zip(one.params, other.params, strict=True):
        np.testing.assert_array_equal(W, expected, strict=True)


def close(found, expected, dtype="f4"):
    tolerance = 2e-6 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


every_kind = pytest.mark.parametrize("kind", KINDS)
sizes = pytest.mark.parametrize(
    ("layers", "both"), [(1, False), (1, True), (3, False), (2, True)],
    ids=["one", "both ways", "three", "two both ways"],
)  # fmt: skip
dtypes = pytest.mark.parametrize("dtype", ["f4", "f8"])
