"""Logs of a federation's programs: no empty lines, and old logs are compressed."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from flwr.common.logger import FLOWER_LOGGER, console_handler

from cogen.deploy import gateway_process
from cogen.flower.patches import apply


def written(path: Path, first: int, last: int) -> None:
    handler = gateway_process.packed_log(path)
    log = logging.Logger("gateway of a test")
    log.addHandler(handler)
    for number in range(first, last):
        log.info("%04d", number)
    handler.close()


def read(path: Path) -> str:
    """As `zcat -f` does."""
    content = path.read_bytes()
    return (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode()


def history(path: Path) -> str:
    """All that is kept, the oldest first."""
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: -int(p.suffixes[-2][1:]))
    return "".join(read(p) for p in (*older, path))


def test_an_old_log_is_packed_and_the_oldest_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: one that is packed and kept; a line lost; files without end."""
    monkeypatch.setattr(gateway_process, "LOG_BYTES", 100)
    monkeypatch.setattr(gateway_process, "LOG_FILES", 3)
    path = tmp_path / "gateway.log"
    written(path, 0, 50)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gateway.log", "gateway.log.1.gz", "gateway.log.2.gz"]
    assert all(p.read_bytes().startswith(b"\x1f\x8b") for p in tmp_path.glob("*.gz"))
    assert history(path) == "".join(f"{n:04d}\n" for n in range(50))
    written(path, 50, 200)
    assert len(list(tmp_path.glob("*.gz"))) == 3
    kept = history(path).split()
    assert kept == [f"{n:04d}" for n in range(200 - len(kept), 200)] and len(kept) > 60


def test_without_room_to_pack_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: an old log that is gone, or one that is tried again with each line and pushes out what is older."""
    monkeypatch.setattr(gateway_process, "LOG_BYTES", 100)
    path = tmp_path / "gateway.log"
    written(path, 0, 30)

    def full(*args: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        written(path, 30, 70)
    written(path, 70, 100)
    assert history(path) == "".join(f"{n:04d}\n" for n in range(100))


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What Flower's logger writes; its handler is as it was afterwards."""
    before = (console_handler.timestamps, console_handler.colored, console_handler.stream, list(FLOWER_LOGGER.filters))
    console_handler.stream = io.StringIO()
    yield console_handler.stream
    console_handler.timestamps, console_handler.colored, console_handler.stream, filters = before
    FLOWER_LOGGER.filters[:] = filters


def test_a_node_says_a_dated_line_for_what_comes_and_goes(said: io.StringIO) -> None:
    """Red: Flower's own eight; a failure that is dropped."""
    apply("supernode_short_log")
    for level, line in (
        (logging.INFO, ""),
        (logging.INFO, "[RUN 7]"),
        (logging.INFO, "Receiving: train message (ID: ab)"),
        (logging.INFO, "Received successfully"),
        (logging.WARNING, "Connection attempt failed, retrying in 1.00 seconds"),
        (logging.INFO, "Connection successful after 3.00 seconds and 2 tries."),
        (logging.ERROR, "[RUN 7] is gone"),
        (logging.INFO, "Sent successfully"),
    ):
        FLOWER_LOGGER.log(level, line)
    lines = said.getvalue().splitlines()
    ends = ("Receiving: train message (ID: ab)", "retrying in 1.00 seconds", "and 2 tries.", "[RUN 7] is gone")
    assert len(lines) == len(ends) and all(line.endswith(end) for line, end in zip(lines, ends, strict=True))
    assert all(" 20" in line and "\x1b" not in line for line in lines)
