"""What a round writes into the run folder, so that a run that is killed at any moment continues as if it had not been.

The folder of a round appears whole, by one rename. Everything outside `rounds/` is made from it again.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from cogen.adapter import Adapter, Factors, factor_digest
from cogen.base import BaseInfo
from cogen.config import RunConfig, Schedule
from cogen.files import building_folder
from cogen.protocol.messages import Figures
from cogen.records import Record
from cogen.routing.folder import write_routed
from cogen.runs import RunFolder
from server.aggregate import Aggregated
from server.replies import ClientUpdate
from server.state import NAME as STATES
from server.state import save_states


class RoundFile(Record):
    """`round.json`: what the global adapter of a round was made of. A round with this file is complete."""

    file_name = "round.json"

    format: Literal[1] = 1
    kind: Literal["global"] = "global"
    schedule: Schedule = "parallel"
    round: int
    num_tokens: int
    energy_cut_frac: float
    parents: tuple[Mapping[str, Any], ...]


def save_start(run: RunFolder, base: BaseInfo, factors: Mapping[str, Factors]) -> None:
    """Round 0: the starting point of all clients."""
    with run.building_round(0) as folder:
        Adapter(factors, base.name, base.fingerprint, {"kind": "start"}).save(folder / "global")


def save_round(
    run: RunFolder,
    config: RunConfig,
    base: BaseInfo,
    number: int,
    replies: Sequence[ClientUpdate],
    result: Aggregated,
) -> None:
    """Write the folder of round `number`, whole."""
    weights: list[dict[str, float]] = [{"weight": w} for w in result.weights] or [{}] * len(replies)
    about = RoundFile(
        schedule=config.federation.schedule,
        round=number,
        num_tokens=sum(r.num_tokens for r in replies),
        energy_cut_frac=result.energy_cut_frac,
        parents=tuple(
            {"name": r.domain, **weight, "factors_sha256": factor_digest(r.factors)}
            for r, weight in zip(replies, weights, strict=True)
        ),
    )
    with run.building_round(number) as folder:
        Adapter(result.factors, base.name, base.fingerprint, about.model_dump(exclude={"format"})).save(
            folder / "global"
        )
        for reply in replies:
            manifest: dict[str, object] = {
                "kind": "expert" if has_experts(config) else "reply",
                "domain": reply.domain,
                "round": number - reply.rounds_late,
                "num_tokens": reply.num_tokens,
                "parents": [],
            }
            adapter = Adapter(reply.factors, base.name, base.fingerprint, manifest, gate=reply.gate)
            adapter.save(folder / "clients" / reply.domain)
        save_states(folder, result.states)
        about.write(folder / "round.json")


class VisitFile(Record):
    """`visit.json`: one visit of a relay, in a round that is not complete yet."""

    file_name = "visit.json"

    format: Literal[1] = 1
    domain: str
    figures: Figures
    bytes_up: int
    norm: float


def save_visit(
    run: RunFolder, base: BaseInfo, number: int, update: ClientUpdate, position: int, now: Mapping[str, Factors]
) -> None:
    """Write the folder of a visit, whole: what the domain sent, and the adapter that the next domain gets.

    Args:
        position: of the visit in its round, from 1.
    """
    manifest: dict[str, object] = {"kind": "reply", "domain": update.domain, "round": number, "parents": []}
    with building_folder(run.visit(number, position), has_one_writer=True) as folder:
        Adapter(update.factors, base.name, base.fingerprint, manifest).save(folder / "client")
        Adapter(now, base.name, base.fingerprint, manifest).save(folder / "global")
        VisitFile(domain=update.domain, figures=update.figures, bytes_up=update.bytes_up, norm=update.norm).write(
            folder / VisitFile.file_name
        )


def load_visits(run: RunFolder, number: int) -> tuple[list[ClientUpdate], dict[str, Factors]]:
    """The saved visits of round `number` in their order, and the adapter after the last one; none is an empty adapter."""
    updates: list[ClientUpdate] = []
    now: dict[str, Factors] = {}
    while (folder := run.visit(number, len(updates) + 1)).is_dir():
        about = VisitFile.load(folder / VisitFile.file_name)
        factors = dict(Adapter.load(folder / "client").factors)
        now = dict(Adapter.load(folder / "global").factors)
        updates.append(ClientUpdate(about.domain, factors, about.figures, about.bytes_up, about.norm))
    return updates, now


def forget_visits(run: RunFolder) -> None:
    """Remove the visits of rounds that are complete."""
    shutil.rmtree(run.visits, ignore_errors=True)


def forget_rounds(run: RunFolder, last: int, keep: int, best: Collection[int] = ()) -> None:
    """Remove replies, factors and states of the rounds before the last `keep`; a kill in between leaves the rest for the next call.

    Args:
        best: rounds whose global adapter stays, because it may be the best.
    """
    for number in range(last - keep, 0, -1):
        names = ("clients", STATES) if number in best else ("clients", "global", STATES)
        found = [path for path in (run.round(number) / name for name in names) if path.exists()]
        for path in found:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def has_experts(config: RunConfig) -> bool:
    """Whether a client's reply is its domain's expert: trained from the start of the run on its own text alone."""
    return config.federation.num_rounds == 1 and config.federation.schedule == "parallel"


def save_final(run: RunFolder, config: RunConfig) -> Adapter:
    """Write `merged/`, and where there are experts `experts/`, from the folders of the rounds; returns the merged adapter."""
    if has_experts(config):
        replies = {path.name: path for path in sorted((run.round(1) / "clients").iterdir())}
        for stale in set(_names(run)) - set(replies):
            shutil.rmtree(run.expert(stale))
        for domain, path in replies.items():
            Adapter.load(path).save(run.expert(domain))
    final = Adapter.load(run.round(config.federation.num_rounds) / "global")
    final.save(run.merged)
    return final


def save_routed(run: RunFolder, sharing: Collection[str]) -> dict[str, str]:
    """Write `routed/` from the experts that may be in it; returns why others are not, by domain.

    Args:
        sharing: domains whose own adapter may be given to others.
    """
    experts, missing = {}, {}
    for domain in _names(run):
        adapter = Adapter.open(run.expert(domain))
        if domain not in sharing:
            missing[domain] = "its domain does not share its adapter"
        elif adapter.gate is None:
            missing[domain] = "its domain sends no statistics for the gate"
        else:
            experts[domain] = adapter.gate
    sizes = Counter(len(statistics.mean) for statistics in experts.values())
    for domain, statistics in list(experts.items()):
        if len(statistics.mean) != sizes.most_common(1)[0][0]:  # the others decide what the base's hidden size is
            missing[domain] = "its statistics for the gate are not of this base"
            del experts[domain]
    if experts:
        write_routed(run.routed, run.merged, {domain: run.expert(domain) for domain in experts})
    return missing


def _names(run: RunFolder) -> list[str]:
    folder = run.path / "experts"
    return [path.name for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
