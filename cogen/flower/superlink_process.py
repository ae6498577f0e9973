"""Runs Flower's `flower-superlink` with the patches that it needs. Its memory does not grow with what it passes on."""

from __future__ import annotations

from cogen.flower.memory import collect_often
from cogen.flower.patches import apply_or_exit


def main() -> None:
    """`python -m cogen.flower.superlink_process ARGS`, the arguments of `flower-superlink`."""
    apply_or_exit(
        "api_listens_at_socket",
        "superlink_database_cache",
        "superlink_announce_again",
        "superlink_store_again",
        "superlink_whole_replies",
    )
    import flwr.superlink.main  # noqa: F401  - Flower imports it when it starts; here it is frozen too
    from flwr.superlink.cli.flower_superlink import flower_superlink

    collect_often()
    flower_superlink()


if __name__ == "__main__":
    main()
