"""`cogen invite`: a file that lets one domain join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import FEDERATION, Federation

if TYPE_CHECKING:
    from cogen.deploy.invites import Invite


def invite(
    domain: Annotated[str, typer.Argument(help="A domain of the federation's config.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it expires.")] = 7,
    folder: Federation = FEDERATION,
) -> None:
    """Print an invite that lets one domain join.

    It can be used once. A new invite makes an earlier one for the same domain void.

    Example: cogen invite clinical > clinical.invite
    """
    made = _make_invite(folder, domain, days)
    print(made.to_toml(), end="")
    print(f"an invite for {domain}, open until {made.expires:%Y-%m-%d %H:%M} UTC, for one use", file=sys.stderr)
    print(
        "anyone who has the file can join as this domain: send it over a channel that you both trust", file=sys.stderr
    )


def _make_invite(folder: Path, domain: str, days: int) -> Invite:
    """Check the domain, and make its invite with the federation's base, app and settings."""
    from cogen.base import describe_base
    from cogen.config import load_config
    from cogen.deploy.about import read_about
    from cogen.deploy.folder import FederationFolder
    from cogen.deploy.invites import make_invite
    from cogen.deploy.members import all_members, require_free
    from cogen.flower.bundle import installed_app_sha256
    from cogen.node.round_spec import round_spec

    federation = FederationFolder(folder)
    about, settings = read_about(federation), load_config(federation.config)
    names = [d.name for d in settings.domains]
    _require_known(domain, names, federation.config)
    require_free(all_members(federation.path), domain)
    base = describe_base(settings.base.name)
    return make_invite(
        federation,
        federation=about.name,
        address=about.public_address,
        domain=domain,
        base=Path(base.name).name if Path(base.name).is_dir() else base.name,  # no path of this machine
        fingerprint=base.fingerprint,
        app_sha256=installed_app_sha256(),
        days=days,
        round=round_spec(settings, settings.domains[names.index(domain)]),
    )


def _require_known(domain: str, names: list[str], config: Path) -> None:
    """Raise ConfigError for a domain that the federation's config does not have."""
    import difflib

    from cogen.errors import ConfigError

    if domain not in names:
        near = difflib.get_close_matches(domain, names, n=1)
        fix = f"Did you mean {near[0]!r}?" if near else "Add it to the config and start cogen serve again."
        expected = f"one of {', '.join(names)}"
        raise ConfigError("cannot invite", expected=expected, got=repr(domain), where=str(config), fix=fix)
