"""What JAX does: `lax.scan` over the time steps, compiled by `jit`, gradients by `vjp`."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from . import problems

State: TypeAlias = tuple[Any, Any]  # h, c


class Layer:
    arguments: list[Any]
    dhs: Any
    function: Callable[..., Any]

    def __init__(
        self, threads: int, *, cell: str, dtype: str, shape: Sequence[int], way: str
    ) -> None:
        if hasattr(os, "sched_setaffinity"):  # JAX has no option: it takes the CPUs it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        jax.config.update("jax_enable_x64", dtype == "float64")
        xs, weights, dhs = problems.layer(cell, dtype, shape)
        self.arguments = [jnp.asarray(x) for x in (xs, *weights)]
        self.dhs, step = jnp.asarray(dhs), {"rnn": rnn_step, "lstm": lstm_step}[cell]

        def forward(xs: Any, Wx: Any, Wh: Any, b: Any) -> Any:
            zeros = jnp.zeros((xs.shape[0], Wh.shape[0]), xs.dtype)
            projected = jnp.swapaxes(xs @ Wx + b, 0, 1)
            _, hs = jax.lax.scan(lambda s, x: step(s, x, Wh), (zeros, zeros), projected)
            return jnp.swapaxes(hs, 0, 1)

        def both(dhs: Any, *arguments: Any) -> tuple[Any, ...]:
            hs, pull_back = jax.vjp(forward, *arguments)
            return hs, *pull_back(dhs)

        if way == "both":
            self.function, self.arguments = jax.jit(both), [self.dhs, *self.arguments]
        else:
            self.function = jax.jit(lambda *arguments: (forward(*arguments),))

    def run(self) -> Any:
        return jax.block_until_ready(self.function(*self.arguments))

    def results(self) -> list[Any]:
        return list(self.run())


def rnn_step(state: State, x: Any, Wh: Any) -> tuple[State, Any]:
    h, c = state
    h = jnp.tanh(x + h @ Wh)
    return (h, c), h


def lstm_step(state: State, x: Any, Wh: Any) -> tuple[State, Any]:
    h, c = state
    f, g, i, o = jnp.split(x + h @ Wh, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h
