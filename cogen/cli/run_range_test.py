"""The work of `cogen train --lr-range-test`, imported only when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cogen.base import Base
from cogen.cli.show import print_json, token_bar
from cogen.config import RunConfig
from cogen.train.range_test import NUM_STEPS, RATES, RateTrial, range_test, stable_trials


def run_range_test(base: Base, corpora: Mapping[str, str], config: RunConfig, as_json: bool) -> None:
    """Try the rates with a bar, print a table and the rate to take."""
    settings, heldout_frac = config.train, config.evaluate.heldout_frac
    total = len(RATES) * NUM_STEPS * settings.batch_size * settings.sequence_length
    with token_bar("range test", total) as bar:
        before, trials = range_test(
            base, corpora, settings, heldout_frac=heldout_frac, data=config.data, on_step=bar.update
        )
    stable = stable_trials(trials, before)
    best = stable[-1].learning_rate if stable else None
    if as_json:
        print_json({"nats_before": before, "recommended": best, "trials": [_row(t, stable) for t in trials]})
        return
    print(f"{'rate':>8}  {'nats after':>10}  stable    (before: {before:.3f} nats)")
    for trial in trials:
        print(f"{trial.learning_rate:8.0e}  {trial.nats_after:10.3f}  {'yes' if trial in stable else 'no'}")
    print(f"take --set train.learning_rate={best:g}" if best else "no rate is stable: the data or the base is at fault")


def _row(trial: RateTrial, stable: Sequence[RateTrial]) -> dict[str, Any]:
    """Infinity is no JSON: a loss that is not finite is null."""
    after = trial.nats_after if math.isfinite(trial.nats_after) else None
    return {"learning_rate": trial.learning_rate, "nats_after": after, "stable": trial in stable}
