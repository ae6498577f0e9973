"""Runs Flower's `flower-superlink` with three changes; the first two keep it from growing with what it passes on.

Flower lets each connection of SQLite hold 64 MB of pages, and SuperLink has up to ten that stay: it grew with every
round of 5 MB messages until all were full. The system holds the same pages of the file anyway.

What a request leaves in a cycle is collected often (`cogen.flower.memory`).

A node whose line broke announces its reply again. Where the server app has seen the first announcement meanwhile, Flower
refuses the second without a word: the node sends nothing of what the reply holds, and the round waits three minutes for it
in vain. Here the node is told what is still missing. In the same way a part of it that is sent again has arrived, where
Flower says that nobody waits for it, and the node leaves out the rest.
"""

from __future__ import annotations

from typing import Any

from cogen.flower.memory import collect_often

PRAGMAS, CACHE, CACHE_KIB = "SQLITE_PRAGMAS", "cache_size", 8192  # a message of 5 MB fits
LINK, ANNOUNCE, STORE = "SqlLinkState", "store_message_and_object_tree", "store_object"
ROOT = "ObjectPushSessionRoot"


def patch_memory() -> None:
    """Put the size in the place from which Flower takes it; a version without that place is left as it is."""
    from flwr.supercore import sql_mixin

    found: Any = getattr(sql_mixin, PRAGMAS, None)
    if isinstance(found, tuple) and CACHE in dict(found):
        setattr(sql_mixin, PRAGMAS, tuple({**dict(found), CACHE: f"-{CACHE_KIB}"}.items()))


def take_again() -> None:
    """Let a reply that was announced, and is not there whole, be sent; a version without that place is left as it is."""
    from flwr.server.superlink.linkstate import sql_linkstate
    from flwr.supercore.state.schema import corestate_models

    link, root = getattr(sql_linkstate, LINK, None), getattr(corestate_models, ROOT, None)
    announce, store = getattr(link, ANNOUNCE, None), getattr(link, STORE, None)
    if link is None or root is None or announce is None or store is None or getattr(announce, "again", False):
        return

    def announced(self: Any, message: Any, tree: Any, session_id: str) -> tuple[bool, list[str]]:
        stored, missing = announce(self, message, tree, session_id)
        if stored or not message.metadata.reply_to_message_id:
            return stored, missing
        with self.session() as session:  # a row of it stays until all objects are there, or its time is over
            if session.get(root, tree.object_id) is None:
                return stored, missing
            return True, self.preregister_object_tree(tree, session_id)

    def stored(self: Any, run_id: int, session_id: str, object_id: str, content: bytes) -> bool:
        return store(self, run_id, session_id, object_id, content) or bool(self.object_store.get(object_id))

    announced.again = True  # type: ignore[attr-defined]
    setattr(link, ANNOUNCE, announced)
    setattr(link, STORE, stored)


def main() -> None:
    """`python -m cogen.flower.superlink_process ARGS`, the arguments of `flower-superlink`."""
    patch_memory()
    take_again()
    import flwr.superlink.main  # noqa: F401  - what Flower imports when it starts, so that it is frozen too
    from flwr.superlink.cli.flower_superlink import flower_superlink

    collect_often()
    flower_superlink()


if __name__ == "__main__":
    main()
