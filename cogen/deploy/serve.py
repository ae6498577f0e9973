"""`cogen serve`: keep Flower's SuperLink (at a Unix socket), its SuperExec, and the gateway in front of it running."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cogen.base import describe_base
from cogen.config import RunConfig, load_config
from cogen.deploy.about import About, Serving, read_about, split_address
from cogen.deploy.certificates import ensure_certificate, ensure_link_certificate, take_certificate
from cogen.deploy.folder import FederationFolder, locked
from cogen.deploy.members import read_members
from cogen.errors import ConfigError, FederationError
from cogen.flower.api_socket import ADDRESS, wait_ready
from cogen.flower.bundle import installed_app_sha256
from cogen.flower.memory import MALLOC_ENVIRONMENT
from cogen.flower.programs import RestartedProgram, stop_all
from cogen.flower.superexec_process import isolated, superexec_for
from cogen.flower.superlink import AT_SOCKET, SUPERLINK, connect, coordinator_environment
from cogen.flower.superlink_client import SuperLinkClient
from cogen.node.round_bounds import refused_by_default
from cogen.shipped_files import shipped_config
from cogen.train.start import require_context, select_modules

LOOK_SECONDS, GATEWAY_SECONDS = 0.5, 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Door:
    """Where the gateway listens, and with which certificate.

    Args:
        public_address: HOST:PORT at which domains reach it; None takes the address of the last start.
        bind: address of this machine to listen on.
        certificate, key, ca: PEM files of the operator; without them the federation's own authority signs.
    """

    public_address: str | None = None
    bind: str = "0.0.0.0"
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def serve(config: str, folder: FederationFolder, door: Door, say: Say, stop: threading.Event) -> None:
    """Serve a federation until `stop` is set; a program that ends is started again.

    Raises:
        CogenError: bad input, before anything is started; or a program does not start.
    """
    source = shipped_config(config)
    settings = load_config(source)
    check_settings(settings)
    folder.create()
    with folder.lock() as handle:
        about = _prepare(folder, settings, source.stem, door)
        app = installed_app_sha256()
        host, port = split_address(about.public_address)
        listen = f"[{door.bind}]:{port}" if ":" in door.bind else f"{door.bind}:{port}"
        connect(folder.flwr_home, folder.link / "ca.pem")
        with _kept(folder, listen, handle, say) as programs:
            _forget_strangers(folder)
            Serving(pid=os.getpid(), bind=listen, app_sha256=app).write(folder.serving, private=True)
            say(f"serving {about.name} on {listen}, for {host}:{port}")
            for line in next_steps(folder, settings, config):
                say(line)
            while not stop.wait(LOOK_SECONDS):
                for program in programs:
                    program.check()
            say("stopping")


def check_settings(settings: RunConfig) -> None:
    """Refuse settings with which no domain could train, before anything is started.

    Raises:
        ConfigError: the settings are for local training, or name text to mix in, which is the domains' choice.
        BaseModelError: the base is not on this machine.
    """
    settings.require_rounds()
    for key in ("replay", "annealing"):
        if (path := getattr(settings.train, key)) is not None:
            raise ConfigError(
                "cannot serve",
                expected=f"no train.{key}: each domain chooses in its domain.toml what it mixes in",
                got=path,
                fix="Take the key out of the config.",
            )
    base = describe_base(settings.base.name)
    select_modules(base.modules, settings.train)
    require_context(base, settings.train)


def next_steps(folder: FederationFolder, settings: RunConfig, config: str) -> Iterator[str]:
    """What the coordinator does next: invite the missing domains, then run."""
    if refusal := refused_by_default(settings):
        yield f"a domain refuses these rounds unless its administrator changes policy.toml: {refusal}"
    joined = read_members(folder.path)
    missing = [d.name for d in settings.domains if d.name not in joined]
    if joined:
        yield f"joined: {', '.join(joined)}"
    if missing:
        yield f"next: cogen invite {missing[0]}   (not joined yet: {', '.join(missing)})"
    else:
        yield f"next: cogen run {config}"


def _prepare(folder: FederationFolder, settings: RunConfig, name: str, door: Door) -> About:
    """Write settings, name, address and certificates to the folder."""
    before = read_about(folder) if folder.about.is_file() and folder.config.is_file() else None
    if before is not None and read_members(folder.path):
        _same_base(load_config(folder.config), settings, folder)
    address = door.public_address or (before.public_address if before else None)
    if address is None:
        raise ConfigError(
            "cannot serve",
            expected="--public-address HOST:PORT",
            got="none",
            fix="Give the address at which the domains reach this machine; later starts remember it.",
        )
    host, port = split_address(address)
    if door.certificate is not None and door.key is not None:
        take_certificate(folder, host, door.certificate, door.key, door.ca)
    elif door.certificate or door.key or door.ca:
        raise ConfigError(
            "cannot serve", expected="--certificate and --key together", got="one of them", fix="Give both, or neither."
        )
    else:
        ensure_certificate(folder, host)
    ensure_link_certificate(folder)
    folder.write(folder.config, settings.to_toml())
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    about = About(name=before.name if before else name[:64], public_address=shown)
    about.write(folder.about, private=True)
    return about


def _same_base(before: RunConfig, now: RunConfig, folder: FederationFolder) -> None:
    joined_with, wanted = (describe_base(c.base.name).fingerprint for c in (before, now))
    if joined_with != wanted:
        raise FederationError(
            "cannot serve",
            expected=f"base {before.base.name!r}, which the members have",
            got=repr(now.base.name),
            where=str(folder.path),
            fix="Use another folder (--folder) for another base.",
        )


@contextmanager
def _kept(folder: FederationFolder, listen: str, handle: int, say: Say) -> Iterator[list[RestartedProgram]]:
    """Start SuperLink, its SuperExec and the gateway, and end all at the end of the block."""
    environment = {
        **coordinator_environment(folder.flwr_home),
        **MALLOC_ENVIRONMENT,
        "COGEN_FEDERATION": str(folder.path),
    }
    flower = [*SUPERLINK, *AT_SOCKET]
    flower += ["--ssl-ca-certfile", str(folder.link / "ca.pem"), "--ssl-certfile", str(folder.link / "server.pem")]
    flower += ["--ssl-keyfile", str(folder.link / "server.key"), "--enable-supernode-auth"]
    flower += ["--database", str(folder.database), *isolated(folder.superexec_secret)]
    gateway = [sys.executable, "-P", "-m", "cogen.deploy.gateway_process", str(folder.path), listen]
    link = RestartedProgram("SuperLink", flower, folder.logs / "superlink.log", environment, handle, say)
    door = RestartedProgram("the gateway", gateway, folder.logs / "gateway.out.log", environment, handle, say)
    at = ADDRESS, ["--root-certificates", str(folder.link / "ca.pem")], folder.superexec_secret
    executor = superexec_for(link, *at, environment, folder.logs / "superexec.log", handle, say)
    programs = [door, link, executor]
    before = os.umask(0o077)  # also for the database and the logs
    try:
        for program in programs:
            program.start()
        wait_ready(folder.flwr_home, folder.logs, link.alive)
        _wait_gateway(door, split_address(listen))
        yield programs
    finally:
        os.umask(before)
        folder.serving.unlink(missing_ok=True)
        stop_all(programs)


def _forget_strangers(folder: FederationFolder) -> None:
    """Unregister nodes that are not members: revoked while the federation was not served, or interrupted while enrolling."""
    superlink_client = SuperLinkClient(folder.flwr_home, folder.logs)
    with locked(folder.invites):
        known = {member.node_id for member in read_members(folder.path).values()}
        for node_id, state in superlink_client.nodes().items():
            if node_id not in known and state != "unregistered":
                superlink_client.unregister(node_id)


def _wait_gateway(door: RestartedProgram, listen: tuple[str, int]) -> None:
    import socket

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen[0], listen[0])
    until = time.monotonic() + GATEWAY_SECONDS
    while time.monotonic() < until and door.alive():
        try:
            socket.create_connection((host, listen[1]), timeout=1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise FederationError(
        "cannot start the gateway",
        expected=f"it to listen on {listen[0]} port {listen[1]}",
        got="no answer" if door.alive() else "it ended",
        where=str(door.log),
        fix="Read its log. The port may be in use, or the address may not belong to this machine (--bind).",
    )
