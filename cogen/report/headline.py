"""What a run came to, in sentences."""

from __future__ import annotations

from datetime import datetime

from cogen.evaluate.matrix import BASE, COMBINED, Evaluation, retained_gain
from cogen.report.record import RunRecord
from cogen.report.seeds import forgotten
from cogen.report.units import decimals, moment, percent


def headline(record: RunRecord) -> str:
    """The result in one sentence: the evaluation if there is one, else what the clients measured."""
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
    """How the combined model reads text that no client holds; empty where none was scored."""
    if record.evaluation is None:
        return ""
    found = forgotten(record.evaluation, _own_domains(record, record.evaluation))
    changes = {f.text: f.change for f in found if f.model == COMBINED and f.change is not None}
    parts = [f"{decimals(change, signed=True)} bits per byte on {text}" for text, change in changes.items()]
    return f"On text that no client holds, against the base: {', '.join(parts)} (lower is better)." if parts else ""


def warning(record: RunRecord) -> str:
    """What stands at the top of a run that failed or is not done; empty otherwise."""
    if record.state == "finished" or not record.moments:
        return ""
    done = sum(summary is not None for summary in record.rounds.values())
    planned = f" of {record.started.num_rounds}" if record.started else ""
    rounds = f"{done}{planned} {'round is' if planned in ('', ' of 1') and done == 1 else 'rounds are'} complete"
    last = record.moments[-1]
    if record.state == "failed":
        failure = next(m for m in reversed(record.moments) if m.event == "run_failed")
        reason = failure.reason.rstrip(".") or "no reason was written down"
        return f"The run failed on {moment(failure.time)}: {reason}. {rounds[0].upper()}{rounds[1:]}."
    return (
        f"The run has not finished: {rounds}, and the last event is from {moment(last.time)}. "
        "If it is no longer running, give the same command with --resume to go on from the last complete round."
    )


def working_seconds(record: RunRecord) -> float | None:
    """Time from each start to the last event before the next one, summed: pauses do not count."""
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


def _own_domains(record: RunRecord, evaluation: Evaluation) -> list[str]:
    """The columns that clients of this run hold; all of them where the run does not say."""
    named = record.started.domains if record.started else ()
    return [d for d in evaluation.domains if d in named] if named else list(evaluation.domains)


def _change(evaluation: Evaluation, domain: str) -> float | None:
    combined, base = evaluation.bits_per_byte(COMBINED, domain), evaluation.bits_per_byte(BASE, domain)
    return None if combined is None or base is None else combined - base


def _domains(num: int) -> str:
    return f"{num} domain" if num == 1 else f"{num} domains"


def _without_combined(evaluation: Evaluation) -> str:
    """The lowest mean, where there is one; nothing is claimed of a model that was not scored."""
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
