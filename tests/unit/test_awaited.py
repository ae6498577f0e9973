"""A run that is silent says what it waits for. Red: `cogen run` shows nothing for as long as a domain takes."""

from __future__ import annotations

from typing import Any

import pytest

from cogen.cli.narrator import Narrator
from cogen.flower.awaited import Awaited


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def registry(*there: str, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    clients = [{"domain": domain} for domain in there]
    return {"event": "client_registry", "clients": clients, "missing": dict.fromkeys(missing, "away")}


def said(awaited: Awaited, clock: Clock, seconds: float) -> str | None:
    clock.now += seconds
    line = awaited.line()
    return None if line is None else f"{line['text']} {line['seconds']:g}"


def test_each_stage_of_a_run_names_what_it_waits_for() -> None:
    clock = Clock()
    awaited = Awaited(clock)
    assert said(awaited, clock, 9.0) is None
    assert said(awaited, clock, 1.0) == "Flower to start the server app 10"
    assert said(awaited, clock, 5.0) is None
    assert said(awaited, clock, 5.0) == "Flower to start the server app 20"
    awaited.see({"event": "run_started", "domains": ["clinical", "grid", "materials"], "num_rounds": 2})
    assert said(awaited, clock, 12.0) == "the domains to connect: clinical, grid, materials 12"
    awaited.see(registry("clinical", "grid", missing=("materials",)))
    awaited.see({"event": "round_started", "round": 1})
    assert said(awaited, clock, 11.0) == "replies to round 1: clinical, grid (not connected: materials) 11"
    awaited.see({"event": "client_replied", "round": 1, "domain": "clinical"})
    assert said(awaited, clock, 9.0) is None  # an event was shown
    assert said(awaited, clock, 1.0) == "replies to round 1: grid (not connected: materials) 21"
    awaited.see(registry("clinical", "grid", "materials"))
    awaited.see({"event": "client_retried", "round": 1, "domain": "clinical"})
    assert said(awaited, clock, 10.0) == "replies to round 1: clinical, grid, materials 31"
    for domain in ("clinical", "grid", "materials"):
        awaited.see({"event": "client_dropped", "round": 1, "domain": domain, "reason": "x"})
    assert said(awaited, clock, 10.0) == "replies to round 1 41"
    awaited.see({"event": "round_finished", "round": 1})
    assert said(awaited, clock, 10.0) == "round 2 to begin: clinical, grid, materials 10"
    awaited.see({"event": "round_started", "round": 2})
    awaited.see({"event": "round_finished", "round": 2})
    assert said(awaited, clock, 30.0) == "scores: clinical, grid, materials 30"
    awaited.see({"event": "evaluated", "num_cells": 3})
    assert said(awaited, clock, 30.0) == "the run to end 30"


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Narrator() as shown:
        shown.on_event({"event": "waiting", "text": "replies to round 1: grid", "seconds": 75.0})
    assert "waiting for replies to round 1: grid" in capsys.readouterr().err
