"""Which adapters stand far out from the others, by norm and by spectrum: medians, no training, hints only.

A spectrum is the tuple of sigma^2 of one module's update, falling, as many as the adapter has ranks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from cogen.analysis.diagnosis import Finding

Spectrum = tuple[float, ...]
SMALLEST_COHORT = 3
FAR = 6.0  # robust standard deviations
NORM_FLOOR = math.log(10.0) / FAR  # so that a norm is never far out below a factor of 10
SPECTRUM_FLOOR = math.log(5.0) / FAR  # the same for the odds of the first direction, and a factor of 5
FEWEST_MODULES = 5  # for one module of an adapter to be compared with its others
SMALLEST_REST = 1e-6  # what counts as everything in one direction
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
NOTHING = math.log(1e-30)


def find_outliers(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Hints on adapters whose norms or spectra are far from those of the others.

    Far is a distance from the median of the others of more than FAR times their spread
    (1.4826 * MAD, with a floor). Norms are compared in logarithms: over all, and by module with the
    adapter's own level (its median over the modules) taken out. Spectra are compared by
    `concentration`: of each module the median distance from the same module of the others, then its
    level over the modules against the levels of the others, and single modules against the adapter's
    other ones. A hint needs both numbers of `concentration` far out.

    Args:
        spectra: by adapter, module to sigma^2; empty for one that could not be read. names: of the adapters.
    Returns: at most one finding of a kind for each adapter; a note where there are fewer than three.
    Source: arXiv 2602.15195 found backdoored adapters by their leading singular value, Frobenius norm,
        energy concentration, entropy and kurtosis, with a classifier trained on clean and poisoned ones of
        one base. There is none here, so that a planted backdoor may well pass, and what is found is a hint.
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
    """How much of the first `count` sigma^2 lies in few of them, in two numbers; 0 is two equal ones.

    log(p_1 / (1 - p_1)) and -log(e^H - 1), with p_j = sigma_j^2 / sum and H = -sum_j p_j log p_j: the odds of
    the first direction, and how few others there are in effect. Logarithms, so that distances mean factors.

    Args:
        count: at least 2. Spectra of different ranks are compared at the smaller one.
    """
    total = math.fsum(spectrum[:count])
    shares = [value / total for value in spectrum[:count]]
    rest = max(math.fsum(shares[1:]), SMALLEST_REST)
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    return math.log(shares[0] / rest), -math.log(math.expm1(max(entropy, SMALLEST_REST)))


class _Concentrations:
    """`concentration` of any adapter's module at any count, each computed once."""

    def __init__(self, spectra: Sequence[Mapping[str, Spectrum]]) -> None:
        self.spectra = spectra
        self._known: dict[tuple[int, str, int], tuple[float, float]] = {}

    def excess(self, i: int, module: str) -> tuple[float, float] | None:
        """By how much adapter i's module is more concentrated than that of the others, in their median."""
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
    """From the median of the others, in robust standard deviations of theirs."""
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
            text = "Its update is exactly zero: it was never trained, or was cleared."
            found.append(Finding(name, "norm", "hint", "", text))
        elif abs(far) > FAR and median(others) > NOTHING:
            times = _times(logs[i] - median(others))
            what = "outsize" if far > 0 else "near zero"
            text = f"Its norm is {what}: {times} the median of the others. In a mean, the largest norm has its way."
            found.append(Finding(name, "norm", "hint", "", text))
    return found


def _module_norms(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Modules that stand out once every adapter's own level (its median) is taken out."""
    logs = [{m: _log_norm(s) for m, s in mine.items()} for mine in spectra]
    levels = [median([x for x in mine.values() if x > NOTHING] or [NOTHING]) for mine in logs]
    found = []
    for i, name in enumerate(names):
        if levels[i] == NOTHING:
            continue  # all of it is zero, which is said already
        far = {}
        for m, value in logs[i].items():
            others = [x[m] - levels[j] for j, x in enumerate(logs) if j != i and x.get(m, NOTHING) > NOTHING]
            if len(others) >= SMALLEST_COHORT - 1 and abs(_distance(value - levels[i], others, NORM_FLOOR)) > FAR:
                far[m] = value - levels[i] - median(others)
        if far:
            worst = max(far, key=lambda m: abs(far[m]))
            times = f"{_times(far[worst])} what" if logs[i][worst] > NOTHING else "zero, against what"
            where = f"In {_of(far, len(logs[i]))} the norm is far from what the others have there"
            text = f"{where}; most in {worst}, {times} the adapter's own level would suggest."
            found.append(Finding(name, "module norm", "hint", worst, text))
    return found


def _spectra(spectra: Sequence[Mapping[str, Spectrum]], names: Sequence[str]) -> list[Finding]:
    """Adapters that are far more concentrated than the others, throughout or in some modules."""
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
    """Whether both numbers are far above those of the others, and above 0, the level of the other adapters."""
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
        f"where one direction holds {shares[i]:.0%} of the energy (median of the others: {others:.0%}). A planted "
        "backdoor can look like this (arXiv 2602.15195), and so can narrow training text: a hint, not a verdict."
    )
    return Finding(name, "spectrum", "hint", worst, text)


def _of(some: Collection[str], count: int) -> str:
    return f"{len(some)} of {count} modules" if count > 1 else "its one module"


def _times(log_ratio: float) -> str:
    return f"{math.exp(log_ratio):.3g} times"
