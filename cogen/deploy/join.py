"""`cogen join`: join a federation once with an invite, then keep the node connected until it is stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from cogen.base import describe_base, load_tokenizer
from cogen.data.prepare import prepare
from cogen.data.spool import Progress
from cogen.data.store import Prepared
from cogen.data.walk import corpus_root
from cogen.deploy.admission import ClocksApart, EnrolmentRefused, enrol, greet, make_key
from cogen.deploy.invites import Invite
from cogen.errors import BaseModelError, FederationError, FingerprintMismatch, RunError
from cogen.files import holding
from cogen.flower.bundle import installed_app_sha256
from cogen.flower.node_programs import programs_of, running
from cogen.flower.patches.answers import REFUSED_KEY
from cogen.node.domain_settings import own_settings, read_domain_settings
from cogen.node.home import Membership, NodeHome, write_private
from cogen.node.policy import read_policy
from cogen.node.view import HomeWatcher

POLL_SECONDS = 0.2
GREET_SECONDS = 5.0
MAX_REFUSALS = 3
STILL_CONNECTED = b"[code: 2004]"  # Flower's code for a node that it cannot activate
LAST_WORDS_BYTES = 2000

OnEvent = Callable[[dict[str, Any]], None]


def member_of(invite: Invite, data: str, base: str | None = None) -> Membership:
    """The membership to save in the node's folder, after base and app were checked against the invite.

    Raises:
        FingerprintMismatch: the base on this machine is another one.
        FederationError: this installation has another app.
        DataError: there is no corpus at `data`.
    """
    corpus_root(data)
    member = Membership(
        federation=invite.federation,
        domain=invite.domain,
        address=invite.address,
        data=data if data.startswith("hf://") else str(Path(data).expanduser().resolve()),
        base_name=invite.base,
        base=absolute_base(base or invite.base),
        **invite.fingerprint.model_dump(),
        app_sha256=invite.app_sha256,
        invite_sha256=invite_sha256(invite),
        round=invite.round,
    )
    require_same(member)
    return member


def absolute_base(base: str) -> str:
    """A folder by its whole path, since the programs run in another one; any other name as it is."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def require_same(member: Membership) -> None:
    """Raise unless the base and the app on this machine are those of the federation."""
    require_base(member)
    app = installed_app_sha256()
    if app != member.app_sha256:
        raise FederationError(
            "another app is installed",
            expected=f"the Flower app of sha256 {member.app_sha256[:12]}",
            got=app[:12],
            where=f"federation {member.federation!r}",
            fix="Install the version of cogen-ai that the coordinator has.",
        )


def require_base(member: Membership) -> None:
    """Raise FingerprintMismatch if the base on this machine is another one, BaseModelError if there is none.

    Its fingerprint is computed from the files, whatever the cache says.
    """
    try:
        found = describe_base(member.base, from_files=True).fingerprint
    except BaseModelError as error:
        if member.base != member.base_name:
            raise
        raise BaseModelError(
            "the federation's base model is not here",
            expected=f"a base model {member.base_name!r}",
            got=error.reason,
            fix="Name its folder on this machine with --base.",
        ) from None
    for part, mine in vars(found).items():
        theirs = getattr(member, part)
        if mine != theirs:
            raise FingerprintMismatch(
                "another base model",
                expected=f"{part} {theirs[:12]} of federation {member.federation!r}",
                got=mine[:12],
                where=member.base,
                fix="Name the right base with --base.",
            )


def invite_sha256(invite: Invite) -> str:
    """The hash by which a node's folder recognises the invite that it joined with; the token itself is not kept."""
    return hashlib.sha256(invite.token.encode()).hexdigest()


def join(invite: Invite, member: Membership, home: NodeHome) -> None:
    """Enrol with the coordinator, unless this folder has done so with the same invite.

    The key is made before the request and kept if the answer is lost, so that a second attempt with the same invite
    sends the same key.

    Raises:
        FederationError: the invite has expired, or the coordinator refuses or cannot be reached.
    """
    same = home.member.is_file() and home.read_member().invite_sha256 == member.invite_sha256
    if same and home.enrolled.is_file():
        home.write_member(member)
        return
    invite.require_current()
    greet(invite.address, invite.ca)
    if not (same and home.key.is_file()):
        make_key(home)
    home.enrolled.unlink(missing_ok=True)
    write_private(home.ca, invite.ca.encode())
    home.write_member(member)
    try:
        enrol(invite, home, member.app_sha256)
    except EnrolmentRefused:
        if not same:
            home.member.unlink()
            raise
        # An earlier attempt sent this key and lost the answer. Whether the key counts shows when the node connects.
    write_private(home.enrolled, b"")


def prepare_data(member: Membership, home: NodeHome, progress: Progress | None = None) -> Prepared:
    """Prepare the corpus as rounds do, into the member's folder, but for the perplexity filter, which needs weights.

    Raises:
        CogenError: the corpus and the folder are not apart, or the corpus cannot be read or is too small.
    """
    home.require_apart(member.data)
    home.make()
    base, own = describe_base(member.base), own_settings(home)
    data, held = own.data.model_copy(update={"perplexity_filter": False}), own.heldout.heldout_frac
    prepared = partial(prepare, tokenizer_hash=base.fingerprint.tokenizer, base=base.name, cache_dir=home.prepared)
    return prepared(member.data, partial(load_tokenizer, base), data, held, progress=progress)


def stay(home: NodeHome, member: Membership, handle: int, on_event: OnEvent, threads: int | None = None) -> None:
    """Keep the node's programs running and report events until an exception (Ctrl-C, SIGTERM).

    Args:
        handle: descriptor of the folder's lock; the programs inherit it.
    Raises:
        FederationError: the key of this node is unknown to the coordinator or was revoked.
    """
    read_policy(home.policy)
    read_domain_settings(home.settings)
    watcher, seen, refusals = HomeWatcher(home), 0, 0

    def say(text: str) -> None:
        on_event({"event": "restarted", "text": text})

    programs = programs_of(home, member, handle, say, threads)
    node = programs[-1]
    with running(programs):
        on_event({"event": "starting"})
        while True:
            for event in watcher.new():
                refusals = 0 if event["event"] == "connected" else refusals
                on_event(event)
            for program in programs:
                program.check()
            if node.num_deaths > seen:
                seen, refusals = node.num_deaths, refusals + was_refused(member, home, say)
            if refusals >= MAX_REFUSALS:
                raise _unknown_key(member)
            time.sleep(POLL_SECONDS)


def was_refused(member: Membership, home: NodeHome, say: Callable[[str], None]) -> bool:
    """Whether the node ended because the coordinator refuses its key.

    It did if the node says so and the gateway can be reached, with two exceptions. A wrong clock gives the same status,
    and `say` reports it. SuperLink refuses a member that it still holds for connected, up to a minute after the node
    was killed.
    """
    log = home.logs / "supernode.log"
    words = log.read_bytes()[-LAST_WORDS_BYTES:] if log.is_file() else b""
    if words.rfind(REFUSED_KEY.encode()) <= words.rfind(STILL_CONNECTED):
        return False
    try:
        greet(member.address, home.ca.read_text("utf-8"), GREET_SECONDS)
    except ClocksApart as error:
        say(str(error).removeprefix("cannot join: "))
        return False
    except FederationError:
        return False
    return True


def sole(home: NodeHome, wait_seconds: float = 20.0) -> AbstractContextManager[int]:
    """Hold the folder for this process and for child processes that inherit the yielded descriptor.

    Raises:
        RunError: another `cogen join` holds it for longer than `wait_seconds`.
    """

    def busy() -> RunError:
        return RunError(
            "cannot use this folder",
            expected="no other cogen join in it",
            got="one that is running",
            where=str(home.path),
            fix="Stop the other one, or name another --folder.",
        )

    return holding(home.lock, busy, wait_seconds)


def _unknown_key(member: Membership) -> FederationError:
    return FederationError(
        "the coordinator refuses this node",
        expected=f"the key of domain {member.domain!r} to be known",
        got="an unknown or revoked one",
        where=member.address,
        fix="Ask the coordinator for a new invite.",
    )
