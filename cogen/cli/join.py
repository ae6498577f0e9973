"""`cogen join`: a domain in a real federation."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogen.cli.options import MAX_LOSS_FRAC, AcceptLoss, MaxLossFrac, say_account
from cogen.console import BYTES, SECONDS_BETWEEN_LINES, Bar, duration, safe

if TYPE_CHECKING:
    from cogen.data import Prepared
    from cogen.deploy.invites import Invite
    from cogen.node.home import Membership, NodeHome


def join(
    invite: Annotated[Path | None, typer.Argument(help="The coordinator's invite; not needed once joined.")] = None,
    data: Annotated[str | None, typer.Option(help="This domain's corpus; it stays on this machine.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The member's folder; one of the user's by default.")] = None,
    base: Annotated[str | None, typer.Option(help="This machine's base model: folder or id.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads for training.")] = None,
    accept_loss: AcceptLoss = False,
    max_loss_frac: MaxLossFrac = MAX_LOSS_FRAC,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a round would send; send nothing.")] = False,
) -> None:
    """Join a federation as a domain.

    The corpus is prepared, the domain enrols and trains when it is asked, until Ctrl-C or SIGTERM.
    The corpus and the private key stay on this machine.

    Example: cogen join clinical.invite --data ./notes
    """
    import signal

    from cogen.deploy import join as deploy
    from cogen.deploy.invites import read_invite
    from cogen.node.policy import read_policy
    from cogen.node.round_bounds import shortfalls

    max_loss_frac = 1.0 if accept_loss else max_loss_frac
    found = None if invite is None else read_invite(invite)
    if invite is not None and (risk := _readable_by_others(invite)):
        print(f"warning: {safe(risk)}", file=sys.stderr)
    home = _home(found, folder)
    member = _member(found, home, data, base)
    if dry_run:
        _show_preview(member, home, max_loss_frac)
        return
    home.make()
    with deploy.sole(home) as handle:
        with Bar("data", BYTES) as bar:
            prepared = deploy.prepare_data(member, home, bar.update_part)
        _tell_account(member, prepared, max_loss_frac)
        text = f"domain {member.domain!r} · {prepared.num_train_tokens} training tokens · {home.path}"
        print(
            "\n".join([text, *shortfalls(read_policy(home.policy), prepared, member.trained_starts)]), file=sys.stderr
        )
        if found is None:
            home.write_member(member)
        else:
            deploy.join(found, member, home)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        deploy.stay(home, member, handle, JoinNarrator(member).on_event, threads)


def _readable_by_others(path: Path) -> str | None:
    """A warning if others than its owner can read the invite: each of them can join as its domain."""
    mode = path.stat().st_mode & 0o777
    if not mode & 0o044:
        return None
    return f"{path} can be read by others on this machine (mode {mode:04o}), who could use it: chmod 600 it"


def _tell_account(member: Membership, prepared: Prepared, max_loss_frac: float) -> None:
    from cogen.data.account import Account, tell_losses

    accounts = {member.domain: Account.of_card(prepared.card)}
    tell_losses(accounts, max_loss_frac, say_account)


def _home(invite: Invite | None, folder: Path | None) -> NodeHome:
    from cogen.errors import ConfigError
    from cogen.node.home import NodeHome, default_home

    if folder is not None:
        return NodeHome(folder)
    if invite is None:
        fix = "For example cogen join clinical.invite --data ./notes."
        raise ConfigError("cannot join", expected="an invite, or --folder of a member", got="neither", fix=fix)
    return NodeHome(default_home(invite.federation, invite.domain))


def _member(invite: Invite | None, home: NodeHome, data: str | None, base: str | None) -> Membership:
    """The membership in the invite, or in the folder that joined before, checked against this machine's base and app."""
    from cogen.deploy.join import absolute_base, member_of, require_same
    from cogen.errors import ConfigError

    before = home.read_member() if home.member.is_file() or invite is None else None
    data = data or (before.data if before else None)
    if data is None:
        fix = "Name this domain's corpus; it stays on this machine."
        raise ConfigError("cannot join", expected="--data PATH", got="nothing", fix=fix)
    if invite is not None:
        return member_of(invite, data, base or (before.base if before else None))
    assert before is not None
    if not home.key.is_file():
        fix = "Ask the coordinator for one: cogen join INVITE --data PATH."
        raise ConfigError("cannot join", expected="an invite", got="none, and a folder without a key", fix=fix)
    where = data if data.startswith("hf://") else str(Path(data).expanduser().resolve())
    member = before.model_copy(update={"data": where, **({"base": absolute_base(base)} if base else {})})
    require_same(member)
    return member


def _show_preview(member: Membership, home: NodeHome, max_loss_frac: float) -> None:
    from cogen.base import describe_base
    from cogen.deploy.join import prepare_data
    from cogen.node.policy import read_policy
    from cogen.node.view import preview_text

    with Bar("data", BYTES) as bar:
        prepared = prepare_data(member, home, bar.update_part)
    _tell_account(member, prepared, max_loss_frac)
    policy = read_policy(home.policy) if home.policy.is_file() else None
    print(preview_text(member, describe_base(member.base), prepared.num_train_tokens, policy))


class JoinNarrator:
    """What a member's programs do, on stderr: one line for each event, and while it trains one that changes in place."""

    def __init__(self, member: Membership) -> None:
        self.member, self.printed, self.first = member, 0.0, (0.0, 0)
        self.live = sys.stderr.isatty()
        self.open = False

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        getattr(self, f"_{event['event']}")(event)

    def _starting(self, event: dict[str, Any]) -> None:
        self._line("starting the trainer and the node")

    def _connected(self, event: dict[str, Any]) -> None:
        self._line(f"connected to {self.member.address} · waiting for work")

    def _lost(self, event: dict[str, Any]) -> None:
        self._line(f"no connection to {self.member.address}; trying again")

    def _restarted(self, event: dict[str, Any]) -> None:
        self._line(str(event["text"]))

    def _work(self, event: dict[str, Any]) -> None:
        if event["action"] == "suspend":
            failed = f"{event['num_failures']} rounds in a row without a valid reply"
            self._line(f"round {event['round']} · suspended after {failed} · it trains again when the run is resumed")
            return
        if event["action"] == "unusual":
            for line in event["lines"]:
                self._line(f"round {event['round']} · beyond the ordinary: the coordinator {line}")
            return
        if event["action"] == "audit":
            from cogen.node.view import audit_text

            self._line(audit_text(event))
            return
        self.first = (0.0, 0)
        what = "training" if event["action"] == "train" else "scoring models"
        self._line(f"round {event['round']} · {what}")

    def _step(self, event: dict[str, Any]) -> None:
        now, step, total = time.monotonic(), int(event["step"]), int(event["num_steps"])
        if self.first[0] == 0.0 or step <= self.first[1]:
            self.first = (now, step)
        done = step - self.first[1]
        left = duration((now - self.first[0]) / max(done, 1) * (total - step)) if done or step == total else "?"
        rate = f"{event['tokens_per_second']:.0f} tok/s"
        text = f"round {event['round']} · step {step}/{total} · loss {event['loss_nats']:.2f} · {rate} · {left} left"
        if self.live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self.open = True
        elif now - self.printed > SECONDS_BETWEEN_LINES or step == total:
            self.printed = now
            self._line(text)

    def _sent(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self._line(f"refused · {event['error']}")
        elif event["num_bytes"] or event["kind"] != "query":
            self._line(f"round {event['round']} · sent {event['num_bytes'] / 1e6:.2f} MB ({event['kind']}) · waiting")

    def _line(self, text: str) -> None:
        end = "\n" if self.open else ""
        self.open = False
        print(f"{end}{time.strftime('%H:%M:%S')} {safe(text)}", file=sys.stderr, flush=True)
