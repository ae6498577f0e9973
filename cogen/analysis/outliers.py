"""Adapters whose norms or spectra are outliers, found by medians without training; every finding is only a hint.

A spectrum is the tuple of sigma^2 of one module's update in falling order; its length is the adapter's rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from cogen.analysis.diagnosis import Finding

Spectrum = tuple[float, ...]
SMALLEST_COHORT = 3
FAR = 6.0  # robust standard deviations
NORM_FLOOR = math.log(10.0) / FAR  # a norm within a factor of 10 is never an outlier
SPECTRUM_FLOOR = math.log(5.0) / FAR  # nor are odds of the first direction within a factor of 5
FEWEST_MODULES = 5  # fewest for which one module is compared with the adapter's other ones
SMALLEST_REST = 1e-6  # below this rest, all energy counts as lying in one direction
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
NOTHING = math.log(1e-30)


def find_outliers(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Hints on adapters whose norms or spectra are far from those of the others.

    A value is far if its distance from the median of the others is more than FAR times their spread
    (1.4826 * MAD, with a floor).

    - Norms are compared as logarithms: the norm of the whole adapter, and the norm of each module minus the
      adapter's own level, which is its median over the modules.
    - Spectra are compared by `concentration`. The excess of a module is its median distance from the same module of
      the other adapters. An adapter's median excess is compared with that of the others, and the excess of each
      module with that of the adapter's other modules. A hint needs both numbers of `concentration` to be far.

    Args:
        spectra: for each adapter, module to sigma^2; empty if the adapter could not be read.
        names: of the adapters.
    Returns: at most one finding of each kind for each adapter; a note if there are fewer than three adapters.
    Source: arXiv 2602.15195 found backdoored adapters by their leading singular value, Frobenius norm,
        energy concentration, entropy and kurtosis, with a classifier that was trained on clean and poisoned adapters
        of one base. This function has no such classifier: it can miss a backdoor, and a hint proves nothing.
    """
    pairs = [(mine, name) for mine, name in zip(spectra, names, strict=True) if mine]
    spectra, names = [mine for mine, _ in pairs], [name for _, name in pairs]
    if len(spectra) < SMALLEST_COHORT:
        text = (
            f"With fewer than {SMALLEST_COHORT} usable adapters there is no cohort to compare norms and spectra with."
        )
        return [Finding("", "cohort", "note", "", text)]
    return [*_overall_norms(spectra, names), *_module_norms(spectra, names), *_spectra(spectra, names)]


def concentration(spectrum: Spectrum, count: int) -> tuple[float, float]:
    """Two measures of how concentrated the first `count` sigma^2 are; both are 0 for two equal values.

    log(p_1 / (1 - p_1)) and -log(e^H - 1), with p_j = sigma_j^2 / sum and H = -sum_j p_j log p_j: the odds of
    the first direction, and the inverse of the effective number of other directions. As both are logarithms,
    a distance stands for a factor.

    Args:
        count: at least 2. Spectra of different ranks are compared at the smaller one.
    """
    total = math.fsum(spectrum[:count])
    shares = [value / total for value in spectrum[:count]]
    rest = max(math.fsum(shares[1:]), SMALLEST_REST)
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    return math.log(shares[0] / rest), -math.log(math.expm1(max(entropy, SMALLEST_REST)))


class _Concentrations:
    """The `concentration` of every module of every adapter, computed at most once for each count."""

    def __init__(self, spectra: Sequence[Mapping[str, Spectrum]]) -> None:
        self.spectra = spectra
        self._known: dict[tuple[int, str, int], tuple[float, float]] = {}

    def excess(self, i: int, module: str) -> tuple[float, float] | None:
        """Median difference in concentration between adapter i's module and the same module of the others."""
        mine, found = self.spectra[i][module], []
        for j, other in enumerate(self.spectra):
            theirs = other.get(module, ())
            count = min(len(mine), len(theirs))
            if j != i and count >= 2 and mine[0] > 0 and theirs[0] > 0:
                (x, u), (y, v) = self._at(i, module, count), self._at(j, module, count)
                found.append((x - y, u - v))
        return _medians(found) if len(found) >= SMALLEST_COHORT - 1 else None

    def _at(self, i: int, module: str, count: int) -> tuple[float, float]:
        key = (i, module, count)
        if key not in self._known:
            self._known[key] = concentration(self.spectra[i][module], count)
        return self._known[key]


def _medians(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    left, right = zip(*pairs, strict=True)
    return median(left), median(right)


def _distance(value: float, others: Iterable[float], floor: float) -> float:
    """Distance of `value` from the median of the others, in their robust standard deviations."""
    known = list(others)
    middle = median(known)
    spread = MAD_TO_DEVIATION * median(abs(x - middle) for x in known)
    return (value - middle) / max(spread, floor)


def _without(values: Sequence[float], index: int) -> list[float]:
    return [value for i, value in enumerate(values) if i != index]


def _log_norm(spectrum: Spectrum) -> float:
    total = math.fsum(spectrum)
    return max(0.5 * math.log(total), NOTHING) if total > 0 else NOTHING


def _overall_norms(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    logs = [_log_norm(tuple(math.fsum(s) for s in mine.values())) for mine in spectra]
    found = []
    for i, name in enumerate(names):
        others = _without(logs, i)
        far = _distance(logs[i], others, NORM_FLOOR)
        if logs[i] == NOTHING:
            text = "Its update is exactly zero: the adapter was never trained, or its factors were set to zero."
            found.append(Finding(name, "norm", "hint", "", text))
        elif abs(far) > FAR and median(others) > NOTHING:
            times = _times(logs[i] - median(others))
            what = "outsize" if far > 0 else "near zero"
            text = f"Its norm is {what}: {times} the median of the others. In a mean, the largest norm dominates."
            found.append(Finding(name, "norm", "hint", "", text))
    return found


def _module_norms(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Modules whose norms are outliers after subtracting each adapter's own level, its median over the modules."""
    logs = [{m: _log_norm(s) for m, s in mine.items()} for mine in spectra]
    levels = [median([x for x in mine.values() if x > NOTHING] or [NOTHING]) for mine in logs]
    found = []
    for i, name in enumerate(names):
        if levels[i] == NOTHING:
            continue  # the whole update is zero, which `_overall_norms` reports
        far = {}
        for m, value in logs[i].items():
            others = [x[m] - levels[j] for j, x in enumerate(logs) if j != i and x.get(m, NOTHING) > NOTHING]
            if len(others) >= SMALLEST_COHORT - 1 and abs(_distance(value - levels[i], others, NORM_FLOOR)) > FAR:
                far[m] = value - levels[i] - median(others)
        if far:
            worst = max(far, key=lambda m: abs(far[m]))
            times = f"{_times(far[worst])} what" if logs[i][worst] > NOTHING else "zero, against what"
            where = f"In {_of(far, len(logs[i]))} the norm is far from that of the other adapters"
            text = f"{where}; most in {worst}, {times} the adapter's own level would suggest."
            found.append(Finding(name, "module norm", "hint", worst, text))
    return found


def _spectra(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Adapters that are far more concentrated than the others, in all modules or in some."""
    shares = _Concentrations(spectra)
    excess = [{m: e for m in mine if (e := shares.excess(i, m)) is not None} for i, mine in enumerate(spectra)]
    levels = [_medians(mine.values()) if mine else None for mine in excess]
    found = []
    for i, name in enumerate(names):
        others = [level for j, level in enumerate(levels) if j != i and level is not None]
        if (level := levels[i]) is None or not others:
            continue
        far = [m for m in excess[i] if _is_far(excess[i][m], [e for n, e in excess[i].items() if n != m])]
        if _is_far(level, others):
            far = list(excess[i])
        elif len(excess[i]) < FEWEST_MODULES:
            far = []
        if far:
            found.append(_concentrated(spectra, i, name, {m: excess[i][m] for m in far}, len(excess[i])))
    return found


def _is_far(mine: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Whether both numbers are far above those of the others, and far above 0, where an adapter equals the others."""
    if not others:
        return False
    sides = zip(mine, zip(*others, strict=True), strict=True)
    return all(x > FAR * SPECTRUM_FLOOR and _distance(x, side, SPECTRUM_FLOOR) > FAR for x, side in sides)


def _concentrated(
    spectra: Sequence[Mapping[str, Spectrum]],
    i: int,
    name: str,
    far: Mapping[str, tuple[float, float]],
    num_compared: int,
) -> Finding:
    worst = max(far, key=lambda m: far[m])
    shares = [s[worst][0] / math.fsum(s[worst]) if any(s.get(worst, ())) else None for s in spectra]
    others = median([share for j, share in enumerate(shares) if j != i and share is not None])
    text = (
        f"In {_of(far, num_compared)} the update is far more concentrated than in the other adapters; most in {worst}, "
        f"where one direction holds {shares[i]:.0%} of the energy (median of the others: {others:.0%}). A "
        "backdoor can look like this (arXiv 2602.15195), and so can narrow training text: a hint, not a verdict."
    )
    return Finding(name, "spectrum", "hint", worst, text)


def _of(some: Collection[str], count: int) -> str:
    return f"{len(some)} of {count} modules" if count > 1 else "its one module"


def _times(log_ratio: float) -> str:
    return f"{math.exp(log_ratio):.3g} times"
