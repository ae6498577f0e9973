"""Thin on purpose: unpack the message, ask the resident trainer, reply. No torch here.

What leaves a domain after a round: the trained factors, the tokens trained, held-out bits per byte
before and after, seconds. Nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from cogen.config import load_config
from cogen.node.request import Site
from cogen.node.resident import ResidentTrainer
from cogen.runs import RunFolder

app = ClientApp()


@lru_cache(maxsize=1)
def resident() -> ResidentTrainer:
    """One trainer for all messages that this process handles."""
    return ResidentTrainer()


def _ask(message: Message, context: Context) -> tuple[dict[str, Any], RunFolder, Site]:
    """The request, the run folder, and this node's site: of domain "" for a node more than the run has domains."""
    request = dict(message.content.config_records["request"])
    run = RunFolder(str(request.pop("run")))
    config = load_config(run.config)
    number = int(context.node_config["partition-id"])
    if number >= len(config.domains):
        return request, run, Site("", "", run.path)
    domain = config.domains[number]
    return request, run, Site(domain.name, str(domain.data), run.node(domain.name))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who is this: the domain of the node."""
    _, _, site = _ask(message, context)
    return Message(RecordDict({"about": ConfigRecord({"domain": site.domain})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round from the global factors; reply with factors and figures."""
    request, run, site = _ask(message, context)
    arrays = {name: array.numpy() for name, array in message.content.array_records["global"].items()}
    answer = resident().call("train", site, run.logs, arrays, **request)
    figures = {k: v for k, v in answer.header.items() if k != "contract" and v is not None}
    content = RecordDict(
        {
            "factors": ArrayRecord({k: Array(np.ascontiguousarray(v)) for k, v in answer.arrays.items()}),
            "figures": MetricRecord(figures),
            "about": ConfigRecord({"domain": site.domain, **answer.header["contract"]}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the base and the models sent on this domain's held-out text; reply with numbers."""
    request, run, site = _ask(message, context)
    scalings = dict(message.content.config_records["models"])
    arrays = {
        f"{name}/{key}": array.numpy()
        for name in scalings
        for key, array in message.content.array_records[name].items()
    }
    answer = resident().call("evaluate", site, run.logs, arrays, models=scalings, **request)
    cells = answer.header["cells"]
    keys = ("bits_per_byte", "num_bytes", "num_tokens")
    content = {c["model"]: MetricRecord({k: c[k] for k in keys}) for c in cells}
    return Message(RecordDict({**content, "about": ConfigRecord({"domain": site.domain})}), reply_to=message)
