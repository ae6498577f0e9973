"""A socket on disk that exists only while a process listens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogen.node.channel import connect_to, listen_at


def test_a_socket_that_is_there_can_be_connected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: it is bound where it is looked for before it listens, and who connects in between is refused."""
    path, real, seen = tmp_path / "trainer.sock", os.replace, []

    def watched(aside: Path, place: Path) -> None:
        connect_to(Path(aside)).close()
        seen.append(path.exists())
        real(aside, place)

    monkeypatch.setattr(os, "replace", watched)
    with listen_at(path):
        connect_to(path).close()
    with listen_at(path):  # one that a process has left
        connect_to(path).close()
    assert seen == [False, True]
    assert [p.name for p in tmp_path.iterdir()] == ["trainer.sock"]
    assert path.stat().st_mode & 0o777 == 0o600
