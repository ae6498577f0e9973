"""The merge rule and weights of each module, and checks that the adapters fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cogen.adapter import Adapter, Fingerprint, layout_of
from cogen.errors import FingerprintMismatch, MergeError
from cogen.merge.factored import checked_weights, normalise_weights
from cogen.merge.patterns import matching
from cogen.merge.rule import Rule, refused

DIFFERENT_NAMES = "Give them different names, as in first=FOLDER second=FOLDER."


@dataclass(frozen=True)
class Override:
    """Other settings for some modules.

    Args:
        modules: a pattern (`cogen.merge.patterns`).
        settings: settings of `Rule` by name; the others stay.
        weights: K weights; None keeps those of the merge.
    """

    modules: str
    settings: Mapping[str, Any]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class MergePlan:
    """The rule and the weights of the adapters for one module."""

    rule: Rule
    weights: tuple[float, ...]


def plan_modules(
    adapters: Sequence[Adapter], rule: Rule, weights: list[float], overrides: Sequence[Override]
) -> dict[str, MergePlan]:
    """Rule and weights of every module that has an update of a weight other than 0."""
    names = sorted({name for adapter in adapters for name in adapter.factors})
    wanted: dict[str, tuple[Rule, Sequence[float]]] = dict.fromkeys(names, (rule, weights))
    for override in overrides:
        found = matching(override.modules, names)
        if not found:
            example = f"Module names look like {names[0]}."
            raise refused("a pattern that some module matches", repr(override.modules), example)
        for name in found:
            before, shares = wanted[name]
            wanted[name] = replace(before, **override.settings), override.weights or shares
    _plan(rule, weights, len(adapters))
    plans = {name: _plan(*pair, len(adapters)) for name, pair in wanted.items()}
    return {
        n: p for n, p in plans.items() if any(w and n in a.factors for a, w in zip(adapters, p.weights, strict=True))
    }


def _plan(rule: Rule, weights: Sequence[float], count: int) -> MergePlan:
    rule.check()
    checked = normalise_weights(weights, count) if rule.is_normalised else checked_weights(weights, count)
    return MergePlan(rule, tuple(checked))


def check_grams(adapters: Sequence[Adapter], plans: Mapping[str, MergePlan], names: Sequence[str]) -> None:
    """Raise MergeError if a module is merged by regmean and an adapter with a weight has no Gram statistics."""
    for module, plan in plans.items():
        for i, adapter in enumerate(adapters):
            is_used = plan.weights[i] != 0 and module in adapter.factors
            if plan.rule.method == "regmean" and is_used and module not in (adapter.grams or {}):
                raise MergeError(
                    "cannot merge",
                    expected="Gram statistics in every adapter folder for regmean",
                    got="none" if adapter.grams is None else f"none of {module}",
                    where=_whose(names, i),
                    fix="Train with cogen train --gram, or use another method.",
                )


def names_for(adapters: Sequence[Adapter], names: Sequence[str] | None) -> list[str]:
    """The names of the adapters: `names`, which must differ, or their domains."""
    if names is None:
        return [str(a.manifest.get("domain") or "") for a in adapters]
    require_distinct(names)
    if len(names) != len(adapters):
        got = f"{len(names)} names for {len(adapters)} adapters"
        raise refused("one name for each adapter", got, DIFFERENT_NAMES)
    return list(names)


def require_distinct(names: Sequence[str]) -> None:
    """Raise MergeError if two adapters have one name."""
    if doubled := sorted({name for name in names if list(names).count(name) > 1}):
        raise refused("one name for each adapter", f"{doubled[0]!r} twice", DIFFERENT_NAMES)


def shared_fingerprint(adapters: Sequence[Adapter], names: Sequence[str]) -> Fingerprint | None:
    """The fingerprint that all adapters share; None if one has none, since its base is not known."""
    signed = [(i, a.fingerprint) for i, a in enumerate(adapters) if a.fingerprint is not None]
    for i, fingerprint in signed[1:]:
        signed[0][1].require(fingerprint, _whose(names, i))
    _check_shapes(adapters, names)
    if len(signed) == len(adapters):
        return signed[0][1]
    _check_base_names(adapters, names)
    for i, adapter in enumerate(adapters):
        if differing := sorted(set(adapter.factors) ^ set(adapters[0].factors)):
            raise FingerprintMismatch(
                "adapter mismatch",
                expected=f"the {len(adapters[0].factors)} modules of {_whose(names, 0)}",
                got=f"{len(adapter.factors)} modules, differing in {differing[0]}",
                where=_whose(names, i),
                fix="Without a cogen.json the modules must be the same; use adapters from one base and one config.",
            )
    return None


def _check_base_names(adapters: Sequence[Adapter], names: Sequence[str]) -> None:
    """Raise FingerprintMismatch if two adapters without a fingerprint name different bases; None fits any.

    The name in an adapter with a fingerprint is often an alias or a folder of one machine, so it is not compared.
    """
    named = [(i, a.base_name.rstrip("/")) for i, a in enumerate(adapters) if a.base_name and a.fingerprint is None]
    for i, base in named[1:]:
        if base != named[0][1]:
            raise FingerprintMismatch(
                "adapter mismatch",
                expected=f"base_model_name_or_path = {named[0][1]!r}, as in {_whose(names, named[0][0])}",
                got=repr(base),
                where=_whose(names, i),
                fix="Use adapters of one base; where both are names of one, write the same name in adapter_config.json.",
            )


def _check_shapes(adapters: Sequence[Adapter], names: Sequence[str]) -> None:
    """Raise FingerprintMismatch unless each module has the same shape and kind in all adapters."""
    seen: dict[str, tuple[tuple[int, int], bool]] = {}
    for i, adapter in enumerate(adapters):
        for module, layout in layout_of(adapter.factors).items():
            kind = (layout.shape, module in adapter.embeddings)
            if (first := seen.setdefault(module, kind)) != kind:
                kinds = {False: "", True: " of an embedding"}
                raise FingerprintMismatch(
                    "adapter mismatch",
                    expected=f"(d_out, d_in) {first[0]}{kinds[first[1]]}",
                    got=f"{kind[0]}{kinds[kind[1]]}",
                    where=f"{module} of {_whose(names, i)}",
                    fix="Use adapters that were trained from one base model.",
                )


def _whose(names: Sequence[str], index: int) -> str:
    return f"adapter {index + 1}" + (f", {names[index]!r}" if names[index] else "")
