"""Runs Flower's `flwr-clientapp` with one change: no app but the installed one is unpacked or imported.

A SuperNode runs whatever app the coordinator sends. `cogen join` puts a `flwr-clientapp` of its own first in
PATH, which comes here: the bundle's sha256 must be that of the app in this very installation (told by
`COGEN_APP_SHA256`), or the message is refused before any of its code is touched.

Importing Flower takes a second and a half of CPU for every message. `--serve SOCKET` keeps a process that has done
so and forks for each; the `flwr-clientapp` in PATH then only asks it (`cogen.flower.launcher`).

That is sooner than the SuperNode has fetched what the message holds, and Flower's app then sleeps a second before it
looks again, two after that; here it looks again soon.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cogen.errors import FederationError, log_error
from cogen.node.channel import is_same_user, listen_at
from cogen.node.home import NodeHome
from cogen.node.receipt import SentMessage, record

CLIENT_APP = "clients.client_app"
APP_VARIABLE, HOME_VARIABLE = "COGEN_APP_SHA256", "COGEN_NODE_HOME"
SEAM, PULL = "install_from_fab", "pull_and_inflate_object_from_tree"
# By the names of Flower's arguments; its own bound of time, two hours, holds in place of one of attempts.
SOON: dict[str, Any] = {"initial_backoff": 0.03, "backoff_cap": 0.25, "max_tries_per_object": None}


class OtherApp(FederationError):
    """The coordinator sends another app than the installed one."""

    leaves = True


def guard_install(expected_sha256: str) -> None:
    """Put the check of a bundle before Flower's own unpacking.

    Raises:
        FederationError: Flower has no such place any more; then no app may run.
    """
    from flwr.supernode.runtime import run_clientapp

    unpack = getattr(run_clientapp, SEAM, None)
    if not callable(unpack) or SEAM not in run_clientapp.run_clientapp.__code__.co_names:
        raise FederationError(
            "cannot guard the Flower app",
            expected=f"flwr's run_clientapp to unpack by {SEAM}",
            got="another version of flwr",
            fix="Install the version of flwr that cogen-ai asks for.",
        )

    def checked(fab_file: Any, *args: Any, **kwargs: Any) -> Any:
        require_app(fab_file, expected_sha256)
        try:
            return unpack(fab_file, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - its text may name this machine's paths, and Flower would send it
            log_error()
            raise RuntimeError(f"the domain cannot unpack the app ({type(error).__name__})") from None

    setattr(run_clientapp, SEAM, checked)


def look_soon() -> None:
    """Let Flower's app look sooner for what its SuperNode still fetches; a version without that place is left as it is."""
    from flwr.supernode.runtime import run_clientapp

    pull = getattr(run_clientapp, PULL, None)
    if inspect.isfunction(pull) and set(SOON) <= set(inspect.signature(pull).parameters):
        setattr(run_clientapp, PULL, partial(pull, **SOON))


def require_app(bundle: Any, expected_sha256: str) -> None:
    """Raise OtherApp unless `bundle` is the app of this hash; the refusal has a receipt."""
    got = hashlib.sha256(bundle).hexdigest() if isinstance(bundle, bytes) else "no bundle"
    if got == expected_sha256 and expected_sha256:
        return
    error = OtherApp(
        "app refused by the domain",
        expected=f"sha256 {expected_sha256 or 'of an installed app'}",
        got=got,
        fix="The coordinator and this domain need the same version of cogen.",
    )
    if home := os.environ.get(HOME_VARIABLE):
        told = f"{type(error)}:<'{error}'>"  # as Flower puts it
        record(NodeHome(home).receipts, "", 0, "app", SentMessage(error=told))
    raise error


def run(arguments: list[str]) -> None:
    """Flower's own program for one message, guarded."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    sys.argv = ["flwr-clientapp", *arguments]
    guard_install(os.environ.get(APP_VARIABLE, ""))
    look_soon()
    flwr_clientapp()


def serve(path: Path) -> None:
    """Import what every message needs, then fork for each that is asked for."""
    import flwr.supernode.cli.flwr_clientapp  # noqa: F401  - the second and a half that this saves

    importlib.import_module(CLIENT_APP)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = listen_at(path)
    while True:
        connection, _ = listener.accept()
        with connection:
            if not is_same_user(connection) or os.fork():
                continue
            listener.close()
            _run_for(connection)


def _run_for(connection: socket.socket) -> None:
    """The child's whole life: one message, then its exit code to whoever asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        asked = connection.makefile("rb").readline()
        run([str(a) for a in json.loads(asked)])
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:  # noqa: BLE001 - the child's end, whatever it is
        log_error()
    finally:
        for log in (sys.stdout, sys.stderr):  # before the answer, after which nobody waits
            with suppress(OSError):
                log.flush()
        with suppress(OSError):  # whoever asked may be gone
            connection.sendall(bytes([code & 0xFF]))
        os._exit(code & 0xFF)


def main() -> None:
    """`python -m cogen.flower.clientapp_process ARGS` for one message, `python -m cogen.flower.clientapp_process --serve SOCKET` to stay."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        run(sys.argv[1:])


if __name__ == "__main__":
    main()
