"""`[federation] result = "routed"`: each domain sends its statistics once, if it may, and experts and gate are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from cogen.adapter import Adapter
from cogen.base import load_base
from cogen.config import load_config
from cogen.data.pack import PackedStream
from cogen.errors import ConfigError, PolicyError
from cogen.evaluate.matrix import ROUTED, Evaluation
from cogen.evaluate.models import find_models
from cogen.evaluate.run_scores import score_routed_row
from cogen.node.node import Node, Site
from cogen.node.receipt import read_receipts
from cogen.protocol.factors import GATE_ARRAYS, to_arrays
from cogen.protocol.messages import TrainReply
from cogen.routing.folder import COMMON, RoutedModel
from cogen.runs import RunFolder, read_lines
from cogen.train.corpus import prepare_corpus
from cogen.train.text_states import gate_statistics
from server.aggregate import first_global
from server.server_app import app as server_app
from tests.deployed_grid import DeployedGrid, write_members
from tests.e2e.test_federation import edit
from tests.in_process_grid import Fault, InProcessGrid
from tests.member import ask, grid_of, make_home, request, service

DOMAINS = ["clinical", "grid", "materials"]
ROUND = ("federation.result='routed'", "federation.num_rounds=1")


def simulated(config_file: Path, folder: Path, faults: dict[int, Fault] | None = None) -> RunFolder:
    run = RunFolder(folder)
    if not run.config.exists():
        run.create(load_config(config_file, ROUND).to_toml())
    server_app(InProcessGrid(3, faults), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def last(run: RunFolder, kind: str) -> dict[str, Any]:
    return [e for e in read_lines(run.events_path) if e["event"] == kind][-1]


def test_experts_and_their_statistics_are_kept_and_scored(config_file: Path, tmp_path: Path) -> None:
    """Red: statistics of held-out text, of the adapter, or of one document; a common adapter that is not the combined one."""
    run = simulated(config_file, tmp_path / "run")
    config = load_config(run.config)
    routed = RoutedModel.open(run.routed)
    assert list(routed.experts) == DOMAINS
    assert last(run, "routed") == {**last(run, "routed"), "domains": DOMAINS, "missing": {}}
    base = load_base(config.base.name, device="cpu", precision="float32")
    for domain in DOMAINS:
        assert files_of(routed.experts[domain]) == files_of(run.expert(domain))
        prepared = prepare_corpus(base, config.corpora[domain], config.data, config.evaluate.heldout_frac)
        stream = PackedStream(prepared.train, config.train.sequence_length, config.train.seed)
        expected, found = gate_statistics(base, stream, 8, 8192), routed.opened[domain].gate
        assert found is not None
        assert found.num_tokens == 512
        torch.testing.assert_close(found.mean, expected.mean, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(found.variance, expected.variance, atol=2e-3, rtol=1e-2)
    assert routed.opened[COMMON].digest == Adapter.load(run.merged).digest

    score_routed_row(run, config, lambda _: None)
    evaluation = Evaluation.load(run.evaluation)
    assert evaluation.mean_bits_per_byte(ROUTED) is not None
    assert {s.domain for s in evaluation.routing} == set(DOMAINS)
    score_routed_row(run, config, lambda _: None)
    assert Evaluation.load(run.evaluation) == evaluation
    assert find_models(run.path, {}, None).names[:2] == (ROUTED, "combined")

    before = files_of(run.routed)
    shutil.rmtree(run.routed)
    simulated(config_file, tmp_path / "run")  # as if it had been killed before
    assert files_of(run.routed) == before


Arrays = dict[str, Any]


def without_a_mean(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != "gate/mean"}


def with_another_length(arrays: Arrays) -> Arrays:
    return {**arrays, "gate/mean": arrays["gate/mean"][:-1]}


def as_float32(arrays: Arrays) -> Arrays:
    return {**arrays, "gate/mean": arrays["gate/mean"].astype(np.float32)}


def not_finite(arrays: Arrays) -> Arrays:
    return {**arrays, "gate/mean": np.full_like(arrays["gate/mean"], np.inf)}


def no_variance(arrays: Arrays) -> Arrays:
    return {**arrays, "gate/variance": np.zeros_like(arrays["gate/variance"])}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (without_a_mean, "1 missing (gate/mean)"),
        (with_another_length, "gate/mean (32,)"),
        (as_float32, "float16 gate/mean"),
        (not_finite, "finite means, and variances above 0"),
        (no_variance, "finite means, and variances above 0"),
    ],
)
def test_statistics_that_no_text_has_cost_a_domain_its_place(
    config_file: Path, tmp_path: Path, fault: Any, reason: str
) -> None:
    run = simulated(config_file, tmp_path / "run", {1: edit(fault)})
    (dropped,) = [e for e in read_lines(run.events_path) if e["event"] == "client_dropped" and e["round"] == 1]
    assert dropped["domain"] == "grid"
    assert reason in dropped["reason"]
    assert list(RoutedModel.open(run.routed).experts) == ["clinical", "materials"]


def test_a_base_of_another_size_does_not_end_the_run(config_file: Path, tmp_path: Path) -> None:
    """One domain's statistics have another length than those of the others."""

    def longer(arrays: Arrays) -> Arrays:
        return {**arrays, **{name: np.ones(40, np.float16) for name in GATE_ARRAYS}}

    run = simulated(config_file, tmp_path / "run", {1: edit(longer)})
    assert last(run, "routed")["missing"] == {"grid": "its statistics for the gate are not of this base"}
    assert list(RoutedModel.open(run.routed).experts) == ["clinical", "materials"]


def test_only_who_shares_is_asked_and_kept(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clinical shares all, grid no statistics, materials not its adapter.

    Red: a domain is asked for what it has said that it does not send; its adapter is in the folder that others get.
    """
    folder = tmp_path / "federation"
    monkeypatch.setenv("COGEN_FEDERATION", str(folder))
    run = RunFolder(folder / "runs/run")
    run.create(load_config(config_file, ROUND).to_toml())
    write_members(folder, DOMAINS)
    limits = {1: {"shares_gate": False}, 2: {"shares_expert": False}}
    grid = DeployedGrid(run, 3, limits=limits)
    server_app(grid, Context(1, 0, {}, RecordDict(), {"run": "run", "config": ""}))
    asked = {node: header["settings"]["gate"] for node, kind, header in grid.requests if kind == "train"}
    assert asked == {0: True, 1: False, 2: True}
    assert list(RoutedModel.open(run.routed).experts) == ["clinical"]
    assert last(run, "routed")["missing"] == {
        "grid": "its domain sends no statistics for the gate",
        "materials": "its domain does not share its adapter",
    }
    assert Adapter.load(run.expert("grid")).gate is None
    assert not [name for _, _, names in grid.arrays for name in names if name.startswith("gate/")]


def test_what_was_not_asked_for_is_refused(config_file: Path, tmp_path: Path) -> None:
    def more(arrays: Arrays) -> Arrays:
        return {**arrays, **{name: np.ones(32, np.float16) for name in GATE_ARRAYS}}

    run = RunFolder(tmp_path / "run")
    run.create(load_config(config_file, ("federation.num_rounds=1",)).to_toml())
    context = Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""})
    server_app(InProcessGrid(3, {1: edit(more)}), context)
    (dropped,) = [e for e in read_lines(run.events_path) if e["event"] == "client_dropped" and e["round"] == 1]
    assert "2 unknown (gate/mean)" in dropped["reason"]
    assert not run.routed.exists()


def asked_of_a_member(config_file: Path) -> Any:
    asked = request(config_file, 1, ROUND)
    config = load_config(config_file, ROUND)
    from cogen.base import describe_base

    return asked.with_arrays(to_arrays(first_global(describe_base(config.base.name), config)))


def test_a_domain_sends_statistics_only_if_its_policy_says_so(
    config_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """And the receipt names them. Red: the default allows it; the hello does not say it."""
    home = make_home(tmp_path / "home", tiny_folder, Path(__file__).parents[2] / "seeds/grid.jsonl")
    node = Node(Site(domain="grid", data=str(home.read_member().data), base=str(tiny_folder)), home)
    asked = asked_of_a_member(config_file)
    assert not node.hello().shares_gate
    with pytest.raises(PolicyError, match="no statistics of this domain's text for a gate"):
        node.answer(asked)
    allowed = home.policy.read_text() + "share_gate = true\n"
    home.policy.write_text(allowed.replace("min_documents = 0\n", "min_documents = 9\n"))
    with pytest.raises(PolicyError, match="at least 9 documents"):
        node.answer(asked)
    home.policy.write_text(allowed)
    assert node.hello().shares_gate
    with service(home):
        reply: Message = ask(grid_of(home), asked)
    assert not reply.has_error()
    (receipt,) = [r for r in read_receipts(home.receipts) if not r.get("error")]
    sent = {a["name"]: (a["shape"], a["dtype"]) for a in receipt["arrays"] if "gate/" in a["name"]}
    assert sent == {f"factors/{name}": ([32], "float16") for name in GATE_ARRAYS}
    assert receipt["values"]["message"]["gate_tokens"] == 512


def test_the_adapter_of_a_reply_is_read_without_its_statistics(
    config_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The same bits as without them, and the domain's own record of what it sent."""
    home = make_home(tmp_path / "home", tiny_folder, Path(__file__).parents[2] / "seeds/grid.jsonl")
    home.policy.write_text(home.policy.read_text() + "share_gate = true\n")
    node = Node(Site(domain="grid", data=str(home.read_member().data), base=str(tiny_folder)), home)
    asked = asked_of_a_member(config_file)
    plain = asked.model_copy(update={"settings": asked.settings.model_copy(update={"gate": False}), "run": "other"})
    with_gate, without = node.answer(asked), node.answer(plain)
    assert isinstance(with_gate, TrainReply)
    assert isinstance(without, TrainReply)
    assert set(with_gate.arrays) - set(without.arrays) == set(GATE_ARRAYS)
    assert all(np.array_equal(with_gate.arrays[name], array) for name, array in without.arrays.items())
    own = [line for line in read_lines(home.run(asked.run) / "models.jsonl") if line["role"] == "own"]
    other = [line for line in read_lines(home.run("other") / "models.jsonl") if line["role"] == "own"]
    assert own[0]["sha256"] == other[0]["sha256"]


@pytest.mark.parametrize("more", ["federation.num_rounds=2", "federation.schedule='relay'"])
def test_where_no_experts_are_made_there_is_no_routed_model(config_file: Path, more: str) -> None:
    with pytest.raises(ConfigError, match="only one round side by side"):
        load_config(config_file, ("federation.result='routed'", "federation.num_rounds=1", more))
