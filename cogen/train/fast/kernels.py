"""Passes over memory that do several elementwise steps at once, compiled by numba for the CPU that runs them.

Each kernel goes through rows that fit the innermost cache and releases the interpreter lock, so that threads with parts
of the batch run in parallel. Arrays are C-contiguous. Arrays called *wide* are float32. The others are float32 or
bfloat16; numpy has no bfloat16, so these come as uint16, the upper half of a float32. They are widened when they are
read, computed in float32, and rounded to nearest, ties to even, when they are written. Results go to arrays that the
caller passes. Sums may be reassociated to use vector registers, in the same way on every call.

Legend: N rows, d columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogen.train.fast.kernel_cache import choose_kernel_cache

choose_kernel_cache()

from llvmlite import ir  # noqa: E402
from numba import njit, types  # noqa: E402 (it reads the folder of its cache when it is imported)
from numba.extending import intrinsic, overload  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

FLAGS: Any = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy"}
LEVELS = np.float32(127.0)  # of signed 8-bit integers; -128 is not used
TINY = np.float32(1e-30)
ONE = np.float32(1.0)
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Taylor's series of e^r at |r| <= ln(2) / 2, cut after r^7: below the rounding of float32.
C2, C3, C4, C5, C6, C7 = (np.float32(1.0 / f) for f in (2.0, 6.0, 24.0, 120.0, 720.0, 5040.0))


def array(x: Tensor) -> Any:
    """The memory of a contiguous CPU tensor, for a kernel; bfloat16 as uint16, since numpy has no bfloat16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@intrinsic
def _upper_half(context, value):
    """float32 to bfloat16 as uint16, in LLVM's own words: numba's integers are all 64 bits wide, and fill registers."""

    def generate(context, build, signature, args):
        i16, i32 = ir.IntType(16), ir.IntType(32)
        bits = build.bitcast(args[0], i32)
        half = build.add(build.and_(build.lshr(bits, i32(16)), i32(1)), i32(0x7FFF))
        return build.trunc(build.lshr(build.add(bits, half), i32(16)), i16)

    return types.uint16(types.float32), generate


@intrinsic
def _larger(context, a, b):
    """The larger of two float32, so that LLVM keeps a running maximum in vectors; that of numba's own it keeps scalar."""

    def generate(context, build, signature, args):
        is_larger = build.fcmp_ordered(">", *args, flags=("fast",))
        return build.select(is_larger, *args, flags=("fast",))

    return types.float32(types.float32, types.float32), generate


def _get(x):
    """An element as float32."""
    raise NotImplementedError  # what numba compiles is below


@overload(_get, inline="always")
def _get_compiled(x):
    if isinstance(x, types.Integer):
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


def _set(row, j, value):
    """row[j] = value, float32, rounded if the row is narrower."""
    raise NotImplementedError


@overload(_set, inline="always")
def _set_compiled(row, j, value):
    if isinstance(row.dtype, types.Integer):

        def rounded(row, j, value):
            row[j] = _upper_half(value)

        return rounded

    def plain(row, j, value):
        row[j] = value

    return plain


@njit(inline="always")
def _exp(x):
    """e^x in vector registers: 2^n e^r with n = round(x / ln 2); flat beyond +-87."""
    x = min(max(x, np.float32(-87.0)), np.float32(87.0))
    n = np.floor(x * LOG2_E + np.float32(0.5))
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))
    return (ONE + r + r * r * p) * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always")
def _largest(row, count):
    """The largest of row[:count], wide."""
    largest = row[0]
    for j in range(count):
        largest = _larger(row[j], largest)
    return largest


@njit(**FLAGS)
def take_columns(x, columns, out):
    """out (N, c) = x[:, columns], which torch gathers several times as slowly."""
    for i in range(len(x)):
        row, to = x[i], out[i]
        for j in range(len(columns)):
            to[j] = row[columns[j]]


@njit(**FLAGS)
def column_sizes(x, sizes):
    """The largest magnitude of each column of x (N, d) to sizes (d,), wide."""
    sizes[:] = np.float32(0.0)
    for i in range(len(x)):
        row = x[i]
        for j in range(len(row)):
            size = abs(_get(row[j]))
            sizes[j] = size if size > sizes[j] else sizes[j]


@njit(**FLAGS)
def round_rows(x, keep, values, scales):
    """Each row of x * keep (N, d), keep (d,) wide, to int8 values (N, d) times scales (N,); to nearest, ties to even."""
    sizes, kept = np.empty(x.shape[1], np.float32), np.empty(x.shape[1], np.float32)
    for i in range(len(x)):
        row, out = x[i], values[i]
        for j in range(len(row)):
            kept[j] = _get(row[j]) * keep[j]
            sizes[j] = abs(kept[j])
        largest = max(_largest(sizes, len(sizes)), TINY)
        factor = LEVELS / largest
        for j in range(len(row)):
            out[j] = np.int8(np.int32(np.rint(kept[j] * factor)))
        scales[i] = largest / LEVELS


@njit(**FLAGS)
def unround(summed, row_scales, column_scales, more, out):
    """out = summed * row_scales * column_scales + more, of int32 sums (N, d), wide scales, more (N, d)."""
    for i in range(len(summed)):
        scale, row, extra, to = row_scales[i], summed[i], more[i], out[i]
        for j in range(len(row)):
            _set(to, j, np.float32(row[j]) * (scale * column_scales[j]) + _get(extra[j]))


@njit(**FLAGS)
def rms_norm(x, weight, epsilon, out, inverse):
    """out = x * inverse * weight with wide x, weight and inverse (N,) = 1 / sqrt(mean(x^2) + epsilon)."""
    for i in range(len(x)):
        row, to = x[i], out[i]
        total = np.float32(0.0)
        for j in range(len(row)):
            total += row[j] * row[j]
        inverse[i] = ONE / np.sqrt(total / np.float32(x.shape[1]) + epsilon)
        for j in range(len(row)):
            _set(to, j, row[j] * inverse[i] * weight[j])


@njit(**FLAGS)
def rms_norm_backward(g, x, weight, inverse, out):
    """out = inverse * (g w - x inverse^2 mean(g w x)); all wide but g."""
    for i in range(len(x)):
        grad, row = g[i], x[i]
        total = np.float32(0.0)
        for j in range(len(row)):
            total += _get(grad[j]) * weight[j] * row[j]
        along = total / np.float32(x.shape[1]) * inverse[i] * inverse[i]
        for j in range(len(row)):
            out[i, j] = (_get(grad[j]) * weight[j] - along * row[j]) * inverse[i]


@njit(**FLAGS)
def swiglu(gate, up, out):
    """out = gate * sigmoid(gate) * up."""
    for i in range(len(gate)):
        gates, ups, to = gate[i], up[i], out[i]
        for j in range(len(gates)):
            x = _get(gates[j])
            _set(to, j, x / (ONE + _exp(-x)) * _get(ups[j]))


@njit(**FLAGS)
def swiglu_backward(g, gate, up, d_gate, d_up):
    """With s = sigmoid(gate): d_gate = g up s (1 + gate (1 - s)), d_up = g gate s; none may share memory."""
    for i in range(len(gate)):
        grads, gates, ups, to_gate, to_up = g[i], gate[i], up[i], d_gate[i], d_up[i]
        for j in range(len(gates)):
            x, grad = _get(gates[j]), _get(grads[j])
            s = ONE / (ONE + _exp(-x))
            _set(to_gate, j, grad * _get(ups[j]) * s * (ONE + x * (ONE - s)))
            _set(to_up, j, grad * x * s)


@njit(**FLAGS)
def causal_softmax(scores, scaling, group, first):
    """Rows of scaling * scores (K, m * group, n) to probabilities in place; the i-th `group` sees up to first + i."""
    wide = np.empty(scores.shape[2], np.float32)
    for k in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            row = scores[k, i]
            seen = first + i // group + 1
            for j in range(seen):
                wide[j] = _get(row[j]) * scaling
            highest = _largest(wide, seen)
            total = np.float32(0.0)
            for j in range(seen):
                wide[j] = _exp(wide[j] - highest)
                total += wide[j]
            inverse = ONE / total
            for j in range(seen):
                _set(row, j, wide[j] * inverse)
            for j in range(seen, len(row)):
                _set(row, j, np.float32(0.0))


@njit(**FLAGS)
def softmax_backward(dp, p, scaling):
    """dp = scaling * p * (dp - sum(p dp)) in place, sums by row of (K, m, n)."""
    for k in range(dp.shape[0]):
        for i in range(dp.shape[1]):
            grads, row = dp[k, i], p[k, i]
            along = np.float32(0.0)
            for j in range(len(row)):
                along += _get(row[j]) * _get(grads[j])
            for j in range(len(row)):
                _set(grads, j, scaling * _get(row[j]) * (_get(grads[j]) - along))


@njit(**FLAGS)
def rotate(x, cos, sin, sign, out):
    """Rotary positions: x and out (N, H, D), wide cos and sin (N, D); sign -1 rotates back."""
    half = x.shape[2] // 2
    for i in range(x.shape[0]):
        c, s = cos[i], sin[i]
        for h in range(x.shape[1]):
            row, to = x[i, h], out[i, h]
            for j in range(half):
                low, high = _get(row[j]), _get(row[j + half])
                _set(to, j, low * c[j] - sign * high * s[j])
                _set(to, j + half, high * c[j + half] + sign * low * s[j + half])


@njit(**FLAGS)
def softmax_loss(logits, targets, out, losses):
    """Softmax minus one-hot of rows of wide logits (N, V) to out, which may be logits; losses (N,) in nats."""
    for i in range(len(logits)):
        losses[i] = _loss_of_row(logits[i], targets[i], out[i])


@njit(**FLAGS)
def rounded_softmax_loss(summed, row_scales, column_scales, more, targets, out, losses, peaks):
    """The same of logits that are what `unround` makes of the first four, which are never written as a whole.

    peaks (V,), wide, gets the largest probability of each column.
    """
    logits = np.empty(summed.shape[1], np.float32)
    peaks[:] = np.float32(0.0)
    for i in range(len(summed)):
        scale, row, extra = row_scales[i], summed[i], more[i]
        for j in range(len(row)):
            logits[j] = np.float32(row[j]) * (scale * column_scales[j]) + _get(extra[j])
        losses[i] = _loss_of_row(logits, targets[i], out[i])
        to = out[i]
        for j in range(len(to)):
            size = abs(_get(to[j]))
            peaks[j] = size if size > peaks[j] else peaks[j]


@njit(inline="always")
def _loss_of_row(row, target, out):
    highest = _largest(row, len(row))
    wanted = row[target] - highest
    total = np.float32(0.0)
    for j in range(len(row)):
        row[j] = _exp(row[j] - highest)
        total += row[j]
    inverse = ONE / total
    row[target] -= total
    for j in range(len(row)):
        _set(out, j, row[j] * inverse)
    return np.log(total) - wanted
