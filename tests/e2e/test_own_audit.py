"""`max_membership_auc`: a domain attacks its own adapter and does not send one that tells what it was trained on.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from cogen.audit.scores import score_excerpts
from cogen.base import Base, describe_base
from cogen.config import load_config
from cogen.errors import PolicyError
from cogen.node.domain_settings import read_domain_settings
from cogen.node.home import JoinedDomain, NodeHome
from cogen.node.node import Node, Site
from cogen.node.own_audit import audit_windows, own_membership
from cogen.node.receipt import read_receipts
from cogen.node.stopping import go_on
from cogen.node.trainer import split_rank
from cogen.protocol.factors import to_arrays, to_factors
from cogen.protocol.messages import TrainReply, TrainRequest
from cogen.runs import read_lines
from cogen.train.lora import attached
from cogen.train.schedule import plan_round
from server.aggregate import first_global
from tests.conftest import SEEDS
from tests.member import RUN, TINY_ROUNDS, ask, grid_of, make_home, request, service, some_factors

HELD = "[heldout]\nheldout_frac = 0.4\nmax_heldout_tokens = 512\nround_heldout_tokens = 128\nsequence_length = 64\n"
LIMIT = 0.8


def odd_documents(path: Path, num: int = 24) -> Path:
    """Documents that have nothing in common: each is random letters of an alphabet of its own."""
    draw = random.Random(0)
    alphabets = ["".join(chr(33 + 3 * i + j) for j in range(3)) for i in range(num)]
    texts = [" ".join("".join(draw.choices(a, k=4)) for _ in range(70)) for a in alphabets]
    path.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def member(place: Path, base: Path, data: Path, limit: float = LIMIT) -> NodeHome:
    home = make_home(place / "home", base, data)
    home.settings.write_text(HELD)
    set_limit(home, limit)
    return home


def set_limit(home: NodeHome, limit: float) -> None:
    home.policy.write_text(f"{TINY_ROUNDS}max_membership_auc = {limit}\n")


def node_of(home: NodeHome) -> Node:
    about = home.read_member()
    return Node(Site(domain=about.domain, data=about.data, base=about.base), home)


def first_round(config_file: Path, tokens: int) -> TrainRequest:
    """From factors that change nothing, as a run begins."""
    config = load_config(config_file)
    start = to_arrays(first_global(describe_base(config.base.name), config))
    return request(config_file, 1, (f"train.tokens_per_round={tokens}",)).with_arrays(start)


def audits(home: NodeHome) -> list[dict[str, float]]:
    return [line for line in read_lines(home.work) if line["action"] == "audit"]


def num_steps(home: NodeHome) -> int:
    return len(read_lines(home.run(RUN) / "train.jsonl"))


def test_an_adapter_that_remembers_is_not_sent(tmp_path: Path, tiny_folder: Path, config_file: Path) -> None:
    """Red: the audit after the reply is kept; its figure in the reason; a second training of the same round."""
    home = member(tmp_path, tiny_folder, odd_documents(tmp_path / "odd.jsonl"))
    asked = first_round(config_file, 4096)
    with service(home):
        refused = ask(grid_of(home), asked)
        steps = num_steps(home)
        again = ask(grid_of(home), asked)
    reason = (
        "refused by the domain's policy: expected an adapter that passes this domain's own audit, got one that fails it. "
        "The domain's administrator decides; ask for less, or leave this domain out."
    )
    assert [r.error.reason for r in (refused, again)] == [reason, reason]
    assert [(line["kind"], line["error"]) for line in read_receipts(home.receipts)] == [("train", reason)] * 2
    assert not list(home.run(RUN).glob("replies/*"))
    assert not [line for line in read_lines(home.run(RUN) / "models.jsonl") if line["role"] == "own"]
    (line,) = audits(home)
    assert line["auc"] > LIMIT and (line["run"], line["round"], line["limit"]) == (RUN, 1, LIMIT)
    assert steps == num_steps(home) == 32


def test_an_ordinary_adapter_is_sent(tmp_path: Path, tiny_folder: Path, config_file: Path) -> None:
    """Red: another adapter than without the audit; a kept reply that is not audited once the policy asks for it."""
    home = member(tmp_path, tiny_folder, SEEDS / "grid.jsonl", limit=0.0)
    asked, node = first_round(config_file, 2048), node_of(home)
    sent = node.answer(asked)
    assert not audits(home)
    set_limit(home, LIMIT)
    audited = node.answer(asked)
    assert isinstance(sent, TrainReply) and isinstance(audited, TrainReply)
    assert all(np.array_equal(array, audited.arrays[name]) for name, array in sent.arrays.items())
    (line,) = audits(home)
    assert line["low"] < line["auc"] <= LIMIT
    set_limit(home, line["auc"] - 0.01 if line["auc"] > 0.51 else 0.5)
    with pytest.raises(PolicyError, match="one that fails it"):
        node.answer(asked)


def test_with_too_little_text_to_tell_nothing_is_trained(tmp_path: Path, tiny_folder: Path, config_file: Path) -> None:
    """The safe side. Red: a figure from a few windows."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join((SEEDS / "grid.jsonl").read_text().splitlines(keepends=True)[:4]))
    home = member(tmp_path, tiny_folder, few)
    with pytest.raises(PolicyError, match="enough trained and other text for this domain's own audit, got too little"):
        node_of(home).answer(first_round(config_file, 8192))
    assert num_steps(home) == 0 and not read_lines(home.usage)


def test_windows_are_of_the_round_and_of_documents_that_no_round_reached(
    tmp_path: Path, tiny_folder: Path, config_file: Path
) -> None:
    """Red: windows of an earlier round among those of this one; a document of an earlier round among the others."""
    home = member(tmp_path, tiny_folder, SEEDS / "grid.jsonl")
    node = node_of(home)
    asked = request(config_file, 2, ("train.tokens_per_round=1024", "federation.num_rounds=3"))
    trainer = node.trainer_for(
        asked,
        tmp_path,
        read_domain_settings(home.settings),
        JoinedDomain(home.prepared, home.read_member().fingerprint, 7),
    )
    found, plan = audit_windows(trainer, 2), plan_round(asked.settings.train, 2, 3)
    trained = range(plan.first_block, plan.first_block + plan.num_blocks)
    assert {w.block for w in found.members} <= set(trained)
    reached = {place.document for block in range(trained.stop) for place in trainer.data.own.places(block)}
    assert reached.isdisjoint(w.document for w in found.others if not w.is_heldout)
    assert any(w.is_heldout for w in found.others)


def test_the_whole_adapter_is_attacked(tmp_path: Path, tiny_folder: Path, tiny: Base, config_file: Path) -> None:
    """A domain of a lower rank holds directions frozen, which the coordinator has too. Red: without them."""
    home = member(tmp_path, tiny_folder, SEEDS / "grid.jsonl", limit=0.0)
    over = ("train.tokens_per_round=2048",)
    asked = request(config_file, 1, over).with_arrays(to_arrays(some_factors(config_file)))
    asked = asked.model_copy(update={"settings": asked.settings.model_copy(update={"rank": 2})})
    node = node_of(home)
    reply = node.answer(asked)
    assert isinstance(reply, TrainReply) and node._trainer is not None
    trainer, scaling = node._trainer, asked.settings.train.scaling
    windows = audit_windows(trainer, 1)
    found = own_membership(trainer, asked, reply, windows, go_on)
    _, rest = split_rank(to_factors(asked.arrays, scaling), 2, asked.settings.train.seed + 1)
    assert rest
    with attached(tiny.model, to_factors(reply.arrays, scaling), rest):
        after = [score_excerpts(tiny, some).nats for some in (windows.members, windows.others)]
    with attached(tiny.model, to_factors(asked.arrays, scaling)):
        before = [score_excerpts(tiny, some).nats for some in (windows.members, windows.others)]
    one, other = (b - a for b, a in zip(before, after, strict=True))
    auc = (one[:, None] > other).mean()
    assert found.scores[0].score == "ratio"
    assert found.auc.value == pytest.approx(auc, abs=0.005)
