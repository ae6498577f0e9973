"""`cogen revoke`: refuse a domain's key from now on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cogen.cli.options import FEDERATION, Federation


def revoke(
    domain: Annotated[str, typer.Argument(help="A domain that has joined.")],
    folder: Federation = FEDERATION,
) -> None:
    """Revoke a domain's key at once.

    The gateway refuses the key from now on. To let the domain join again, invite it again.

    Example: cogen revoke clinical
    """
    from cogen.deploy.folder import FederationFolder
    from cogen.deploy.members import revoke_member
    from cogen.errors import FederationError
    from cogen.flower.superlink_client import SuperLinkClient

    federation = FederationFolder(folder)
    federation.require()
    member = revoke_member(federation.path, domain)
    print(f"revoked {domain}: its key is refused from now on", file=sys.stderr)
    if federation.is_served():  # else SuperLink forgets the node at the next start of cogen serve
        try:
            SuperLinkClient(federation.flwr_home, federation.logs).unregister(member.node_id)
        except FederationError as error:
            print(f"Flower still lists node {member.node_id}, which cannot connect: {error}", file=sys.stderr)
