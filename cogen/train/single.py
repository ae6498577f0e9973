"""Training one domain without Flower, as `cogen train` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.adapter import Adapter, Factors
from cogen.config import Data, Train
from cogen.data import heldout_windows
from cogen.data.account import OnAccount, tell_losses
from cogen.data.pack import InterleavedStream
from cogen.data.spool import Progress
from cogen.errors import ConfigError
from cogen.train.cost import TrainingCost, adapted_frac, training_cost
from cogen.train.distributed import join_process_group
from cogen.train.gram import collect_grams
from cogen.train.likelihood import sum_nats
from cogen.train.loop import RoundResult, Step, train_round
from cogen.train.mixture import MIXED, Mixture, make_stream, own_streams, read_mixture, state_key
from cogen.train.schedule import plan_round
from cogen.train.start import require_context, start_factors
from cogen.train.state import Best, TrainState
from cogen.train.text_states import gate_statistics
from cogen.versions import versions

if TYPE_CHECKING:
    from cogen.base import Base


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter and the result of the training round that made it."""

    adapter: Adapter
    result: RoundResult


def train_adapter(
    base: Base,
    corpora: Mapping[str, str | Path],
    settings: Train,
    *,
    domain: str,
    heldout_frac: float = 0.05,
    data: Data | None = None,
    on_read: Progress | None = None,
    on_account: OnAccount | None = None,
    on_start: Callable[[TrainingCost], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    state_path: Path | None = None,
    resume: bool = False,
    gram_tokens: int = 0,
    gate_tokens: int = 0,
    start: Adapter | None = None,
) -> TrainedAdapter:
    """Continue pretraining `base` on the training part of one or more corpora, as one round.

    Blocks of several corpora alternate, so that each gives the same number of tokens. Among several processes
    (`accelerate launch`) each trains its share; only the first one calls back, saves the state and takes statistics.

    Args:
        corpora: name to path; the held-out part of each is never trained on.
        data: how documents are cleaned; the defaults when None.
        on_read: called while a corpus is prepared, see `prepare`.
        on_account: called with the name of each corpus and what became of it, once all are prepared.
        on_start: called with the cost of training, after the data are read and before the first step.
        gram_tokens: tokens of training text for the Gram statistics of `regmean`; 0 takes none.
        gate_tokens: tokens of training text, without what is mixed in, for the gate of a routed model; 0 takes none.
        start: an adapter to train on; its modules, ranks and scalings count, not those of `settings`. Without it factors
            are fresh.
        state_path: where the state is saved every `settings.checkpoint_seconds`, and read with `resume`.
    Raises:
        FingerprintMismatch: `start` is of another base.
        DataError: a corpus has fewer than two documents, or more of it than `data.max_loss_frac` is lost.
        RunError: with `resume`, the saved state belongs to other data or settings.

    >>> base = load_base("smollm2-135m")                                        # doctest: +SKIP
    >>> made = train_adapter(base, {"grid": "seeds/grid.jsonl"}, Train(), domain="grid")  # doctest: +SKIP
    >>> made.adapter.save("grid")                                               # doctest: +SKIP
    """
    _require_linear(settings, gram_tokens)
    if start is not None:
        base.info.require(start, "the adapter to start from")
        settings = settings_of_start(settings, start)
    require_context(base.info, settings)
    group = join_process_group(settings.batch_size)
    with group.main_first():
        mixture = read_mixture(base, corpora, settings, heldout_frac, data, on_read if group.is_main else None)
    tell_losses(mixture.accounts, (data or Data()).max_loss_frac, on_account if group.is_main else None)
    plan = plan_round(settings, 1, 1)
    stream = make_stream(mixture, settings, plan.total_blocks)
    key = state_key(base, mixture, settings) + (start.digest if start is not None else "")
    state = _saved_state(state_path, key) if resume else None
    group.require_same(f"{key} {0 if state is None else state.num_steps_done}")
    if on_start is not None and group.is_main:
        on_start(training_cost(base, settings))
    result = train_round(
        base,
        _first_factors(base, settings, start),
        stream,
        plan,
        settings,
        state=state,
        on_step=on_step,
        on_checkpoint=None if state_path is None else lambda s: s.save(state_path, key),
        validate=_validator(base, mixture, settings) if settings.early_stop_patience else None,
    )
    manifest = _manifest(domain, mixture, settings, data or Data(), result)
    if start is not None:
        manifest["parents"] = [{"name": "start", "factors_sha256": start.digest}]
    manifest["adapted_frac"] = adapted_frac(base.info, result.factors)
    num_gram_blocks = min(-(-gram_tokens // settings.sequence_length), plan.num_blocks) if group.is_main else 0
    grams = None
    if num_gram_blocks > 0:
        grams = collect_grams(base, result.factors, stream, num_gram_blocks)
        manifest["gram_tokens"] = num_gram_blocks * settings.sequence_length
    gate = None
    if gate_tokens > 0 and group.is_main:
        own = InterleavedStream(own_streams(mixture, settings))
        gate = gate_statistics(base, own, plan.num_blocks, gate_tokens)
    embeddings = frozenset(base.info.embeddings) & result.factors.keys()
    adapter = Adapter(result.factors, base.info.name, base.info.fingerprint, manifest, embeddings, grams, gate)
    return TrainedAdapter(adapter, result)


def settings_of_start(settings: Train, start: Adapter) -> Train:
    """The settings with the rank and scaling of an adapter that is trained on.

    Raises:
        ConfigError: a setting asks for factors of another form.
    """
    for key in ("rank_pattern", "alpha_pattern", "target_modules", "rslora"):
        if value := getattr(settings, key):
            fix = "Take it away: what is trained on keeps its own."
            raise ConfigError("cannot train on an adapter", expected=f"no train.{key}", got=str(value), fix=fix)
    scaling = max(f.scaling for f in start.factors.values())
    return settings.model_copy(update={"rank": start.rank, "alpha": scaling * start.rank})


def _first_factors(base: Base, settings: Train, start: Adapter | None) -> dict[str, Factors]:
    if start is not None:
        return dict(start.factors)
    return start_factors(base.info.modules, settings, base.info.embeddings)


def _saved_state(path: Path | None, key: str) -> TrainState | None:
    """The state at `path`; None if there is no such file."""
    return TrainState.load(path, key) if path is not None and path.is_file() else None


def _require_linear(settings: Train, gram_tokens: int) -> None:
    """Raise ConfigError if Gram statistics are asked for and embeddings are trained."""
    if gram_tokens > 0 and settings.train_embeddings:
        raise ConfigError(
            "cannot take Gram statistics",
            expected="only linear layers to train",
            got="train.train_embeddings = true",
            fix="Switch one of them off; embeddings have no inputs to take statistics of.",
        )


def _manifest(domain: str, mixture: Mixture, settings: Train, data: Data, result: RoundResult) -> dict[str, Any]:
    """The adapter's `cogen.json`; it names corpora by hash, since a domain's paths are private."""
    stopped = {} if result.best is None else {"early_stop": _early_stop(result.best, result)}
    return {
        "kind": "expert",
        "domain": domain,
        "num_tokens": result.num_tokens,
        "loss_nats": result.loss_nats,
        "settings": settings.model_dump(exclude=set(MIXED)),
        "data_sha256": {name: corpus.sha256 for name, corpus in mixture.corpora.items()},
        **mixture.digests,
        **stopped,
        "heldout_frac": mixture.heldout_frac,
        "validation_frac": mixture.validation_frac,
        "data": data.model_dump(),
        "parents": [],
        "versions": versions(),
    }


def _early_stop(best: Best, result: RoundResult) -> dict[str, Any]:
    return {"best_step": best.step, "last_step": result.num_steps, "bits_per_byte": best.bits_per_byte}


def _validator(base: Base, mixture: Mixture, settings: Train) -> Callable[[], float]:
    """A function that gives the bits per byte of the validation documents."""
    windows = heldout_windows(
        mixture.validation(), base.tokenizer, settings.sequence_length, settings.early_stop_tokens
    )
    num_bytes = sum(w.num_bytes for w in windows)
    return lambda: sum_nats(base, windows) / math.log(2.0) / num_bytes
