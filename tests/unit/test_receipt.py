"""Receipts: what a line says about a reply, and what is counted from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cogen.node.receipt import SentMessage, is_layout, read_receipts, receipt_table, record
from cogen.runs import append_line, read_lines

A = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_line_says_all_of_a_reply(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    turned = np.asfortranarray(A)  # bytes in another order in memory, the same array
    values = {"figures": {"num_tokens": 64, "seconds": 0.25}, "about": {"domain": "grid"}}
    reply = SentMessage({"factors": {"q.a": turned}}, values, content=[b"all", b" of it"])
    line = record(path, "ab12", 3, "train", reply)
    assert read_receipts(path) == [line]
    assert (line["run"], line["round"], line["kind"], line["num_bytes"]) == ("ab12", 3, "train", 24)
    assert line["arrays"] == [
        {
            "name": "factors/q.a",
            "shape": [2, 3],
            "dtype": "float32",
            "num_bytes": 24,
            "l2_norm": 7.416,
        }
    ]
    assert line["arrays"][0]["l2_norm"] == pytest.approx(55.0**0.5, rel=1e-3)
    assert line["sha256"] == hashlib.sha256(b"all of it").hexdigest()
    assert line["values"] == values
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_the_same_in_every_round_is_written_once(tmp_path: Path) -> None:
    """Red: a layout a message; one for all shapes or texts; one that a full disk has cut off taken for whole."""
    path = tmp_path / "receipts.jsonl"
    about = {"about": {"domain": "grid"}, "figures": {"seconds": 0.5}}
    said = [record(path, "ab12", n, "train", SentMessage({"factors": {"q.a": A * n}}, about)) for n in (1, 2)]
    whole = path.read_bytes()
    assert [is_layout(line) for line in read_lines(path)] == [True, False, False]
    assert whole.count(b"q.a") == whole.count(b"grid") == 1
    said.append(record(path, "ab12", 3, "train", SentMessage({"factors": {"q.a": A.T}}, about)))
    assert [is_layout(line) for line in read_lines(path)] == [True, False, False, True, False]
    said.append(record(path, "ab12", 4, "train", SentMessage({"factors": {"q.a": A}}, {"about": {"domain": "other"}})))
    said.append(record(path, "ab12", 5, "evaluate", SentMessage(values={"about": {"domain": "other"}, "cells": {}})))
    said.append(record(path, "ab12", 6, "evaluate", SentMessage(values={"cells": {"base": {"bits_per_byte": 1.0}}})))
    said.append(record(path, "ab12", 7, "train", SentMessage(error="refused")))
    assert [is_layout(line) for line in read_lines(path)[5:]] == [True, False, True, False, False, False]
    assert read_receipts(path) == said
    assert "sha256" in said[5] and "sha256" not in said[6]
    path.write_bytes(whole[: whole.index(b"\n") - 1])
    assert read_receipts(path) == []
    again = record(path, "ab12", 1, "train", SentMessage({"factors": {"q.a": A}}))
    assert read_receipts(path) == [again]


def test_receipts_of_an_older_version_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    old = {"format": 1, "run": "ab12", "round": 1, "kind": "train", "num_bytes": 24, "arrays": [{"name": "q.a"}]}
    append_line(path, old)
    layout = {"format": 2, "arrays": [["q.a", [2, 3], "float32", 24], ["q.b", [1], "float32", 4]], "layout": "c0"}
    append_line(path, layout)
    each = {"sha256": ["f0", "f1"], "l2_norm": [1.0, 2.0]}
    append_line(path, {**old, "format": 2, "round": 2, "arrays": 2, "values": {}, "layout": "c0", **each})
    append_line(path, {**old, "format": 2, "kind": "query", "num_bytes": 0, "arrays": 0, "values": {}})
    new = record(path, "ab12", 3, "train", SentMessage({"factors": {"q.a": A}}))
    first, second, third, fourth = read_receipts(path)
    assert (first, third["arrays"], fourth) == (old, [], new)
    shape = {"shape": [2, 3], "dtype": "float32", "num_bytes": 24}
    assert second["arrays"][0] == {"name": "q.a", **shape, "sha256": "f0", "l2_norm": 1.0}
    assert [r["format"] for r in (first, second, third, fourth)] == [1, 1, 1, 2]


def test_a_receipt_outlives_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    values = {"about": {"domain": "grid"}, "figures": {"num_tokens": 64}}
    whole = record(path, "ab12", 1, "train", SentMessage({"factors": {"q.a": A}}, values, content=[b"it"]))
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    (receipt,) = read_receipts(path)
    assert (receipt["sha256"], receipt["num_bytes"]) == (whole["sha256"], 24)
    assert receipt["arrays"][0]["name"] == "(its layout is gone)" and receipt["arrays"][0]["l2_norm"] == 7.416
    assert receipt["values"] == {"about": {}, "figures": {"num_tokens": 64}}


def test_the_table_has_a_line_a_message(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    lines = [
        record(path, "one", 1, "train", SentMessage({"factors": {"q.a": A}}, {"figures": {"seconds": 1.23456}})),
        record(path, "one", 2, "train", SentMessage(error="refused by the domain's policy")),
    ]
    head, first, second = receipt_table(lines).splitlines()
    assert head.split() == ["time", "run", "round", "kind", "arrays", "bytes", "values"]
    assert first.split()[1:] == ["one", "1", "train", "1", "24", "seconds=1.235"]
    assert second.endswith("refused by the domain's policy")
