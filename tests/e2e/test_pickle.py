"""A pickle that runs code, in place of arrays: both sides refuse it, and nothing is run."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from cogen.config import load_config
from cogen.node.home import NodeHome
from cogen.protocol.messages import pack
from cogen.protocol.wire import PIECE, SIZES
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.conftest import SEEDS
from tests.e2e.test_rounds import events, parents
from tests.in_process_grid import InProcessGrid
from tests.member import grid_of, make_home, request
from tests.message_content import NONCE, header_of


class Burglar:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def framed(header: dict[str, Any], arrays: bytes) -> RecordDict:
    """A frame with other bytes where its arrays are."""
    text = json.dumps(header).encode()
    return RecordDict({"0": ConfigRecord({PIECE: SIZES.pack(len(text), len(arrays)) + text + arrays})})


def npy(payload: Burglar) -> bytes:
    """An array of one object, as numpy saves it: by pickle."""
    out = io.BytesIO()
    np.save(out, np.array([payload], dtype=object), allow_pickle=True)
    return out.getvalue()


def array_record(data: bytes) -> ArrayRecord:
    return ArrayRecord({"q.a": Array("object", (1,), "numpy.ndarray", data)})


# By what a message says otherwise, and the object: what is sent, and the reason of its refusal.
FORMS: dict[str, tuple[Callable[[dict[str, Any], Burglar], RecordDict], str]] = {
    "for arrays": (lambda header, b: framed(header, pickle.dumps(b)), "not a frame"),
    "for numpy's arrays": (lambda header, b: framed(header, npy(b)), "not a frame"),
    "for a frame": (lambda header, b: RecordDict({"0": ConfigRecord({PIECE: pickle.dumps(b)})}), "whole frame"),
    "in Flower's array": (
        lambda header, b: RecordDict({"0": array_record(npy(b))}),
        "records '0', '1', ... of a frame",
    ),
}


def sent(content: RecordDict, nonce: bytes) -> RecordDict:
    """As it comes out at the other end of Flower's objects; a frame in it begins with the nonce."""
    for record in content.config_records.values():
        record[PIECE] = nonce + record[PIECE]  # type: ignore[operator]
    objects = {name: one.deflate() for name, one in get_all_nested_objects(content).items()}
    return inflate_object_from_contents(content.object_id, objects)  # type: ignore[return-value]


def replaced(message: Message, content: RecordDict) -> Message:
    for name in list(message.content):
        del message.content[name]
    for name, record in sent(content, bytes.fromhex(message.metadata.group_id)).items():
        message.content[name] = record
    return message


def test_the_objects_are_such_as_would_have_done_it(tmp_path: Path) -> None:
    for number, read in enumerate(
        (pickle.loads, lambda data: np.load(io.BytesIO(data), allow_pickle=True)),
    ):
        trace = tmp_path / str(number)
        read((pickle.dumps, npy)[number](Burglar(trace)))  # type: ignore[operator]
        assert trace.exists()


def test_from_a_node_it_is_refused_with_its_reason_and_the_round_goes_on(config_file: Path, tmp_path: Path) -> None:
    """Red: a reader of frames, or of Flower's arrays, that unpickles."""
    trace, forms = tmp_path / "trace", list(FORMS.values())

    def instead(message: Message, reply: Message) -> Message:
        number = header_of(message)["round"]
        return replaced(reply, forms[number - 1][0](header_of(reply), Burglar(trace)))

    run = RunFolder(tmp_path / "run")
    few = ["evaluate.round_heldout_tokens=0", "train.tokens_per_round=64", "federation.max_failures=9"]
    run.create(load_config(config_file, [*few, f"federation.num_rounds={len(FORMS)}"]).to_toml())
    server_app(InProcessGrid(3, {1: instead}), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    skipped = events(run, "client_dropped")
    assert [(e["round"], e["domain"]) for e in skipped] == [(n + 1, "grid") for n in range(len(FORMS))]
    for event, (_, reason) in zip(skipped, forms, strict=True):
        assert "reply refused" in event["reason"] and reason in event["reason"]
    assert all(parents(run, n + 1).keys() == {"clinical", "materials"} for n in range(len(FORMS)))
    assert not trace.exists()


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> NodeHome:
    return make_home(tmp_path / "home", tiny_folder, SEEDS / "grid.jsonl")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["train", "evaluate", "query.hello"])
def test_from_a_coordinator_it_is_refused_before_the_trainer_is_asked(
    form: str, kind: str, home: NodeHome, config_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens at the trainer's socket. The reply tells no more than the kind of error; the log has the reason."""
    trace, (make, reason) = tmp_path / "trace", FORMS[form]
    content = make(dict(pack(request(config_file)).header), Burglar(trace))
    grid = grid_of(home)
    with caplog.at_level(logging.ERROR):
        message = Message(sent(content, NONCE), dst_node_id=100, message_type=kind, group_id=NONCE.hex())
        (reply,) = grid.pull_messages(grid.push_messages([message]))
    assert reply.error.reason == "failed at the domain (ValueError); its own log says why"
    assert reason in caplog.text
    (line,) = read_lines(home.receipts)
    assert (line["error"], line["kind"]) == (reply.error.reason, kind.partition(".")[0])
    assert not trace.exists()
    assert line["run"] == ""  # nothing of it was read
