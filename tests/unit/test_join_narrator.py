"""What `cogen join` prints about the training of a round."""

from __future__ import annotations

import pytest

from cogen.base import Base
from cogen.cli.join import JoinNarrator
from cogen.node.policy import Policy
from cogen.node.view import audits_in, preview_text
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


AUDIT = {"action": "audit", "run": "ab", "round": 3, "auc": 0.7215, "low": 0.61, "high": 0.83, "limit": 0.6}


@pytest.mark.parametrize(("limit", "end"), [(0.6, "up to 0.6: not sent"), (0.75, "up to 0.75: sent")])
def test_an_own_audit_is_told_with_its_figure(limit: float, end: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While it happens and afterwards. Red: told as scoring, or not at all."""
    JoinNarrator(some_member()).on_event({**AUDIT, "limit": limit, "event": "work"})
    told = f"round 3 · own audit: AUC 0.722 (0.61 to 0.83), {end}"
    assert capsys.readouterr().err.rstrip().endswith(told)
    work = [{"action": "train", "run": "ab", "round": 3}, {**AUDIT, "limit": limit, "time": "2026-03-01T10:00:00.5"}]
    assert audits_in(work) == [f"2026-03-01T10:00:00 {told}"]


def test_the_preview_says_that_an_adapter_must_pass_the_own_audit(tiny: Base) -> None:
    line = "only if the adapter passes this domain's own audit: it tells trained text"
    assert f"{line} from other text of this corpus with an AUC up to 0.6\n" in preview_text(
        some_member(), tiny.info, 100, Policy(max_membership_auc=0.6)
    )
    assert line not in preview_text(some_member(), tiny.info, 100, None)
