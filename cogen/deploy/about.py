"""The federation's name and public address (`about.json`), and the running `cogen serve` (`serve.json`)."""

from __future__ import annotations

from typing import Literal

from cogen.deploy.folder import FederationFolder
from cogen.errors import ConfigError, FederationError
from cogen.records import Record

DEFAULT_PORT = 9443


class About(Record):
    """`about.json`: what stays the same when `cogen serve` starts again.

    Args:
        name: the federation's name, taken from the file name of its first config.
        public_address: HOST:PORT at which domains reach the coordinator.
    """

    file_name = "about.json"
    error = FederationError
    fix = "Start `cogen serve CONFIG --public-address HOST:PORT` again."

    format: Literal[1] = 1
    name: str
    public_address: str


class Serving(Record):
    """`serve.json`: the `cogen serve` that is running.

    Args:
        pid: process id of `cogen serve`.
        bind: address and port on which the gateway listens.
        app_sha256: hash of the Flower app that the coordinator sends.
    """

    file_name = "serve.json"
    error = FederationError
    fix = "Start `cogen serve CONFIG --public-address HOST:PORT` again."

    format: Literal[1] = 1
    pid: int
    bind: str
    app_sha256: str


def read_about(folder: FederationFolder) -> About:
    """The federation's name and address.

    Raises:
        FederationError: `cogen serve` has not made this folder, or the file cannot be used.
    """
    folder.require()
    return About.load(folder.about)


def read_serving(folder: FederationFolder) -> Serving:
    """The `cogen serve` that is running on this folder.

    Raises:
        FederationError: none is running.
    """
    folder.require()
    serving = Serving.load_if_present(folder.serving)
    if serving is None or not folder.is_served():
        raise FederationError(
            "nobody serves this federation",
            expected="a running cogen serve",
            got="none",
            where=str(folder.path),
            fix="Start `cogen serve` and leave it running.",
        )
    return serving


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `HOST` or `[IPv6]:PORT`.

    Raises:
        ConfigError: the text has another form.
    """
    host, _, port = address.rpartition(":") if not address.endswith("]") and ":" in address else (address, "", "")
    number = int(port) if port.isdecimal() else (0 if port else DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < number < 65536 or any(c in host for c in "/@ ?#"):
        raise ConfigError(
            "cannot use address",
            expected="HOST:PORT",
            got=repr(address),
            fix=f"For example fed.example.org:{DEFAULT_PORT}; the default port is {DEFAULT_PORT}.",
        )
    return host, number
