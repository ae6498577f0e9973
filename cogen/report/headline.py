"""The results of a run in sentences: gains, retained gain, forgetting, and why a run is not finished."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cogen.evaluate.matrix import BASE, COMBINED, Cell, Evaluation, retained_gain
from cogen.evaluate.seed_summary import SeedSummary
from cogen.report.record import RunRecord
from cogen.report.units import decimals, moment, percent


@dataclass(frozen=True)
class Forgotten:
    """A model's score on text that no client holds, and its change against the base; above 0 is forgotten."""

    model: str
    text: str
    bits_per_byte: float
    change: float | None


def verdict(seed_summary: SeedSummary | None) -> str:
    """Whether joining was better than training alone, in one sentence; empty where no domain trained alone."""
    own = [m.own.mean for m in (seed_summary.members.values() if seed_summary else ()) if m.own.mean is not None]
    if seed_summary is None or not own:
        return ""
    num_better, mean = sum(gain > 0 for gain in own), sum(own) / len(own)
    seeds = f"{len(seed_summary.seeds)} seeds" if len(seed_summary.seeds) != 1 else "one seed"
    return (
        f"Joining was better than training alone for {num_better} of {len(own)} domains on their own text, "
        f"{decimals(abs(mean))} bits per byte {'better' if mean >= 0 else 'worse'} on average ({seeds})."
    )


def headline(record: RunRecord) -> str:
    """The result in one sentence: from the evaluation if there is one, else from the clients' own scores."""
    if record.evaluation is None:
        return _without_evaluation(record)
    if not record.evaluation.cells:
        return "The evaluation holds no scores."
    if not {BASE, COMBINED} <= set(record.evaluation.models):
        return _without_combined(record.evaluation)
    domains = _own_domains(record, record.evaluation)
    changes = [change for d in domains if (change := _change(record.evaluation, d)) is not None]
    num_better = sum(change < 0 for change in changes)
    sentence = f"The combined model reads {num_better} of {_domains(len(changes))} better than the base"
    gains = retained_gain(record.evaluation)
    kept = [gain for d in domains if (gain := gains[d]) is not None]
    if not kept:
        return sentence + "."
    mean = sum(kept) / len(kept)
    if mean < 0:
        return f"{sentence}; where the domains gained alone, it lost ({percent(mean)} retained on average)."
    return f"{sentence}; it keeps {percent(mean)} of what the domains gained alone, on average."


def forgetting(record: RunRecord) -> str:
    """The combined model's change on text that no client holds; empty where it was not scored on such text."""
    if record.evaluation is None:
        return ""
    found = forgotten(record.evaluation, _own_domains(record, record.evaluation))
    changes = {f.text: f.change for f in found if f.model == COMBINED and f.change is not None}
    parts = [f"{decimals(change, signed=True)} bits per byte on {text}" for text, change in changes.items()]
    return f"On text that no client holds, against the base: {', '.join(parts)} (lower is better)." if parts else ""


def forgotten(evaluation: Evaluation, held: Iterable[str]) -> list[Forgotten]:
    """Each model on general text, and on the columns that no client holds.

    Args:
        held: the domains of the clients; without any, every column counts as held.
    """
    domains = set(held) or set(evaluation.domains)
    cells = [*(c for c in evaluation.cells if c.domain not in domains), *evaluation.general]
    base = {c.domain: c.bits_per_byte for c in cells if c.model == BASE}
    return [Forgotten(c.model, c.domain, c.bits_per_byte, _forgetting_of(c, base.get(c.domain))) for c in cells]


def failure(record: RunRecord) -> str:
    """Why a run failed and how far it came; empty where it did not fail."""
    if record.phase != "failed":
        return ""
    if record.rounds_phase != "failed":
        return f"Scoring the run failed: {record.reason.rstrip('.')}. The rounds are complete."
    event = next(m for m in reversed(record.moments) if m.event == "run_failed")
    reason = event.reason.rstrip(".") or "no reason was written down"
    rounds = _complete_rounds(record)
    return f"The run failed on {moment(event.time)}: {reason}. {rounds[0].upper()}{rounds[1:]}."


def warning(record: RunRecord) -> str:
    """The sentences above a report of a run that failed or has not finished; empty otherwise."""
    if record.phase == "finished" or not record.moments:
        return ""
    last = f"the last event is from {moment(record.moments[-1].time)}"
    if record.phase in ("baseline", "comparing"):
        return (
            f"The rounds are complete, but not all baselines and seeds are trained and scored; {last}. "
            "If this is no longer running, give the same command with --resume to continue."
        )
    return failure(record) or (
        f"The run has not finished: {_complete_rounds(record)}, and {last}. "
        "If it is no longer running, give the same command with --resume to continue from the last complete round."
    )


def working_seconds(record: RunRecord) -> float | None:
    """The sum of the times from each start to the last event before the next start: pauses do not count."""
    total, first, last = 0.0, None, None
    for m in record.moments:
        try:
            now = datetime.fromisoformat(m.time)
            if m.event in ("run_started", "seed_started") or first is None:
                total += (last - first).total_seconds() if first and last else 0.0
                first = now
            last = now
        except (ValueError, TypeError):
            continue
    return total + (last - first).total_seconds() if first and last else None


def _complete_rounds(record: RunRecord) -> str:
    done = sum(summary is not None for summary in record.rounds.values())
    planned = f" of {record.started.num_rounds}" if record.started else ""
    return f"{done}{planned} {'round is' if planned in ('', ' of 1') and done == 1 else 'rounds are'} complete"


def _forgetting_of(cell: Cell, base: float | None) -> float | None:
    return None if base is None or cell.model == BASE else cell.bits_per_byte - base


def _own_domains(record: RunRecord, evaluation: Evaluation) -> list[str]:
    """The columns of this run's domains; all columns where there is no start event."""
    named = record.started.domains if record.started else ()
    return [d for d in evaluation.domains if d in named] if named else list(evaluation.domains)


def _change(evaluation: Evaluation, domain: str) -> float | None:
    combined, base = evaluation.bits_per_byte(COMBINED, domain), evaluation.bits_per_byte(BASE, domain)
    return None if combined is None or base is None else combined - base


def _domains(num: int) -> str:
    return f"{num} domain" if num == 1 else f"{num} domains"


def _without_combined(evaluation: Evaluation) -> str:
    """The model with the lowest mean, if any model was scored on all domains."""
    scored = f"{len(evaluation.models)} models were scored on {_domains(len(evaluation.domains))}"
    if len(evaluation.models) == 1:
        scored = f"One model was scored on {_domains(len(evaluation.domains))}"
    means = {m: mean for m in evaluation.models if (mean := evaluation.mean_bits_per_byte(m)) is not None}
    if not means:
        return scored + ", none of them on all."
    best = min(means, key=means.__getitem__)
    return f"{scored}; the lowest mean is {decimals(means[best])} bits per byte, by {best}."


def _without_evaluation(record: RunRecord) -> str:
    done = [r for r in record.rounds.values() if r and r.bits_per_byte_before is not None]
    if not done or done[-1].bits_per_byte_after is None:
        return "No model of this run has been scored yet."
    before, after = decimals(done[0].bits_per_byte_before), decimals(done[-1].bits_per_byte_after)
    rounds = "1 round" if len(done) == 1 else f"{len(done)} rounds"
    return f"Over {rounds}, the clients' held-out bits per byte went from {before} to {after}."
