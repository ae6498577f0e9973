"""The names of methods for a search, such as `ties:0.5+pico`, and the first scale of each."""

from __future__ import annotations

import math

from cogen.errors import MergeError
from cogen.merge.rule import CALIBRATIONS, METHODS, SPACES, Rule

DEFAULT_METHODS = ("mean", "tsv_m", "ties:0.5+knots", "iso_c", "tsv_m+pico")
FIRST_NORM = 0.8


def propose(text: str, num_adapters: int, *, rank: int | None = None, energy: float | None = None) -> Rule:
    """The rule for the text `METHOD[:DENSITY][+pico][+knots]`, at its first scale.

    Args:
        text: a method of `METHODS`; the density is for ties and dare.
        rank, energy: settings of the final merge, so that the search scores the adapter that is written.
    Raises:
        MergeError: no such method or setting (RankError for a bad rank).

    >>> rule = propose("ties:0.5+pico", 4)
    >>> rule.density, rule.calibrate, rule.scale
    (0.5, 'pico', 0.8)
    """
    head, *extras = text.strip().split("+")
    method, colon, number = head.partition(":")
    density = _density(number, text) if colon else 1.0
    calibrate = next((e for e in extras if e in CALIBRATIONS), "none")
    space = next((e for e in extras if e in SPACES), "core")
    if unknown := [e for e in extras if e not in (*CALIBRATIONS, *SPACES)]:
        raise _refused(text, "pico or knots after the +", repr(unknown[0]))
    Rule(method, 1.0, space, density, calibrate, 0, rank, energy).check()
    if colon and not _takes("density", method):
        raise _refused(text, "a density for ties or dare alone", f"one for {method}")
    scale = round(start_scale(method, num_adapters, is_calibrated=calibrate != "none"), 4)
    return Rule(method, scale, space, density, calibrate, 0, rank, energy)


def label(rule: Rule) -> str:
    """The text that `propose` reads, without the scale."""
    density = f":{rule.density:g}" if _takes("density", rule.method) and rule.density != 1.0 else ""
    space = f"+{rule.space}" if _takes("space", rule.method) and rule.space != "core" else ""
    return rule.method + density + (f"+{rule.calibrate}" if rule.calibrate != "none" else "") + space


def start_scale(method: str, num_adapters: int, *, is_calibrated: bool = False) -> float:
    """The scale at which the result has about 0.8 of one expert's norm, if the K experts share no direction.

    Their sum then has sqrt(K) times that norm, and their mean 1/sqrt(K). TSV-M and sums with weights of 1 are like the
    sum. Pico gives any result the norm of one expert. TIES, which averages the experts that agree, is in between. Four adapters had the best scale of their mean at 1.3 to 1.6, six at 2.2.

    Iso-C differs: it gives every direction the mean of falling singular values, and at scale K it has about the size of
    the experts in each direction; six experts had their best scale at 31.
    """
    if method == "iso_c":
        return 2.0 * num_adapters
    if is_calibrated or method == "ties":
        return FIRST_NORM
    root = math.sqrt(num_adapters)
    return FIRST_NORM / root if method in ("tsv_m", "task_arithmetic") else FIRST_NORM * root


def _takes(setting: str, method: str) -> bool:
    return setting in METHODS[method].settings


def _density(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise _refused(text, "a density as in ties:0.5", repr(number)) from None


def _refused(text: str, expected: str, got: str) -> MergeError:
    fix = f"Name methods as in {', '.join(DEFAULT_METHODS)}."
    return MergeError("cannot search", expected=expected, got=got, where=f"method {text!r}", fix=fix)
