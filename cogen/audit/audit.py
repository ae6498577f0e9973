"""The audit: every model of a domain is scored on the same windows, and the base once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cogen.adapter import Factors
from cogen.audit.membership import Scored, membership_figures, score_both, verbatim_figures
from cogen.audit.personal import PersonalValue, completed, num_tokens_of, personal_values
from cogen.audit.record import Audit, AuditRow, PersonalFigures
from cogen.audit.scores import split_tokens
from cogen.audit.targets import AuditedDomain, Targets
from cogen.audit.windows import MAX_WINDOWS, Excerpt, member_windows, unseen_windows, window_tokens
from cogen.errors import DataError
from cogen.evaluate.matrix import BASE, NotMeasured
from cogen.train.lora import attached

if TYPE_CHECKING:
    from cogen.base import Base

OnTokens = Callable[[str, str, int], None]
"""Called with model, domain and tokens scored."""


@dataclass(frozen=True)
class DomainPlan:
    """One domain with what its models are asked."""

    domain: AuditedDomain
    members: Sequence[Excerpt]
    others: Sequence[Excerpt]
    values: Sequence[PersonalValue]

    def of(self, blocks: frozenset[int]) -> DomainPlan:
        """The part that concerns a model which was trained on these blocks alone."""
        members = [w for w in self.members if w.block in blocks]
        return DomainPlan(self.domain, members, self.others, [v for v in self.values if v.block in blocks])

    @property
    def num_tokens(self) -> int:
        """Tokens that one model reads."""
        return sum(len(w.tokens) for w in (*self.members, *self.others)) + num_tokens_of(self.values)


@dataclass(frozen=True)
class Plan:
    """What an audit will do; made before anything is scored, so that its cost is known."""

    domains: tuple[DomainPlan, ...]
    not_measured: tuple[NotMeasured, ...]
    window_tokens: int
    seed: int

    @property
    def num_tokens(self) -> int:
        """Tokens that are scored, canaries aside."""
        return sum(p.num_tokens + sum(p.of(m.blocks).num_tokens for m in p.domain.models) for p in self.domains)


def plan_audit(base: Base, targets: Targets, *, most: int = MAX_WINDOWS, seed: int = 0) -> Plan:
    """Choose the windows and find personal data; a domain without trained or unseen text is not measured.

    Args:
        most: windows of trained and of unseen text, each, by domain.
    Raises:
        DataError: no domain can be audited.
    """
    size = min(window_tokens(domain.text.stream.sequence_length) for domain in targets.domains)
    prepared, gaps = [], list(targets.not_measured)
    for domain in targets.domains:
        try:
            members = member_windows(domain.text, size, most, seed)
            others = unseen_windows(domain.text, size, most, seed)
        except DataError as error:
            if len(targets.domains) == 1:
                raise
            gaps += [NotMeasured(model.name, domain.name, error.reason) for model in domain.models]
        else:
            prepared.append(DomainPlan(domain, members, others, personal_values(base, domain.text, seed)))
    if not prepared:
        raise DataError("cannot audit", expected="trained and unseen text", got="none", fix="Audit a larger corpus.")
    return Plan(tuple(prepared), tuple(gaps), size, seed)


def run_audit(base: Base, plan: Plan, progress: OnTokens | None = None) -> Audit:
    """Attack every model of the plan.

    Args:
        progress: called after each batch.
    Raises:
        AdapterError: an adapter cannot be read.
        FingerprintMismatch: an adapter was made for another base.
    """
    rows: list[AuditRow] = []
    gaps = list(plan.not_measured)
    for one in plan.domains:
        reference, about_base = _attack(base, {}, one, _report(progress, BASE, one))
        if all(row.domain != one.domain.name for row in rows):
            rows.append(_row(base, plan, one, BASE, (reference, about_base), None))
        for model in one.domain.models:
            asked = one.of(model.blocks)
            if asked.members:
                found = _attack(base, model.factors(), asked, _report(progress, model.name, one))
                rows.append(_row(base, plan, asked, model.name, found, _part(reference, one, asked)))
            else:
                gaps.append(NotMeasured(model.name, one.domain.name, "none of the windows was trained before it"))
    prefix, continued = split_tokens(plan.window_tokens)
    return Audit(
        base=base.info.name,
        seed=plan.seed,
        window_tokens=plan.window_tokens,
        prefix_tokens=prefix,
        continuation_tokens=continued,
        rows=tuple(rows),
        not_measured=tuple(gaps),
    )


def _attack(
    base: Base, factors: Mapping[str, Factors], asked: DomainPlan, report: Callable[[int], None]
) -> tuple[Scored, Mapping[str, PersonalFigures]]:
    """What one model says of the windows, and which personal data it completes."""
    with attached(base.model, factors) if factors else nullcontext():
        return score_both(base, {}, asked.members, asked.others, report), completed(base, asked.values, report)


def _row(
    base: Base,
    plan: Plan,
    asked: DomainPlan,
    model: str,
    found: tuple[Scored, Mapping[str, PersonalFigures]],
    reference: Scored | None,
) -> AuditRow:
    scored, personal = found
    blocks = next((len(m.blocks) for m in asked.domain.models if m.name == model), 0)
    return AuditRow(
        model=model,
        domain=asked.domain.name,
        num_trained_tokens=blocks * asked.domain.text.stream.text_tokens,
        membership=membership_figures(base, scored, reference, asked.members, asked.others, plan.seed),
        verbatim=verbatim_figures(scored, plan.window_tokens),
        personal=personal,
    )


def _part(scored: Scored, whole: DomainPlan, asked: DomainPlan) -> Scored:
    """The base's scores of the windows that another model is asked."""
    chosen = {id(window) for window in asked.members}
    is_asked = np.array([id(window) in chosen for window in whole.members])
    return Scored(scored.members.where(is_asked), scored.others)


def _report(progress: OnTokens | None, model: str, one: DomainPlan) -> Callable[[int], None]:
    return lambda num_tokens: None if progress is None else progress(model, one.domain.name, num_tokens)
