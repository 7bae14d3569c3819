"""Softmax with cross entropy, from the logits: no logarithm of a rounded-off probability."""

import numpy as np

from cython.parallel cimport prange
from libc.math cimport log
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport Simd, real, simd_of, threads_for

cdef enum:
    COST = 60                     # a logit costs as much as so many flops


def softmax_loss_forward(logits, targets, ignore_label):
    """Sum of losses. See `rnnfast.reference.ops.softmax_loss_forward` for the contract."""
    probs, losses = np.empty_like(logits), np.empty(len(logits))
    _forward_rows(logits, targets, ignore_label, probs, losses)
    return float(losses.sum()), int(np.count_nonzero(targets != ignore_label)), probs


def softmax_loss_backward(probs, targets, ignore_label, scale):
    """Gradient of logits. See `rnnfast.reference.ops.softmax_loss_backward` for the contract."""
    dlogits = np.empty_like(probs)
    _backward_rows(probs, targets, ignore_label, scale, dlogits)
    return dlogits


def _forward_rows(
    const real[:, ::1] logits,    # IN (M, V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    real[:, ::1] probs,           # OUT (M, V)
    double[::1] losses,           # OUT (M)
):
    """p_mv = e^(x_mv - max_m) / sum_v;  loss_m = max_m + log(sum_v) - x_m,target"""
    cdef Py_ssize_t M = logits.shape[0], V = logits.shape[1], m
    cdef int threads = threads_for(COST * M * V)
    for m in prange(M, nogil=True, num_threads=threads, schedule="static"):
        losses[m] = _row(V, &logits[m, 0], targets[m], ignore_label, &probs[m, 0])


cdef double _row(
    Py_ssize_t V, const real* logits, int64_t target, int64_t ignore_label, real* probs,
) noexcept nogil:
    cdef const Simd* simd = simd_of(logits)
    cdef double top = simd.largest(V, logits), total
    memcpy(probs, logits, V * sizeof(real))
    total = simd.exp_shifted(V, top, probs)
    simd.scale(V, 1 / total, probs)
    if target == ignore_label:
        return 0
    return log(total) + (top - <double> logits[target])


def _backward_rows(
    const real[:, ::1] probs,     # IN (M, V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    double factor,
    real[:, ::1] dlogits,         # OUT (M, V)
):
    """dx_mv = factor (p_mv - [v = target_m]), and 0 in rows that are ignored"""
    cdef Py_ssize_t M = probs.shape[0], V = probs.shape[1], m
    with nogil:
        for m in range(M):
            if targets[m] == ignore_label:
                memset(&dlogits[m, 0], 0, V * sizeof(real))
            else:
                memcpy(&dlogits[m, 0], &probs[m, 0], V * sizeof(real))
                dlogits[m, targets[m]] -= 1
                simd_of(&dlogits[m, 0]).scale(V, factor, &dlogits[m, 0])
