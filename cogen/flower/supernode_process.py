"""Runs Flower's `flower-supernode`: it tries a broken connection again, looks for a reply sooner, and says and grows less.

Flower's node gives up at once on any error with "ssl" in its text: a line cut while it connects, a handshake that took
too long. Then it drops the reply at hand, or ends and forgets the message that it works on, and the round waits for it
until its deadline. Giving up is right for another certificate alone. The same goes for what the gateway answers when a
line holds up the body of a request, or when there is too much at once.

A node that has given up goes on as a process, kept by its HTTP server's thread, and nobody starts it again; here it ends.

While the app works, Flower's node looks for its reply every half second, and as late again for what the reply holds.

Its log has a dated line for each message that comes and goes, in place of eight; what fails is said as before.

What a message leaves in a cycle is collected often (`cogen.flower.memory`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from cogen.errors import FederationError, log_error
from cogen.flower.memory import collect_often

SEAM = "make_simple_http_retry_invoker"
PASSING = {408, 429}  # beside what Flower tries again
FLOWERS_SECONDS, NAP_SECONDS = 0.5, 0.05
NOTHING_SAID = ("Received successfully", "Sent successfully", "[RUN ")


def patch_patience() -> None:
    """Put the rule in the place from which Flower's node takes its own.

    Raises:
        FederationError: Flower has no such place any more.
    """
    from flwr.supernode import fleet_http_connection as connection

    make = getattr(connection, SEAM, None)
    if not callable(make) or not callable(getattr(make(), "should_giveup", None)):
        raise FederationError(
            "cannot start the node",
            expected=f"flwr's node to try again by {SEAM}",
            got="another version of flwr",
            fix="Install the version of flwr that cogen-ai asks for.",
        )

    def patient() -> Any:
        invoker = make()
        invoker.should_giveup = _rule(invoker.should_giveup)
        return invoker

    setattr(connection, SEAM, patient)


def _rule(by_flower: Callable[[Exception], bool]) -> Callable[[Exception], bool]:
    import httpx

    def should_giveup(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            return "CERTIFICATE_VERIFY_FAILED" in str(error)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in PASSING:
            return False
        return by_flower(error)

    return should_giveup


class Naps:
    """The module `time` as Flower's node sees it: where it sleeps half a second for a reply, a nap."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(NAP_SECONDS if seconds == FLOWERS_SECONDS else seconds)


def be_prompt() -> None:
    """Let Flower's node nap; a version of it that keeps no such time is left as it is."""
    from flwr.supernode import start_client_internal as node

    if getattr(node, "time", None) is time:
        vars(node)["time"] = Naps()


def be_brief() -> None:
    """Date Flower's lines, leave out its colours, and those that say nothing: of a file, not of a terminal."""
    from flwr.common.logger import FLOWER_LOGGER, update_console_handler

    update_console_handler(timestamps=True, colored=False)
    FLOWER_LOGGER.addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    said = record.getMessage().strip()
    return record.levelno > logging.INFO or (bool(said) and not said.startswith(NOTHING_SAID))


def main() -> None:
    """`python -m cogen.flower.supernode_process ARGS`, the arguments of `flower-supernode`."""
    patch_patience()
    be_prompt()
    be_brief()
    import flwr.supernode.main  # noqa: F401  - what Flower imports when it starts, so that it is frozen too
    from flwr.supernode.cli import flower_supernode

    collect_often()
    try:
        flower_supernode()
    except Exception:  # noqa: BLE001 - an exit goes its own way
        log_error()
        os._exit(1)


if __name__ == "__main__":
    main()
