"""Checks of each adapter before a merge: fingerprint, modules, finite numbers; norms and spectra compared with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cogen.adapter import Adapter, Factors, layout_of
from cogen.adapter.factors import is_finite
from cogen.analysis.diagnosis import Finding
from cogen.analysis.outliers import Spectrum, find_outliers
from cogen.errors import AdapterError
from cogen.merge.factored import compress

if TYPE_CHECKING:
    from torch import Tensor

Kind = tuple[int, int, bool]  # d_out, d_in, and whether it is an embedding
Broken = list[dict[str, str]]  # by adapter, module to why it cannot be used


def audit(adapters: Sequence[Adapter], names: Sequence[str]) -> list[Finding]:
    """What stands against each adapter, or is worth a look, in one pass over the factors.

    `problem`: another fingerprint, other shapes, NaN or infinity, with which a merge is refused or wrong.
    `hint`: a norm or a spectrum far from those of the others (`cogen.analysis.outliers`).
    `note`: no fingerprint, missing modules, or too few adapters to compare with.

    Args:
        adapters: from `Adapter.open` or in memory.
        names: one for each, for the findings.
    """
    plan = plan_modules(adapters)
    spectra: list[dict[str, Spectrum]] = [{} for _ in adapters]
    broken: Broken = [{} for _ in adapters]
    for module, users in plan.items():
        for i, f in read_parts(adapters, module, users, broken).items():
            spectra[i][module] = spectrum_of(compress(f, None).singular_values)
    return findings_of(adapters, names, spectra, broken)


def findings_of(
    adapters: Sequence[Adapter], names: Sequence[str], spectra: Sequence[Mapping[str, Spectrum]], broken: Broken
) -> list[Finding]:
    """All findings on adapters whose factors have been read; problems first."""
    found = [*_fingerprints(adapters, names), *_modules(adapters, names), *_shapes(adapters, names)]
    found += [_unreadable(name, reasons) for name, reasons in zip(names, broken, strict=True) if reasons]
    found += find_outliers(spectra, names)
    return sorted(found, key=lambda f: ("problem", "hint", "note").index(f.level))


def plan_modules(adapters: Sequence[Adapter]) -> dict[str, list[int]]:
    """Every module, sorted, with the adapters that have it in its most common shape."""
    kinds = [_kinds(adapter) for adapter in adapters]
    usual = _usual(kinds)
    return {m: [i for i, mine in enumerate(kinds) if mine.get(m) == usual[m]] for m in sorted(usual)}


def read_parts(adapters: Sequence[Adapter], module: str, users: Sequence[int], broken: Broken) -> dict[int, Factors]:
    """One module's factors by adapter, each read once; factors that are not finite are noted in `broken`."""
    parts = {}
    for i in users:
        try:
            f = adapters[i].factors[module]
        except AdapterError as error:  # from a folder whose factors are checked when they are read
            broken[i][module] = str(error)
            continue
        if is_finite(f.a) and is_finite(f.b):
            parts[i] = f
        else:
            broken[i][module] = f"NaN or infinity in {module}."
    return parts


def spectrum_of(singular_values: Tensor) -> Spectrum:
    """sigma^2, falling."""
    return tuple(singular_values.double().square().tolist())


def _kinds(adapter: Adapter) -> dict[str, Kind]:
    return {m: (*layout.shape, m in adapter.embeddings) for m, layout in layout_of(adapter.factors).items()}


def _usual(kinds: Sequence[Mapping[str, Kind]]) -> dict[str, Kind]:
    """The most common shape of each module; for a tie, that of the first adapter."""
    seen: dict[str, Counter[Kind]] = {}
    for mine in kinds:
        for module, kind in mine.items():
            seen.setdefault(module, Counter())[kind] += 1
    return {module: counts.most_common(1)[0][0] for module, counts in seen.items()}


def _fingerprints(adapters: Sequence[Adapter], names: Sequence[str]) -> list[Finding]:
    """Adapters without a fingerprint, and adapters whose fingerprint differs from that of most."""
    signed = [a.fingerprint for a in adapters if a.fingerprint is not None]
    unsigned = "no fingerprint (no cogen.json), so its base is not known."
    if not signed:
        return [Finding("", "fingerprint", "note", "", f"Each has {unsigned}")]
    usual = Counter(signed).most_common(1)[0][0]
    found = []
    for adapter, name in zip(adapters, names, strict=True):
        if adapter.fingerprint is None:
            found.append(Finding(name, "fingerprint", "note", "", f"It has {unsigned}"))
        elif adapter.fingerprint != usual:
            differing = [k for k, v in vars(usual).items() if vars(adapter.fingerprint)[k] != v]
            text = f"It was made for another base: {' and '.join(differing)} differ from those of most. A merge refuses it."
            found.append(Finding(name, "fingerprint", "problem", "", text))
    return found


def _modules(adapters: Sequence[Adapter], names: Sequence[str]) -> list[Finding]:
    """Adapters that lack modules, which a merge accepts only if all adapters have a fingerprint."""
    every = set().union(*(a.factors for a in adapters))
    is_signed = all(a.fingerprint is not None for a in adapters)
    found = []
    for adapter, name in zip(adapters, names, strict=True):
        if lacking := sorted(every - set(adapter.factors)):
            then = "They count as zero." if is_signed else "A merge refuses this if a fingerprint is missing."
            text = f"It lacks {len(lacking)} of the {len(every)} modules, {lacking[0]} for one. {then}"
            found.append(Finding(name, "modules", "note" if is_signed else "problem", lacking[0], text))
    return found


def _shapes(adapters: Sequence[Adapter], names: Sequence[str]) -> list[Finding]:
    """Adapters with modules whose shape differs from that of most adapters; these modules are skipped."""
    kinds = [_kinds(adapter) for adapter in adapters]
    usual = _usual(kinds)
    found = []
    for mine, name in zip(kinds, names, strict=True):
        if odd := sorted(m for m, kind in mine.items() if kind != usual[m]):
            got, expected = _described(mine[odd[0]]), _described(usual[odd[0]])
            where = f"{len(odd)} of its modules are" if len(odd) > 1 else "One of its modules is"
            text = (
                f"{where} of another shape than those of most: {odd[0]} is {got}, not {expected}. A merge refuses it."
            )
            found.append(Finding(name, "shape", "problem", odd[0], text))
    return found


def _described(kind: Kind) -> str:
    d_out, d_in, is_embedding = kind
    return f"({d_out}, {d_in})" + (" of an embedding" if is_embedding else "")


def _unreadable(name: str, reasons: Mapping[str, str]) -> Finding:
    first = min(reasons)
    count = f"{len(reasons)} modules" if len(reasons) > 1 else "One module"
    return Finding(name, "unreadable", "problem", first, f"{count} cannot be used. {reasons[first]}")
