"""Thin on purpose: unpack the message, ask the resident trainer, reply. No torch here.

What leaves a domain after a round: the trained factors, the tokens trained, held-out bits per byte
before and after, seconds. Nothing else. In a real federation every reply is written down before it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from clients.domain import Caller, Deployed, answered
from cogen.config import load_config
from cogen.node.resident import ResidentTrainer
from cogen.protocol.settings import Site
from cogen.protocol.wire import Frame
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

    def note(self, action: str) -> None:
        """Nothing: who simulates reads the run's own events."""


def _caller(asked: Frame, context: Context) -> Caller:
    request = asked.header["request"]
    return Deployed(request, context) if "socket" in context.node_config else Simulated(request, context)


@app.query("hello")
@answered
def hello(asked: Frame, context: Context) -> Frame:
    """Who is this: the domain of the node, and what it allows."""
    return Frame({"about": dict(_caller(asked, context).ask("describe").header)})


@app.query("suspend")
@answered
def suspend(asked: Frame, context: Context) -> Frame:
    """This domain is asked no more in this start of the run; `cogen join` shows it."""
    caller = _caller(asked, context)
    caller.note("suspend")
    return Frame({"about": {"domain": caller.domain}})


@app.train()
@answered
def train(asked: Frame, context: Context) -> Frame:
    """Train a round from the global factors; reply with factors and figures."""
    caller = _caller(asked, context)
    answer = caller.ask("train", asked.arrays)
    figures = {k: v for k, v in answer.header.items() if k != "fingerprint" and v is not None}
    about = {"domain": caller.domain, **answer.header["fingerprint"]}
    return Frame({"figures": figures, "about": about}, answer.arrays)


@app.evaluate()
@answered
def evaluate(asked: Frame, context: Context) -> Frame:
    """Score the base and the models sent on this domain's held-out text; reply with numbers."""
    caller = _caller(asked, context)
    answer = caller.ask("evaluate", asked.arrays, models=asked.header["models"])
    keys = ("bits_per_byte", "num_bytes", "num_tokens")
    cells = {c["model"]: {k: c[k] for k in keys} for c in answer.header["cells"]}
    return Frame({"cells": cells, "about": {"domain": caller.domain}})
