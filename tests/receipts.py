"""A line of `receipts.jsonl` against the reply that it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from cogen.node.answer import sections
from cogen.protocol.wire import Frame


def assert_is_receipt(line: Mapping[str, Any], message: Message, frame: Frame) -> None:
    """Kind, names, shapes, types, norms, values and the hash of a receipt are those of the reply."""
    assert line["kind"] == message.metadata.message_type.partition(".")[0]
    assert line["values"] == sections(dict(frame.header))
    arrays = {f"factors/{name}": array for name, array in frame.arrays.items()}
    assert sorted(a["name"] for a in line["arrays"]) == sorted(arrays)
    content = b"".join(piece for record in message.content.config_records.values() for piece in record.values())
    assert line["sha256"] == hashlib.sha256(content).hexdigest()
    for about in line["arrays"]:
        array = arrays[about["name"]]
        assert about["l2_norm"] == pytest.approx(float(np.linalg.norm(array.astype(np.float64))), rel=1e-3)
        assert (about["shape"], about["dtype"]) == (list(array.shape), str(array.dtype))
    assert line["num_bytes"] == sum(a.nbytes for a in arrays.values())
