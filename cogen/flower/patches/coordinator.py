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


def whole_replies(get: Callable[..., Any], root: Any, push: Any, reply: Any, now: Any, *_: Any) -> Callable[..., Any]:
    """Flower's method to get replies; one whose objects are still being sent is left for a later call."""
    from sqlalchemy import select

    def got(self: Any, message_ids: set[str], run_id: int) -> Any:
        if message_ids:
            sending = select(root.root_object_id).join(push, push.session_id == root.session_id)
            sending = sending.where(push.expires_at > now())
            of = select(reply.reply_to_message_id).where(reply.reply_to_message_id.in_(message_ids))
            with self.session() as session:
                message_ids = message_ids - set(session.scalars(of.where(reply.message_id.in_(sending))))
        return get(self, message_ids, run_id)

    return mark(got)  # type: ignore[no-any-return]


def checked_pull(pull: Callable[..., Any], inflate: Callable[..., Any], failure: Any, message: Any) -> Any:
    """Flower's function to pull the objects of a reply, sooner; objects that make no message are no reply."""
    soon = partial(pull, **PULL_SOON)

    def pulled(object_ids: list[str], *args: Any, **options: Any) -> Any:
        contents = soon(object_ids, *args, **options)
        try:
            made = inflate(object_ids[-1], dict(contents), keep_object_contents=True)
        except Exception as error:  # noqa: BLE001 - the objects may be anything that a member sends
            raise failure(object_ids[-1], f"no message ({type(error).__name__})") from None
        if not isinstance(made, message):
            raise failure(object_ids[-1], "no message")
        return contents

    return mark(pulled)


LINK = "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState"
CORE_TABLES = "flwr.supercore.state.schema.corestate_models"
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
        "superlink_whole_replies",
        changes="The ServerApp gets a reply when all its objects are there.",
        reason="Flower gives it away when it is announced, and the ServerApp then waits for its objects: a member that sends "
        "none, or one every three minutes, held up all the others for up to two hours.",
        versions=">=1.41,<1.43",
        places=(
            f"{LINK}.get_message_res",
            f"{CORE_TABLES}:ObjectPushSessionRoot",
            f"{CORE_TABLES}:ObjectPushSession",
            "flwr.supercore.state.schema.linkstate_models:MessageRes",
            "flwr.supercore.date:now",
            f"{LINK}.session",
        ),
        fits=lambda get, root, push, reply, *_: (
            takes(get, "message_ids", "run_id")
            and all(hasattr(root, name) for name in ("session_id", "root_object_id"))
            and all(hasattr(push, name) for name in ("session_id", "expires_at"))
            and all(hasattr(reply, name) for name in ("message_id", "reply_to_message_id"))
        ),
        make=whole_replies,
    ),
    Patch(
        "grid_pull_checked",
        changes="The ServerApp's grid gives an error for objects that make no message, and asks again after 0.05 to 0.25 s.",
        reason="Flower raises what it finds, and one member's objects end the run. It waits 1 s for a part, then 2 s.",
        versions=">=1.41,<1.43",
        places=(
            "flwr.superlink.grid.http_grid:pull_objects",
            "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents",
            "flwr.supercore.inflatable.inflatable_utils:ObjectPullError",
            "flwr.app:Message",
        ),
        fits=lambda pull, inflate, failure, message: (
            takes(pull, *PULL_SOON, "object_ids") and takes(inflate, "keep_object_contents")
        ),
        make=checked_pull,
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
