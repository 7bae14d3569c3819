"""Softmax with cross entropy, from the logits: no logarithm of a rounded-off probability."""

import numpy as np

from libc.math cimport log
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from .engine cimport Simd, moved, part, real, run, simd_of, threads_for

cdef enum:
    COST = 60                     # a logit costs as much as so many flops


ctypedef struct Rows:
    const Simd* simd
    Py_ssize_t M, V
    const void* given             # (M, V)
    void* out                     # (M, V)
    const int64_t* targets        # (M)
    int64_t ignore_label
    double* losses                # (M): of forward
    double factor                 # of backward


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
    cdef Py_ssize_t M = logits.shape[0], V = logits.shape[1]
    cdef Rows rows = Rows(simd_of(&logits[0, 0]), M, V, &logits[0, 0], &probs[0, 0], &targets[0],
                          ignore_label, &losses[0], 0)
    with nogil:
        run(_forward_task, &rows, threads_for(COST * M * V))


cdef void _forward_task(const void* call, int thread, int threads) noexcept nogil:
    cdef const Rows* s = <const Rows*> call
    cdef Py_ssize_t m, V = s.V
    cdef const void* logits
    cdef void* probs
    cdef double top, total
    for m in range(part(s.M, 1, thread, threads), part(s.M, 1, thread + 1, threads)):
        logits, probs = moved(s.simd, s.given, m * V), moved(s.simd, s.out, m * V)
        top = s.simd.largest(V, logits)
        memcpy(probs, logits, V * s.simd.number)
        total = s.simd.exp_shifted(V, top, probs)
        s.simd.scale(V, 1 / total, probs)
        s.losses[m] = 0
        if s.targets[m] != s.ignore_label:
            s.losses[m] = log(total) + (top - s.simd.value(moved(s.simd, logits, s.targets[m])))


def _backward_rows(
    const real[:, ::1] probs,     # IN (M, V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    double factor,
    real[:, ::1] dlogits,         # OUT (M, V)
):
    """dx_mv = factor (p_mv - [v = target_m]), and 0 in rows that are ignored"""
    cdef Rows rows = Rows(simd_of(&probs[0, 0]), probs.shape[0], probs.shape[1], &probs[0, 0],
                          &dlogits[0, 0], &targets[0], ignore_label, NULL, factor)
    with nogil:
        run(_backward_task, &rows, 1)


cdef void _backward_task(const void* call, int thread, int threads) noexcept nogil:
    cdef const Rows* s = <const Rows*> call
    cdef Py_ssize_t m, size = s.V * s.simd.number
    cdef void *row
    cdef void *target
    for m in range(s.M):
        row = moved(s.simd, s.out, m * s.V)
        if s.targets[m] == s.ignore_label:
            memset(row, 0, size)
        else:
            memcpy(row, moved(s.simd, s.given, m * s.V), size)
            target = moved(s.simd, row, s.targets[m])
            s.simd.fill(1, s.simd.value(target) - 1, target)
            s.simd.scale(s.V, s.factor, row)
