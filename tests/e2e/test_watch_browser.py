"""The live page in a real browser: it follows a run to its end, survives a restart, and stays on its own server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cogen.report.watch import make_server, open_address
from tests.unit.test_live import append, event, round_done, started, step

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs cogen-ai[browser]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE_MS = 180_000
BAD = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield opened
        opened.close()


class Ears:
    """What a page asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.asked: list[str] = []
        self._complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("console", lambda message: self._complaints.append(message.text))

    @property
    def complaints(self) -> list[str]:
        """All but that a server is gone, which the browser says each time it tries again."""
        return [text for text in self._complaints if "ERR_CONNECTION_REFUSED" not in text]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test; what is still there at its end is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def launch(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


@pytest.mark.slow
def test_the_page_follows_a_run_to_its_end_and_comes_back(
    browser: Browser, config_file: Path, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    run = tmp_path / "run"
    simulation = launch("simulate", config_file, "--out", run, "--watch")
    processes.append(simulation)
    assert simulation.stderr is not None
    address = re.findall(r"^live page: (http://127\.0\.0\.1:\d+/)$", simulation.stderr.readline())[0]
    page, other = browser.new_page(), browser.new_page()
    ears = Ears(page)
    page.goto(address)
    other.goto(address)
    page.get_by_text("Round 1 of 2", exact=True).wait_for(timeout=PATIENCE_MS)
    page.locator("#clients .state", has_text="training").first.wait_for(timeout=PATIENCE_MS)
    page.locator("#loss .wide svg path.line").first.wait_for(timeout=PATIENCE_MS)
    page.get_by_text("Round 2 of 2", exact=True).wait_for(timeout=PATIENCE_MS)
    for one in (page, other):
        one.get_by_text("Finished", exact=True).wait_for(timeout=PATIENCE_MS)
    out, err = simulation.communicate(timeout=60)
    assert simulation.returncode == 0, err
    assert page.locator("#clients .state").all_inner_texts() == ["replied"] * 3
    assert page.locator("#loss .wide svg path.line").count() == 3
    assert page.locator("#bits .wide svg path.line").count() == 3
    scores = page.locator("#matrix tbody tr", has_text="combined").locator(".bpb").all_inner_texts()
    assert scores == re.findall(r"\d\.\d{4}", next(line for line in out.splitlines() if line.startswith("combined")))
    page.get_by_text("Not connected").wait_for(timeout=PATIENCE_MS)
    processes.append(launch("watch", run, "--port", address.rstrip("/").rpartition(":")[2]))
    page.get_by_text("Connected: this page follows the run in").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("link", name="report.html").click()
    page.get_by_text("The combined model reads").wait_for(timeout=PATIENCE_MS)
    assert ears.complaints == []
    assert all(url.startswith((address, "data:")) for url in ears.asked), ears.asked


def test_texts_of_a_run_cannot_become_markup(browser: Browser, tmp_path: Path) -> None:
    """A run that begins after the page was opened, with a name, a domain and a reason that try."""
    opened = open_address("127.0.0.1", 0)
    server = make_server(tmp_path, opened)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened.listener]})
    thread.start()
    try:
        page = browser.new_page()
        ears = Ears(page)
        page.goto(opened.url)
        page.get_by_text("Waiting for a run to start here").wait_for()
        left = {"event": "client_dropped", "round": 1, "domain": BAD, "reason": f"because {BAD}"}
        about = {"run": f"run {BAD}", "base": BAD, "domains": [BAD], "num_rounds": 1}
        events = [{"event": "run_started", **about}, {"event": "round_started", "round": 1}, left]
        time = "2026-11-22T02:00:00+00:00"
        (tmp_path / "events.jsonl").write_text("".join(json.dumps({"time": time, **e}) + "\n" for e in events))
        page.locator("#clients .reason", has_text=f"because {BAD}").wait_for()
        assert page.locator("#clients tbody th").inner_text() == BAD
        assert page.locator("h1").inner_text() == f"run {BAD}"
        assert f"{BAD} was dropped from round 1: because {BAD}" in page.locator(".events").inner_text()
        assert page.locator("img").count() == 0
        assert ears.complaints == []
    finally:
        server.should_exit = True
        thread.join()


def test_a_page_catches_up_after_a_restart_and_keeps_what_the_reader_opened(browser: Browser, tmp_path: Path) -> None:
    """Another server on the same port, which knows nothing of the page; the run has gone on meanwhile."""
    (tmp_path / "config.toml").write_text("[train]\nrank = 4\n")
    append(tmp_path / "events.jsonl", started(), event("round_started", 1, round=1))
    page, port = browser.new_page(), 0
    ears = Ears(page)
    for number in (1, 2):
        address = open_address("127.0.0.1", port)
        port = address.listener.getsockname()[1]
        server = make_server(tmp_path, address)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [address.listener]})
        thread.start()
        try:
            if number == 1:
                page.goto(address.url)
                page.get_by_text("Resolved config").click()
                page.locator("pre", has_text="rank = 4").wait_for()
                (tmp_path / "config.toml").write_text("[train]\nrank = 5\n")
                page.locator("pre", has_text="rank = 5").wait_for()
                assert page.locator("pre").is_visible()
            page.get_by_text(f"Round {number} of 2", exact=True).wait_for()
            assert page.locator("pre").is_visible()
            append(tmp_path / "nodes/grid/train.jsonl", step(number, 1, 100 * number))
            page.locator("#clients tr", has_text="grid").get_by_text("step 1 of 4").wait_for()
        finally:
            server.should_exit = True
            thread.join()
        page.locator(".connection.lost").wait_for()
        append(tmp_path / "events.jsonl", round_done(9, number), event("round_started", 10, round=number + 1))
    page.close()
    assert ears.complaints == []


def test_a_network_address_wants_its_token(browser: Browser, tmp_path: Path) -> None:
    opened = open_address("0.0.0.0", 0)
    server = make_server(tmp_path, opened)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened.listener]})
    thread.start()
    address = f"http://127.0.0.1:{opened.listener.getsockname()[1]}/"
    try:
        page = browser.new_page()
        answer = page.goto(address)
        assert answer is not None and answer.status == 403
        page.goto(f"{address}?token={opened.token}")
        page.get_by_text("Waiting for a run to start here").wait_for()
    finally:
        server.should_exit = True
        thread.join()
