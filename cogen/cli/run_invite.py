"""The work of `cogen invite`, imported only when it runs."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from cogen.base import describe_base
from cogen.config import load_config
from cogen.deploy.about import read_about
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import make_invite
from cogen.deploy.members import all_members, require_free
from cogen.errors import ConfigError
from cogen.flower.bundle import installed_app_sha256
from cogen.node.round_spec import round_spec


def run_invite(domain: str, days: int, place: Path) -> None:
    """The invite on stdout, what to do with it on stderr."""
    folder = FederationFolder(place)
    about, settings = read_about(folder), load_config(folder.config)
    names = [d.name for d in settings.domains]
    if domain not in names:
        near = difflib.get_close_matches(domain, names, n=1)
        raise ConfigError(
            "cannot invite",
            expected=f"one of {', '.join(names)}",
            got=repr(domain),
            where=str(folder.config),
            fix=f"Did you mean {near[0]!r}?" if near else "Enter it into the config and start cogen serve again.",
        )
    require_free(all_members(folder.path), domain)
    base = describe_base(settings.base.name)
    invite = make_invite(
        folder,
        federation=about.name,
        address=about.public_address,
        domain=domain,
        base=Path(base.name).name if Path(base.name).is_dir() else base.name,  # no path of this machine
        fingerprint=base.fingerprint,
        app_sha256=installed_app_sha256(),
        days=days,
        round=round_spec(settings, settings.domains[names.index(domain)]),
    )
    print(invite.to_toml(), end="")
    print(f"an invite for {domain}, open until {invite.expires:%Y-%m-%d %H:%M} UTC, to be used once", file=sys.stderr)
    print("whoever holds it can join as this domain: send it by a way that you both trust", file=sys.stderr)
