"""Many adapters into one: checks, the choice of method, module by module."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cogen.adapter import Adapter, Contract, Factors, factor_digest
from cogen.errors import ContractMismatch, MergeError, RankError
from cogen.merge.core import core_space, from_core
from cogen.merge.dare import dare
from cogen.merge.factored import compress, energy_cut, leading, normalise_weights, numerical_rank
from cogen.merge.mean import mean
from cogen.merge.ties import ties


@dataclass(frozen=True)
class Merged:
    """A merged adapter and what the cut to its rank cost.

    Args:
        adapter: scaling 1 in every module, factors balanced and sorted.
        energy_cut_frac: by module, the discarded part of the sum of sigma^2, in [0, 1].
        energy: by module, the sum of sigma^2 before the cut, which is the squared norm of delta_W.
    """

    adapter: Adapter
    energy_cut_frac: dict[str, float]
    energy: dict[str, float]

    @property
    def mean_energy_cut_frac(self) -> float:
        """Discarded sigma^2 over total sigma^2, all modules together."""
        return _overall(self.energy_cut_frac, self.energy)


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    scale: float = 1.0,
    method: str = "mean",
    density: float = 1.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Merged:
    """Combine adapters of one base into one: scale * rule(delta_1 ... delta_K), module by module.

    A module that an adapter lacks counts as a zero update; a weight of 0 is as good as absence.

    Args:
        adapters: K adapters with one contract; those without one must have the same modules.
        weights: K non-negative weights, normalised here; None for equal ones.
        rank: of the result, less where there is less to keep; None for all that is not rounding.
        scale: factor on the result; its best value is searched, not guessed.
        method: a key of METHODS. density: the fraction of entries kept, in (0, 1]; not for "mean".
        seed: of dare's draws. progress: called with each module's name once it is done.
    Raises:
        ContractMismatch: base, tokenizer, modules or shapes differ.
        MergeError: no adapters, or an unknown or unusable setting (WeightError, RankError).

    >>> merge_adapters([Adapter.load("a"), Adapter.load("b")]).adapter.save("ab")  # doctest: +SKIP
    """
    _check_settings(len(adapters), rank, scale, method, density)
    shares = normalise_weights([1.0] * len(adapters) if weights is None else weights, len(adapters))
    contract = _checked_contract(adapters)
    factors, cut, energy = {}, {}, {}
    for name, parts, part_weights in _by_module(adapters, shares):
        whole = METHODS[method](parts, part_weights, density, _module_seed(seed, name))
        factors[name], cut[name], energy[name] = _cut(whole, scale, rank)
        if progress is not None:
            progress(name)
    manifest = _manifest(adapters, shares, method, {"scale": scale, "density": density, "seed": seed})
    manifest |= {"rank": max(f.rank for f in factors.values()), "energy_cut_frac": _overall(cut, energy)}
    return Merged(Adapter(factors, adapters[0].base_name, contract, manifest), cut, energy)


def _by_module(
    adapters: Sequence[Adapter], weights: Sequence[float]
) -> Iterator[tuple[str, list[Factors], list[float]]]:
    """Every module with the updates that there are for it, and their weights as they stand."""
    used = [(adapter.factors, w) for adapter, w in zip(adapters, weights, strict=True) if w > 0]
    for name in sorted({name for factors, _ in used for name in factors}):
        pairs = [(factors[name], w) for factors, w in used if name in factors]
        yield name, [f for f, _ in pairs], [w for _, w in pairs]


def _mean(parts: Sequence[Factors], weights: Sequence[float], density: float, seed: int) -> Factors:
    return mean(parts, weights)


def _ties(parts: Sequence[Factors], weights: Sequence[float], density: float, seed: int) -> Factors:
    space = core_space(parts)
    return from_core(space, ties(space.cores, weights, density))


def _dare(parts: Sequence[Factors], weights: Sequence[float], density: float, seed: int) -> Factors:
    import torch

    space = core_space(parts)
    return from_core(space, dare(space.cores, weights, density, torch.Generator().manual_seed(seed)))


METHODS: Mapping[str, Callable[[Sequence[Factors], Sequence[float], float, int], Factors]] = {
    "mean": _mean,
    "ties": _ties,
    "dare": _dare,
}


def _cut(f: Factors, scale: float, rank: int | None) -> tuple[Factors, float, float]:
    """Scaled and compressed, the energy cut off, and the energy before the cut."""
    whole = compress(Factors(f.a, f.b, f.scaling * scale), rank)
    values = whole.singular_values
    kept = whole.factors if rank is not None else leading(whole.factors, numerical_rank(values))[0]
    return kept, energy_cut(values, kept.rank), float(values.double().square().sum())


def _overall(cut: Mapping[str, float], energy: Mapping[str, float]) -> float:
    total = math.fsum(energy.values())
    return math.fsum(cut[n] * energy[n] for n in energy) / total if total > 0 else 0.0


def _module_seed(seed: int, name: str) -> int:
    """A seed for one module, the same whatever other modules there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def _check_settings(count: int, rank: int | None, scale: float, method: str, density: float) -> None:
    if count == 0:
        raise _refused("at least one adapter", "none", "Name the adapter folders to merge.")
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise _refused(f"one of {known}", repr(method), "Choose a known method.")
    if not 0 < density <= 1:
        raise _refused("a density in (0, 1]", f"{density:g}", "Give the share of entries to keep.")
    if not math.isfinite(scale):
        raise _refused("a finite scale", f"{scale:g}", "Set merge.scale to a number such as 1.0.")
    if rank is not None and rank < 1:
        fix = "Give a rank of 1 or more, or leave it out to lose nothing."
        raise RankError("cannot merge", expected="a rank of 1 or more", got=str(rank), fix=fix)


def _refused(expected: str, got: str, fix: str) -> MergeError:
    return MergeError("cannot merge", expected=expected, got=got, fix=fix)


def _checked_contract(adapters: Sequence[Adapter]) -> Contract | None:
    """The contract that they share; None where one came without, since nothing vouches for that one."""
    signed = [(i, a.contract) for i, a in enumerate(adapters) if a.contract is not None]
    for i, contract in signed[1:]:
        signed[0][1].require(contract, _whose(adapters, i))
    _check_shapes(adapters)
    if len(signed) == len(adapters):
        return signed[0][1]
    for i, adapter in enumerate(adapters):
        if differing := sorted(set(adapter.factors) ^ set(adapters[0].factors)):
            raise ContractMismatch(
                "adapter mismatch",
                expected=f"the {len(adapters[0].factors)} modules of {_whose(adapters, 0)}",
                got=f"{len(adapter.factors)} modules, differing in {differing[0]}",
                where=_whose(adapters, i),
                fix="Without a cogen.json the modules must be the same; use adapters from one base and one config.",
            )
    return None


def _check_shapes(adapters: Sequence[Adapter]) -> None:
    """Every module has one shape, whichever adapter names it."""
    shapes: dict[str, tuple[int, int]] = {}
    for i, adapter in enumerate(adapters):
        for name, f in adapter.factors.items():
            if shapes.setdefault(name, f.shape) != f.shape:
                raise ContractMismatch(
                    "adapter mismatch",
                    expected=f"(d_out, d_in) {shapes[name]}",
                    got=str(f.shape),
                    where=f"{name} of {_whose(adapters, i)}",
                    fix="Use adapters that were trained from one base model.",
                )


def _whose(adapters: Sequence[Adapter], index: int) -> str:
    domain = adapters[index].manifest.get("domain")
    return f"adapter {index + 1}" + (f", domain {domain!r}" if domain else "")


def _manifest(
    adapters: Sequence[Adapter], weights: Sequence[float], method: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the result comes from; no paths and no times, so that equal merges are equal files."""
    named = {"mean": ["scale"], "ties": ["scale", "density"], "dare": ["scale", "density", "seed"]}[method]
    pairs = list(zip(adapters, weights, strict=True))
    parents = [
        {"name": a.manifest.get("domain") or "", "factors_sha256": factor_digest(a.factors), "weight": w}
        for a, w in pairs
    ]
    tokens = [a.manifest["num_tokens"] for a, w in pairs if w > 0 and "num_tokens" in a.manifest]
    counted = {"num_tokens": sum(tokens)} if tokens else {}
    return {"kind": "merge", "method": method, **{k: settings[k] for k in named}, "parents": parents, **counted}
