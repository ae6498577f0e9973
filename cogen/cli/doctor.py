"""`cogen doctor`: whether this machine can take part in a federation, and what that costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogen.cli.options import AsJson
from cogen.console import BYTES, Bar, print_json

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.config import Train
    from cogen.data import Prepared
    from cogen.deploy.invites import Invite
    from cogen.node.doctor import Check, Proposal
    from cogen.node.domain_settings import DomainSettings
    from cogen.node.home import NodeHome
    from cogen.node.round_spec import RoundSpec


def doctor(
    source: Annotated[Path, typer.Argument(help="An invite or a config file.")],
    data: Annotated[
        str | None, typer.Option(help="This domain's corpus; only the machine is checked without it.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="This machine's base model: folder or id.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The member's folder, as for cogen join.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether this machine can join a federation.

    Findings are printed as they are made. The exit status is 2 where one of them is a problem.

    Example: cogen doctor clinical.invite --data ./notes
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    _diagnose_machine(source, data, base, folder, as_json)


@dataclass(frozen=True)
class AskedWork:
    """What the federation will ask of this machine, from an invite or from a config.

    Args:
        settings: of a round, limited by this member's policy where it has one.
        round: as the coordinator's config has it; None where an invite of an earlier version does not say.
        own: the domain's settings for its text: its `domain.toml`, or the defaults.
        min_tokens: the least tokens of a round that the policy allows.
        refusal: why the policy trains no round at all; empty where it does.
        home: the member's folder; None for a config, of which this machine may be no member.
    """

    base: str
    settings: Train
    round: RoundSpec | None
    own: DomainSettings
    min_tokens: int
    refusal: str = ""
    home: NodeHome | None = None
    invite: Invite | None = None

    @property
    def deadline_seconds(self) -> float:
        from cogen.node.round_spec import default_round_spec

        return (self.round or default_round_spec()).round_deadline_seconds


def _diagnose_machine(source: Path, data: str | None, base: str | None, folder: Path | None, as_json: bool) -> None:
    """Print every finding as it is made; exit 2 if one is a problem."""
    from cogen.deploy.invites import read_invite
    from cogen.node.doctor import check_machine, check_matrix_rate, check_versions, proposal_text, worst
    from cogen.node.home import NodeHome, default_home
    from cogen.records import read_toml
    from cogen.versions import versions

    invite = read_invite(source) if "token" in read_toml(source) else None
    place = folder or (default_home(invite.federation, invite.domain) if invite else Path.cwd())
    request = _asked_work(source, invite, NodeHome(place), is_member=bool(folder or invite))
    checks: list[Check] = []

    def say(check: Check) -> None:
        checks.append(check)
        if not as_json:
            print(check, flush=True)

    for check in (check_versions(versions()), *check_machine(place), check_matrix_rate(), *_federation(request)):
        say(check)
    say(_round_line(request))
    proposal = _training(request, base or request.base, data, say)
    limits = proposal.limits(request.settings) if proposal is not None else {}
    if as_json:
        found = None if proposal is None else asdict(proposal)
        found_all = {"state": worst(checks), "checks": [asdict(c) for c in checks], "proposal": found, "policy": limits}
        print_json(found_all)
    elif proposal is not None:
        print(f"\n{proposal_text(proposal, request.settings, NodeHome(place).policy)}")
    if worst(checks) == "problem":
        sys.exit(2)


def _asked_work(source: Path, invite: Invite | None, home: NodeHome, is_member: bool) -> AskedWork:
    from cogen.config import Domain, load_config
    from cogen.node.domain_settings import own_settings, settings_of_run
    from cogen.node.policy import Policy, read_policy, within
    from cogen.node.round_bounds import rounds_refused
    from cogen.node.round_spec import default_round_spec, round_spec

    has_policy = home.policy.is_file()
    policy = read_policy(home.policy) if has_policy else Policy()
    min_tokens = policy.min_tokens_per_round if has_policy or is_member else 0
    place = home if is_member else None
    if invite is not None:
        asked = within(policy, (invite.round or default_round_spec()).train)
        starts = invite.round.trained_starts if invite.round else ""
        refusal = rounds_refused(starts) if policy.fresh_starts and starts else ""
        return AskedWork(invite.base, asked, invite.round, own_settings(home), min_tokens, refusal, place, invite)
    config = load_config(source)
    own = own_settings(home) if home.settings.is_file() or is_member else settings_of_run(config)
    asked = within(policy, config.train)
    return AskedWork(config.base.name, asked, round_spec(config, Domain(name="any")), own, min_tokens, home=place)


def _round_line(request: AskedWork) -> Check:
    """What a round asks, and is measured below."""
    from cogen.node.doctor import Check

    asks = request.settings
    text = (
        f"rank {asks.rank}, {asks.tokens_per_round} tokens, {asks.batch_size} blocks of {asks.sequence_length} a step"
    )
    if request.round is None:
        fix = "The invite does not say what a round asks; these are the defaults. Ask for a new one."
        return Check("round", "warning", text, fix)
    if request.refusal:
        return Check("round", "problem", text, f"No round will be trained: {request.refusal}.")
    if asks.tokens_per_round < request.min_tokens:
        fix = f"policy.toml allows none of less than {request.min_tokens}: no round will be trained."
        return Check("round", "problem", text, f"{fix} Ask the coordinator for more tokens, or lower the bound.")
    theirs = request.round
    is_less = (asks.rank, asks.tokens_per_round) != (theirs.rank, theirs.tokens_per_round)
    return Check("round", "ok", text + (" (within policy.toml)" if is_less else ""))


def _federation(request: AskedWork) -> Iterator[Check]:
    """The invite, the Flower app, and the connection to the coordinator."""
    from cogen.deploy.admission import greet
    from cogen.flower.bundle import installed_app_sha256
    from cogen.node.doctor import Check

    if request.invite is None:
        return
    invite = request.invite

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
    from cogen.errors import CogenError
    from cogen.node.doctor import Check

    try:
        return Check(name, "ok", str(look()))
    except CogenError as error:
        return Check(name, "problem", str(error))


def _training(request: AskedWork, name: str, data: str | None, say: Any) -> Proposal | None:
    """Check the base, the corpus and the cost of a round; the first failure is a problem and ends it."""
    from cogen.base import describe_base, load_base
    from cogen.errors import CogenError
    from cogen.node.doctor import Check
    from cogen.node.round_spec import default_round_spec

    try:
        info = describe_base(name)
        if request.invite is not None:
            request.invite.base_fingerprint.require(info.fingerprint, name)
        say(Check("base", "ok", f"{name}, {info.fingerprint.weights[:12]}"))
        if data is None:
            say(Check("corpus", "warning", "not checked", "Name it with --data."))
            return None
        base = load_base(name, precision=(request.round or default_round_spec()).precision)
        prepared = _prepared(request, base, data, say)
    except CogenError as error:
        say(Check("training", "problem", str(error)))
        return None
    return _round(request, base, prepared, say)


def _prepared(request: AskedWork, base: Base, data: str, say: Any) -> Prepared:
    """The corpus as rounds will have it, in the folder where they will look for it; says how much is there."""
    from cogen.data.prepare import common_cache, folder_bytes
    from cogen.node.doctor import Check
    from cogen.train.corpus import prepare_corpus

    home, own = request.home, request.own
    if home is not None:
        home.require_apart(data)
        home.make()
    place = None if home is None else home.prepared
    frac = own.heldout.heldout_frac
    with Bar("data", BYTES) as bar:
        prepared = prepare_corpus(base, data, own.data, frac, progress=bar.update_part, cache_dir=place)
    where = place or common_cache()
    say(Check("prepared text", "ok", f"{folder_bytes(where) / 1e6:.1f} MB in {where}"))
    return prepared


def _round(request: AskedWork, base: Base, prepared: Prepared, say: Any) -> Proposal:
    from cogen.cli.data import cost_at, measured_cost
    from cogen.node.doctor import check_adapted, check_corpus, check_round, free_memory_bytes, propose
    from cogen.train.cost import training_cost

    settings, deadline = request.settings, request.deadline_seconds
    say(check_adapted(training_cost(base, settings)))
    cost = measured_cost(base, prepared, settings)
    free = free_memory_bytes(base.model.device.type)
    for check in (check_corpus(prepared.num_train_tokens, settings), *check_round(cost, deadline, free)):
        say(check)
    cost_of = partial(cost_at, base, prepared, rate=cost.tokens_per_second)
    return propose(settings, deadline, free, cost_of, request.min_tokens)
