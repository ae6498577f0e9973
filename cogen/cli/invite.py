"""`cogen invite`: a file that lets one domain join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import FEDERATION, Federation

if TYPE_CHECKING:
    from cogen.deploy.folder import FederationFolder
    from cogen.deploy.invites import Invite


def invite(
    domain: Annotated[str, typer.Argument(help="A domain of the federation's config.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it expires.")] = 7,
    out: Annotated[Path | None, typer.Option(help="File to write, - for stdout; DOMAIN.invite by default.")] = None,
    folder: Federation = FEDERATION,
) -> None:
    """Write an invite that lets one domain join.

    It can be used once. A new invite makes an earlier one for the same domain void, and replaces its file.
    Only you can read the file.

    Example: cogen invite clinical
    """
    from cogen.files import write_file

    out = out or Path(f"{domain}.invite")
    file = None if str(out) == "-" else out
    made = _make_invite(folder, domain, days, file)
    if file is not None:
        write_file(file, made.to_toml().encode(), private=True)
    print(made.to_toml().rstrip("\n") if file is None else file)
    print(f"an invite for {domain}, open until {made.expires:%Y-%m-%d %H:%M} UTC, for one use", file=sys.stderr)
    print(
        "anyone who has the file can join as this domain: send it over a channel that you both trust", file=sys.stderr
    )


def _make_invite(folder: Path, domain: str, days: int, out: Path | None) -> Invite:
    """Check the domain and the file, and make its invite with the federation's base, app and settings."""
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
    if out is not None:
        _require_replaceable(out, federation, domain)
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


def _require_replaceable(path: Path, folder: FederationFolder, domain: str) -> None:
    """Refuse to write an invite over anything but this federation's earlier one for the domain, which it makes void."""
    from cogen.deploy.invites import read_invite
    from cogen.errors import ConfigError, EnrolmentError

    if not (path.exists() or path.is_symlink()):
        return
    got = "something else"
    try:
        there = read_invite(path)
        got = f"an invite of federation {there.federation!r} for {there.domain!r}"
        is_ours = there.domain == domain and there.ca == folder.ca.read_text("utf-8")
    except (ConfigError, EnrolmentError):
        is_ours = False
    if not is_ours:
        raise ConfigError(
            "cannot write the invite",
            expected=f"no file, or this federation's earlier invite for {domain!r}",
            got=got,
            where=str(path),
            fix="Name another file with --out, or move this one away.",
        )
