"""Means and standard deviations over several seeds of one run, with its baselines.

Bits per byte on domains and on general text that no client trained on; lower is better.

Rows have the names of `evaluation.json`: `base`, `combined`, `centralized`, and for a domain that trained alone
`expert:<domain>` in a run of one round (its reply is its expert) or `local:<domain>`. Below, `alone[d]` is that row:

    retained_gain[d]      (base - combined) / (base - alone[d]), on d; null if training alone gained nothing
    forgetting[m]         m - base, on general text; above 0 is worse; there is no entry for the base itself
    members[d]["own"]     alone[d] - combined, on d; above 0 means that joining was better than training alone
    members[d]["others"]  mean over the other domains e of alone[d] - combined, on e
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cogen.evaluate.matrix import BASE, COMBINED, Evaluation, alone, retained_gain


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds; None for a seed without it.

    >>> Spread((1.0, 3.0, None)).mean, Spread((1.0, 3.0, None)).sd
    (2.0, 1.4142135623730951)
    """

    values: tuple[float | None, ...]

    @property
    def known(self) -> tuple[float, ...]:
        """The values that are not None."""
        return tuple(v for v in self.values if v is not None)

    @property
    def mean(self) -> float | None:
        """Mean of the known values; None without any."""
        return sum(self.known) / len(self.known) if self.known else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of the known values; None for fewer than two."""
        if len(self.known) < 2 or self.mean is None:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.known) / (len(self.known) - 1))


@dataclass(frozen=True)
class DomainSummary:
    """What joining gave one domain over training alone, in bits per byte; above 0 is better."""

    own: Spread
    others: Spread


@dataclass(frozen=True)
class SeedSummary:
    """Every figure over the seeds.

    Args:
        rows: (model, domain) to bits per byte.
        general: model to bits per byte on general text.
        forgetting: model to its bits per byte on general text minus those of the base.
        members: domain to what joining gave it.
    """

    seeds: tuple[int, ...]
    rows: Mapping[tuple[str, str], Spread]
    retained_gain: Mapping[str, Spread]
    general: Mapping[str, Spread]
    forgetting: Mapping[str, Spread]
    members: Mapping[str, DomainSummary]

    @property
    def models(self) -> tuple[str, ...]:
        """Row names, in order of first appearance."""
        return tuple(dict.fromkeys(model for model, _ in self.rows))

    @property
    def domains(self) -> tuple[str, ...]:
        """Column names, in order of first appearance."""
        return tuple(dict.fromkeys(domain for _, domain in self.rows))

    @property
    def means(self) -> dict[str, Spread]:
        """Model to its mean over the domains; None for a seed in which the model lacks a domain that another model has."""
        scored = [[d for d in self.domains if self._has(d, seed)] for seed in range(len(self.seeds))]
        return {m: _spread(self._mean(m, domains, i) for i, domains in enumerate(scored)) for m in self.models}

    def _has(self, domain: str, seed: int) -> bool:
        return any(spread.values[seed] is not None for (_, d), spread in self.rows.items() if d == domain)

    def _mean(self, model: str, domains: Sequence[str], seed: int) -> float | None:
        found = [spread.values[seed] for d in domains if (spread := self.rows.get((model, d)))]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values and len(values) == len(domains) else None


def summarize_seeds(evaluations: Mapping[int, Evaluation]) -> SeedSummary:
    """Summarize the evaluations of several seeds of one run.

    Args:
        evaluations: seed to its evaluation; rows or cells may be missing in some seeds.
    """
    runs = list(evaluations.values())
    models = tuple(dict.fromkeys(m for run in runs for m in run.models))
    domains = tuple(dict.fromkeys(d for run in runs for d in run.domains))
    tested = tuple(dict.fromkeys(cell.model for run in runs for cell in run.general))
    gains = [retained_gain(run) for run in runs]
    rows = {(m, d): _spread(run.bits_per_byte(m, d) for run in runs) for m in models for d in domains}
    return SeedSummary(
        seeds=tuple(evaluations),
        rows={key: spread for key, spread in rows.items() if spread.known},
        retained_gain={d: _spread(gain.get(d) for gain in gains) for d in domains},
        general={m: _spread(run.general_bits_per_byte(m) for run in runs) for m in tested},
        forgetting={m: _spread(_forgotten(run, m) for run in runs) for m in tested if m != BASE},
        members={
            d: DomainSummary(
                _spread(_gained(run, d, [d]) for run in runs), _spread(_gained(run, d, _others(run, d)) for run in runs)
            )
            for d in domains
        },
    )


def _spread(values: Iterable[float | None]) -> Spread:
    return Spread(tuple(values))


def _others(run: Evaluation, domain: str) -> list[str]:
    return [d for d in run.domains if d != domain]


def _gained(run: Evaluation, domain: str, columns: Iterable[str]) -> float | None:
    """Mean over `columns` of the domain alone minus combined; None without columns, or if a cell is missing."""
    row = alone(run, domain)
    pairs = [(run.bits_per_byte(row, c), run.bits_per_byte(COMBINED, c)) for c in columns]
    gains = [mine - joint for mine, joint in pairs if mine is not None and joint is not None]
    return sum(gains) / len(gains) if gains and len(gains) == len(pairs) else None


def _forgotten(run: Evaluation, model: str) -> float | None:
    now, before = run.general_bits_per_byte(model), run.general_bits_per_byte(BASE)
    return None if now is None or before is None else now - before
