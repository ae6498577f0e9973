"""Which factors a domain takes from a coordinator: a crafted start makes single tokens stand out in the reply.

A gate that opens for one token in thousands leaves the gradient of this token alone in a column of B. So by default a
round begins from fresh factors, which change nothing and are the draw of the run's seed (`docs/threat-model.md`).
"""

from __future__ import annotations

from collections.abc import Mapping

from cogen.adapter import Factors
from cogen.node.policy import refused
from cogen.train.lora import init_factors

LARGEST_ROW = 100.0  # norm of a row of A or a column of B: fresh rows have 0.6, those of a trained adapter a few
SAME = 1e-6  # entries of fresh rows are up to 1 / sqrt(d_in)


def require_fresh(start: Mapping[str, Factors], seed: int) -> None:
    """Refuse factors other than those with which a run of this seed begins: B zero, A as `init_factors` draws it.

    Raises:
        PolicyError: another start.
    """
    for name, f in start.items():
        drawn = init_factors({name: f.shape}, f.rank, f.scaling, seed)[name]
        is_drawn = f.a.shape == drawn.a.shape and bool(((f.a - drawn.a).abs() <= SAME).all())
        if bool(f.b.any()) or not is_drawn:
            raise refused("a start of fresh factors, drawn from the run's seed", "another start")


def require_moderate(factors: Mapping[str, Factors]) -> None:
    """Refuse factors so large that products overflow, which a small product of both hides.

    An overflow is an oracle: it tells whether one token is in the text, or leaves all steps but one without a gradient.

    Raises:
        PolicyError: a row of A or a column of B has a norm above LARGEST_ROW.
    """
    for f in factors.values():
        norms = (f.a.double().norm(dim=1), f.b.double().norm(dim=0))
        if not all(bool((n <= LARGEST_ROW).all()) for n in norms):
            raise refused(f"rows of A and columns of B of norm up to {LARGEST_ROW:g}", "a larger one")
