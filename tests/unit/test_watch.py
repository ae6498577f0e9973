"""The live page's server: who may read, what is sent, what the page may do. The browser tests are in tests/e2e."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cogen.cli.watch import newest_run
from cogen.errors import RunError
from cogen.report.fragments import Fragments
from cogen.report.page import SECTIONS
from cogen.report.watch import PageAddress, open_address, watch_app

BAD = "<img src=x onerror=alert(1)>"


def client(run: Path, token: str = "", host: str = "127.0.0.1:8420") -> TestClient:
    return TestClient(watch_app(Fragments(run), token, lambda: True), base_url=f"http://{host}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    event = {"time": "", "event": "client_dropped", "round": 1, "domain": BAD, "reason": BAD}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    return tmp_path


@pytest.fixture
def addresses() -> Iterator[list[PageAddress]]:
    opened: list[PageAddress] = []
    yield opened
    for address in opened:
        address.listener.close()


def test_the_page_holds_nothing_of_the_run_and_fetches_nothing(run: Path) -> None:
    answer = client(run).get("/")
    assert BAD not in answer.text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|<img|<iframe|\ssrc\s*=", answer.text) == []
    assert "innerHTML" not in answer.text
    assert "insertAdjacentHTML" not in answer.text
    policy = answer.headers["content-security-policy"]
    nonces = set(re.findall(r'nonce="([^"]+)"', answer.text))
    assert len(nonces) == 1
    assert policy.startswith("default-src 'none'; connect-src 'self';")
    assert f"script-src 'nonce-{nonces.pop()}'" in policy
    assert "unsafe" not in policy
    assert client(run).get("/").headers["content-security-policy"] != policy


@pytest.mark.parametrize("path", ["/", "/events", "/report.html", "/nothing"])
def test_nothing_is_stored_or_shared(run: Path, path: str) -> None:
    headers = client(run).get(path).headers
    if path != "/nothing":
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_first_message_has_every_section_with_all_texts_escaped(run: Path) -> None:
    answer = client(run).get("/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    retry, message = answer.text.strip().split("\n\n")
    assert retry == "retry: 2000"
    name, data = message.split("\n")
    sections = json.loads(data.removeprefix("data: "))["sections"]
    assert set(sections) == set(SECTIONS)
    escaped = "&lt;img src=x onerror=alert(1)&gt;"
    assert f"{escaped} was dropped from round 1: {escaped}" in sections["happened"]
    assert escaped in sections["totals"]
    assert "<img" not in answer.text and "<script" not in answer.text
    again = client(run).get("/events", headers={"Last-Event-ID": name.removeprefix("id: ")})
    found = json.loads(again.text.split("data: ")[1])["sections"]
    assert set(found) == set(SECTIONS)  # from another server, which knows nothing of that id


def test_a_browser_that_comes_back_gets_only_what_it_missed(run: Path) -> None:
    app = client(run)
    seen = re.findall(r"id: (\S+)", app.get("/events").text)[0]
    assert "data" not in app.get("/events", headers={"Last-Event-ID": seen}).text
    (run / "report.html").write_text("<p>report")
    missed = app.get("/events", headers={"Last-Event-ID": seen}).text
    found = json.loads(missed.split("data: ")[1])
    assert (found["sections"], found["has_report"]) == ({}, True)
    (run / "config.toml").write_text("[train]\n")
    missed = app.get("/events", headers={"Last-Event-ID": seen}).text
    assert list(json.loads(missed.split("data: ")[1])["sections"]) == ["settings"]


def test_the_report_is_served_when_it_is_there(run: Path) -> None:
    assert client(run).get("/report.html").status_code == 404
    (run / "report.html").write_text("<p>the report</p>")
    answer = client(run).get("/report.html")
    assert (answer.status_code, answer.text) == (200, "<p>the report</p>")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert client(run).get("/events.jsonl").status_code == 404


@pytest.mark.parametrize("path", ["/", "/events", "/report.html"])
def test_a_token_is_asked_of_every_address(run: Path, path: str) -> None:
    (run / "report.html").write_text("<p>the report</p>")
    app = client(run, token="secret", host="10.0.0.7:8420")
    assert app.get(path).status_code == 403
    assert app.get(path, params={"token": "secreT"}).status_code == 403
    assert app.get(path, params={"token": "sécret"}).status_code == 403
    assert app.get(path, params={"token": "secret"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1:1", 200), ("[::1]:1", 200), ("evil.example:1", 403), ("10.0.0.7", 403)],
)
def test_without_a_token_the_request_must_name_loopback(run: Path, host: str, status: int) -> None:
    assert client(run).get("/", headers={"Host": host}).status_code == status


def test_loopback_needs_no_token_and_a_network_does(addresses: list[PageAddress]) -> None:
    addresses += [open_address("127.0.0.1", 0), open_address("0.0.0.0", 0), open_address("0.0.0.0", 0)]
    assert addresses[0].token == ""
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", addresses[0].url)
    assert len(addresses[1].token) >= 32
    assert addresses[1].token != addresses[2].token
    assert addresses[1].url.endswith(f"/?token={addresses[1].token}")


def test_a_port_that_is_taken(addresses: list[PageAddress]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"expected port {port} to be free, got Address already in use"):
            open_address("127.0.0.1", port)
    # The usual port may be taken or not: an address is found either way.
    addresses += [open_address("127.0.0.1", None), open_address("127.0.0.1", None)]
    assert addresses[0].url != addresses[1].url


def test_the_newest_run_is_the_one_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="expected a run folder in runs/, got none"):
        newest_run()
    for name, settings, events in (("old", 50, 300), ("new", 100, 200)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file, time in (("config.toml", settings), ("events.jsonl", events)):
            (tmp_path / "runs" / name / file).touch()
            os.utime(tmp_path / "runs" / name / file, (time, time))
    assert newest_run() == Path("runs/old")
