"""An error is logged; a log that cannot be written is not a second error."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path

import pytest

from cogen.errors import log_error

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_log_is_no_second_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red: a trainer whose disk is full ends without an answer, and says nothing of the disk."""

    def fail() -> None:
        try:
            raise ValueError("what went wrong")
        except ValueError:
            log_error()

    fail()
    assert "ValueError: what went wrong" in capsys.readouterr().err
    with TextIOWrapper(open(FULL, "wb", buffering=0), write_through=True) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(OSError, match="No space left"):
            print("this log cannot be written", file=full)
        fail()
        monkeypatch.undo()
