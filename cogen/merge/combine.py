"""Merging whole adapters: checks, weights and overrides, module by module."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cogen.adapter import Adapter, Factors
from cogen.adapter.factors import overflows
from cogen.adapter.grams import gram_digest
from cogen.adapter.trained_on import inherited
from cogen.errors import MergeError
from cogen.merge.checksum import checksum
from cogen.merge.factored import normalise_weights
from cogen.merge.plan import MergePlan, Override, check_grams, names_for, plan_modules, shared_fingerprint
from cogen.merge.rule import Rule, combine, refused
from cogen.parallel import in_parallel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Merged:
    """A merged adapter, and the energy that the cut to its rank discards.

    Args:
        adapter: scaling 1 in every module, factors balanced and sorted.
        energy_cut_frac: by module, the discarded part of the sum of sigma^2, in [0, 1].
        energy: by module, the sum of sigma^2 before the cut, which is the squared norm of delta_W.
        checksums: by module, of the intended update before the cut (`cogen.merge.checksum`).
    """

    adapter: Adapter
    energy_cut_frac: dict[str, float]
    energy: dict[str, float]
    checksums: dict[str, Tensor]

    @property
    def mean_energy_cut_frac(self) -> float:
        """Discarded sigma^2 over total sigma^2, all modules together."""
        return _overall(self.energy_cut_frac, self.energy)


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    method: str = "tsv_m",
    scale: float = 1.0,
    rank: int | None = None,
    energy: float | None = None,
    density: float = 1.0,
    space: str = "core",
    calibrate: str = "none",
    seed: int = 0,
    overrides: Sequence[Override] = (),
    names: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Merged:
    """Combine adapters of one base into one: scale * rule(delta_1 ... delta_K), module by module.

    A module that an adapter lacks counts as a zero update; an adapter of weight 0 has no effect. Adapters from
    `Adapter.open` are read one module at a time, so that only a few modules are in memory.

    Args:
        adapters: K adapters with one fingerprint; those without one must have the same modules.
        weights: K numbers; None for equal ones. All methods except task_arithmetic need
            non-negative weights and divide them by their sum.
        method, scale, rank, energy, density, space, calibrate, seed: see `Rule`.
        overrides: other settings for some modules; later ones come on top of earlier ones.
        names: names of the adapters, for the manifest and errors; None takes their domains.
        progress: called with each module's name once it is done.
    Raises:
        FingerprintMismatch: base, tokenizer, modules or shapes differ.
        MergeError: no adapters, an unknown or unusable setting (WeightError, RankError), or a result that float32
            cannot hold.

    >>> merge_adapters([Adapter.load("a"), Adapter.load("b")]).adapter.save("ab")  # doctest: +SKIP
    """
    if not adapters:
        raise refused("at least one adapter", "none", "Name the adapter folders to merge.")
    called = names_for(adapters, names)
    rule = Rule(method, scale, space, density, calibrate, seed, rank, energy)
    rule.check()
    raw = [1.0] * len(adapters) if weights is None else list(weights)
    fingerprint = shared_fingerprint(adapters, called)
    plans = plan_modules(adapters, rule, raw, overrides)
    check_grams(adapters, plans, called)
    factors, cut, whole, checksums = {}, {}, {}, {}
    for name, made in zip(plans, in_parallel(partial(_combine_module, adapters, plans), list(plans)), strict=True):
        factors[name], cut[name], whole[name], checksums[name] = made
        if progress is not None:
            progress(name)
    manifest = _manifest(adapters, called, rule, raw, overrides)
    manifest |= {"rank": max(f.rank for f in factors.values()), "energy_cut_frac": _overall(cut, whole)}
    if any(plan.rule.rank or plan.rule.energy for plan in plans.values()):
        manifest["modules"] = {n: {"rank": f.rank, "energy_cut_frac": cut[n]} for n, f in factors.items()}
    embeddings = frozenset().union(*(a.embeddings for a in adapters)) & factors.keys()
    merged = Adapter(factors, adapters[0].base_name, fingerprint, manifest, embeddings)
    return Merged(merged, cut, whole, checksums)


def _combine_module(
    adapters: Sequence[Adapter], plans: Mapping[str, MergePlan], name: str
) -> tuple[Factors, float, float, Tensor]:
    """Factors, energy cut off, energy and checksum of a module; reads its factors from all adapters that have it."""
    plan = plans[name]
    pairs = [(a, w) for a, w in zip(adapters, plan.weights, strict=True) if w and name in a.factors]
    parts = [_part(a, name, plan.rule.method == "regmean") for a, _ in pairs]
    from torch import linalg

    try:
        made = combine(parts, [w for _, w in pairs], plan.rule, _module_seed(plan.rule.seed, name))
    except (linalg.LinAlgError, OverflowError):  # type: ignore[attr-defined]
        raise _too_large(name) from None
    if overflows(made.factors.a, made.factors.b, made.factors.scaling) or not math.isfinite(made.energy):
        raise _too_large(name)
    return made.factors, made.energy_cut_frac, made.energy, checksum(made.whole, name)


def _too_large(module: str) -> MergeError:
    """The error for a merge that leaves the range of float32."""
    fix = "Lower the weights or the scale; cogen diagnose names an adapter whose numbers are far from the others'."
    expected = "an update of at most 3.4e38, the largest number in float32"
    return MergeError("cannot merge", expected=expected, got="more", where=module, fix=fix)


def _part(adapter: Adapter, module: str, with_gram: bool) -> Factors:
    found = adapter.factors[module]
    return replace(found, gram=adapter.grams[module]) if with_gram and adapter.grams is not None else found


def _overall(cut: Mapping[str, float], energy: Mapping[str, float]) -> float:
    total = math.fsum(energy.values())
    return math.fsum(cut[n] * energy[n] for n in energy) / total if total > 0 else 0.0


def _module_seed(seed: int, name: str) -> int:
    """A seed for one module, which does not depend on the other modules."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def _gram_sha256(adapter: Adapter, rule: Rule, overrides: Sequence[Override]) -> dict[str, str]:
    is_used = "regmean" in (rule.method, *(o.settings.get("method") for o in overrides))
    return {"gram_sha256": gram_digest(adapter.grams)} if is_used and adapter.grams is not None else {}


def _manifest(
    adapters: Sequence[Adapter],
    names: Sequence[str],
    rule: Rule,
    weights: Sequence[float],
    overrides: Sequence[Override],
) -> dict[str, Any]:
    """The origin of the result; it holds no paths and no times, so that equal merges give equal files."""
    shares = normalise_weights(weights, len(adapters)) if rule.is_normalised else list(weights)
    parents = [
        {"name": name, "factors_sha256": a.digest, "weight": w, **_gram_sha256(a, rule, overrides)}
        for a, name, w in zip(adapters, names, shares, strict=True)
    ]
    used = [a for a, w in zip(adapters, shares, strict=True) if w != 0]
    tokens = [a.manifest["num_tokens"] for a in used if "num_tokens" in a.manifest]
    values: dict[str, Any] = {"kind": "merge", **rule.settings(), "parents": parents}
    if overrides:
        values["overrides"] = [
            {"modules": o.modules, **o.settings, **({} if o.weights is None else {"weights": list(o.weights)})}
            for o in overrides
        ]
    texts = inherited({name: a.manifest for a, name, w in zip(adapters, names, shares, strict=True) if w != 0})
    return values | texts | ({"num_tokens": sum(tokens)} if tokens else {})
