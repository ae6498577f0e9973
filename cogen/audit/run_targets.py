"""Targets of the audit of a simulation: by domain its expert, the global adapters of earlier rounds, the combined model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter.folder import MANIFEST_NAME, Manifest
from cogen.audit.targets import AuditedDomain, AuditedModel, Targets, Training, audit_text
from cogen.audit.windows import trained_blocks
from cogen.config import Domain, RunConfig, load_config
from cogen.data.run_metadata import RunMetadata
from cogen.data.spool import Progress
from cogen.errors import RunError
from cogen.evaluate.baselines import settings_alone
from cogen.evaluate.matrix import COMBINED, EXPERT_PREFIX, ROUND_PREFIX, NotMeasured
from cogen.runs import RUN_METADATA, RunFolder, read_lines
from cogen.train.mixture import read_mixture
from cogen.train.schedule import plan_round

if TYPE_CHECKING:
    from cogen.base import Base

CHANGED = "its documents or their cleaning are not those of the run"


def run_targets(base: Base, run: RunFolder, *, has_rounds: bool = False, progress: Progress | None = None) -> Targets:
    """What a run folder of `cogen simulate` has to audit.

    A domain's text is what it trained in the rounds whose reply was used. It is known exactly: the order of blocks
    follows from the run's settings.

    Args:
        has_rounds: also the global adapter after each round but the last, as far as the run kept them.
    Raises:
        RunError: no simulation, or no adapter yet.
        DataError: a corpus cannot be read.
    """
    require_simulation(run)
    config, metadata = load_config(run.config), RunMetadata.load(_metadata(run))
    config.require_data()
    used = used_rounds(run)
    domains: list[AuditedDomain] = []
    gaps: list[NotMeasured] = []
    for domain in config.domains:
        rounds = used.get(domain.name, {})
        found = _domain(base, run, config, domain, rounds, has_rounds=has_rounds, progress=progress) if rounds else None
        if found is None:
            gaps.append(NotMeasured(COMBINED, domain.name, "no round used an adapter of it"))
        elif found[0] != (metadata.data[domain.name].sha256 if domain.name in metadata.data else ""):
            gaps.append(NotMeasured(COMBINED, domain.name, CHANGED))
        elif found[1].models:
            domains.append(found[1])
    if not domains:
        raise _nothing(run, "an expert or a combined adapter", gaps[0].reason if gaps else "none yet")
    return Targets(tuple(domains), tuple(gaps))


def require_simulation(run: RunFolder) -> None:
    """Refuse a folder in which nobody can know what was trained.

    Raises:
        RunError: no run, or the coordinator's folder of a real federation: texts and their order stay at the domains.
    """
    if not run.config.is_file():
        raise _nothing(run, "a run folder", "no config.toml")
    if not _metadata(run).is_file():
        raise _nothing(run, "a simulation", "a run whose texts are with its domains")


def _metadata(run: RunFolder) -> Path:
    """The amounts of text; those of a run in `seeds/<seed>` are in the folder of the first seed."""
    outer = run.path.parent.parent / RUN_METADATA
    return outer if run.path.parent.name == "seeds" and not run.run_metadata.is_file() else run.run_metadata


def used_rounds(run: RunFolder) -> dict[str, dict[int, int]]:
    """By domain, each round that it trained, and the round whose global adapter its reply entered: that one, or later."""
    last = run.last_complete_round()
    found: dict[tuple[str, int], int | None] = {}
    for event in read_lines(run.events_path):
        if event.get("event") in ("client_replied", "client_dropped") and 0 < event["round"] <= last:
            is_used = event["event"] == "client_replied"
            trained = event["round"] - event.get("rounds_late", 0)
            found[event["domain"], event["round"]] = trained if is_used else None
    rounds: dict[str, dict[int, int]] = {}
    for (domain, entered), trained_in in found.items():
        if trained_in is not None:
            rounds.setdefault(domain, {})[trained_in] = entered
    return rounds


def _domain(
    base: Base,
    run: RunFolder,
    config: RunConfig,
    domain: Domain,
    rounds: Mapping[int, int],
    *,
    has_rounds: bool,
    progress: Progress | None,
) -> tuple[str, AuditedDomain]:
    """The sha256 of the prepared text, and the domain with its models."""
    assert domain.data is not None
    train = config.train.model_copy(update={"tokens_per_round": config.tokens_of(domain)})
    mixture = read_mixture(base, {domain.name: domain.data}, train, config.evaluate.heldout_frac, config.data, progress)
    num_rounds = config.federation.num_rounds

    def blocks_of(last: int) -> list[int]:
        plans = [plan_round(train, number, num_rounds) for number in sorted(rounds) if rounds[number] <= last]
        mixed = [b for plan in plans for b in range(plan.first_block, plan.first_block + plan.num_blocks)]
        return trained_blocks(train, 1, mixed, plan_round(train, 1, num_rounds).total_blocks)[0]

    prepared = mixture.corpora[domain.name]
    models = _models(run, domain.name, num_rounds if has_rounds else 1, blocks_of)
    text = audit_text(base, prepared, train, blocks_of(num_rounds))
    total = plan_round(train, 1, 1).num_blocks * len(rounds) * train.sequence_length
    training = Training(settings_alone(config, domain, total), mixture)
    return prepared.card.sha256, AuditedDomain(domain.name, text, models, training)


def _models(
    run: RunFolder, domain: str, num_rounds: int, blocks_of: Callable[[int], list[int]]
) -> tuple[AuditedModel, ...]:
    """The models that are there: the expert, global adapters before the last one, the combined model."""
    last = run.last_complete_round()
    about = Manifest.load_if_present(run.merged / MANIFEST_NAME) or Manifest()
    combined = int((about.model_extra or {}).get("round", last))  # a run ends with its best round
    places = [(EXPERT_PREFIX + domain, run.expert(domain), last)]
    places += [(f"{ROUND_PREFIX}{n}", run.round(n) / "global", n) for n in range(1, num_rounds)]
    places += [(COMBINED, run.merged, combined)]
    found = [(name, folder, frozenset(blocks_of(number))) for name, folder, number in places if folder.is_dir()]
    return tuple(AuditedModel(name, folder, blocks) for name, folder, blocks in found if blocks)


def _nothing(run: RunFolder, expected: str, got: str) -> RunError:
    return RunError(
        "cannot audit",
        expected=expected,
        got=got,
        where=str(run.path),
        fix="Name a run of `cogen simulate`, or adapters and corpora with --adapter and --data.",
    )
