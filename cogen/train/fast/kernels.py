"""Passes over memory that do several elementwise steps at once, compiled by numba for the CPU that runs them.

Each walks rows that fit the innermost cache and lets go of the interpreter lock, so that threads
with a part of the batch each run side by side. Arrays are C-contiguous float32 unless said otherwise;
results go to arrays that the caller gives. Sums may be reassociated to use vector registers, the same
way on every call.

Legend: N rows, d columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FLAGS: Any = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy"}
LEVELS = np.float32(127.0)  # of signed 8-bit integers; -128 is not used
TINY = np.float32(1e-30)
LANES = 64
ONE = np.float32(1.0)
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Taylor's series of e^r at |r| <= ln(2) / 2, cut after r^7: below the rounding of float32.
C2, C3, C4, C5, C6, C7 = (np.float32(1.0 / f) for f in (2.0, 6.0, 24.0, 120.0, 720.0, 5040.0))


@njit(inline="always")
def _exp(x):
    """e^x in vector registers: 2^n e^r with n = round(x / ln 2); flat beyond +-87."""
    x = min(max(x, np.float32(-87.0)), np.float32(87.0))
    n = np.floor(x * LOG2_E + np.float32(0.5))
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))
    return (ONE + r + r * r * p) * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always")
def _largest(row, count, lanes):
    """The largest of row[:count], at least row[0]; lane by lane, since LLVM keeps a running maximum scalar."""
    whole = count - count % LANES
    lanes[:] = row[0]
    for start in range(0, whole, LANES):
        part = row[start : start + LANES]
        for k in range(LANES):
            lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
    largest = row[0]
    for k in range(LANES):
        largest = max(largest, lanes[k])
    for j in range(whole, count):
        largest = max(largest, row[j])
    return largest


@njit(**FLAGS)
def column_sizes(x, sizes):
    """The largest magnitude of each column of x (N, d) to sizes (d,)."""
    sizes[:] = np.float32(0.0)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            size = abs(x[i, j])
            sizes[j] = size if size > sizes[j] else sizes[j]


@njit(**FLAGS)
def round_rows(x, keep, values, scales):
    """Each row of x * keep (N, d), keep (d,), to int8 values (N, d) times scales (N,); to the nearest, ties to even."""
    lanes = np.empty(LANES, np.float32)
    sizes = np.empty(x.shape[1], np.float32)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            sizes[j] = abs(x[i, j] * keep[j])
        largest = max(_largest(sizes, len(sizes), lanes), TINY)
        factor = LEVELS / largest
        for j in range(x.shape[1]):
            values[i, j] = np.int8(np.int32(np.rint(x[i, j] * keep[j] * factor)))
        scales[i] = largest / LEVELS


@njit(**FLAGS)
def unround(summed, row_scales, column_scales):
    """summed * row_scales * column_scales of int32 (N, d), as float32 in the same memory."""
    for i in range(len(summed)):
        scale = row_scales[i]
        row = summed[i]
        out = row.view(np.float32)
        for j in range(len(row)):
            out[j] = np.float32(row[j]) * (scale * column_scales[j])


@njit(**FLAGS)
def rms_norm(x, weight, epsilon, out, inverse):
    """out = x * inverse * weight with inverse (N,) = 1 / sqrt(mean(x^2) + epsilon)."""
    for i in range(len(x)):
        total = np.float32(0.0)
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        inverse[i] = ONE / np.sqrt(total / np.float32(x.shape[1]) + epsilon)
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * inverse[i] * weight[j]


@njit(**FLAGS)
def rms_norm_backward(g, x, weight, inverse, out):
    """out = inverse * (g w - x inverse^2 mean(g w x))."""
    for i in range(len(x)):
        total = np.float32(0.0)
        for j in range(x.shape[1]):
            total += g[i, j] * weight[j] * x[i, j]
        along = total / np.float32(x.shape[1]) * inverse[i] * inverse[i]
        for j in range(x.shape[1]):
            out[i, j] = (g[i, j] * weight[j] - along * x[i, j]) * inverse[i]


@njit(**FLAGS)
def swiglu(gate, up, out):
    """out = gate * sigmoid(gate) * up."""
    for i in range(len(gate)):
        for j in range(gate.shape[1]):
            out[i, j] = gate[i, j] / (ONE + _exp(-gate[i, j])) * up[i, j]


@njit(**FLAGS)
def swiglu_backward(g, gate, up, d_gate, d_up):
    """With s = sigmoid(gate): d_gate = g up s (1 + gate (1 - s)), d_up = g gate s; none may share memory."""
    for i in range(len(gate)):
        for j in range(gate.shape[1]):
            s = ONE / (ONE + _exp(-gate[i, j]))
            d_gate[i, j] = g[i, j] * up[i, j] * s * (ONE + gate[i, j] * (ONE - s))
            d_up[i, j] = g[i, j] * gate[i, j] * s


@njit(**FLAGS)
def causal_softmax(scores, group, first):
    """Rows of scores (K, group * m, n) to probabilities in place; row i of m sees columns up to first + i."""
    queries = scores.shape[1] // group
    lanes = np.empty(LANES, np.float32)
    for k in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            row = scores[k, i]
            seen = first + i % queries + 1
            highest = _largest(row, seen, lanes)
            total = np.float32(0.0)
            for j in range(seen):
                row[j] = _exp(row[j] - highest)
                total += row[j]
            inverse = ONE / total
            for j in range(seen):
                row[j] *= inverse
            for j in range(seen, len(row)):
                row[j] = np.float32(0.0)


@njit(**FLAGS)
def softmax_backward(dp, p, along):
    """dp = p * (dp - along) in place, along (K, rows) by row."""
    for k in range(dp.shape[0]):
        for i in range(dp.shape[1]):
            a = along[k, i]
            for j in range(dp.shape[2]):
                dp[k, i, j] = p[k, i, j] * (dp[k, i, j] - a)


@njit(**FLAGS)
def rotate(x, cos, sin, sign, out):
    """Rotary positions: x and out (N, H, D), cos and sin (N, D); sign -1 turns back."""
    half = x.shape[2] // 2
    for i in range(x.shape[0]):
        for h in range(x.shape[1]):
            for j in range(half):
                low, high = x[i, h, j], x[i, h, j + half]
                out[i, h, j] = low * cos[i, j] - sign * high * sin[i, j]
                out[i, h, j + half] = high * cos[i, j + half] + sign * low * sin[i, j + half]


@njit(**FLAGS)
def softmax_loss(logits, targets, losses):
    """Rows of logits (N, V) to softmax minus one-hot in place; losses (N,) in nats of targets (N,)."""
    lanes = np.empty(LANES, np.float32)
    for i in range(len(logits)):
        row = logits[i]
        highest = _largest(row, len(row), lanes)
        wanted = row[targets[i]] - highest
        total = np.float32(0.0)
        for j in range(len(row)):
            row[j] = _exp(row[j] - highest)
            total += row[j]
        inverse = ONE / total
        for j in range(len(row)):
            row[j] *= inverse
        row[targets[i]] -= ONE
        losses[i] = np.log(total) - wanted
