"""Receipts: everything that leaves a domain, written down before it is sent.

Each message has one line in `receipts.jsonl`: the sha256 of its content; name, shape, dtype, bytes and l2 norm of every
array; and every number and text. An administrator can prove what was sent without keeping a copy of it.

Names, shapes, dtypes, bytes and texts are the same in every round. They form a layout, a line that is written once, before
the first receipt that refers to it. So a message of 420 arrays takes 3.3 kB instead of 87 kB. `read_receipts` joins them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.console import table
from cogen.runs import append_line, read_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT, FILE_FORMAT = (
    2,
    3,
)  # of a whole receipt, and of its line in the file; formats 1 and 2 had a sha256 of each array
LAYOUT_KEYS, OWN_KEYS = ("name", "shape", "dtype", "num_bytes"), ("sha256", "l2_norm")
NORM_DIGITS = 4


@dataclass(frozen=True)
class SentMessage:
    """A reply as it is sent: arrays and values by section, or the line of a refusal."""

    arrays: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""
    content: Sequence[bytes] = ()
    """All of its bytes, in pieces; a refusal has none."""


def record(path: Path, run: str, round_number: int, kind: str, reply: SentMessage) -> dict[str, Any]:
    """Append the receipt of `reply` and wait until it is on the disk; returns the whole receipt.

    Raises:
        RunError: the disk is full or the file cannot be written. Then nothing may be sent.
    """
    receipt = {"format": FORMAT, "time": datetime.now(UTC).isoformat(), **describe(run, round_number, kind, reply)}
    arrays, (texts, numbers) = receipt["arrays"], _apart(receipt["values"])
    line = {**receipt, "format": FILE_FORMAT, "arrays": len(arrays)}
    if arrays or texts:
        shared = {"arrays": [[a[key] for key in LAYOUT_KEYS] for a in arrays], "texts": texts}
        name = hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:16]
        if not _has_layout(path, name):
            append_line(path, {"format": FILE_FORMAT, **shared, "layout": name}, durable=True)
        line |= {"values": numbers, "layout": name, "l2_norm": [a["l2_norm"] for a in arrays]}
    append_line(path, line, durable=True)
    path.chmod(0o600)
    return receipt


def _apart(values: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Texts, and other values, by section; a section without a text is missing from the first."""
    texts = {part: {k: v for k, v in named.items() if isinstance(v, str)} for part, named in values.items()}
    others = {part: {k: v for k, v in named.items() if not isinstance(v, str)} for part, named in values.items()}
    return {part: named for part, named in texts.items() if named}, others


def _has_layout(path: Path, layout: str) -> bool:
    """Whether the layout's line is there, whole: only that line ends with the layout's name."""
    return path.is_file() and f'}},"layout":"{layout}"}}\n'.encode() in path.read_bytes()


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """All receipts of a file, whole, of any format; torn lines are skipped, a missing file has none."""
    layouts: dict[str, dict[str, Any]] = {}
    found = []
    for line in read_lines(path):
        if is_layout(line):
            layouts[line["layout"]] = line
        else:
            found.append(_in_full(line, layouts))
    return found


def is_layout(line: Mapping[str, Any]) -> bool:
    """Whether a line of the file is a layout and not a receipt."""
    return "layout" in line and "kind" not in line


def _in_full(line: dict[str, Any], layouts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The receipt as `record` returned it. Format 1 is whole already; format 2 keeps the sha256 of each array."""
    if line.get("format") not in (2, FILE_FORMAT):
        return line
    shared = layouts.get(line.get("layout", ""), {"arrays": [["(its layout is gone)", [], "", 0]] * line["arrays"]})
    arrays = [dict(zip(LAYOUT_KEYS, row, strict=True)) for row in shared["arrays"][: line["arrays"]]]
    each = [key for key in OWN_KEYS if isinstance(line.get(key), list)]
    for key in each:
        for array, value in zip(arrays, line[key], strict=True):
            array[key] = value
    kept = {key: value for key, value in line.items() if key != "layout" and key not in each}
    texts = shared.get("texts", {})
    values = {part: {**texts.get(part, {}), **named} for part, named in line["values"].items()}
    return {**kept, "format": 1 if line["format"] == 2 else FORMAT, "arrays": arrays, "values": values}


def describe(run: str, round_number: int, kind: str, reply: SentMessage) -> dict[str, Any]:
    """The receipt of `reply`: `num_bytes` counts the arrays, `sha256` is that of the whole content."""
    whole = hashlib.sha256()
    for piece in reply.content:
        whole.update(piece)
    arrays = [_of(f"{part}/{name}", array) for part, named in reply.arrays.items() for name, array in named.items()]
    about = {"run": run, "round": round_number, "kind": kind, "num_bytes": sum(a["num_bytes"] for a in arrays)}
    values = {part: dict(named) for part, named in reply.values.items()}
    more = {"error": reply.error} if reply.error else {"sha256": whole.hexdigest()}
    return {**about, **more, "arrays": arrays, "values": values}


def _of(name: str, array: NDArray[Any]) -> dict[str, Any]:
    import numpy as np

    norm = math.sqrt(float(np.sum(np.square(array, dtype=np.float64))))
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "num_bytes": int(array.nbytes),
        "l2_norm": float(f"{norm:.{NORM_DIGITS}g}") if math.isfinite(norm) else str(norm),
    }


def receipt_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Receipts as a plain-text table, one line for each message."""
    rows = [("time", "run", "round", "kind", "arrays", "bytes", "values")]
    for line in lines:
        values = [f"{k}={_short(v)}" for named in line["values"].values() for k, v in named.items()]
        text = line.get("error") or " ".join(values)
        counts = (str(len(line["arrays"])), str(line["num_bytes"]))
        rows.append((line["time"][:19], line["run"], str(line["round"] or "-"), line["kind"], *counts, text))
    return table(rows, num_left=len(rows[0]))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
