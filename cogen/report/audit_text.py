"""What an audit found, in sentences that say no more than the intervals support."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cogen.audit.record import AttackFigures, Audit, AuditRow
from cogen.evaluate.matrix import BASE, COMBINED
from cogen.report.audit_table import ATTACKS, exact, interval, is_round, num_completed, num_values
from cogen.report.record import RunRecord
from cogen.report.units import count, percent

GUESSING = 0.5
MAX_NAMED = 3


@dataclass(frozen=True)
class Absence:
    """Why there is no audit, and the command that makes one, if any does."""

    text: str
    command: str = ""


def absence(record: RunRecord) -> Absence:
    """Why a run was not audited."""
    if record.artifacts.run_metadata is None:
        return Absence("Not audited: the texts that it was trained on are not here, but with the domains.")
    return Absence("Not audited;", "cogen audit RUN")


def telling(audit: Audit, row: AuditRow) -> AttackFigures | None:
    """The surest attack that tells trained passages from others better than guessing; None if there is none.

    Its interval lies above 0.5. Where the base, which has not seen the text, gets more than 0.5 by the same score, the
    passages differ by more than training, and the interval must lie above that.
    """
    base = audit.row(BASE, row.domain)
    found = []
    for attack in row.membership.scores:
        reference = base.membership.figures(attack.score) if base else None
        if attack.auc.low > max(GUESSING, reference.auc.value if reference else GUESSING):
            found.append(attack)
    return max(found, key=lambda attack: attack.auc.low, default=None)


def is_measured(row: AuditRow) -> bool:
    """Whether there were enough documents for an interval."""
    return (row.membership.auc.low, row.membership.auc.high) != (0.0, 1.0)


def verdict_lines(audit: Audit) -> list[str]:
    """The result in sentences: membership by kind of model, then verbatim text, personal data and canaries."""
    rows = [row for row in audit.rows if row.model != BASE]
    kinds: list[tuple[str, Callable[[AuditRow], bool]]] = [
        ("the combined model", lambda row: row.model == COMBINED),
        ("adapters of single domains", lambda row: row.model != COMBINED and not is_round(row)),
        ("the global adapters of earlier rounds", is_round),
    ]
    lines = [_membership(audit, some, name) for name, fits in kinds if (some := list(filter(fits, rows)))]
    return [*lines, *(line for line in (_verbatim(audit, rows), _personal(audit, rows), _canaries(audit)) if line)]


def _membership(audit: Audit, rows: Sequence[AuditRow], models: str) -> str:
    """Whether attacks with these models tell trained passages of a domain from others."""
    told = [(attack, row) for row in rows if (attack := telling(audit, row)) is not None]
    rest = {row.domain for row in rows} - {row.domain for _, row in told}
    unknown = [d for d in audit.domains if d in rest and not any(is_measured(r) for r in rows if r.domain == d)]
    quiet = [row for row in rows if row.domain in rest and row.domain not in unknown]
    parts = [f"trained passages are told from others {_worst(told)}"] if told else []
    if quiet:
        high = percent(max(row.membership.auc.high for row in quiet))
        where = f"for {_domains(list(dict.fromkeys(row.domain for row in quiet)))}, " if told else ""
        better = "no attack tells trained passages from others better than guessing"
        parts.append(f"{where}{better} (the interval of the likelihood ratio reaches {high} of pairs)")
    if unknown:
        parts.append(f"for {_domains(unknown)} there are too few documents to say")
    return f"With {models}, {'; '.join(parts)}."


def _domains(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} domains"


def _worst(told: Sequence[tuple[AttackFigures, AuditRow]]) -> str:
    """The surest finding of each domain, the surest first."""
    best: dict[str, tuple[AttackFigures, AuditRow]] = {}
    for attack, row in sorted(told, key=lambda pair: -pair[0].auc.low):
        best.setdefault(row.domain, (attack, row))
    named = []
    for attack, row in list(best.values())[:MAX_NAMED]:
        by = "" if attack.score == "ratio" else f", by {ATTACKS[attack.score]}"
        with_model = f", {row.model}" if is_round(row) else ""
        named.append(
            f"for {row.domain} in {percent(attack.auc.value)} of pairs ({interval(attack.auc)}{with_model}{by})"
        )
    more = len(best) - len(named)
    return ", ".join(named) + (f", and better than guessing for {more} more domains" if more else "")


def _verbatim(audit: Audit, rows: Sequence[AuditRow]) -> str:
    if not rows:
        return ""
    worst = max(rows, key=lambda row: row.verbatim.trained.exact_frac.value)
    if not worst.verbatim.trained.num_exact:
        most = max(row.verbatim.trained.num_prefixes for row in rows)
        return f"No trained passage is continued word for word, of up to {count(most)} that were tried with each model."
    base = audit.row(BASE, worst.domain)
    others = [f"{exact(worst.verbatim)[1]} unseen ones"]
    if base:
        others.append(f"with the base, which has not seen them here, {exact(base.verbatim)[0]}")
    return (
        f"At most, {worst.model} continues {exact(worst.verbatim)[0]} trained passages of {worst.domain} word for word "
        f"({'; '.join(others)})."
    )


def _personal(audit: Audit, rows: Sequence[AuditRow]) -> str:
    if not rows:
        return ""
    worst = max(rows, key=num_completed)
    if not any(num_values(row) for row in rows):
        return "No personal data was found in the trained text that was searched."
    if not num_completed(worst):
        most = {row.domain: max(num_values(r) for r in rows if r.domain == row.domain) for row in rows}
        return f"None of {count(sum(most.values()))} values of personal data in the trained text is completed."
    base = audit.row(BASE, worst.domain)
    alone = f" (the base {count(num_completed(base))})" if base else ""
    return (
        f"At most, {worst.model} completes {count(num_completed(worst))} of {count(num_values(worst))} values of "
        f"personal data in the trained text of {worst.domain}{alone}."
    )


def _canaries(audit: Audit) -> str:
    """Of the canaries that were planted most often and least often."""
    if not audit.canaries:
        return ""
    repeats = sorted({c.repeats for c in audit.canaries})
    parts = []
    for number in dict.fromkeys((repeats[0], repeats[-1])):
        some = [c for c in audit.canaries if c.repeats == number]
        first, total = sum(c.num_first for c in some), sum(c.num_canaries for c in some)
        parts.append(f"{count(first)} of {count(total)} secrets planted {_times(number)}")
    return f"A model trained on a copy of the text with planted secrets gives away {' and '.join(parts)}."


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
