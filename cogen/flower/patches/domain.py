"""Patches of the Flower programs that run at a domain: `flower-supernode` and `flwr-clientapp`."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cogen.errors import log_error
from cogen.flower.patches.answers import ANSWER_PATCHES
from cogen.flower.patches.patch import MARK, Patch, mark, takes, uses

APP_VARIABLE = "COGEN_APP_SHA256"
# A SuperNode starts one of these for a task; the coordinator chooses which. A domain refuses all but the first.
TASK_PROGRAMS = (
    "flwr-clientapp",
    "flwr-agentapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
# Parameters of Flower's pull functions. The number of attempts is unlimited: Flower's own limit of two hours holds.
PULL_SOON: dict[str, Any] = {"initial_backoff": 0.03, "backoff_cap": 0.25, "max_tries_per_object": None}
SUPEREXEC_RETRY_SECONDS = 0.5
FLOWER_POLL_SECONDS, POLL_SECONDS = 0.5, 0.05
UNIMPORTANT = ("Received successfully", "Sent successfully", "[RUN ")


def check_app(unpack: Callable[..., Any], _: Any) -> Callable[..., Any]:
    """Flower's unpacking, behind a check that the bundle is the app of COGEN_APP_SHA256."""
    from cogen.flower.bundle import require_app

    expected = os.environ.get(APP_VARIABLE, "")

    def checked(fab_file: Any, *args: Any, **kwargs: Any) -> Any:
        require_app(fab_file, expected)
        try:
            return unpack(fab_file, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the error may name this machine's paths, and Flower would send it
            log_error()
            raise RuntimeError(f"the domain cannot unpack the app ({type(error).__name__})") from None

    return mark(checked)  # type: ignore[no-any-return]


def retry_broken_lines(make: Callable[[], Any]) -> Callable[[], Any]:
    """Flower's factory of retry invokers; what they make gives up on fewer errors."""

    def patient() -> Any:
        invoker = make()
        invoker.should_giveup = _rule(invoker.should_giveup)
        return invoker

    return mark(patient)  # type: ignore[no-any-return]


def _rule(by_flower: Callable[[Exception], bool]) -> Callable[[Exception], bool]:
    import httpx

    def should_giveup(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            return "CERTIFICATE_VERIFY_FAILED" in str(error)
        return by_flower(error)

    return should_giveup


def end_with_heartbeats(beat: Callable[[Any], None]) -> Callable[[Any], None]:
    """Flower's loop of heartbeats; an error in it ends the process."""

    def beating(self: Any) -> None:
        try:
            beat(self)
        except BaseException:  # noqa: BLE001 - without heartbeats SuperLink has no node, whatever the reason
            log_error()
            os._exit(1)

    return mark(beating)  # type: ignore[no-any-return]


def retry_soon(make: Callable[[], Any]) -> Callable[[], Any]:
    """Flower's factory of retry invokers; what they make waits for up to SUPEREXEC_RETRY_SECONDS."""

    def soon() -> Any:
        invoker = make()
        invoker.wait_gen_factory = partial(itertools.repeat, SUPEREXEC_RETRY_SECONDS)
        return invoker

    return mark(soon)  # type: ignore[no-any-return]


class ShortSleeps:
    """The module `time` for Flower's node; its sleeps of half a second are shorter."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(POLL_SECONDS if seconds == FLOWER_POLL_SECONDS else seconds)


setattr(ShortSleeps, MARK, True)


def write_short_log(logger: logging.Logger, update_console_handler: Callable[..., None]) -> logging.Logger:
    """Dates instead of colours, and no lines that say nothing."""
    update_console_handler(timestamps=True, colored=False)
    logger.addFilter(_is_important)
    return logger


def _is_important(record: logging.LogRecord) -> bool:
    message = record.getMessage().strip()
    return record.levelno > logging.INFO or (bool(message) and not message.startswith(UNIMPORTANT))


CLIENTAPP = "flwr.supernode.runtime.run_clientapp"
NODE = "flwr.supernode.start_client_internal"

DOMAIN_PATCHES = (
    *ANSWER_PATCHES,
    Patch(
        "clientapp_check_app",
        changes="`flwr-clientapp` unpacks no bundle but the one with the sha256 of the installed app.",
        reason="A SuperNode runs whatever app the coordinator sends.",
        versions=">=1.41,<1.43",
        places=(f"{CLIENTAPP}:install_from_fab", f"{CLIENTAPP}:run_clientapp"),
        fits=lambda unpack, run: callable(unpack) and uses(run, "install_from_fab"),
        make=check_app,
    ),
    Patch(
        "clientapp_pull_soon",
        changes="`flwr-clientapp` waits 0.03 to 0.25 s before it asks its SuperNode again for a part of the message.",
        reason="The preforked ClientApp starts before the SuperNode has fetched the message; Flower waits 1 s, then 2 s.",
        versions=">=1.41,<1.43",
        places=(f"{CLIENTAPP}:pull_and_inflate_object_from_tree",),
        fits=lambda pull: takes(pull, *PULL_SOON),
        make=lambda pull: mark(partial(pull, **PULL_SOON)),
    ),
    Patch(
        "supernode_retry",
        changes="A SuperNode retries after a broken connection and a failed TLS handshake.",
        reason="Flower gives up on any error with 'ssl' in its text: it drops the reply, or ends.",
        versions=">=1.41,<1.43",
        places=("flwr.supernode.fleet_http_connection:make_simple_http_retry_invoker",),
        fits=lambda make: callable(make().should_giveup),
        make=retry_broken_lines,
    ),
    Patch(
        "supernode_heartbeat",
        changes="A SuperNode ends when its thread of heartbeats ends with an error, so that it is restarted.",
        reason="Flower's process goes on without: SuperLink takes the node for lost, and the node says that it is connected.",
        versions=">=1.41,<1.43",
        places=("flwr.supercore.heartbeat:HeartbeatSender._run", "flwr.supercore.heartbeat:HeartbeatSender"),
        fits=lambda beat, sender: takes(beat, "self") and uses(sender.__init__, "_run"),
        make=lambda beat, _: end_with_heartbeats(beat),
    ),
    Patch(
        "superexec_retry_soon",
        changes="SuperExec asks again half a second after its SuperNode or SuperLink did not answer.",
        reason="The two start at the same time, and again when one of them ends. Flower waits for up to 20 s.",
        versions=">=1.41,<1.43",
        places=("flwr.supercore.superexec.run_superexec:make_simple_http_retry_invoker",),
        fits=lambda make: callable(make().wait_gen_factory),
        make=retry_soon,
    ),
    Patch(
        "supernode_reply_soon",
        changes="A SuperNode looks every 0.05 s for the reply of its app and for the reply's parts.",
        reason="Flower looks every 0.5 s, once for the reply and once more for its parts.",
        versions=">=1.41,<1.43",
        places=(f"{NODE}:time", f"{NODE}:_push_messages"),
        fits=lambda found, push: (
            found is time and uses(push, "sleep") and FLOWER_POLL_SECONDS in push.__code__.co_consts
        ),
        make=lambda *_: ShortSleeps(),
    ),
    Patch(
        "supernode_short_log",
        changes="A SuperNode logs one dated line for each message that comes and goes. Errors are logged as before.",
        reason="Flower logs eight coloured lines without a date.",
        versions=">=1.41,<1.43",
        places=("flwr.common.logger:FLOWER_LOGGER", "flwr.common.logger:update_console_handler"),
        fits=lambda logger, update: isinstance(logger, logging.Logger) and takes(update, "timestamps", "colored"),
        make=write_short_log,
    ),
    Patch(
        "supernode_task_programs",
        changes="Nothing. It checks that Flower has no task program that a domain does not refuse.",
        reason="The coordinator chooses the program, and each one unpacks and runs what it is sent.",
        versions=">=1.41,<1.43",
        places=("flwr.supercore.constant:TASK_TYPE_TO_COMMAND",),
        fits=lambda commands: set(commands.values()) <= set(TASK_PROGRAMS),
    ),
)
