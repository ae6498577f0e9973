"""An `audit.json` with every field, for tests of the record and of what is drawn from it."""

from __future__ import annotations

from cogen.audit.record import (
    AttackFigures,
    Audit,
    AuditRow,
    CanaryFigures,
    Estimate,
    Membership,
    PersonalFigures,
    Verbatim,
    VerbatimFigures,
)
from cogen.evaluate.matrix import NotMeasured

DOMAINS = ("clinical", "grid")
MODELS = {"base": 0.50, "expert:{}": 0.72, "combined": 0.58}


def attack(score: str, auc: float) -> AttackFigures:
    found = max(0.01, auc - 0.5)
    area = Estimate(auc, max(0.0, auc - 0.06), min(1.0, auc + 0.06))
    return AttackFigures(score, area, Estimate(found, found / 2, min(1.0, found * 2)))  # type: ignore[arg-type]


def continued(num_prefixes: int, num_exact: int, matched: float) -> VerbatimFigures:
    share = num_exact / num_prefixes
    return VerbatimFigures(num_prefixes, num_exact, Estimate(share, share / 2, min(1.0, share + 0.03)), matched)


def row(model: str, domain: str, auc: float, num_others: int = 128) -> AuditRow:
    names = ("min_k", "zlib", "loss") if model == "base" else ("ratio", "min_k", "zlib", "loss")
    scores = tuple(attack(name, auc if name == "ratio" else 0.5 + (auc - 0.5) / 2) for name in names)
    num_exact = 0 if model == "base" else 3
    return AuditRow(
        model=model,
        domain=domain,
        num_trained_tokens=0 if model == "base" else 30720,
        membership=Membership(128, 12, num_others, 97, 12, scores),
        verbatim=Verbatim(continued(128, num_exact, 4.5), continued(num_others, 0, 3.9)),
        personal={"email": PersonalFigures(4, min(num_exact, 1))},
    )


def example(num_others: int = 128) -> Audit:
    rows = [row(m.format(d), d, auc, num_others) for d in DOMAINS for m, auc in MODELS.items()]
    canaries = [
        CanaryFigures("grid", repeats, 4, first, 255, bits, 200, Estimate(first / 4, first / 8, 1.0))
        for repeats, first, bits in ((1, 0, 1.2), (4, 1, 3.5), (16, 4, 8.0))
    ]
    return Audit(
        base="smollm2-135m",
        seed=0,
        window_tokens=128,
        prefix_tokens=50,
        continuation_tokens=50,
        rows=tuple(rows),
        canaries=tuple(canaries),
        not_measured=(NotMeasured("expert:materials", "materials", "its documents changed since it was trained"),),
    )
