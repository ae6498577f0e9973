"""A run in progress: its record, its progress and its page, from events and steps in the order of a real run."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cogen.evaluate.matrix import Cell, Evaluation
from cogen.report.charts import round_points
from cogen.report.clients import clients_now
from cogen.report.event_text import describe
from cogen.report.fragments import Fragments
from cogen.report.heat import heat_rows, scores_so_far
from cogen.report.page import MAX_LIVE_ROWS, SECTIONS, STEP_SECTIONS, render
from cogen.report.progress import compared, done_frac, left_seconds, num_left_tokens, phase_text, quiet_seconds
from cogen.report.reader import read_run
from cogen.report.record import MAX_LINES, RunRecord
from cogen.report.training import MAX_POINTS, Curve

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


def recorded(*events: dict[str, Any]) -> RunRecord:
    record = RunRecord("demo")
    for values in events:
        record.add_event(values)
    return record


def states(record: RunRecord) -> list[str]:
    return [client.state for client in clients_now(record)]


def words(html: str) -> str:
    """The text of a fragment, spaces made one."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# --- the record and its progress


def test_a_round_from_waiting_to_replied_and_dropped() -> None:
    record = recorded(started(), event("round_started", 10, round=1))
    assert states(record) == ["waiting", "waiting"]
    record.add_step("clinical", step(1, 1, 100, 3.5), AT + 12)
    assert states(record) == ["training", "waiting"]
    client = clients_now(record)[0]
    assert client.step is not None
    assert (client.step.step, client.step.num_steps, client.step.loss_nats) == (1, 4, 3.5)
    shown = words(SECTIONS["progress"](record, True))
    assert "clinical training step 1 of 4 3.500 50 – → –" in shown
    record.add_event(replied(20, 1, "clinical", 1.2, 1.1))
    record.add_event(event("client_dropped", 30, round=1, domain="grid", reason="too <late>"))
    assert states(record) == ["replied", "dropped"]
    assert clients_now(record)[1].reason == "too <late>"
    shown = words(SECTIONS["progress"](record, True))
    assert "clinical replied step 1 of 4 3.500 50 1.2000 → 1.1000 grid dropped too &lt;late&gt;" in shown
    record.add_event(event("round_started", 40, round=2))
    assert states(record) == ["waiting", "waiting"]


def test_phases() -> None:
    record = RunRecord("demo")
    seen = [record.phase]
    ends = [event("evaluated", 60, num_cells=4), event("run_finished", 61, seconds=61.0)]
    for values in [started(), event("round_started", 9, round=1), round_done(20, 1), round_done(50, 2), *ends]:
        record.add_event(values)
        seen.append(record.phase)
    assert seen == ["waiting", "starting", "training", "training", "scoring", "scored", "finished"]
    record.add_event(event("run_failed", 70, reason="power"))
    assert (record.phase, record.reason) == ("failed", "power")
    record.add_event(started(80, resumed=True))
    assert (record.phase, record.reason) == ("starting", "")


def test_a_run_with_baselines_is_over_only_when_it_is_scored() -> None:
    """Red: `run_finished`, which ends the rounds, taken for the end of it all."""
    record = recorded(seed("seed_started", 0, 1, 1), started(1), event("run_finished", 10, seconds=9.0))
    assert record.phase == "comparing"
    record.add_event(event("baseline_started", 11, baseline="local:grid", num_left_tokens=400))
    assert (record.phase, phase_text(record)) == ("baseline", "Training the baseline local:grid")
    assert quiet_seconds(record) == 3600
    record.add_baseline_step(baseline_step("local:grid", 1, 50), AT + 12)
    record.add_baseline_step({"baseline": "local:grid"}, AT + 12)
    assert (record.baselines.current, num_left_tokens(record)) == ("local:grid", 350)
    assert quiet_seconds(record) == 300
    (row,) = compared(record)
    assert (row.name, row.state, row.progress) == ("local:grid", "training", "step 1 of 4")
    assert (row.done_frac, row.num_left_tokens, row.loss_nats) == (0.25, 150, 3.0)
    assert "tokens of baselines left 350" in words(SECTIONS["overview"](record, True))
    record.add_event(event("baseline_trained", 13, baseline="local:grid", num_tokens=200))
    record.add_event(event("baseline_started", 14, baseline="centralized", num_left_tokens=200))
    assert num_left_tokens(record) == 200
    record.add_event(event("baseline_failed", 15, baseline="centralized", reason="no <room>"))
    assert [(r.state, r.reason) for r in compared(record)] == [("trained", ""), ("dropped", "no <room>")]
    assert "centralized dropped no &lt;room&gt;" in words(SECTIONS["progress"](record, True))
    assert (record.phase, phase_text(record)) == ("comparing", "Rounds finished; scoring the baselines")
    record.add_event(seed("seed_finished", 16, 1, 1))
    assert record.phase == "finished"
    assert record.num_unreadable == 1
    # A report of the finished folder names the baseline that failed, too.
    assert "centralized dropped no &lt;room&gt;" in words(render(record))


def test_what_is_asked_for_later_opens_a_finished_run_again() -> None:
    record = recorded(started(), event("run_finished", 10, seconds=9.0))
    assert record.phase == "finished"
    record.add_event(seed("seed_started", 20, 1, 1))
    assert record.phase == "comparing"
    record.add_event(event("baseline_started", 21, baseline="centralized", num_left_tokens=200))
    record.add_event(event("seed_summary_failed", 22, reason="no general text"))
    record.add_event(seed("seed_started", 30, 1, 1))  # resumed
    assert (record.phase, record.reason) == ("comparing", "")
    record.add_event(event("seed_summary_failed", 31, reason="no general text"))
    assert (record.phase, record.reason) == ("failed", "no general text")
    for is_live in (True, False):
        alarm = words(SECTIONS["alarm"](record, is_live))
        assert alarm == "Scoring the run failed: no general text. The rounds are complete."


def test_a_report_of_unfinished_baselines_says_so() -> None:
    record = recorded(seed("seed_started", 0, 1, 1), started(1), event("run_finished", 10, seconds=9.0))
    alarm = words(SECTIONS["alarm"](record, False))
    assert alarm.startswith("The rounds are complete, but not all baselines and seeds are trained and scored;")
    assert words(SECTIONS["alarm"](record, True)) == ""


def test_time_left_is_what_the_pace_of_the_round_says() -> None:
    record = recorded(started(), event("round_started", 0, round=1))
    assert left_seconds(record) is None
    assert quiet_seconds(record) == 3600
    record.add_step("clinical", step(1, 2, 200), AT + 10)
    # Two of the round's eight steps took 10 s; six of this round and eight of the next are left.
    assert left_seconds(record) == pytest.approx(70.0)
    assert done_frac(record) == pytest.approx(0.125)
    assert quiet_seconds(record) == 300
    # The browser counts down from the time at which the rounds end, and up from the last news.
    overview = SECTIONS["overview"](record, True)
    assert f'data-until="{AT + 80:.1f}"' in overview
    assert f'data-since="{AT + 10:.1f}"' in overview
    assert 'value="0.1250"' in overview
    record.add_event(event("client_dropped", 20, round=1, domain="grid", reason="late"))
    # Half a client and a whole one in 20 s.
    assert left_seconds(record) == pytest.approx(20 / 0.75 * 1.25)


def test_a_resumed_round_starts_from_nothing() -> None:
    record = recorded(started(), event("round_started", 0, round=1))
    record.add_step("clinical", step(1, 3, 300, 2.0), AT + 10)
    record.add_event(replied(12, 1, "grid", 1.2, 1.1))
    record.add_event(started(100, resumed=True))
    record.add_event(event("round_started", 110, round=1))
    assert states(record) == ["waiting", "waiting"]
    assert record.replies == ()
    record.add_step("clinical", step(1, 1, 100, 4.0), AT + 120)
    assert states(record) == ["training", "waiting"]
    current = clients_now(record)[0].step
    assert current is not None and current.step == 1
    assert record.curves["clinical"].points == ((100.0, 4.0),)


def test_scores_so_far_and_then_the_matrix() -> None:
    record = recorded(started(), replied(5, 1, "clinical", 1.0, 0.9), replied(6, 1, "grid", 2.0, 2.2))
    rows = heat_rows(scores_so_far(record))
    assert [(row.model, [c.value for c in row.cells]) for row in rows] == [
        ("base", ["1.0000", "2.0000", "1.5000"]),
        ("trained in round 1", ["0.9000", "2.2000", "1.5500"]),
    ]
    assert [cell.change for cell in rows[1].cells][:2] == ["−10.0%", "+10.0%"]
    assert "Scores so far" in SECTIONS["scores"](record, True)
    record.evaluation = Evaluation(cells=(Cell("combined", "grid", 0.7, 4, 1),))
    shown = words(SECTIONS["scores"](record, True))
    assert "Every model on every domain" in shown and "combined 0.7000" in shown and "trained in round" not in shown


def test_bits_per_byte_by_round_have_a_gap_where_a_client_was_dropped() -> None:
    record = recorded(started(), replied(1, 1, "grid", 2.0, 1.8), replied(2, 3, "grid", 1.7, 1.6))
    points = round_points(record.replies)
    assert points[:2] == ((0.0, 2.0), (1.0, 1.8))
    assert math.isnan(points[2][0]) and math.isnan(points[2][1])
    assert points[3:] == ((2.0, 1.7), (3.0, 1.6))
    assert "A gap in a line is a round" in SECTIONS["heldout"](record, True)


def test_what_is_not_finite_or_not_whole_breaks_nothing() -> None:
    record = recorded(started(), event("round_started", 0, round=1), replied(3, 1, "grid", math.nan, math.inf))
    record.add_step("clinical", step(1, 1, 100, math.nan), AT + 1)
    record.add_step("clinical", {"round": 1}, AT + 2)
    record.add_event(event("baseline_started", 4, baseline="centralized", num_left_tokens=100))
    record.add_baseline_step(baseline_step("centralized", 1, 10, math.nan), AT + 2)
    record.add_event(event("client_replied", 4, domain="grid"))
    for is_live in (True, False):
        for name, section in SECTIONS.items():
            html = section(record, is_live)
            assert not re.search(r"\bnan\b|\binf\b", html), name
    assert record.num_unreadable == 2
    assert "2 lines of the logs could not be read" in words(SECTIONS["overview"](record, True))


def test_only_the_last_events_are_shown() -> None:
    record = recorded(*(event("round_started", n % 60, round=n) for n in range(MAX_LINES + 5)))
    html = SECTIONS["happened"](record, True)
    assert html.count("<li>") == MAX_LINES
    assert f"The last {MAX_LINES} of {MAX_LINES + 5} events, newest first." in html
    assert words(html).endswith("round 5 began")


def test_a_live_page_bounds_its_tables_and_the_report_does_not() -> None:
    num = MAX_LIVE_ROWS + 3
    record = recorded(started(num_rounds=num), *(round_done(n % 60, n) for n in range(1, num + 1)))
    live, report = SECTIONS["totals"](record, True), SECTIONS["totals"](record, False)
    assert '<th scope="row">3</th>' not in live and '<th scope="row">4</th>' in live
    assert f"{500 * num:,}" in live and "report.html has all" in live
    assert '<th scope="row">1</th>' in report and "report.html has all" not in report


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"event": "tea_made", "time": "x", "domain": "grid"}, "tea made · domain grid"),
        ({"event": "baseline_started", "domain": "grid"}, "baseline started · domain grid"),
        ({"event": "client_replied", "domain": "grid"}, "client replied · domain grid"),
        ({"event": "client_suspended", "domain": "grid", "reason": "3 failures"}, "grid was suspended: 3 failures"),
        ({"event": "reply_rejected", "reason": "too late"}, "a reply was rejected: too late"),
        (
            {"event": "client_registry", "clients": [{"domain": "grid"}], "missing": {"care": "not seen"}},
            "connected: grid; missing: care: not seen",
        ),
        ({"event": "client_registry", "clients": 3, "missing": {}}, "client registry · clients 3 · missing {}"),
    ],
)
def test_events_are_readable_and_unknown_ones_are_shown_with_their_values(values: dict[str, Any], text: str) -> None:
    assert describe(values) == text


# --- curves


def test_a_curve_stays_small_and_keeps_its_mean() -> None:
    curve = Curve()
    num = 8 * MAX_POINTS // 2 + 3
    for i in range(1, num + 1):
        curve.add(i, float(i))
    points = curve.points
    assert MAX_POINTS // 2 <= len(points) < MAX_POINTS
    # Every bucket is a mean of its steps, so that a straight line stays one.
    assert all(x == y for x, y in points)
    assert points[0] == ((1 + curve.num_steps_per_point) / 2,) * 2
    assert points[-1][0] > num - 8


def test_a_hundred_thousand_steps_are_a_small_fragment() -> None:
    record = recorded(started(), event("round_started", 0, round=1))
    for i in range(1, 100_001):
        record.add_step("grid", {**step(1, i, 10 * i), "num_steps": 100_000}, AT + i)
    assert len(record.curves["grid"].points) < MAX_POINTS
    assert sum(len(SECTIONS[name](record, True)) for name in STEP_SECTIONS) < 20_000


def test_steps_that_come_again_replace_those_before() -> None:
    curve = Curve()
    for tokens, loss in ((100, 3.0), (200, 9.0), (300, 9.0), (200, 2.0)):
        curve.add(tokens, loss)
    assert curve.points == ((100.0, 3.0), (200.0, 2.0))


def test_a_loss_that_is_not_finite_leaves_a_gap_when_points_are_averaged() -> None:
    curve = Curve()
    for i in range(1, 2 * MAX_POINTS + 1):
        curve.add(i, math.inf if i == 3 else 1.0)
    assert [math.isnan(loss) for _, loss in curve.points].count(True) == 1
    assert all(math.isfinite(tokens) for tokens, _ in curve.points)


# --- the folder


def append(path: Path, *rows: dict[str, Any], tail: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + tail)


def sent(fragments: Fragments, last_id: str = "") -> dict[str, str]:
    """The sections of the next message; none where nothing is sent."""
    fragments.refresh(at_once=True)
    lines = dict(line.split(": ", 1) for line in fragments.message(last_id).strip().split("\n") if line)
    return dict(json.loads(lines.get("data", "{}")).get("sections", {}))


def phase(fragments: Fragments) -> str:
    return words(sent(fragments)["phase"])


def test_a_folder_that_is_yet_to_come(tmp_path: Path) -> None:
    fragments = Fragments(tmp_path / "later")
    sections = sent(fragments)
    assert set(sections) == set(SECTIONS)
    assert words(sections["phase"]) == "Waiting for a run to start here"
    assert {name for name, html in sections.items() if words(html)} == {"phase", "title"}
    append(tmp_path / "later/events.jsonl", started())
    assert words(sent(fragments, fragments.last_id)["phase"]) == "Starting: waiting for the clients"


def test_only_what_changed_is_sent(tmp_path: Path) -> None:
    append(tmp_path / "events.jsonl", started(), event("round_started", 0, round=1))
    fragments = Fragments(tmp_path)
    sent(fragments)
    assert sent(fragments, fragments.last_id) == {}
    append(tmp_path / "nodes/grid/train.jsonl", step(1, 1, 100))
    # A section that a step changes and that is not in the list of them would not be sent.
    fresh = {name: section(read_run(tmp_path), True) for name, section in SECTIONS.items()}
    before = sent(Fragments(tmp_path))
    assert fresh == before
    assert set(sent(fragments, fragments.last_id)) == {"alarm", "overview", "progress", "training"}
    assert sent(fragments) == fresh
    # A second browser, which has seen nothing yet, gets it all; so does one that another server has served.
    assert set(sent(fragments, "deadbeef-3")) == set(SECTIONS)


def test_the_live_page_is_the_report(tmp_path: Path) -> None:
    """After the end, each section of the page stands in the report word for word."""
    append(tmp_path / "events.jsonl", started(num_rounds=1), event("round_started", 0, round=1))
    fragments = Fragments(tmp_path)
    sent(fragments)
    append(tmp_path / "nodes/grid/train.jsonl", step(1, 1, 100), step(1, 2, 200))
    sent(fragments)
    ends = replied(9, 1, "grid", 2.0, 1.8), round_done(9, 1), event("run_finished", 10, seconds=9.0)
    append(tmp_path / "events.jsonl", *ends)
    (tmp_path / "evaluation.json").write_text(Evaluation(cells=(Cell("combined", "grid", 1.7, 4, 1),)).to_json())
    sections, report = sent(fragments), render(read_run(tmp_path))
    assert words(sections.pop("phase")) == "Finished"
    assert all(html in report for html in sections.values())
    assert {"scores", "training", "totals", "trained", "happened"} <= {name for name, html in sections.items() if html}


def test_nothing_is_rendered_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path / "events.jsonl", started(), event("round_started", 0, round=1))
    rendered: list[str] = []
    for name, section in list(SECTIONS.items()):
        monkeypatch.setitem(
            SECTIONS, name, lambda *of, name=name, section=section: rendered.append(name) or section(*of)
        )
    fragments = Fragments(tmp_path)
    sent(fragments)
    assert rendered == list(SECTIONS)
    sent(fragments)
    assert rendered == list(SECTIONS)
    append(tmp_path / "nodes/grid/train.jsonl", step(1, 1, 100))
    fragments.refresh()  # less than a pause after the last time
    assert rendered == list(SECTIONS)
    sent(fragments)
    assert rendered == [*SECTIONS, *STEP_SECTIONS]


def test_further_seeds_and_their_baselines_are_read_from_their_own_folders(tmp_path: Path) -> None:
    """Red: a second seed that trains while the page says that the run is finished."""
    append(tmp_path / "events.jsonl", seed("seed_started", 0, 1, 2), started(1), event("run_finished", 2, seconds=1.0))
    fragments = Fragments(tmp_path)
    shown = words(sent(fragments)["progress"])
    assert "seed 7: the run trained" in shown and "seed 8: the run waiting" in shown
    append(tmp_path / "events.jsonl", seed("seed_finished", 3, 1, 2), seed("seed_started", 3, 2, 2))
    assert phase(fragments) == "Seed 2 of 2 · Starting: waiting for the clients"
    other = tmp_path / "seeds/8"
    append(other / "events.jsonl", started(4), event("round_started", 5, round=2))
    sections = sent(fragments, fragments.last_id)
    assert words(sections["phase"]) == "Seed 2 of 2 · Round 2 of 2"
    assert "seed 8: the run training round 2 of 2" in words(sections["progress"])
    assert f'data-since="{AT + 5:.1f}"' in sections["overview"]
    ends = [
        event("run_finished", 6, seconds=2.0),
        event("baseline_started", 7, baseline="centralized", num_left_tokens=200),
    ]
    append(other / "events.jsonl", *ends, tail="{torn\n")
    append(other / "logs/baselines.jsonl", baseline_step("centralized", 2, 80))
    sections = sent(fragments, fragments.last_id)
    assert words(sections["phase"]) == "Seed 2 of 2 · Training the baseline centralized"
    assert "tokens of baselines left 120" in words(sections["overview"])
    assert "1 line of the logs could not be read" in words(sections["overview"])
    assert "seed 8: centralized training step 2 of 4" in words(sections["progress"])
    append(other / "logs/baselines.jsonl", baseline_step("centralized", 3, 120))
    assert "step 3 of 4" in sent(fragments, fragments.last_id)["progress"]
    append(other / "events.jsonl", event("baseline_trained", 8, baseline="centralized", num_tokens=200))
    assert phase(fragments) == "Seed 2 of 2 · Rounds finished; scoring the baselines"
    append(tmp_path / "events.jsonl", seed("seed_finished", 9, 2, 2))
    assert phase(fragments) == "Finished"


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    text = json.dumps(event("round_started", 1, round=1))
    append(tmp_path / "events.jsonl", started(), tail=text[:20])
    fragments = Fragments(tmp_path)
    assert phase(fragments).startswith("Starting")
    append(tmp_path / "events.jsonl", tail=text[20:] + "\n")
    sections = sent(fragments, fragments.last_id)
    assert words(sections["phase"]) == "Round 1 of 2" and "could not be read" not in sections["overview"]
    append(tmp_path / "events.jsonl", tail="[3]\n{torn\n")
    assert "2 lines of the logs could not be read" in words(sent(fragments, fragments.last_id)["overview"])


def test_a_folder_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, started(), event("round_started", 1, round=1))
    fragments = Fragments(tmp_path)
    sent(fragments)
    before = fragments.last_id
    # As long as the old one at least, so that its size alone tells nothing.
    path.write_text("".join(json.dumps(e) + "\n" for e in (started(7), replied(8, 1, "grid", 1.0, 0.9), started(9))))
    sections = sent(fragments, before)
    assert set(sections) == set(SECTIONS), "everything, to a page that knew the old run"
    assert words(sections["phase"]).startswith("Starting") and sections["happened"].count("<li>") == 3
    before = fragments.last_id
    path.write_text(json.dumps(started(7)) + "\n")  # cut: it begins as before
    assert sent(fragments, before)["happened"].count("<li>") == 1
    before = fragments.last_id
    path.unlink()
    assert words(sent(fragments, before)["phase"]).startswith("Waiting")


def test_an_evaluation_is_read_when_it_appears_and_again_when_it_changes(tmp_path: Path) -> None:
    append(tmp_path / "events.jsonl", started())
    fragments = Fragments(tmp_path)
    sent(fragments)
    for second, value in enumerate((0.7, 0.6)):
        path = tmp_path / "evaluation.json"
        path.write_text(Evaluation(cells=(Cell("combined", "grid", value, 4, 1),)).to_json())
        os.utime(path, (AT + second, AT + second))
        assert f'class="bpb">{value:.4f}<' in sent(fragments, fragments.last_id)["scores"]
    path.write_text("{}")
    os.utime(path, (AT + 9, AT + 9))
    assert "cannot read evaluation" in sent(fragments, fragments.last_id)["happened"]
    (tmp_path / "seed_summary.json").write_text("{")
    assert "cannot read seed_summary.json" in sent(fragments, fragments.last_id)["happened"]
