"""What an audit found, as the table cells of report and model card."""

from __future__ import annotations

from dataclasses import dataclass

from cogen.audit.record import Audit, AuditRow, Estimate, ScoreName, Verbatim
from cogen.evaluate.matrix import EXPERT_PREFIX, ROUND_PREFIX
from cogen.report.units import NOTHING, count, decimals, percent

ATTACKS: dict[ScoreName, str] = {"ratio": "likelihood ratio", "min_k": "min-k%++", "zlib": "zlib", "loss": "loss"}


@dataclass(frozen=True)
class Cells:
    """One model on one domain's text, as table cells."""

    domain: str
    model: str
    told_apart: str
    interval: str
    found: str
    trained: str
    unseen: str
    personal: str


@dataclass(frozen=True)
class AttackCells:
    """One attack with one model on one domain's text, as table cells."""

    domain: str
    model: str
    attack: str
    told_apart: str
    interval: str
    found: str
    found_interval: str


def is_round(row: AuditRow) -> bool:
    """Whether the model is a round's global adapter, which is shown among the details."""
    return row.model.startswith(ROUND_PREFIX)


def short_name(row: AuditRow) -> str:
    """The model, `expert` for the domain's own."""
    return "expert" if row.model == EXPERT_PREFIX + row.domain else row.model


def table_cells(audit: Audit, *, rounds: bool = False) -> list[Cells]:
    """A row of the table for every model, or for every round's global adapter."""
    return [_cells(row) for row in audit.rows if is_round(row) == rounds]


def attack_cells(audit: Audit) -> list[AttackCells]:
    """Every attack on every model."""
    return [
        AttackCells(
            row.domain,
            short_name(row),
            ATTACKS[attack.score],
            percent(attack.auc.value),
            interval(attack.auc),
            _at_few_alarms(row, percent(attack.true_positive_frac.value)),
            _at_few_alarms(row, interval(attack.true_positive_frac)),
        )
        for row in audit.rows
        for attack in row.membership.scores
    ]


def canary_cells(audit: Audit) -> list[list[str]]:
    """Domain, repeats, number, ranked first, exposure, and found at 1% false alarms."""
    return [
        [
            c.domain,
            count(c.repeats),
            count(c.num_canaries),
            count(c.num_first),
            f"{decimals(c.mean_exposure_bits, 1)} bits",
            percent(c.true_positive_frac.value),
        ]
        for c in audit.canaries
    ]


def interval(share: Estimate) -> str:
    """Its bounds in percent."""
    return f"{percent(share.low)} to {percent(share.high)}"


def _cells(row: AuditRow) -> Cells:
    ratio = row.membership.figures("ratio")
    trained, unseen = exact(row.verbatim)
    return Cells(
        row.domain,
        short_name(row),
        NOTHING if ratio is None else percent(ratio.auc.value),
        "" if ratio is None else interval(ratio.auc),
        NOTHING if ratio is None else _at_few_alarms(row, percent(ratio.true_positive_frac.value)),
        trained,
        unseen,
        f"{count(num_completed(row))} of {count(num_values(row))}" if row.personal else NOTHING,
    )


def _at_few_alarms(row: AuditRow, text: str) -> str:
    """The text, where there are enough unseen passages for a share of 1%."""
    return text if row.membership.resolves_false_positives else NOTHING


def exact(found: Verbatim) -> tuple[str, str]:
    """Passages continued word for word, trained and unseen."""
    trained, unseen = (f"{count(s.num_exact)} of {count(s.num_prefixes)}" for s in (found.trained, found.unseen))
    return trained, unseen


def num_values(row: AuditRow) -> int:
    """Values of personal data of all kinds."""
    return sum(found.num_values for found in row.personal.values())


def num_completed(row: AuditRow) -> int:
    """Those of them that the model completes."""
    return sum(found.num_completed for found in row.personal.values())
