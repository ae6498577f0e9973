"""What `cogen join` shows, from the files of a member's folder."""

from __future__ import annotations

from pathlib import Path

from cogen.node.home import NodeHome
from cogen.node.view import HomeWatcher
from cogen.runs import Tail, append_line


def test_only_what_is_new_and_whole_is_told(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "home")
    home.make()
    append_line(home.receipts, {"round": 1})
    watcher = HomeWatcher(home)
    log = home.logs / "supernode.log"
    assert list(watcher.new()) == []
    log.write_bytes(b"INFO : SuperNode ID: 7\nWARNING : Connection attempt")
    append_line(home.work, {"action": "train", "round": 2})
    append_line(home.run("ab12") / "train.jsonl", {"step": 1})
    append_line(home.receipts, {"arrays": [], "layout": "ab"})  # which is nothing that was sent
    append_line(home.receipts, {"round": 2})
    events = list(watcher.new())
    assert [e["event"] for e in events] == ["connected", "work", "step", "sent"]
    assert events[3]["round"] == 2
    assert list(watcher.new()) == []
    with open(log, "ab") as file:
        file.write(b" failed, retrying in 1.00 seconds\n")
    assert [e["event"] for e in watcher.new()] == ["lost"]
    with open(log, "ab") as file:
        file.write(b"Connection attempt failed, retrying in 2.00 seconds\n")
    assert list(watcher.new()) == []
    with open(log, "ab") as file:
        file.write(b"INFO : Connection successful after 3.00 seconds and 2 tries.\n" * 2)
    assert [e["event"] for e in watcher.new()] == ["connected"]


def test_a_file_made_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    assert tail.lines() == [b"one", b"two"]
    path.write_bytes(b"new\n")
    assert tail.lines() == [b"new"]
