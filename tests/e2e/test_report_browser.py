"""The report and the live page clicked through in a real browser, light and dark, wide, narrow and printed.

Neither may complain, ask anybody else for anything, or be wider than the window.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cogen.evaluate.matrix import Cell, Evaluation
from cogen.evaluate.seed_summary import summarize_seeds
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.report import write_report
from cogen.report.watch import make_server, open_address
from tests.audit_example import example, row
from tests.e2e.test_watch_browser import Ears, browser, pytestmark  # noqa: F401 - a fixture and a mark
from tests.unit.test_live import append, baseline_step, event, seed, started, step
from tests.unit.test_report import whole_run, write_run, write_scores, write_steps
from tests.unit.test_report_diagnosis import SAMPLE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = {"wide": (1280, 900), "narrow": (360, 740)}
LONG = "a-domain-with-a-name-that-is-longer-than-most-columns"


def fits(page: Page) -> bool:
    """Whether the page can be read without scrolling to the side."""
    return bool(page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"))


def paper(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With everything that a report can have, and a domain whose name is too long."""
    folder = write_run(tmp_path / "demo", whole_run())
    domains = ("clinical", LONG)
    rows = {"base": (1.0, 1.2), f"expert:{LONG}": (1.1, 1.0), "expert:clinical": (0.8, 1.3), "combined": (0.85, 1.01)}
    write_scores(folder, rows, domains)
    write_steps(folder, "clinical", [(1, n, 100 * n, 3.0 - 0.1 * n) for n in range(1, 9)])
    cells = tuple(Cell(m, d, v, 4, 1) for m, values in rows.items() for d, v in zip(domains, values, strict=True))
    general = tuple(Cell(m, "general", v, 4, 1) for m, v in (("base", 1.0), ("combined", 1.1)))
    (folder / "seed_summary.json").write_text(
        SeedSummaryFile.of(summarize_seeds(dict.fromkeys((0, 1), Evaluation(cells=cells, general=general)))).to_json()
    )
    (folder / "config.toml").write_text(f"[train]\nrank = 4\n# {'long ' * 60}\n")
    (folder / "diagnosis.json").write_text(SAMPLE.to_json())
    rows = [row(model, LONG, 0.6) for model in ("base", f"expert:{LONG}", "round:1", "combined")]
    example().model_copy(update={"rows": tuple(rows)}).write(folder / "audit.json")
    (folder / "merged").mkdir()
    manifest: dict[str, Any] = {"format": 1, "base": "tiny", "factors_sha256": "b" * 64}
    (folder / "merged/cogen.json").write_text(json.dumps({**manifest, "fingerprint": {"weights": "a" * 64}}))
    (folder / "run_metadata.json").write_text(json.dumps({"format": 1, "versions": {"torch": "2.13.0"}, "data": {}}))
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_the_report_is_clicked_through(browser: Browser, run: Path, size: str) -> None:  # noqa: F811
    """Red: a table that is not in a `.scroll`; a detail that stays closed on paper."""
    address = write_report(run).as_uri()
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    ears, papers, printed = Ears(page), set[str](), set[str]()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, media="screen")
        page.goto(address)
        papers.add(paper(page))
        details = page.locator("details")
        titles = page.locator("summary").all_inner_texts()
        assert titles == [
            "Global adapters of earlier rounds",
            "Every attack",
            "What each client returned",
            "Resolved config",
            "Hashes",
            "Versions",
        ]
        for i in range(details.count()):
            body = details.nth(i).locator(":scope > :not(summary)").first
            assert not body.is_visible()
            details.nth(i).locator("summary").click()
            assert body.is_visible()
        assert fits(page)
        assert page.locator("a, button, input, select").count() == 0  # all there is to click was clicked
        for number in range(details.count()):
            details.nth(number).locator("summary").click()
        page.emulate_media(media="print", color_scheme=scheme)
        printed.add(paper(page))
        for i in range(details.count()):
            box = details.nth(i).locator(":scope > :not(summary)").first.bounding_box()
            assert box is not None and box["height"] > 0, "closed details are printed too"
    assert len(papers) == 2 and len(printed) == 1  # paper is light, whatever the screen was
    page.close()
    assert ears.complaints == []
    assert set(ears.asked) == {address}


@pytest.mark.parametrize("size", SIZES)
def test_the_live_page_shows_what_is_trained_after_the_run(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
    size: str,
) -> None:
    """From the first event to the end of the second seed's baseline, in both colours and while it is resized."""
    address = open_address("127.0.0.1", 0)
    server = make_server(tmp_path, address)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.listener]})
    thread.start()
    events, other = tmp_path / "events.jsonl", tmp_path / "seeds/8"
    try:
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
        ears = Ears(page)
        append(events, seed("seed_started", 0, 1, 2), started(1), event("round_started", 2, round=1))
        append(tmp_path / "nodes/clinical/train.jsonl", *(step(1, n, 100 * n, 4.0 - n) for n in (1, 2)))
        page.goto(address.url)
        page.get_by_text("Seed 1 of 2 · Round 1 of 2", exact=True).wait_for()
        page.locator(f"#loss .{size} svg path.line").first.wait_for()
        append(events, event("run_finished", 9, seconds=9.0))
        append(events, event("baseline_started", 10, baseline="centralized", num_left_tokens=400))
        append(tmp_path / "logs/baselines.jsonl", baseline_step("centralized", 1, 100))
        page.get_by_text("Seed 1 of 2 · Training the baseline centralized", exact=True).wait_for()
        assert page.locator("#compared tbody tr", has_text="centralized").locator(".state").inner_text() == "training"
        assert "step 1 of 4" in page.locator("#compared").inner_text()
        assert "300" in page.locator(".overview div", has_text="tokens of baselines left").inner_text()
        dark = paper(page)
        page.emulate_media(color_scheme="light")
        assert paper(page) != dark
        page.set_viewport_size({"width": 900 if size == "narrow" else 500, "height": 700})
        page.set_viewport_size({"width": width, "height": height})
        assert fits(page)
        append(events, event("baseline_trained", 11, baseline="centralized", num_tokens=400))
        append(events, seed("seed_finished", 12, 1, 2), seed("seed_started", 12, 2, 2))
        append(other / "events.jsonl", started(13), event("run_finished", 14, seconds=1.0))
        append(other / "events.jsonl", event("baseline_failed", 15, baseline="centralized", reason="no <b>room</b>"))
        page.get_by_text("Seed 2 of 2 · Rounds finished; scoring the baselines", exact=True).wait_for()
        page.locator("#compared .reason", has_text="no <b>room</b>").wait_for()
        assert page.get_by_text("Finished", exact=True).count() == 0
        append(events, seed("seed_finished", 16, 2, 2))
        page.get_by_text("Finished", exact=True).wait_for()
        page.close()
        assert ears.complaints == []
        assert all(url.startswith((address.url, "data:")) for url in ears.asked), ears.asked
    finally:
        server.should_exit = True
        thread.join()
