"""A member's folder and its real trainer process, for tests without a coordinator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from flwr.app import Message

from cogen.adapter import Factors
from cogen.base import describe_base
from cogen.config import load_config
from cogen.node.home import Membership, NodeHome
from cogen.protocol.messages import FLOWER_TYPES, Request, TrainRequest, pack
from cogen.protocol.settings import work_settings
from tests.forked_program import ForkedProgram
from tests.in_process_grid import InProcessGrid
from tests.message_content import NONCE, content_of

RUN = "0123456789abcdef"
TINY_ROUNDS = (
    "min_tokens_per_round = 0\nmin_tokens_per_step = 0\nmin_documents = 0\nmin_steps = 0\nmax_learning_rate = 0\n"
    "max_adapter_norm = 0\nmin_scored_tokens = 0\nmin_scored_documents = 0\nfresh_starts = false\nprivate_order = false\n"
)
"""A policy for the rounds of tests, seconds long, which protect no text; and with the order of a simulation."""
AS_CONFIGURED = (
    "[heldout]\nheldout_frac = 0.15\nmax_heldout_tokens = 512\nround_heldout_tokens = 128\nsequence_length = 64\n"
)
"""A `domain.toml` with what the tests' configs say."""


def some_member() -> Membership:
    """What a domain `grid` might have joined; nothing of it is there."""
    about = {"federation": "f", "domain": "grid", "address": "localhost:1", "data": "d", "base_name": "b", "base": "b"}
    return Membership.model_validate(about | dict.fromkeys(("weights", "tokenizer", "modules", "app_sha256"), "0" * 64))


def make_home(folder: Path, base: Path, data: Path, domain: str = "grid") -> NodeHome:
    """A folder as `cogen join` leaves it, with a policy for tiny rounds."""
    home = NodeHome(folder)
    home.make()
    home.policy.write_text(TINY_ROUNDS)
    home.settings.write_text(AS_CONFIGURED)
    fingerprint = vars(describe_base(str(base)).fingerprint)
    about = {
        "federation": "test",
        "domain": domain,
        "address": "localhost:1",
        "data": str(data),
        "base_name": "tiny",
        "base": str(base),
    }
    home.write_member(Membership(**about, **fingerprint, app_sha256="0" * 64))
    return home


def start_service(home: NodeHome) -> subprocess.Popen[bytes]:
    """The trainer's own process, as `cogen join` starts it."""
    with open(home.logs / "trainer.log", "ab") as log:
        return ForkedProgram([sys.executable, "-m", "cogen.node.service", str(home.path)], stdout=log, stderr=log)


@contextmanager
def service(home: NodeHome) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer's process for the block."""
    process = start_service(home)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def grid_of(home: NodeHome) -> InProcessGrid:
    """One node, whose ClientApp asks this member's trainer."""
    return InProcessGrid(1, node_config=lambda node: {"socket": str(home.socket), "domain": "grid"})


def ask(grid: InProcessGrid, request: Request) -> Message:
    """The reply to one request."""
    kind = FLOWER_TYPES[type(request)]
    message = Message(content_of(pack(request)), dst_node_id=100, message_type=kind, group_id=NONCE.hex())
    ids = grid.push_messages([message])
    (reply,) = grid.pull_messages(ids)
    return reply


def request(config_file: Path, number: int = 1, overrides: tuple[str, ...] = (), run: str = RUN) -> TrainRequest:
    """What a coordinator asks of the domain `grid` in a round; without factors."""
    config = load_config(config_file, overrides)
    settings = work_settings(config, next(d for d in config.domains if d.name == "grid"))
    return TrainRequest(run=run, round=number, settings=settings)


def some_factors(config_file: Path, seed: int = 0) -> dict[str, Factors]:
    """Global factors that change the model: B is not zero."""
    from server.aggregate import first_global

    config = load_config(config_file)
    start = first_global(describe_base(config.base.name), config)
    made = torch.Generator().manual_seed(seed)
    return {n: Factors(f.a, 0.01 * torch.randn(f.b.shape, generator=made), f.scaling) for n, f in start.items()}
