"""Thin on purpose: unpack the message, ask the resident trainer, reply. No torch here.

What leaves a domain after a round: the trained factors, the tokens trained, held-out bits per byte
before and after, seconds. Nothing else. In a real federation every reply is written down before it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.domain import Caller, Deployed, answered, arrays_of
from cogen.config import load_config
from cogen.node.request import Site
from cogen.node.resident import ResidentTrainer
from cogen.node.wire import Frame, pack
from cogen.runs import RunFolder

app = ClientApp()


@lru_cache(maxsize=1)
def resident() -> ResidentTrainer:
    """One trainer for all messages that this process handles."""
    return ResidentTrainer()


class Simulated:
    """A domain of a simulation: the run's own folder says where its corpus is."""

    def __init__(self, request: Mapping[str, Any], context: Context) -> None:
        self.request = dict(request)
        self.run = RunFolder(str(self.request.pop("run")))
        config = load_config(self.run.config)
        number = int(context.node_config["partition-id"])
        if number < len(config.domains):
            domain = config.domains[number]
            self.site = Site(domain.name, str(domain.data), self.run.node(domain.name))
        else:  # a node more than the run has domains
            self.site = Site("", "", self.run.path)
        self.domain = self.site.domain

    def ask(self, action: str, arrays: Mapping[str, Any] | None = None, **more: Any) -> Frame:
        if action == "describe":
            return Frame({"domain": self.domain})
        return resident().call(action, self.site, self.run.logs, arrays, **self.request, **more)


def _caller(message: Message, context: Context) -> Caller:
    request = dict(message.content.config_records["request"])
    return Deployed(request, context) if "socket" in context.node_config else Simulated(request, context)


@app.query("hello")
@answered
def hello(message: Message, context: Context) -> RecordDict:
    """Who is this: the domain of the node, and what it allows."""
    about = _caller(message, context).ask("describe").header
    return RecordDict({"about": ConfigRecord(dict(about))})


@app.train()
@answered
def train(message: Message, context: Context) -> RecordDict:
    """Train a round from the global factors; reply with factors and figures."""
    caller = _caller(message, context)
    arrays = arrays_of(message.content.array_records["global"])
    answer = caller.ask("train", arrays)
    figures = {k: v for k, v in answer.header.items() if k != "contract" and v is not None}
    return RecordDict(
        {
            "factors": ArrayRecord({k: Array(v) for k, v in pack(answer.arrays).items()}),
            "figures": MetricRecord(figures),
            "about": ConfigRecord({"domain": caller.domain, **answer.header["contract"]}),
        }
    )


@app.evaluate()
@answered
def evaluate(message: Message, context: Context) -> RecordDict:
    """Score the base and the models sent on this domain's held-out text; reply with numbers."""
    caller = _caller(message, context)
    scalings = dict(message.content.config_records["models"])
    arrays = {
        f"{name}/{key}": array
        for name in scalings
        for key, array in arrays_of(message.content.array_records[name]).items()
    }
    answer = caller.ask("evaluate", arrays, models=scalings)
    keys = ("bits_per_byte", "num_bytes", "num_tokens")
    content = {c["model"]: MetricRecord({k: c[k] for k in keys}) for c in answer.header["cells"]}
    return RecordDict({**content, "about": ConfigRecord({"domain": caller.domain})})
