"""What `cogen simulate` and `cogen run` print about a run's events."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.cli.narrator import Narrator

ROOT = Path(__file__).parents[2]
HANDLED = sorted(name.removeprefix("_on_") for name in vars(Narrator) if name.startswith("_on_"))


@pytest.mark.parametrize("event", HANDLED)
def test_every_event_that_is_shown_is_written_somewhere(event: str) -> None:
    """Red: an event is renamed where it is written, and is no longer shown."""
    sources = [p for folder in ("cogen", "server") for p in (ROOT / folder).rglob("*.py") if p.parent.name != "cli"]
    assert any(f'"{event}"' in path.read_text("utf-8") for path in sources)


def test_what_happens_to_a_client_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of domains cannot control the terminal. Red: the reason is printed as it came."""
    with Narrator() as narrator:
        common = {"round": 2, "domain": "grid"}
        narrator.on_event({"event": "client_dropped", **common, "reason": "full\x1b[2J disk\n[bold]"})
        narrator.on_event({"event": "client_retried", **common})
        narrator.on_event({"event": "client_suspended", **common, "reason": "3 rounds in a row"})
        narrator.on_event({"event": "reply_rejected", "reason": "no such node"})
        narrator.on_event({"event": "of a later version"})
    assert capsys.readouterr().err.splitlines() == [
        "round 2 · grid dropped: full disk [bold]",
        "round 2 · grid asked again: its node is back",
        "round 2 · grid suspended: 3 rounds in a row",
        "reply rejected: no such node",
    ]
