"""The run that a run with faults must equal: in this process, without faults, with the same valid replies in its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from cogen.config import load_config
from cogen.runs import RunFolder
from server.server_app import app as server_app
from tests.e2e.test_rounds import events
from tests.federation_processes import DOMAINS
from tests.in_process_grid import InProcessGrid
from tests.message_content import header_of


def failing(message: Message, reply: Message) -> Message:
    return Message(Error(code=2, reason="it failed"), reply_to=message)


class ReferenceGrid(InProcessGrid):
    """Nodes in this process; the one of the domain `grid` replies in the rounds in which the real one did.

    Args:
        worked: rounds in which grid's trainer trained.
        enters: the round in which a reply was trained -> the round that it entered.
    """

    def __init__(self, worked: set[int], enters: dict[int, int]) -> None:
        super().__init__(len(DOMAINS))
        self.worked, self.enters = worked, enters
        self.held: dict[int, tuple[str, Message]] = {}

    def _handle(self, message: Message) -> None:
        asked, kind, answers_to = message.metadata, message.metadata.message_type, message.metadata.message_id
        number = header_of(message).get("round", 0)
        is_grids = (kind, asked.dst_node_id) == ("train", 100 + DOMAINS.index("grid"))
        if is_grids and number not in self.worked:
            self.replies[answers_to] = failing(message, message)
            return
        super()._handle(message)
        if is_grids and self.enters.get(number) != number:
            reply = self.replies.pop(answers_to)
            if number in self.enters:
                self.held[self.enters[number]] = answers_to, reply
            else:
                self.replies[answers_to] = failing(message, reply)
        elif kind == "train" and number in self.held:
            late_to, reply = self.held.pop(number)
            self.replies[late_to] = reply


def reference_run(place: Path, config: str, run: RunFolder, works: list[dict[str, Any]]) -> RunFolder:
    """A run in this process without faults, with the same replies in its rounds.

    Args:
        config: of `run`, with data.
        works: lines of grid's work.jsonl.
    """
    mine = [w["round"] for w in works if (w["run"], w["action"]) == (run.read_id(), "train")]
    replied = [e for e in events(run, "client_replied") if e["domain"] == "grid"]
    enters = {e["round"] - e.get("rounds_late", 0): e["round"] for e in replied}
    made = RunFolder(place / "undisturbed")
    path = place / "undisturbed.toml"
    path.write_text(config)
    made.create(load_config(path, ["federation.round_deadline_seconds=2"]).to_toml())
    server_app(ReferenceGrid(set(mine), enters), Context(1, 0, {}, RecordDict(), {"run": str(made.path), "config": ""}))
    return made


def models(run: RunFolder) -> dict[str, bytes]:
    """The weight files of the merged adapter and of every round's global adapter."""
    folders = [run.merged, *sorted(run.path.glob("rounds/*/global"))]
    return {str(f.relative_to(run.path)): (f / "adapter_model.safetensors").read_bytes() for f in folders}
