"""What `cogen join` prints about the training of a round."""

from __future__ import annotations

import pytest

from cogen.cli.join import JoinNarrator
from tests.member import some_member


@pytest.mark.parametrize(
    ("steps", "left"), [([(1, 2)], "? left"), ([(1, 2), (2, 2)], "0s left"), ([(1, 1)], "0s left")]
)
def test_the_last_step_leaves_no_time(
    steps: list[tuple[int, int]], left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red: a round of one step that never says when it ends."""
    narrator = JoinNarrator(some_member())
    narrator.printed = float("-inf")  # a line for each step
    for step, total in steps:
        event = {"round": 3, "step": step, "num_steps": total, "loss_nats": 2.0, "tokens_per_second": 40.0}
        narrator.on_event({"event": "step", **event})
    assert capsys.readouterr().err.splitlines()[-1].endswith(left)
