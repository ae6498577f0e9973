"""What a federation is called and where it listens: remembered in `about.json`; `serve.json` while it serves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cogen.deploy.folder import FederationFolder
from cogen.errors import ConfigError, FederationError

FORMAT = 1
DEFAULT_PORT = 9443


@dataclass(frozen=True)
class About:
    """What does not change from one start to the next.

    Args:
        name: the federation's, from the name of its first config.
        public_address: HOST:PORT, as domains reach it.
    """

    name: str
    public_address: str


@dataclass(frozen=True)
class Serving:
    """A `cogen serve` that runs.

    Args:
        pid: of `cogen serve`.
        port: of Flower's SuperLink, on loopback.
        bind: address and port that the gateway listens on.
        app_sha256: of the Flower app that this version sends.
    """

    pid: int
    port: int
    bind: str
    app_sha256: str


def read_about(folder: FederationFolder) -> About:
    """Raises FederationError unless `cogen serve` has been there."""
    folder.require()
    return About(**_read(folder.about))


def write_about(folder: FederationFolder, about: About) -> None:
    """Remember it."""
    folder.write(folder.about, json.dumps({"format": FORMAT, **asdict(about)}) + "\n")


def read_serving(folder: FederationFolder) -> Serving:
    """The `cogen serve` that runs on this folder.

    Raises:
        FederationError: none does.
    """
    folder.require()
    if folder.serving.is_file():
        serving = Serving(**_read(folder.serving))
        if folder.is_served():
            return serving
    raise FederationError(
        "nobody serves this federation",
        expected="a cogen serve that runs",
        got="none",
        where=str(folder.path),
        fix="Start `cogen serve` and leave it running.",
    )


def write_serving(folder: FederationFolder, serving: Serving) -> None:
    """Say where it listens, from here on."""
    folder.write(folder.serving, json.dumps({"format": FORMAT, **asdict(serving)}) + "\n")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `HOST` or `[IPv6]:PORT`.

    Raises:
        ConfigError: not of that form.
    """
    host, _, port = address.rpartition(":") if not address.endswith("]") and ":" in address else (address, "", "")
    number = int(port) if port.isdecimal() else (0 if port else DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < number < 65536 or any(c in host for c in "/@ ?#"):
        raise ConfigError(
            "cannot use address",
            expected="HOST:PORT",
            got=repr(address),
            fix=f"For example fed.example.org:{DEFAULT_PORT}; without a port it is {DEFAULT_PORT}.",
        )
    return host, number


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if values.pop("format") == FORMAT:
            return values
        got = "another"
    except (OSError, ValueError, KeyError) as error:
        got = f"{type(error).__name__}: {error}"
    raise FederationError(
        "cannot use the federation's folder",
        expected=f"{path.name} of format {FORMAT}",
        got=got,
        where=str(path),
        fix="Start `cogen serve CONFIG --public-address HOST:PORT` again.",
    )
