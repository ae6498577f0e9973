"""The work of `cogen doctor`, imported only when it runs: look, measure, propose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cogen.base import Base, describe_base, load_base
from cogen.cli.run_data import cost_at, measured_cost
from cogen.cli.show import byte_bar, print_json
from cogen.config import Domain, RunConfig, Train, load_config
from cogen.data import Prepared
from cogen.deploy.admission import greet
from cogen.deploy.invites import Invite, read_invite
from cogen.errors import CogenError
from cogen.flower.bundle import installed_app_sha256
from cogen.node.doctor import (
    Check,
    Proposal,
    check_corpus,
    check_machine,
    check_matrix_rate,
    check_round,
    check_versions,
    free_memory_bytes,
    proposal_text,
    propose,
    worst,
)
from cogen.node.home import NodeHome, default_home
from cogen.node.policy import Policy, read_policy, within
from cogen.node.round_spec import RoundSpec, default_round_spec, round_spec
from cogen.records import read_toml
from cogen.train.corpus import prepare_corpus
from cogen.versions import versions


@dataclass(frozen=True)
class Asked:
    """What is known of the federation: from an invite, or from a config.

    Args:
        settings: of a round, within this member's policy where it has one.
        round: as the coordinator puts it; None where an invite of an earlier version does not say.
    """

    base: str
    settings: Train
    round: RoundSpec | None
    invite: Invite | None = None
    config: RunConfig | None = None

    @property
    def deadline_seconds(self) -> float:
        return (self.round or default_round_spec()).round_deadline_seconds


def run_doctor(source: Path, data: str | None, base: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Print every finding as it is made; exit 2 if one is a problem."""
    invite = read_invite(source) if "token" in read_toml(source) else None
    place = folder or (default_home(invite.federation, invite.domain) if invite else Path.cwd())
    asked = _asked(source, invite, NodeHome(place))
    checks: list[Check] = []

    def say(check: Check) -> None:
        checks.append(check)
        if not as_json:
            print(check, flush=True)

    for check in (check_versions(versions()), *check_machine(place), check_matrix_rate(), *_federation(asked)):
        say(check)
    say(_asks(asked))
    proposal = _training(asked, base or asked.base, data, say)
    limits = proposal.limits(asked.settings) if proposal is not None else {}
    if as_json:
        found = None if proposal is None else asdict(proposal)
        told = {"state": worst(checks), "checks": [asdict(c) for c in checks], "proposal": found, "policy": limits}
        print_json(told)
    elif proposal is not None:
        print(f"\n{proposal_text(proposal, asked.settings, NodeHome(place).policy)}")
    if worst(checks) == "problem":
        sys.exit(2)


def _asked(source: Path, invite: Invite | None, home: NodeHome) -> Asked:
    policy = read_policy(home.policy) if home.policy.is_file() else Policy()
    if invite is not None:
        return Asked(
            invite.base, within(policy, (invite.round or default_round_spec()).train), invite.round, invite=invite
        )
    config = load_config(source)
    return Asked(config.base.name, within(policy, config.train), round_spec(config, Domain(name="any")), config=config)


def _asks(asked: Asked) -> Check:
    """What is measured below."""
    asks = asked.settings
    text = (
        f"rank {asks.rank}, {asks.tokens_per_round} tokens, {asks.batch_size} blocks of {asks.sequence_length} a step"
    )
    if asked.round is None:
        fix = "The invite does not say what a round asks; these are the defaults. Ask for a new one."
        return Check("round", "warning", text, fix)
    theirs = asked.round
    is_less = (asks.rank, asks.tokens_per_round) != (theirs.rank, theirs.tokens_per_round)
    return Check("round", "ok", text + (" (within policy.toml)" if is_less else ""))


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
            asked.invite.base_fingerprint.require(info.fingerprint, name)
        say(Check("base", "ok", f"{name}, {info.fingerprint.weights[:12]}"))
        if data is None:
            say(Check("corpus", "warning", "not looked at", "Name it with --data."))
            return None
        base = load_base(name, precision=(asked.round or default_round_spec()).precision)
        settings = asked.config.data if asked.config else None
        with byte_bar("data") as bar:
            prepared = prepare_corpus(base, data, settings, progress=bar.update)
    except CogenError as error:
        say(Check("training", "problem", str(error)))
        return None
    return _round(asked, base, prepared, say)


def _round(asked: Asked, base: Base, prepared: Prepared, say: Any) -> Proposal:
    settings, deadline = asked.settings, asked.deadline_seconds
    cost = measured_cost(base, prepared, settings)
    free = free_memory_bytes(base.model.device.type)
    for check in (check_corpus(prepared.num_train_tokens, settings), *check_round(cost, deadline, free)):
        say(check)
    return propose(settings, deadline, free, partial(cost_at, base, prepared, rate=cost.tokens_per_second))
