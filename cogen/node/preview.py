"""What a round would send, said before anything is joined: names, shapes and bytes, from the base's shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

from cogen.base import BaseInfo
from cogen.console import table
from cogen.node.home import Membership
from cogen.node.policy import Policy, within
from cogen.node.round_spec import default_round_spec
from cogen.train.start import select_modules

FIGURES = ("num_tokens", "seconds")
SCORES = ("bits_per_byte_before", "bits_per_byte_after")
ABOUT = ("domain", "weights", "tokenizer", "modules")


def preview_arrays(modules: Mapping[str, tuple[int, int]], rank: int) -> dict[str, tuple[int, int]]:
    """Shapes of the float32 arrays of a round's reply at `rank`, by name.

    Args:
        modules: the adapted ones, name to `(d_out, d_in)`.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, (d_out, d_in) in modules.items():
        mine = min(rank, d_out, d_in)
        shapes[f"factors/{name}.a"], shapes[f"factors/{name}.b"] = (mine, d_in), (d_out, mine)
    return shapes


def preview_text(member: Membership, base: BaseInfo, num_train_tokens: int, policy: Policy | None) -> str:
    """One line an array, then numbers, texts and the sum, for the round that the invite names and the policy allows."""
    policy = policy or Policy()
    settings = within(policy, (member.round or default_round_spec()).train)
    shapes = preview_arrays(select_modules(base.modules, settings), settings.rank)
    said = "" if member.round else " (the invite does not say; these are the defaults)"
    rows = [(name, "float32", f"{a} x {b}", f"{4 * a * b} bytes") for name, (a, b) in shapes.items()]
    total = sum(4 * a * b for a, b in shapes.values())
    scores = SCORES if policy.evaluation_leaves else ()
    return "\n".join(
        [
            f"a round of domain {member.domain!r} would send, at rank {settings.rank} on"
            f" {len(shapes) // 2} of {len(base.modules)} modules{said}:\n",
            table(rows, num_left=3),
            f"\nnumbers: {', '.join((*FIGURES, *scores))}",
            f"texts: {', '.join(ABOUT)} (the base's hashes)",
            f"in all {len(shapes)} arrays, {total} bytes",
            f"never: the {num_train_tokens} training tokens, file names, paths, text",
            "nothing was sent, and nobody was asked",
        ]
    )
