"""Patches of the programs that run at a coordinator: SuperLink, the ServerApp's grid, and the gateway's HTTP server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cogen.flower.patches.patch import Patch, mark, takes, uses

CACHE_KIB = 8192  # a message of 5 MB fits
# Parameters of Flower's pull functions. The number of attempts is unlimited: Flower's own limit of two hours holds.
PULL_SOON: dict[str, Any] = {"initial_backoff": 0.05, "backoff_cap": 0.25, "max_tries_per_object": None}


def announce_again(announce: Callable[..., Any], pending: Any, *_: Any) -> Callable[..., Any]:
    """Flower's method to announce a message; it accepts a reply again that has not arrived whole."""

    def announced(self: Any, message: Any, tree: Any, session_id: str) -> tuple[bool, list[str]]:
        stored, missing = announce(self, message, tree, session_id)
        if stored or not message.metadata.reply_to_message_id:
            return stored, missing
        with self.session() as session:  # the row of a pending reply stays until all objects are there, or it expires
            if session.get(pending, tree.object_id) is None:
                return stored, missing
            return True, self.preregister_object_tree(tree, session_id)

    return mark(announced)  # type: ignore[no-any-return]


def store_again(store: Callable[..., bool]) -> Callable[..., bool]:
    """Flower's method to store a part; a part that is there counts as stored."""

    def stored(self: Any, run_id: int, session_id: str, object_id: str, content: bytes) -> bool:
        return store(self, run_id, session_id, object_id, content) or bool(self.object_store.get(object_id))

    return mark(stored)  # type: ignore[no-any-return]


LINK = "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState"
HTTP = "uvicorn.protocols.http.h11_impl"

COORDINATOR_PATCHES = (
    Patch(
        "superlink_database_cache",
        changes=f"Each of SuperLink's connections to SQLite caches {CACHE_KIB // 1024} MB.",
        reason="Flower allows 64 MB each, for up to ten connections: SuperLink grew with every round until all were full.",
        versions=">=1.41,<1.43",
        places=("flwr.supercore.sql_mixin:SQLITE_PRAGMAS",),
        fits=lambda pragmas: isinstance(pragmas, tuple) and "cache_size" in dict(pragmas),
        make=lambda pragmas: tuple({**dict(pragmas), "cache_size": f"-{CACHE_KIB}"}.items()),
    ),
    Patch(
        "superlink_announce_again",
        changes="A reply that is announced again, and has not arrived whole, is accepted.",
        reason="A node whose connection broke announces its reply again. When the ServerApp has seen the first "
        "announcement, Flower refuses the second without an error: the node sends no parts, and the round waits in vain.",
        versions=">=1.41,<1.43",
        places=(
            f"{LINK}.store_message_and_object_tree",
            "flwr.supercore.state.schema.corestate_models:ObjectPushSessionRoot",
            f"{LINK}.session",
            f"{LINK}.preregister_object_tree",
        ),
        fits=lambda announce, _, session, register: (
            takes(announce, "message", "object_tree", "session_id") and takes(register, "object_tree", "session_id")
        ),
        make=announce_again,
    ),
    Patch(
        "superlink_store_again",
        changes="A part of a message that is sent again, and is there, is accepted.",
        reason="Flower answers that nobody waits for it, and the node then drops the rest of the message.",
        versions=">=1.41,<1.43",
        places=(f"{LINK}.store_object",),
        fits=lambda store: takes(store, "run_id", "session_id", "object_id", "object_content"),
        make=store_again,
    ),
    Patch(
        "grid_pull_soon",
        changes="The ServerApp's grid waits 0.05 to 0.25 s before it asks SuperLink again for a part of a reply.",
        reason="A reply is announced before its parts arrive. Flower waits 1 s, then 2 s.",
        versions=">=1.41,<1.43",
        places=("flwr.superlink.grid.http_grid:pull_objects",),
        fits=lambda pull: takes(pull, *PULL_SOON),
        make=lambda pull: mark(partial(pull, **PULL_SOON)),
    ),
    Patch(
        "gateway_header_seconds",
        changes="Nothing here. `timed_protocol` in `cogen.deploy.limits` adds a time limit for headers to this class.",
        reason="uvicorn has no such limit, so that silent connections would use up the gateway's.",
        versions=">=0.49,<1",
        places=(f"{HTTP}:H11Protocol", f"{HTTP}:RequestResponseCycle"),
        fits=lambda protocol, cycle: (
            all(takes(getattr(protocol, n), "self") for n in ("connection_made", "data_received", "connection_lost"))
            and all(uses(protocol.__init__, name) for name in ("loop", "transport", "cycle"))
            and uses(cycle.__init__, "response_complete")
        ),
    ),
)
