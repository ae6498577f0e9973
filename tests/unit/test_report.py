"""The report says what the run folder says, in every state of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cogen.errors import RunError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.report import write_report
from cogen.report.headline import warning, working_seconds
from cogen.report.reader import read_run

Event = dict[str, Any]
SCORES = {
    "base": (1.0, 1.2),
    "expert:clinical": (0.8, 1.3),
    "expert:grid": (1.1, 1.0),
    "combined": (0.85, 1.01),
}


def event(name: str, minute: int = 0, **values: Any) -> Event:
    return {"time": f"2026-11-22T02:{minute:02d}:00+00:00", "event": name, **values}


def started(
    domains: Sequence[str] = ("clinical", "grid"), num_rounds: int = 1, minute: int = 0, resumed: bool = False
) -> Event:
    values: Event = {"run": "demo", "base": "tiny", "domains": list(domains), "num_rounds": num_rounds}
    return event("run_started", minute, **values, resumed=resumed)


def replied(
    round_: int, domain: str, before: float | None = 1.0, after: float | None = 0.9, tokens: int = 5000
) -> Event:
    values: Event = {"round": round_, "domain": domain, "rank": 8, "num_tokens": tokens, "seconds": 61.0}
    scores: Event = {"bits_per_byte_before": before, "bits_per_byte_after": after}
    return event("client_replied", **values, **scores, bytes_up=1_500_000, bytes_down=2_000_000)


def finished(round_: int, tokens: int = 10_000) -> Event:
    values: Event = {"num_valid": 2, "num_clients": 2, "num_tokens": tokens}
    values |= {"bytes_up": 3_000_000, "bytes_down": 4_000_000}
    scores: Event = {"bits_per_byte_before": 1.1, "bits_per_byte_after": 0.93}
    return event("round_finished", round=round_, **values, **scores, seconds=125.0, energy_cut_frac=0.0314)


def whole_run() -> list[Event]:
    replies = [replied(1, "clinical"), replied(1, "grid")]
    return [started(), event("round_started", round=1), *replies, finished(1), event("run_finished", 9, seconds=540.0)]


def write_run(run: Path, events: Sequence[Event], tail: str = "") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + tail, "utf-8")
    return run


def write_scores(
    run: Path, scores: Mapping[str, tuple[float, ...]] | None = None, domains: Sequence[str] = ("clinical", "grid")
) -> None:
    rows = (scores or SCORES).items()
    cells = [Cell(m, d, v, 400, 100) for m, values in rows for d, v in zip(domains, values, strict=True)]
    (run / "evaluation.json").write_text(Evaluation(cells=tuple(cells)).to_json(), "utf-8")


def write_steps(run: Path, domain: str, rows: Sequence[tuple[int, int, int, float]]) -> None:
    folder = run / "nodes" / domain
    folder.mkdir(parents=True)
    keys = ("round", "step", "num_tokens", "loss_nats")
    (folder / "train.jsonl").write_text("".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in rows))


def page(run: Path) -> str:
    return write_report(run).read_text("utf-8")


def words(html: str) -> str:
    """The page's text, tags and style dropped, spaces made one."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)).split())


# --- the page


def test_a_finished_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", whole_run())
    write_scores(run)
    (run / "config.toml").write_text('[train]\nname = "<b>bold</b>"\n')
    html = page(run)
    assert write_report(run) == run / "report.html"
    text = words(html)
    assert (
        "The combined model reads 2 of 2 domains better than the base; "
        "it keeps 85% of what the domains gained alone, on average." in text
    )
    assert "1 2 of 2 10,000 1.1000 → 0.9300 3.00 MB 4.00 MB 2 min 5 s 3.1%" in text
    assert "None: every reply counted." in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert 'class="alarm"' not in html


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path, whole_run())
    write_scores(run)
    write_steps(run, "clinical", [(1, 1, 100, 3.0), (1, 2, 200, 2.5)])
    html = page(run)
    reaches_out = r"https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe|\s(?:src|href)\s*=|\son\w+\s*="
    assert re.findall(reaches_out, html.lower()) == []


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_report_has_nothing_that_only_a_live_page_can_keep_up_to_date(tmp_path: Path, is_finished: bool) -> None:
    run = write_run(tmp_path, whole_run() if is_finished else [*whole_run()[:3], event("round_started", round=1)])
    write_steps(run, "clinical", [(1, 1, 100, 3.0)])
    html = page(run)
    live_only = ("data-since", "data-until", "data-quiet", "last news", "time left", "Not connected", 'class="whole"')
    assert [text for text in live_only if text in html] == []
    text = words(html)
    assert "Clients in round 1" in text
    assert "round 1 began" in text, "the events, as readable lines"
    clients, matrix = text.index("Clients in round 1"), text.index("Scores so far")
    assert (clients > matrix) == is_finished, "a finished run begins with its results, an open one with its clients"


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, whole_run())
    assert page(run) == page(run)


def test_names_and_reasons_cannot_be_markup(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>"
    left = event("client_dropped", round=1, domain=bad, reason=f"because {bad}")
    run = write_run(tmp_path, [started([bad, "<i>b"], 2), replied(1, "<i>b"), finished(1), replied(2, "<i>b"), left])
    write_scores(run, {"base": (1.0,), f"expert:{bad}": (0.8,), "combined": (0.9,)}, [bad])
    write_steps(run, "<i>b", [(1, 1, 100, 3.0)])
    html = page(run)
    assert "<script" not in html
    assert "<i>" not in html
    assert "because &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "expert:<wbr>&lt;script&gt;" in html
    assert "<title>&lt;i&gt;b</title>" in html


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    text = words(page(write_run(tmp_path, whole_run())))
    assert "There is no evaluation in this run yet." in text
    assert "Over 1 round, the clients' held-out bits per byte went from 1.1000 to 0.9300." in text.replace("&#39;", "'")
    assert "Retained gain" not in text


def test_an_evaluation_alone_is_enough(tmp_path: Path) -> None:
    write_scores(tmp_path)
    html = page(tmp_path)
    assert "it keeps 85%" in html
    assert "There is no config.toml" in html


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="got neither"):
        write_report(tmp_path)


# --- runs that stopped


def test_a_failed_run_says_why_at_the_top(tmp_path: Path) -> None:
    events = [
        started(num_rounds=3),
        replied(1, "grid"),
        finished(1),
        event("run_failed", 7, reason="no client <left>."),
    ]
    html = page(write_run(tmp_path, events))
    alarm = "The run failed on 2026-11-22 02:07 UTC: no client &lt;left&gt;. 1 of 3 rounds are complete."
    assert alarm in html
    assert html.index(alarm) < html.index("<h1>")


def test_an_unfinished_run_shows_its_open_round(tmp_path: Path) -> None:
    events = [started(num_rounds=2), finished(1), event("round_started", 4, round=2), replied(2, "grid", tokens=700)]
    text = words(page(write_run(tmp_path, events)))
    assert "The run has not finished: 1 of 2 rounds are complete" in text
    assert "2, not finished 1 so far 700 – → – 1.50 MB 2.00 MB" in text
    assert "all 10,700 1.1000 → 0.9300 4.50 MB 6.00 MB" in text


def test_a_failure_that_was_resumed_and_finished_is_no_alarm(tmp_path: Path) -> None:
    ends = [
        event("run_failed", 1, reason="power"),
        started(minute=30, resumed=True),
        event("run_finished", 33, seconds=180.0),
    ]
    record = read_run(write_run(tmp_path, [started(), *ends]))
    assert record.phase == "finished"
    assert warning(record) == ""
    assert "The run was stopped and resumed." in page(tmp_path)
    # One minute before the failure and three after the pause of 29.
    assert working_seconds(record) == 240.0


def test_half_a_last_line_is_ignored(tmp_path: Path) -> None:
    tail = json.dumps(replied(1, "grid", after=0.5))[:-9] + "\udcc3".encode("utf-8", "surrogateescape").decode(
        "latin-1"
    )
    run = write_run(tmp_path, [started(), replied(1, "clinical")], tail)
    write_steps(run, "clinical", [(1, 1, 100, 3.0)])
    with open(run / "nodes/clinical/train.jsonl", "ab") as log:
        log.write(b'{"round": 1, "step": 2, "num_to\xc3')
    record = read_run(run)
    assert [reply.domain for reply in record.replies] == ["clinical"]
    assert record.curves["clinical"].points == ((100.0, 3.0),)
    assert record.num_unreadable == 0
    assert "could not be read" not in page(run)


def test_a_broken_line_in_the_middle_is_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, [started()], '{"time": "2026-1' + json.dumps(replied(1, "grid")) + "\n3\n")
    with open(run / "events.jsonl", "a") as log:
        log.write(json.dumps({**replied(1, "grid"), "rank": "many"}) + "\n" + json.dumps(replied(1, "clinical")) + "\n")
    record = read_run(run)
    assert [reply.domain for reply in record.replies] == ["clinical"]
    assert record.num_unreadable == 3
    assert "3 lines of the logs could not be read and are skipped." in page(run)


# --- the last time counts


def test_the_second_occurrence_of_a_reply_counts(tmp_path: Path) -> None:
    again = [
        replied(1, "grid", after=0.95),
        started(resumed=True),
        replied(1, "grid", after=0.6),
        finished(1, 7),
        finished(1, 9),
    ]
    record = read_run(write_run(tmp_path, [started(), *again]))
    assert [reply.bits_per_byte_after for reply in record.replies] == [0.6]
    done = record.rounds[1]
    assert done is not None
    assert done.num_tokens == 9


def test_a_client_dropped_the_second_time_did_not_reply(tmp_path: Path) -> None:
    left = event("client_dropped", round=1, domain="grid", reason="too late")
    record = read_run(write_run(tmp_path, [started(), replied(1, "grid"), replied(1, "clinical"), left]))
    assert [reply.domain for reply in record.replies] == ["clinical"]
    assert [client.reason for client in record.dropped] == ["too late"]
    assert "too late" in page(tmp_path)


def test_a_client_that_was_dropped_before_the_first_round_is_no_round(tmp_path: Path) -> None:
    left = event("client_dropped", round=0, domain="node 7", reason="another base")
    record = read_run(write_run(tmp_path, [started(), left]))
    assert record.rounds == {}
    text = words(page(tmp_path))
    assert "– node 7 another base" in text and "not finished" not in text.split("Dropped clients")[1]


def test_the_second_occurrence_of_a_step_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path, [started()])
    write_steps(run, "grid", [(1, 1, 100, 3.0), (1, 2, 200, 9.0), (1, 2, 200, 2.0), (2, 1, 300, 1.5)])
    assert read_run(run).curves["grid"].points == ((100.0, 3.0), (200.0, 2.0), (300.0, 1.5))
