"""How far a run is: its phase in words, the share of the rounds that is done, baselines and further seeds."""

from __future__ import annotations

from dataclasses import dataclass

from cogen.report.clients import clients_now
from cogen.report.record import Phase, RunRecord
from cogen.report.training import BaselineState

# Steps come often; scoring, and clients whose logs stay with them, are silent for long.
QUIET_SECONDS, QUIET_SECONDS_BETWEEN_STEPS = 3600, 300


def is_open(record: RunRecord) -> bool:
    """Whether the run has begun and not ended."""
    return record.phase not in ("waiting", "finished", "failed")


def phase_text(record: RunRecord) -> str:
    """What the run does now, in a few words.

    >>> phase_text(RunRecord("demo"))
    'Waiting for a run to start here'
    """
    seed, phase, shown = record.seed, record.phase, record
    if seed and is_open(record):
        shown = _current(record) or RunRecord("", rounds_phase="starting")
        phase = "comparing" if shown.phase == "finished" else shown.phase
    which = f"Seed {seed.number} of {seed.num_seeds} · " if seed and seed.num_seeds > 1 and is_open(record) else ""
    texts: dict[Phase, str] = {
        "waiting": "Waiting for a run to start here",
        "starting": "Starting: waiting for the clients",
        "training": f"Round {shown.round}" + (f" of {shown.started.num_rounds}" if shown.started else ""),
        "scoring": "Scoring on held-out text",
        "scored": "Scored; the run is about to end",
        "baseline": f"Training the baseline {shown.baselines.current}",
        "comparing": "Rounds finished; scoring the baselines",
        "finished": "Finished",
        "failed": "Failed",
    }
    return which + texts[phase]


def num_left_tokens(record: RunRecord) -> int | None:
    """What the baselines of the current seed have still to train; None while none trains."""
    current = _current(record)
    return current.baselines.num_left_tokens if current else None


def quiet_seconds(record: RunRecord) -> int:
    """How long an open run may write nothing before the page says so."""
    is_stepping = record.phase == "training" and any(client.step for client in clients_now(record))
    rows = compared(record)
    is_stepping |= num_left_tokens(record) is not None and any(
        r.state == "training" and r.loss_nats is not None for r in rows
    )
    return QUIET_SECONDS_BETWEEN_STEPS if is_stepping else QUIET_SECONDS


def done_frac(record: RunRecord) -> float:
    """The share of all rounds that is done."""
    if record.started is None or record.round == 0:
        return 0.0
    return min(1.0, (record.round - 1 + _round_frac(record)) / max(1, record.started.num_rounds))


def left_seconds(record: RunRecord) -> float | None:
    """Until the last round ends, at the pace of this one; None before its first step and after the rounds."""
    done = _round_frac(record)
    if record.rounds_phase != "training" or record.started is None or done == 0:
        return None
    pace = max(0.0, record.updated - record.round_began) / done
    return pace * (record.started.num_rounds - record.round + 1 - done)


def _round_frac(record: RunRecord) -> float:
    shares = [client.round_frac for client in clients_now(record)]
    return sum(shares) / max(1, len(shares))


@dataclass(frozen=True)
class ComparedRow:
    """A baseline, or the same run with one of several seeds.

    Args:
        state: waiting, training, trained, dropped or failed; the last two have a reason.
        progress: the last step or round, in words.
    """

    name: str
    state: str
    reason: str = ""
    progress: str = ""
    done_frac: float | None = None
    loss_nats: float | None = None
    tokens_per_second: float | None = None
    num_left_tokens: int | None = None


def compared(record: RunRecord) -> list[ComparedRow]:
    """What is trained to compare the run with: every seed, and below each its baselines."""
    runs = {record.first_seed: record, **{seed: record.seeds.get(seed) for seed in record.further_seeds}}
    rows = []
    for seed, run in runs.items():
        prefix = f"seed {seed}: " if len(runs) > 1 else ""
        rows += [_seed_row(prefix, run)] if prefix else []
        rows += [_baseline_row(prefix, state) for state in run.baselines.states] if run else []
    return rows


def _current(record: RunRecord) -> RunRecord | None:
    """The record of the seed that is worked on; None while that one has no folder."""
    if record.seed is None or record.seed.number == 1:
        return record
    return record.seeds.get(record.seed.seed)


def _seed_row(prefix: str, run: RunRecord | None) -> ComparedRow:
    name = f"{prefix}the run"
    if run is None or run.rounds_phase == "waiting":
        return ComparedRow(name, "waiting")
    state = {"failed": "failed", "finished": "trained"}.get(run.rounds_phase, "training")
    progress, frac = "", None
    if run.started and run.round:
        progress, frac = f"round {run.round} of {run.started.num_rounds}", done_frac(run)
    return ComparedRow(name, state, run.reason if state == "failed" else "", progress, frac)


def _baseline_row(prefix: str, baseline: BaselineState) -> ComparedRow:
    step, name = baseline.step, prefix + baseline.name
    if step is None or baseline.state == "dropped":
        return ComparedRow(name, baseline.state, baseline.reason)
    return ComparedRow(
        name=name,
        state=baseline.state,
        progress=f"step {step.step} of {step.num_steps}",
        done_frac=step.step / max(1, step.num_steps),
        loss_nats=step.loss_nats,
        tokens_per_second=step.tokens_per_second,
        num_left_tokens=round(step.num_tokens * (step.num_steps / max(1, step.step) - 1)),
    )
