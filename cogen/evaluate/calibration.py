"""How sure an accuracy is, and how well probabilities match what comes true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_BINS = 10
NUM_RESAMPLES = 2000
CONFIDENCE_FRAC = 0.95


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean: percentiles of the means of seeded resamples.

    Args:
        values: one or more.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    found = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(found), (NUM_RESAMPLES, len(found)))
    tail = 50.0 * (1.0 - CONFIDENCE_FRAC)
    low, high = np.percentile(found[picks].mean(axis=1), [tail, 100.0 - tail])
    return float(low), float(high)


def calibration_error(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    """Expected calibration error: sum over bins of n_b / n * |share right in b - mean confidence in b|.

    Ten bins of equal width, each with its upper edge. 0 is calibrated; with few values some error is
    noise, because every bin's share is.

    Args:
        confidences: in [0, 1], one or more.
    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    inner_edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]
    off = np.bincount(np.searchsorted(inner_edges, sure), weights=right - sure, minlength=NUM_BINS)
    return float(np.abs(off).sum() / len(sure))
