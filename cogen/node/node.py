"""One domain: it answers the coordinator's messages. The same class serves a simulation and a real federation.

In a simulation the run folder holds the domain's files, and everything is allowed. In a real federation the member's
folder (`NodeHome`) holds them, its policy decides, and replies are kept so that a repeated request costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load, save

from cogen.errors import MessageError
from cogen.files import write_folder
from cogen.node.home import NodeHome
from cogen.node.policy import Policy, allow, allow_round, read_policy
from cogen.node.receipt import sent_in_run
from cogen.protocol.factors import reply_shapes, to_arrays, to_factors
from cogen.protocol.messages import (
    AnyMessage,
    EvaluateReply,
    EvaluateRequest,
    Figures,
    HelloReply,
    Message,
    Reply,
    Request,
    Score,
    SuspendReply,
    SuspendRequest,
    TrainReply,
    TrainRequest,
    WorkRequest,
    pack,
    unpack,
)
from cogen.protocol.wire import Frame
from cogen.records import Table
from cogen.runs import RunFolder, append_line
from cogen.versions import versions

if TYPE_CHECKING:
    from cogen.node.trainer import Trainer

FLOAT_BYTES = 4
HEADER, ARRAYS = "reply.json", "reply.safetensors"
NUM_KEPT = 4
WorkReply = TypeVar("WorkReply", TrainReply, EvaluateReply)


class Site(Table):
    """What a domain has, and what never leaves it."""

    domain: str
    data: str
    """The corpus: a file, a folder, or hf://datasets/OWNER/NAME."""
    base: str
    """The base model: a folder, a hub id, or a known name."""


class Node:
    """A domain at work.

    Args:
        home: the member's folder; None in a simulation.
    """

    def __init__(self, site: Site, home: NodeHome | None = None) -> None:
        self.site, self.home = site, home
        self._trainer: tuple[Path, Trainer] | None = None

    def answer(self, request: Request) -> Reply:
        """The reply to a request.

        Raises:
            PolicyError: the policy forbids it.
            CogenError: the work failed.
        """
        match request:
            case TrainRequest():
                return self.train(request)
            case EvaluateRequest():
                return self.evaluate(request)
            case SuspendRequest():
                return self.suspend(request)
            case _:
                return self.hello()

    def hello(self) -> HelloReply:
        """The domain and its limits. A simulated domain has none."""
        if self.home is None:
            return HelloReply(domain=self.site.domain)
        policy = read_policy(self.home.policy)
        return HelloReply(
            domain=self.site.domain,
            max_rank=policy.max_rank,
            max_tokens_per_round=policy.max_tokens_per_round,
            evaluates=policy.evaluate and policy.evaluation_leaves,
            version=versions()["cogen-ai"],
        )

    def suspend(self, request: SuspendRequest) -> SuspendReply:
        """Note for `cogen join` that the domain is not asked again. Only numbers are noted, no text of the coordinator."""
        if self.home is not None:
            numbers = {"round": request.round, "num_failures": request.num_failures}
            append_line(self.home.work, {"action": "suspend", **numbers})
        return SuspendReply(domain=self.site.domain)

    def train(self, request: TrainRequest) -> TrainReply:
        """Train a round, or give the reply again that this request had before."""
        policy, trainer = self._begin("train", request)
        if self.home is not None:
            sent = sent_in_run(self.home.receipts, request.run)
            allow_round(policy, request.settings, request.round, _reply_bytes(request), sent)
        reply = self._reply_once(request, TrainReply, lambda: _train(trainer, request))
        if policy.evaluation_leaves:
            return reply
        kept_here = {"bits_per_byte_before": None, "bits_per_byte_after": None}
        return reply.model_copy(update={"figures": reply.figures.model_copy(update=kept_here)})

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Score the base and the models of the request on the held-out part."""
        _, trainer = self._begin("evaluate", request)
        return self._reply_once(request, EvaluateReply, lambda: _evaluate(trainer, request))

    def _begin(self, action: Literal["train", "evaluate"], request: WorkRequest) -> tuple[Policy, Trainer]:
        """Check that the work may begin; the trainer for it."""
        policy = Policy() if self.home is None else read_policy(self.home.policy)
        folder = self._folder(request.run)
        if self.home is not None:
            allow(policy, action, self.home.read_member().base_name)
        return policy, self._trainer_for(request, folder)

    def _folder(self, run: str) -> Path:
        """Where this domain keeps its optimiser states and logs of a run."""
        if self.home is None:
            return RunFolder(run).node(self.site.domain)
        return self.home.run(run)

    def _trainer_for(self, request: WorkRequest, folder: Path) -> Trainer:
        """The trainer of a run; a new one when the run or its settings have changed."""
        from cogen.node.trainer import Trainer

        if self._trainer is None or self._trainer[0] != folder or self._trainer[1].settings != request.settings:
            self._trainer = folder, Trainer(request.settings, self.site.domain, self.site.data, self.site.base, folder)
        return self._trainer[1]

    def _reply_once(self, request: WorkRequest, kind: type[WorkReply], work: Callable[[], WorkReply]) -> WorkReply:
        """Do the work, unless this very request was answered before; a simulation keeps no replies."""
        if self.home is None:
            return work()
        key, replies = request_key(request), self._folder(request.run) / "replies"
        if (known := load_reply(replies, key, kind)) is not None:
            return known
        append_line(self.home.work, {"action": request.kind, "run": request.run, "round": request.round})
        reply = work()
        keep_reply(replies, key, reply)
        return reply


def _train(trainer: Trainer, request: TrainRequest) -> TrainReply:
    trained = trainer.train(request.round, to_factors(request.arrays, request.settings.train.scaling))
    figures = Figures(
        num_tokens=trained.num_tokens,
        seconds=round(trained.seconds, 4),
        bits_per_byte_before=trained.bits_per_byte_before,
        bits_per_byte_after=trained.bits_per_byte_after,
    )
    arrays, fingerprint = to_arrays(trained.factors), trainer.base.info.fingerprint
    return TrainReply(domain=trainer.domain, fingerprint=fingerprint, figures=figures, arrays=arrays)


def _evaluate(trainer: Trainer, request: EvaluateRequest) -> EvaluateReply:
    scaling = request.settings.train.scaling
    models = {name: to_factors(request.arrays, scaling, f"{name}/") for name in request.models}
    scores = {
        cell.model: Score(bits_per_byte=cell.bits_per_byte, num_bytes=cell.num_bytes, num_tokens=cell.num_tokens)
        for cell in trainer.evaluate(models)
    }
    return EvaluateReply(domain=trainer.domain, scores=scores)


def _reply_bytes(request: TrainRequest) -> int:
    """Bytes of the factors that the reply will hold, from the shapes of the global ones."""
    shapes: Mapping[str, tuple[int, ...]] = {name: array.shape for name, array in request.arrays.items()}
    modules = {n[:-2]: (shapes[f"{n[:-2]}.b"][0], shape[1]) for n, shape in shapes.items() if n.endswith(".a")}
    return sum(FLOAT_BYTES * rows * columns for rows, columns in reply_shapes(modules, request.settings.rank).values())


def request_key(request: WorkRequest) -> str:
    """sha256 over all that the reply depends on: kind, round, settings and every array; not the name of the run."""
    fields = {key: value for key, value in pack(request).header.items() if key != "run"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(request.arrays):
        array = request.arrays[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_reply(folder: Path, key: str, kind: type[AnyMessage]) -> AnyMessage | None:
    """The kept reply to the request of this key; None where there is none, or not a whole one."""
    place = folder / key
    try:
        frame = Frame(json.loads((place / HEADER).read_bytes()), load((place / ARRAYS).read_bytes()))
        return unpack(frame, kind)
    except (OSError, ValueError, SafetensorError, MessageError):
        return None


def keep_reply(folder: Path, key: str, reply: Message) -> None:
    """Write a reply, whole or not at all; only the newest NUM_KEPT stay.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    frame = pack(reply)
    write_folder(folder / key, {HEADER: json.dumps(frame.header).encode(), ARRAYS: save(dict(frame.arrays))})
    kept = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    for old in kept[:-NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
