"""audit.json: written, read back, refused where it contradicts itself, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.audit.record import Audit, format_audit, notes
from cogen.errors import RunError
from tests.audit_example import example


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    audit = example()
    audit.write(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == audit
    expert = audit.row("expert:grid", "grid")
    assert expert is not None and expert.membership.auc.value == 0.72
    assert audit.row("expert:grid", "clinical") is None and audit.domains == ("clinical", "grid")


def test_a_row_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    values = json.loads(example().to_json())
    values["rows"].append(values["rows"][0])
    (tmp_path / "audit.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match="base on clinical twice"):
        Audit.load(tmp_path / "audit.json")


def test_more_completed_than_found_is_refused(tmp_path: Path) -> None:
    values = json.loads(example().to_json())
    values["rows"][1]["personal"]["email"]["num_completed"] = 5
    (tmp_path / "audit.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match="email: at most 4 completed, got 5"):
        Audit.load(tmp_path / "audit.json")


def test_the_table_has_a_row_for_each_model_and_says_what_it_cannot_say() -> None:
    lines = format_audit(example()).splitlines()
    assert lines[0].split()[:2] == ["domain", "model"]
    assert lines[2].split() == [
        "clinical",
        "expert:clinical",
        *["0.720", "0.66", "to", "0.78", "0.610", "22.0%", "3/128", "1/4"],
    ]
    assert [line.split()[1] for line in lines[1:7]] == [
        *("base", "expert:clinical", "combined"),
        *("base", "expert:grid", "combined"),
    ]
    assert "expert:materials on materials: not audited" in lines[-1]


def test_few_unseen_windows_are_said() -> None:
    """Red at 100: that many resolve 1%."""
    assert len(notes(example(100))) == 1
    assert notes(example(99))[0].startswith("clinical, grid: 99 unseen windows are too few")
