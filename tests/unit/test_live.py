"""The live page's state: events and steps by hand, in the order in which a run writes them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from cogen.evaluate.matrix import Cell, Evaluation
from cogen.report.curve import MOST_POINTS, Curve
from cogen.report.feed import Feed
from cogen.report.live import MOST_EVENTS, LiveRun
from cogen.report.live_text import describe

AT = 1_795_312_800.0  # 2026-11-22T02:00:00Z


def event(name: str, second: int, **values: Any) -> dict[str, Any]:
    return {"time": f"2026-11-22T02:{second // 60:02d}:{second % 60:02d}+00:00", "event": name, **values}


def started(second: int = 0, num_rounds: int = 2, resumed: bool = False) -> dict[str, Any]:
    values = {"run": "demo", "base": "tiny", "domains": ["clinical", "grid"], "num_rounds": num_rounds}
    return event("run_started", second, **values, resumed=resumed)


def replied(second: int, round_: int, domain: str, before: float, after: float) -> dict[str, Any]:
    values = {"round": round_, "domain": domain, "rank": 4, "num_tokens": 500, "seconds": 9.0}
    scores = {"bits_per_byte_before": before, "bits_per_byte_after": after}
    return event("client_replied", second, **values, **scores, bytes_up=1000, bytes_down=2000)


def round_done(second: int, round_: int) -> dict[str, Any]:
    values = {"num_valid": 1, "num_clients": 2, "num_tokens": 500, "bytes_up": 1000, "bytes_down": 2000}
    return event("round_finished", second, round=round_, **values, seconds=20.0)


def step(round_: int, number: int, tokens: int, loss: float = 3.0) -> dict[str, Any]:
    values = {"round": round_, "step": number, "num_steps": 4, "num_tokens": tokens, "loss_nats": loss}
    return {**values, "learning_rate": 0.1, "tokens_per_second": 50.0}


def baseline_step(baseline: str, number: int, tokens: int, loss: float = 3.0) -> dict[str, Any]:
    return {"baseline": baseline, **step(1, number, tokens, loss)}


def seed(name: str, second: int, number: int, num_seeds: int) -> dict[str, Any]:
    return event(name, second, seed=6 + number, number=number, num_seeds=num_seeds)


def live(*events: dict[str, Any]) -> LiveRun:
    run = LiveRun()
    for values in events:
        run.add_event(values)
    return run


def states(run: LiveRun) -> list[str]:
    return [client["state"] for client in run.section("clients")]


# --- the state


def test_a_round_from_waiting_to_replied_and_dropped() -> None:
    run = live(started(), event("round_started", 10, round=1))
    assert states(run) == ["waiting", "waiting"]
    run.add_step("clinical", step(1, 1, 100, 3.5), AT + 12)
    assert states(run) == ["training", "waiting"]
    client = run.section("clients")[0]
    assert (client["step"], client["num_steps"], client["loss"]) == (1, 4, 3.5)
    run.add_event(replied(20, 1, "clinical", 1.2, 1.1))
    run.add_event(event("client_dropped", 30, round=1, domain="grid", reason="too <late>"))
    assert states(run) == ["replied", "dropped"]
    assert run.section("clients")[1]["reason"] == "too <late>"
    run.add_event(event("round_started", 40, round=2))
    assert states(run) == ["waiting", "waiting"]


def test_phases() -> None:
    run = LiveRun()
    seen = [run.section("run")["phase"]]
    ends = [event("evaluated", 60, num_cells=4), event("run_finished", 61, seconds=61.0)]
    for values in [started(), event("round_started", 9, round=1), round_done(20, 1), round_done(50, 2), *ends]:
        run.add_event(values)
        seen.append(run.section("run")["phase"])
    assert seen == ["waiting", "starting", "training", "training", "scoring", "scored", "finished"]
    run.add_event(event("run_failed", 70, reason="power"))
    assert (run.section("run")["phase"], run.section("run")["reason"]) == ("failed", "power")
    run.add_event(started(80, resumed=True))
    assert (run.section("run")["phase"], run.section("run")["reason"]) == ("starting", "")


def test_a_run_with_baselines_is_over_only_when_it_is_judged() -> None:
    """Red: `run_finished`, which ends the rounds, taken for the end of it all."""
    run = live(seed("seed_started", 0, 1, 1), started(1), event("run_finished", 10, seconds=9.0))
    assert run.section("run")["phase"] == "scoring"
    run.add_event(event("baseline_started", 11, baseline="local:grid", num_left_tokens=400))
    assert run.section("run")["phase"] == "baseline"
    run.add_baseline_step(baseline_step("local:grid", 1, 50), AT + 12)
    run.add_baseline_step({"baseline": "local:grid"}, AT + 12)
    shown = run.section("scoring")
    assert (shown["now"]["baseline"], shown["now"]["left_tokens"]) == ("local:grid", 350)
    (row,) = shown["rows"]
    assert (row["name"], row["state"], row["progress"]) == ("local:grid", "training", "step 1 of 4")
    assert (row["done_frac"], row["left_tokens"], row["loss"]) == (0.25, 150, 3.0)
    run.add_event(event("baseline_trained", 13, baseline="local:grid", num_tokens=200))
    run.add_event(event("baseline_started", 14, baseline="centralized", num_left_tokens=200))
    assert run.section("scoring")["now"]["left_tokens"] == 200
    run.add_event(event("baseline_failed", 15, baseline="centralized", reason="no <room>"))
    assert [(r["state"], r["reason"]) for r in run.section("scoring")["rows"]] == [
        ("trained", ""),
        ("dropped", "no <room>"),
    ]
    assert run.section("run")["phase"] == "scoring"
    run.add_event(seed("seed_finished", 16, 1, 1))
    assert run.section("run")["phase"] == "finished"
    assert run.section("run")["num_unreadable"] == 1


def test_what_is_asked_for_later_opens_a_finished_run_again() -> None:
    run = live(started(), event("run_finished", 10, seconds=9.0))
    assert run.section("run")["phase"] == "finished"
    run.add_event(seed("seed_started", 20, 1, 1))
    assert run.section("run")["phase"] == "scoring"
    run.add_event(event("baseline_started", 21, baseline="centralized", num_left_tokens=200))
    run.add_event(event("seed_summary_failed", 22, reason="no general text"))
    run.add_event(seed("seed_started", 30, 1, 1))  # resumed
    assert (run.section("run")["phase"], run.section("run")["reason"]) == ("scoring", "")
    run.add_event(event("seed_summary_failed", 31, reason="no general text"))
    assert (run.section("run")["phase"], run.section("run")["reason"]) == ("failed", "no general text")


def test_time_left_is_what_the_pace_of_the_round_says() -> None:
    run = live(started(), event("round_started", 0, round=1))
    assert run.section("run")["left_seconds"] is None
    run.add_step("clinical", step(1, 2, 200), AT + 10)
    # Two of the round's eight steps took 10 s; six of this round and eight of the next are left.
    assert run.section("run")["left_seconds"] == pytest.approx(70.0)
    assert run.section("run")["done_frac"] == pytest.approx(0.125)
    run.add_event(event("client_dropped", 20, round=1, domain="grid", reason="late"))
    # Half a client and a whole one in 20 s.
    assert run.section("run")["left_seconds"] == pytest.approx(20 / 0.75 * 1.25)


def test_a_resumed_round_starts_from_nothing() -> None:
    run = live(started(), event("round_started", 0, round=1))
    run.add_step("clinical", step(1, 3, 300, 2.0), AT + 10)
    run.add_event(replied(12, 1, "grid", 1.2, 1.1))
    run.add_event(started(100, resumed=True))
    run.add_event(event("round_started", 110, round=1))
    assert states(run) == ["waiting", "waiting"]
    run.add_step("clinical", step(1, 1, 100, 4.0), AT + 120)
    assert states(run) == ["training", "waiting"]
    assert run.section("clients")[0]["step"] == 1
    assert run.section("loss:clinical") == [(100.0, 4.0)]


def test_scores_so_far_and_then_the_matrix() -> None:
    run = live(started(), replied(5, 1, "clinical", 1.0, 0.9), replied(6, 1, "grid", 2.0, 2.2))
    matrix = run.section("matrix")
    assert [(row["model"], [c["value"] for c in row["cells"]]) for row in matrix["rows"]] == [
        ("base", ["1.0000", "2.0000", "1.5000"]),
        ("trained in round 1", ["0.9000", "2.2000", "1.5500"]),
    ]
    assert [cell["change"] for cell in matrix["rows"][1]["cells"]][:2] == ["−10.0%", "+10.0%"]
    run.set_evaluation(Evaluation(cells=(Cell("combined", "grid", 0.7, 4, 1),)))
    matrix = run.section("matrix")
    assert matrix["is_final"]
    assert [row["model"] for row in matrix["rows"]] == ["combined"]


def test_bits_per_byte_by_round_have_a_gap_where_a_client_was_dropped() -> None:
    run = live(started(), replied(1, 1, "grid", 2.0, 1.8), replied(2, 3, "grid", 1.7, 1.6))
    assert run.section("bits") == [
        {"name": "grid", "points": [[0.0, 2.0], [1.0, 1.8], [None, None], [2.0, 1.7], [3.0, 1.6]]}
    ]


def test_what_is_not_finite_or_not_whole_is_never_sent() -> None:
    run = live(started(), event("round_started", 0, round=1), replied(3, 1, "grid", math.nan, math.inf))
    run.add_step("clinical", step(1, 1, 100, math.nan), AT + 1)
    run.add_step("clinical", {"round": 1}, AT + 2)
    run.add_event(event("baseline_started", 4, baseline="centralized", num_left_tokens=100))
    run.add_baseline_step(baseline_step("centralized", 1, 10, math.nan), AT + 2)
    run.add_event(event("client_replied", 4, domain="grid"))
    for name in ("run", "clients", "events", "bits", "matrix", "scoring", "loss:clinical"):
        json.dumps(run.section(name), allow_nan=False)
    assert run.section("run")["num_unreadable"] == 2


def test_only_the_last_events_are_kept() -> None:
    run = live(*(event("round_started", n % 60, round=n) for n in range(MOST_EVENTS + 5)))
    assert len(run.section("events")) == MOST_EVENTS
    assert run.section("events")[0]["text"] == "round 5 began"


def test_an_event_that_is_not_known_is_shown_with_its_values() -> None:
    assert describe({"event": "tea_made", "time": "x", "domain": "grid"}) == "tea made · domain grid"
    assert describe({"event": "baseline_started", "domain": "grid"}) == "baseline started · domain grid"
    assert describe({"event": "client_replied", "domain": "grid"}) == "client replied · domain grid"


# --- curves


def test_a_curve_stays_small_and_keeps_its_mean() -> None:
    curve = Curve()
    num = 8 * MOST_POINTS + 3
    for i in range(1, num + 1):
        curve.add(i, float(i))
    points = curve.points
    assert MOST_POINTS <= len(points) < 2 * MOST_POINTS
    # Every bucket is a mean of its steps, so that a straight line stays one.
    assert all(x == y for x, y in points)
    assert points[-1][0] > num - 8


def test_steps_that_come_again_replace_those_before() -> None:
    curve = Curve()
    for tokens, loss in ((100, 3.0), (200, 9.0), (300, 9.0), (200, 2.0)):
        curve.add(tokens, loss)
    assert curve.points == [(100.0, 3.0), (200.0, 2.0)]


# --- the folder


def append(path: Path, *rows: dict[str, Any], tail: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + tail)


def told(feed: Feed, last_id: str = "") -> tuple[str, dict[str, Any]]:
    """The kind of the next message and its sections."""
    feed.refresh(at_once=True)
    lines = dict(line.split(": ", 1) for line in feed.message(last_id).strip().split("\n") if line)
    return lines.get("event", ""), json.loads(lines.get("data", "{}")).get("sections", {})


def test_a_folder_that_is_yet_to_come(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "later")
    kind, sections = told(feed)
    assert (kind, sections["run"]["phase"], sections["folder"]["has_report"]) == ("state", "waiting", False)
    append(tmp_path / "later/events.jsonl", started())
    kind, sections = told(feed, feed.last_id)
    assert (kind, sections["run"]["phase"]) == ("change", "starting")


def test_only_what_changed_is_sent(tmp_path: Path) -> None:
    append(tmp_path / "events.jsonl", started(), event("round_started", 0, round=1))
    feed = Feed(tmp_path)
    told(feed)
    assert told(feed, feed.last_id) == ("", {})
    append(tmp_path / "nodes/grid/train.jsonl", step(1, 1, 100))
    kind, sections = told(feed, feed.last_id)
    assert kind == "change"
    assert set(sections) == {"run", "clients", "loss:grid"}
    # A second browser, which has seen nothing yet, gets it all; so does one that another server has served.
    everything = {"folder", "run", "clients", "events", "bits", "matrix", "scoring", "loss:grid"}
    assert set(told(feed)[1]) == everything
    assert told(feed, "deadbeef-3")[0] == "state"
    assert set(told(feed, "deadbeef-3")[1]) == everything


def test_further_seeds_and_their_baselines_are_read_from_their_own_folders(tmp_path: Path) -> None:
    """Red: a second seed that trains while the page says that the run is finished."""
    append(tmp_path / "events.jsonl", seed("seed_started", 0, 1, 2), started(1), event("run_finished", 2, seconds=1.0))
    feed = Feed(tmp_path)
    states = [(row["seed"], row["name"], row["state"]) for row in told(feed)[1]["scoring"]["rows"]]
    assert states == [(7, "the run", "trained"), (8, "the run", "waiting")]
    append(tmp_path / "events.jsonl", seed("seed_finished", 3, 1, 2), seed("seed_started", 3, 2, 2))
    other = tmp_path / "seeds/8"
    append(other / "events.jsonl", started(4), event("round_started", 5, round=2))
    sections = told(feed, feed.last_id)[1]
    assert sections["run"]["phase"] == "scoring"
    assert sections["scoring"]["seed"] == {"seed": 8, "number": 2, "num_seeds": 2}
    assert sections["scoring"]["now"] | {"phase": "training", "round": 2, "num_rounds": 2} == sections["scoring"]["now"]
    assert sections["run"]["updated"] == AT + 5
    ends = [
        event("run_finished", 6, seconds=2.0),
        event("baseline_started", 7, baseline="centralized", num_left_tokens=200),
    ]
    append(other / "events.jsonl", *ends)
    append(other / "logs/baselines.jsonl", baseline_step("centralized", 2, 80))
    now = told(feed, feed.last_id)[1]["scoring"]["now"]
    assert (now["phase"], now["baseline"], now["left_tokens"]) == ("baseline", "centralized", 120)
    append(other / "events.jsonl", event("baseline_trained", 8, baseline="centralized", num_tokens=200))
    assert told(feed, feed.last_id)[1]["scoring"]["now"]["phase"] == "scoring"
    append(tmp_path / "events.jsonl", seed("seed_finished", 9, 2, 2))
    assert told(feed, feed.last_id)[1]["run"]["phase"] == "finished"


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    text = json.dumps(event("round_started", 1, round=1))
    append(tmp_path / "events.jsonl", started(), tail=text[:20])
    feed = Feed(tmp_path)
    assert told(feed)[1]["run"]["round"] == 0
    append(tmp_path / "events.jsonl", tail=text[20:] + "\n")
    sections = told(feed, feed.last_id)[1]
    assert (sections["run"]["round"], sections["run"]["num_unreadable"]) == (1, 0)
    append(tmp_path / "events.jsonl", tail="[3]\n{torn\n")
    assert told(feed, feed.last_id)[1]["run"]["num_unreadable"] == 2


def test_a_folder_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, started(), event("round_started", 1, round=1))
    feed = Feed(tmp_path)
    told(feed)
    before = feed.last_id
    # As long as the old one at least, so that its size alone tells nothing.
    path.write_text("".join(json.dumps(e) + "\n" for e in (started(7), replied(8, 1, "grid", 1.0, 0.9), started(9))))
    kind, sections = told(feed, before)
    assert (kind, sections["run"]["round"], len(sections["events"])) == ("state", 0, 3)
    before = feed.last_id
    path.write_text(json.dumps(started(7)) + "\n")  # cut: it begins as before
    assert len(told(feed, before)[1]["events"]) == 1
    before = feed.last_id
    path.unlink()
    assert told(feed, before)[1]["run"]["phase"] == "waiting"


def test_an_evaluation_is_read_when_it_appears_and_again_when_it_changes(tmp_path: Path) -> None:
    append(tmp_path / "events.jsonl", started())
    feed = Feed(tmp_path)
    told(feed)
    for second, value in enumerate((0.7, 0.6)):
        path = tmp_path / "evaluation.json"
        path.write_text(Evaluation(cells=(Cell("combined", "grid", value, 4, 1),)).to_json())
        os.utime(path, (AT + second, AT + second))
        matrix = told(feed, feed.last_id)[1]["matrix"]
        assert matrix["rows"][0]["cells"][0]["value"] == f"{value:.4f}"
    path.write_text("{}")
    os.utime(path, (AT + 9, AT + 9))
    assert "cannot read evaluation" in told(feed, feed.last_id)[1]["events"][-1]["text"]
