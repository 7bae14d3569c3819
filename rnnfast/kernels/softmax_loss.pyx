"""Softmax with cross entropy, from the logits: no logarithm of a rounded-off probability."""

import numpy as np

from libc.math cimport log
from libc.stdint cimport int64_t

from ._scalar cimport exp_of, real


def softmax_loss_forward(logits, targets, ignore_label):
    """Sum of losses. See `rnnfast.reference.ops.softmax_loss_forward` for the contract."""
    probs = np.empty_like(logits)
    return (*_forward_rows(logits, targets, ignore_label, probs), probs)


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
):
    """p_mv = e^(x_mv - max_m) / sum_v;  loss_m = max_m + log(sum_v) - x_m,target"""
    cdef Py_ssize_t M = logits.shape[0], V = logits.shape[1]
    cdef Py_ssize_t m, v, count = 0
    cdef double loss = 0, total
    cdef real top, scale
    with nogil:
        for m in range(M):
            top = logits[m, 0]
            for v in range(1, V):
                if logits[m, v] > top:
                    top = logits[m, v]
            total = 0
            for v in range(V):
                probs[m, v] = exp_of(logits[m, v] - top)
                total += probs[m, v]
            scale = <real> (1 / total)
            for v in range(V):
                probs[m, v] *= scale
            if targets[m] != ignore_label:
                loss += log(total) + (<double> top - <double> logits[m, targets[m]])
                count += 1
    return loss, count


def _backward_rows(
    const real[:, ::1] probs,     # IN (M, V)
    const int64_t[::1] targets,   # IN (M)
    int64_t ignore_label,
    real scale,
    real[:, ::1] dlogits,         # OUT (M, V)
):
    """dx_mv = scale (p_mv - [v = target_m]), and 0 in rows that are ignored"""
    cdef Py_ssize_t M = probs.shape[0], V = probs.shape[1]
    cdef Py_ssize_t m, v
    with nogil:
        for m in range(M):
            if targets[m] == ignore_label:
                for v in range(V):
                    dlogits[m, v] = 0
            else:
                for v in range(V):
                    dlogits[m, v] = scale * probs[m, v]
                dlogits[m, targets[m]] -= scale
