"""Baselines of a run, trained for the same number of tokens: each domain alone, and one adapter on all text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.config import Domain, RunConfig, Train
from cogen.errors import CogenError
from cogen.evaluate.matrix import CENTRALIZED, LOCAL_PREFIX
from cogen.runs import RunFolder, append_line
from cogen.train.loop import Step
from cogen.train.schedule import plan_round
from cogen.train.single import train_adapter

if TYPE_CHECKING:
    from cogen.base import Base

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Baseline:
    """One baseline adapter.

    Args:
        row: its name in the evaluation matrix.
        folder: where the adapter is saved.
        corpora: name to path; training takes a block from each in turn.
        settings: the settings of the run, with all tokens in one round.
    """

    row: str
    folder: Path
    corpora: Mapping[str, str]
    settings: Train

    @property
    def state_path(self) -> Path:
        """Where an interrupted training is saved."""
        return self.folder.parent / f".{self.folder.name}.training"


def baselines_of(run: RunFolder, config: RunConfig, folder: Path) -> list[Baseline]:
    """The baselines of a run: one for each domain alone, then the centralized one.

    A domain alone trains as many tokens as in all rounds together, under one schedule. The centralized adapter trains
    their sum, with a block from each domain in turn. A domain whose expert is in the run needs no baseline: the expert
    was trained alone.

    Args:
        run: the run of one seed.
        config: its settings, with that seed.
        folder: where its baselines are saved.
    """
    plan = plan_round(config.train, 1, config.federation.num_rounds)
    num_tokens = plan.total_blocks * config.train.sequence_length
    made = [
        Baseline(
            LOCAL_PREFIX + d.name,
            folder / "local" / d.name,
            {d.name: config.corpora[d.name]},
            settings_alone(config, d, num_tokens),
        )
        for d in config.domains
        if not run.expert(d.name).is_dir()
    ]
    everything = config.train.model_copy(update={"tokens_per_round": num_tokens * len(config.domains)})
    return [*made, Baseline(CENTRALIZED, folder / CENTRALIZED, config.corpora, everything)]


def settings_alone(config: RunConfig, domain: Domain, num_tokens: int) -> Train:
    """The settings of the run at the domain's own rank, with `num_tokens` in one round.

    The scaling of B @ A stays that of the run.
    """
    changes: dict[str, Any] = {"tokens_per_round": num_tokens}
    rank = config.rank_of(domain)
    if rank != config.train.rank:
        changes |= {"rank": rank, "alpha": config.train.scaling * (math.sqrt(rank) if config.train.rslora else rank)}
    return config.train.model_copy(update=changes)


def train_baselines(
    base: Base, run: RunFolder, config: RunConfig, baselines: Iterable[Baseline], show: OnEvent
) -> None:
    """Train the missing baselines; interrupted ones continue. If one fails, an event says why and the others go on."""
    todo = [baseline for baseline in baselines if not baseline.folder.is_dir()]
    for i, baseline in enumerate(todo):
        left = [c.settings.tokens_per_round for c in todo[i:]]
        tell(run, show, "baseline_started", baseline=baseline.row, num_left_tokens=sum(left))
        try:
            _train(base, run, config, baseline, show)
        except (CogenError, RuntimeError, MemoryError, OSError) as error:
            reason = str(error) if isinstance(error, CogenError) else f"{type(error).__name__}: {error}"
            tell(run, show, "baseline_failed", baseline=baseline.row, reason=reason)
        else:
            tell(run, show, "baseline_trained", baseline=baseline.row, num_tokens=baseline.settings.tokens_per_round)


def _train(base: Base, run: RunFolder, config: RunConfig, baseline: Baseline, show: OnEvent) -> None:
    made = train_adapter(
        base,
        baseline.corpora,
        baseline.settings,
        domain=baseline.folder.name,
        heldout_frac=config.evaluate.heldout_frac,
        data=config.data,
        on_step=partial(_step, run, show, baseline.row),
        state_path=baseline.state_path,
        resume=True,
    )
    made.adapter.save(baseline.folder)
    baseline.state_path.unlink(missing_ok=True)


def _step(run: RunFolder, show: OnEvent, row: str, step: Step) -> None:
    values = {"baseline": row, **vars(step)}
    append_line(run.baseline_steps, values)
    show({**values, "event": "baseline_step"})


def tell(run: RunFolder, show: OnEvent, event: str, **values: Any) -> None:
    """Append an event to the run, and show it."""
    run.append_event(event, **values)
    show({"event": event, **values})
