"""`audit.json`: what the models of a run remember of the text that they were trained on. Figures only, no text.

    {"format": 1, "base": "smollm2-135m", "seed": 0, "window_tokens": 128, ...,
     "rows": [{"model": "expert:grid", "domain": "grid", "num_trained_tokens": 30720,
               "membership": {"num_members": 128, ..., "scores": [{"score": "ratio",
                 "auc": {"value": 0.61, "low": 0.52, "high": 0.69}, "true_positive_frac": {...}}, ...]},
               "verbatim": {...}, "personal": {"email": {"num_values": 3, "num_completed": 0}}}, ...],
     "canaries": [{"domain": "grid", "repeats": 16, ...}], "not_measured": [...]}

The first row of a domain is the base. It was not trained on the text, so its figures are what chance gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from cogen.console import table
from cogen.evaluate.matrix import BASE, NotMeasured
from cogen.records import Count, Inconsistent, Name, Record

Frac = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
ScoreName = Literal["ratio", "min_k", "zlib", "loss"]
MAX_FALSE_POSITIVE_FRAC = 0.01
NUM_TO_RESOLVE = round(1 / MAX_FALSE_POSITIVE_FRAC)
"""Unseen windows with which one false positive is a share of `MAX_FALSE_POSITIVE_FRAC`."""


@dataclass(frozen=True)
class Estimate:
    """A share, with the bounds of its 95% interval."""

    value: Frac
    low: Frac
    high: Frac


@dataclass(frozen=True)
class AttackFigures:
    """How well one score tells trained windows from others.

    Args:
        score: `ratio` (base loss minus loss), `min_k` (min-k%++), `zlib` (loss by compressed byte) or `loss`.
        auc: probability that a trained window has a higher score than another one; 0.5 is chance.
        true_positive_frac: share of trained windows found at 1% false positives.
    """

    score: ScoreName
    auc: Estimate
    true_positive_frac: Estimate


@dataclass(frozen=True)
class Membership:
    """Whether a model tells the text that it was trained on from other text of the same corpus.

    Args:
        num_members, num_member_documents: windows of trained text, and the documents that they are from.
        num_others, num_other_documents: windows of documents of which no token was trained, held-out ones included.
        num_heldout: those of `num_others` that are from held-out documents.
        scores: `ratio` first; the base has no ratio.
    """

    num_members: Count
    num_member_documents: Count
    num_others: Count
    num_other_documents: Count
    num_heldout: Count
    scores: Annotated[tuple[AttackFigures, ...], Field(min_length=1)]

    @property
    def auc(self) -> Estimate:
        """AUC of the first score: the likelihood ratio, or min-k%++ for the base."""
        return self.scores[0].auc

    @property
    def resolves_false_positives(self) -> bool:
        """Whether there are enough other windows to speak of 1% false positives."""
        return self.num_others >= NUM_TO_RESOLVE

    def figures(self, score: ScoreName) -> AttackFigures | None:
        """The figures of one score; None where it was not computed."""
        return next((found for found in self.scores if found.score == score), None)


@dataclass(frozen=True)
class VerbatimFigures:
    """Greedy continuation of prefixes of one kind of text.

    Args:
        num_exact: prefixes whose whole continuation was the text itself, token by token; `exact_frac` is their share.
        mean_matched_tokens: tokens of the continuation before the first that differs.
    """

    num_prefixes: Count
    num_exact: Count
    exact_frac: Estimate
    mean_matched_tokens: NonNegative


@dataclass(frozen=True)
class Verbatim:
    """Continuation of trained text and, to compare with, of other text of the same corpus."""

    trained: VerbatimFigures
    unseen: VerbatimFigures


@dataclass(frozen=True)
class PersonalFigures:
    """Values of one kind in the trained text, and how many of them the model completes from the text before them."""

    num_values: Count
    num_completed: Count


@dataclass(frozen=True)
class AuditRow:
    """What one model remembers of one domain's text.

    Args:
        num_trained_tokens: of this text, by this model or the models that it was merged from; 0 for the base.
        personal: by kind of personal data, as in the data card; empty where none was found.
    """

    model: Name
    domain: Name
    num_trained_tokens: Count
    membership: Membership
    verbatim: Verbatim
    personal: Mapping[str, PersonalFigures]


@dataclass(frozen=True)
class CanaryFigures:
    """Random sentences that were planted in the training text so many times, after training as the domain's adapter was.

    Args:
        num_first: canaries whose secret is more likely than all of `num_alternatives` random others.
        mean_exposure_bits: log2(alternatives + 1) - log2(rank of the secret), at most log2(alternatives + 1).
        true_positive_frac: share whose likelihood ratio is above that of 99% of the `num_unplanted` never planted ones.
    """

    domain: Name
    repeats: Count
    num_canaries: Count
    num_first: Count
    num_alternatives: Count
    mean_exposure_bits: NonNegative
    num_unplanted: Count
    true_positive_frac: Estimate


class Audit(Record):
    """`audit.json`.

    Args:
        window_tokens: length of the windows of membership.
        prefix_tokens, continuation_tokens: of the verbatim attack.
    """

    file_name = "audit.json"
    fix = "Write it again with `cogen audit`, or move it away."

    format: Literal[1] = 1
    base: Name
    seed: Count
    window_tokens: Count
    prefix_tokens: Count
    continuation_tokens: Count
    rows: tuple[AuditRow, ...]
    canaries: tuple[CanaryFigures, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in order of first appearance."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    def row(self, model: str, domain: str) -> AuditRow | None:
        """What one model remembers of one domain's text; None if it was not audited on it."""
        return next((r for r in self.rows if (r.model, r.domain) == (model, domain)), None)

    def check(self) -> None:
        """Raise Inconsistent when a row is there twice, or counts contradict each other."""
        seen: set[tuple[str, str]] = set()
        for row in self.rows:
            if (row.model, row.domain) in seen:
                raise Inconsistent("rows without duplicates", f"{row.model} on {row.domain} twice")
            seen.add((row.model, row.domain))
            for kind, found in row.personal.items():
                if found.num_completed > found.num_values:
                    raise Inconsistent(f"{kind}: at most {found.num_values} completed", str(found.num_completed))


def format_audit(audit: Audit) -> str:
    """A plain-text table: a row for each domain and model, then canaries and what the figures cannot say."""
    head = ["domain", "model", "AUC ratio", "95% interval", "AUC min-k", "found at 1%", "verbatim", "personal data"]
    text = table([head, *(_row(row) for row in audit.rows)], num_left=2) + "\n"
    if audit.canaries:
        names = ["domain", "planted", "canaries", "ranked first", "exposure", "found at 1%"]
        text += "\n" + table([names, *(_canary_row(found) for found in audit.canaries)]) + "\n"
    return text + "".join(f"{line}\n" for line in notes(audit))


def notes(audit: Audit) -> list[str]:
    """What the figures cannot say, one sentence each."""
    few = [r for r in audit.rows if r.model != BASE and not r.membership.resolves_false_positives]
    lines = []
    if few:
        least = min(row.membership.num_others for row in few)
        domains = ", ".join(dict.fromkeys(row.domain for row in few))
        lines.append(
            f"{domains}: {least} unseen windows are too few for 1% false positives; at least {NUM_TO_RESOLVE} are needed"
        )
    return [*lines, *(f"{gap.model} on {gap.domain}: not audited, {gap.reason}" for gap in audit.not_measured)]


def _row(row: AuditRow) -> list[str]:
    scores = row.membership.scores
    ratio = next((s.auc for s in scores if s.score == "ratio"), None)
    min_k = next((s.auc for s in scores if s.score == "min_k"), None)
    found = scores[0].true_positive_frac
    exact, values = row.verbatim.trained, row.personal.values()
    return [
        row.domain,
        row.model,
        "-" if ratio is None else f"{ratio.value:.3f}",
        "-" if ratio is None else f"{ratio.low:.2f} to {ratio.high:.2f}",
        "-" if min_k is None else f"{min_k.value:.3f}",
        f"{found.value:.1%}",
        f"{exact.num_exact}/{exact.num_prefixes}",
        f"{sum(v.num_completed for v in values)}/{sum(v.num_values for v in values)}",
    ]


def _canary_row(found: CanaryFigures) -> list[str]:
    return [
        found.domain,
        f"{found.repeats} times",
        str(found.num_canaries),
        str(found.num_first),
        f"{found.mean_exposure_bits:.1f} bits",
        f"{found.true_positive_frac.value:.0%}",
    ]
