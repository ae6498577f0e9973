"""What a round writes into the run folder, so that a run that is killed at any moment continues as if it had not been.

The folder of a round appears whole, by one rename. Everything outside `rounds/` is made from it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cogen.adapter import Adapter, Factors, factor_digest
from cogen.base import BaseInfo
from cogen.records import Record
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
    round: int
    num_tokens: int
    energy_cut_frac: float
    parents: tuple[Mapping[str, Any], ...]


def save_start(run: RunFolder, base: BaseInfo, factors: Mapping[str, Factors]) -> None:
    """Round 0: the starting point of all clients."""
    with run.building_round(0) as folder:
        Adapter(factors, base.name, base.fingerprint, {"kind": "start"}).save(folder / "global")


def save_round(
    run: RunFolder, base: BaseInfo, number: int, replies: Sequence[ClientUpdate], result: Aggregated, *, is_only: bool
) -> None:
    """Write the folder of round `number`, whole.

    Args:
        is_only: the run has one round, so a reply is its domain's expert.
    """
    about = RoundFile(
        round=number,
        num_tokens=sum(r.num_tokens for r in replies),
        energy_cut_frac=result.energy_cut_frac,
        parents=tuple(
            {"name": r.domain, "weight": w, "factors_sha256": factor_digest(r.factors)}
            for r, w in zip(replies, result.weights, strict=True)
        ),
    )
    with run.building_round(number) as folder:
        Adapter(result.factors, base.name, base.fingerprint, about.model_dump(exclude={"format"})).save(
            folder / "global"
        )
        for reply in replies:
            manifest: dict[str, object] = {
                "kind": "expert" if is_only else "reply",
                "domain": reply.domain,
                "round": number - reply.rounds_late,
                "num_tokens": reply.num_tokens,
                "parents": [],
            }
            Adapter(reply.factors, base.name, base.fingerprint, manifest).save(folder / "clients" / reply.domain)
        save_states(folder, result.states)
        about.write(folder / "round.json")


def forget_rounds(run: RunFolder, last: int, keep: int) -> None:
    """Remove replies, factors and states of the rounds before the last `keep`; a kill in between leaves the rest for the next call."""
    for number in range(last - keep, 0, -1):
        parts = [run.round(number) / name for name in ("clients", "global", STATES)]
        found = [path for path in parts if path.exists()]
        if not found:
            return
        for path in found:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def save_final(run: RunFolder, num_rounds: int) -> Adapter:
    """Write `merged/`, and with one round `experts/`, from the folders of the rounds; returns the merged adapter."""
    if num_rounds == 1:
        replies = {path.name: path for path in sorted((run.round(1) / "clients").iterdir())}
        for stale in set(_names(run)) - set(replies):
            shutil.rmtree(run.expert(stale))
        for domain, path in replies.items():
            Adapter.load(path).save(run.expert(domain))
    final = Adapter.load(run.round(num_rounds) / "global")
    final.save(run.merged)
    return final


def _names(run: RunFolder) -> list[str]:
    folder = run.path / "experts"
    return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
