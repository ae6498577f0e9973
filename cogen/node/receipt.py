"""Receipts: what leaves a domain, written down before it leaves.

One line of `receipts.jsonl` a message: for each array its name, shape, dtype, bytes, sha256 and l2 norm,
and every number and text that goes with them, so that an administrator can say what was handed over
without keeping a copy of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.node.policy import Sent
from cogen.runs import append_line, read_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1


@dataclass(frozen=True)
class Reply:
    """A reply as it is handed to Flower: arrays and values by record, or the one line of a refusal."""

    arrays: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""


def record(path: Path, run: str, round_number: int, kind: str, reply: Reply) -> dict[str, Any]:
    """Append the receipt of `reply`, on the disk before this returns; gives the line back.

    Raises:
        RunError: the disk is full or the file cannot be written; then nothing may leave.
    """
    line = {"format": FORMAT, "time": datetime.now(UTC).isoformat(), **describe(run, round_number, kind, reply)}
    append_line(path, line, durable=True)
    path.chmod(0o600)
    return line


def describe(run: str, round_number: int, kind: str, reply: Reply) -> dict[str, Any]:
    """What a receipt says of `reply`; `num_bytes` counts the arrays."""
    arrays = [_of(f"{part}/{name}", array) for part, named in reply.arrays.items() for name, array in named.items()]
    about = {"run": run, "round": round_number, "kind": kind, "num_bytes": sum(a["num_bytes"] for a in arrays)}
    values = {part: dict(named) for part, named in reply.values.items()}
    return {**about, "arrays": arrays, "values": values, **({"error": reply.error} if reply.error else {})}


def _of(name: str, array: NDArray[Any]) -> dict[str, Any]:
    import numpy as np

    whole = np.ascontiguousarray(array)
    norm = math.sqrt(float(np.sum(np.square(whole, dtype=np.float64))))
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "num_bytes": int(whole.nbytes),
        "sha256": hashlib.sha256(whole.data).hexdigest(),
        "l2_norm": norm if math.isfinite(norm) else str(norm),
    }


def sent_in_run(path: Path, run: str) -> Sent:
    """What `run` has had so far, by the receipts."""
    lines = [line for line in read_lines(path) if line.get("run") == run]
    rounds = frozenset(int(li["round"]) for li in lines if li["kind"] == "train" and "error" not in li)
    return Sent(rounds, sum(int(line["num_bytes"]) for line in lines))


def receipt_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Receipts as a table in text, one line a message."""
    rows = [("time", "run", "round", "kind", "arrays", "bytes", "values")]
    for line in lines:
        values = [f"{k}={_short(v)}" for named in line["values"].values() for k, v in named.items()]
        text = line.get("error") or " ".join(values)
        counts = (str(len(line["arrays"])), str(line["num_bytes"]))
        rows.append((line["time"][:19], line["run"], str(line["round"] or "-"), line["kind"], *counts, text))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[6]]) for row in rows)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
