"""What a round would send, shown before a domain joins: names, shapes and bytes, from the shapes of the base alone."""

from __future__ import annotations

from dataclasses import fields

from cogen.adapter import Fingerprint
from cogen.base import BaseInfo
from cogen.console import table
from cogen.node.home import Membership
from cogen.node.policy import Policy, within
from cogen.node.round_spec import default_round_spec
from cogen.protocol.factors import reply_shapes
from cogen.protocol.messages import Figures
from cogen.train.start import select_modules


def preview_text(member: Membership, base: BaseInfo, num_train_tokens: int, policy: Policy | None) -> str:
    """One line an array, then numbers, texts and the sum, for the round that the invite names and the policy allows."""
    policy = policy or Policy()
    settings = within(policy, (member.round or default_round_spec()).train)
    shapes = {
        f"factors/{name}": shape
        for name, shape in reply_shapes(select_modules(base.modules, settings), settings.rank).items()
    }
    said = "" if member.round else " (the invite does not say; these are the defaults)"
    rows = [(name, "float32", f"{a} x {b}", f"{4 * a * b} bytes") for name, (a, b) in shapes.items()]
    total = sum(4 * a * b for a, b in shapes.values())
    numbers = [n for n in Figures.model_fields if policy.evaluation_leaves or not n.startswith("bits_per_byte")]
    texts = ["domain", *(field.name for field in fields(Fingerprint))]
    return "\n".join(
        [
            f"a round of domain {member.domain!r} would send, at rank {settings.rank} on"
            f" {len(shapes) // 2} of {len(base.modules)} modules{said}:\n",
            table(rows, num_left=3),
            f"\nnumbers: {', '.join(numbers)}",
            f"texts: {', '.join(texts)} (the base's hashes)",
            f"in all {len(shapes)} arrays, {total} bytes",
            f"never: the {num_train_tokens} training tokens, file names, paths, text",
            "nothing was sent, and nobody was asked",
        ]
    )
