"""The work of `cogen doctor`, imported only when it runs: look, measure, propose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from cogen.base import Base, describe_base, load_base
from cogen.cli.run_data import cost_at, measured_cost
from cogen.cli.show import byte_bar, print_json
from cogen.config import Federation, RunConfig, Train, load_config
from cogen.data import Prepared
from cogen.errors import CogenError
from cogen.federation.admission import greet
from cogen.federation.app_hash import installed_app_sha256
from cogen.federation.invites import Invite, read_invite
from cogen.node.doctor import (
    Check,
    Proposal,
    check_corpus,
    check_machine,
    check_matrix_rate,
    check_round,
    check_versions,
    propose,
    worst,
)
from cogen.node.home import default_home
from cogen.settings import read_toml
from cogen.train.corpus import prepare_corpus
from cogen.versions import versions


@dataclass(frozen=True)
class Asked:
    """What is known of the federation: from an invite, or from a config."""

    base: str
    train: Train
    federation: Federation
    invite: Invite | None = None
    config: RunConfig | None = None


def run_doctor(source: Path, data: str | None, base: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Print every finding as it is made; exit 2 if one is a problem."""
    asked = _read(source)
    place = folder or (default_home(asked.invite.federation, asked.invite.domain) if asked.invite else Path.cwd())
    checks: list[Check] = []

    def say(check: Check) -> None:
        checks.append(check)
        if not as_json:
            print(check, flush=True)

    for check in (check_versions(versions()), *check_machine(place), check_matrix_rate(), *_federation(asked)):
        say(check)
    proposal = _training(asked, base or asked.base, data, say)
    if as_json:
        found = None if proposal is None else asdict(proposal)
        print_json({"state": worst(checks), "checks": [asdict(c) for c in checks], "proposal": found})
    elif proposal is not None:
        print(
            f"\nproposal: rank {proposal.rank}, batch_blocks {proposal.batch_blocks},"
            f" {proposal.tokens_per_round} tokens a round: {proposal.minutes:.1f} min, {proposal.peak_memory_mb:.0f} MB"
        )
    if worst(checks) == "problem":
        sys.exit(2)


def _read(source: Path) -> Asked:
    if "token" in read_toml(source):
        invite = read_invite(source)
        return Asked(invite.base, Train(), Federation(), invite=invite)
    config = load_config(source)
    return Asked(config.base.name, config.train, config.federation, config=config)


def _federation(asked: Asked) -> Iterator[Check]:
    """The invite, the app, and the way to the coordinator."""
    if asked.invite is None:
        return
    invite = asked.invite

    def current() -> str:
        invite.require_current()
        return f"of federation {invite.federation!r}, until {invite.expires}"

    yield _check("invite", current)
    app = installed_app_sha256()
    same = app == invite.app_sha256
    text = app[:12] if same else f"{app[:12]}, not {invite.app_sha256[:12]}"
    yield Check("app", "ok" if same else "problem", text, "" if same else "Install the coordinator's cogen-ai.")
    yield _check("coordinator", lambda: f"{invite.address} by TLS; clock {greet(invite.address, invite.ca):+.0f} s")


def _check(name: str, look: Any) -> Check:
    """What `look` finds, or its error as a problem."""
    try:
        return Check(name, "ok", str(look()))
    except CogenError as error:
        return Check(name, "problem", str(error))


def _training(asked: Asked, name: str, data: str | None, say: Any) -> Proposal | None:
    """Base, corpus and the cost of a round; what fails is a problem, and ends it."""
    try:
        info = describe_base(name)
        if asked.invite is not None:
            asked.invite.base_contract.require(info.contract, name)
        say(Check("base", "ok", f"{name}, {info.contract.weights[:12]}"))
        if data is None:
            say(Check("corpus", "warning", "not looked at", "Name it with --data."))
            return None
        base = load_base(name)
        settings = asked.config.data if asked.config else None
        with byte_bar("data") as bar:
            prepared = prepare_corpus(base, data, settings, progress=bar.update)
    except CogenError as error:
        say(Check("training", "problem", str(error)))
        return None
    return _round(asked, base, prepared, say)


def _round(asked: Asked, base: Base, prepared: Prepared, say: Any) -> Proposal:
    deadline, free = asked.federation.round_deadline_seconds, psutil.virtual_memory().available + _own_bytes()
    cost = measured_cost(base, prepared, asked.train)
    for check in (check_corpus(prepared.num_train_tokens, asked.train), *check_round(cost, deadline, free)):
        say(check)
    return propose(asked.train, deadline, free, partial(cost_at, base, prepared, rate=cost.tokens_per_second))


def _own_bytes() -> int:
    """What this process holds already of what a round needs: the base, above all."""
    return int(psutil.Process().memory_info().rss)
