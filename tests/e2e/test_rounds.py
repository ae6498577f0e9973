"""Rounds with budgets, changing members, stragglers, repeated replies, sampling, suspension, bad clients, validation."""

from __future__ import annotations

import copy
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict

from cogen.adapter import Adapter, factor_digest
from cogen.config import load_config
from cogen.errors import FederationError
from cogen.evaluate.matrix import Evaluation
from cogen.merge.factored import leading, norm, stack
from cogen.report.page import render
from cogen.report.reader import read_run
from cogen.runs import RunFolder, read_lines
from server import rounds
from server.aggregate import aggregate
from server.requests import draw
from server.server_app import app as server_app
from server.server_app import deployment
from tests.deployed_grid import DeployedGrid, write_members
from tests.e2e.test_federation import edit, silence
from tests.in_process_grid import Fault, InProcessGrid
from tests.message_content import header_of

DOMAINS = ["clinical", "grid", "materials"]
Deploy = Callable[..., tuple[RunFolder, DeployedGrid]]


@pytest.fixture
def deploy(tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Start the ServerApp as in a deployment; called again with the same name, it resumes."""
    folder = tmp_path / "federation"
    monkeypatch.setenv("COGEN_FEDERATION", str(folder))

    def go(*overrides: str, name: str = "run", connected: set[int] | None = None, **options: Any) -> Any:
        run = RunFolder(folder / "runs" / name)
        if not run.config.exists():
            run.create(load_config(config_file, overrides).to_toml())
        if not (folder / "members.json").exists():
            write_members(folder, DOMAINS)
        grid = DeployedGrid(run, len(DOMAINS), **options)
        grid.connected = grid.connected if connected is None else connected
        server_app(grid, Context(1, 0, {}, RecordDict(), {"run": name, "config": ""}))
        return run, grid

    return go


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_lines(run.events_path) if e["event"] == kind]


def weights_of(run: RunFolder) -> bytes:
    return (run.merged / "adapter_model.safetensors").read_bytes()


def parents(run: RunFolder, number: int) -> dict[str, float]:
    about = json.loads((run.round(number) / "round.json").read_text())
    return {p["name"]: p["weight"] for p in about["parents"]}


def times(factor: float) -> Fault:
    """A client update that is larger: B times a factor, in round 1 the whole client update."""
    return edit(lambda arrays: {k: v * np.float32(factor if k.endswith(".b") else 1) for k, v in arrays.items()})


def in_round(number: int, fault: Fault) -> Fault:
    def chosen(message: Message, reply: Message) -> Message | None:
        return fault(message, reply) if header_of(message)["round"] == number else reply

    return chosen


def test_each_domain_trains_what_its_own_policy_allows(deploy: Deploy, config_file: Path) -> None:
    """Rank 2 of 4, 200 tokens in whole blocks of 64, 128 by the config; no path leaves; numbers stay where they must.

    Red: limits are not sent down. Red: 200 tokens are rounded up to 256. Red: replies are checked by the config's rank.
    """
    text = config_file.read_text()
    config_file.write_text(text.replace('name = "materials"\n', 'name = "materials"\ntokens_per_round = 128\n'))
    limits = {0: {"evaluates": False}, 1: {"max_rank": 2, "max_tokens_per_round": 200, "evaluates": True}}
    run, grid = deploy("federation.num_rounds=1", limits=limits)
    assert {p.name: Adapter.load(p).rank for p in (run.round(1) / "clients").iterdir()} == {
        "clinical": 4,
        "grid": 2,
        "materials": 4,
    }
    tokens = {e["domain"]: e["num_tokens"] for e in events(run, "client_replied")}
    assert tokens == {"clinical": 512, "grid": 192, "materials": 128}
    (registry,) = events(run, "client_registry")
    assert {c["domain"]: (c["rank"], c["tokens_per_round"], c["evaluates"]) for c in registry["clients"]} == {
        "clinical": (4, 512, False),
        "grid": (2, 192, True),
        "materials": (4, 128, True),
    }
    for _, _, request in grid.requests:
        assert request["run"] == run.read_id()
        assert str(run.path.parent) not in json.dumps(request)
    cells = json.loads(run.evaluation.read_text())["cells"]
    assert {c["domain"] for c in cells} == {"grid", "materials"}
    (kept,) = events(run, "client_dropped")
    assert kept["domain"] == "clinical" and "its policy keeps held-out scores" in kept["reason"]
    shutil.rmtree(run.path / "nodes")  # in a deployment it is elsewhere
    page = render(read_run(run.path))
    assert "materials" in page and "combined" in page


def test_an_expert_stays_with_its_domain_unless_its_policy_shares_it(deploy: Deploy) -> None:
    """Grid keeps its expert, clinical shares, materials scores no experts of others; each scores its own.

    Red: the arrays of grid's expert in any request, its own included; an empty cell without a reason.
    """
    own, shares = {"shares_expert": False}, {"shares_expert": True}
    limits = {0: shares, 1: own, 2: {**own, "max_shared_experts": 0}}
    run, grid = deploy("federation.num_rounds=1", limits=limits)
    cells = {(c["model"], c["domain"]) for c in json.loads(run.evaluation.read_text())["cells"]}
    everywhere = {(model, domain) for model in ("base", "combined") for domain in DOMAINS}
    assert cells == everywhere | {(f"expert:{d}", d) for d in DOMAINS} | {("expert:clinical", "grid")}
    gaps = {(g["model"], g["domain"]): g["reason"] for g in json.loads(run.evaluation.read_text())["not_measured"]}
    kept, full = "not shared by its domain", "the domain scores no more experts of others"
    assert gaps == {
        ("expert:clinical", "materials"): full,
        ("expert:grid", "clinical"): kept,
        ("expert:grid", "materials"): kept,
        ("expert:materials", "clinical"): kept,
        ("expert:materials", "grid"): kept,
    }
    sent = {node: {name.partition("/")[0] for name in names} for node, kind, names in grid.arrays if kind == "evaluate"}
    assert sent == {0: {"expert:clinical", "combined"}, 1: {"expert:clinical", "combined"}, 2: {"combined"}}
    shutil.rmtree(run.path / "nodes")
    page = render(read_run(run.path))
    assert "Not measured" in page and kept in page


def test_a_limit_below_one_block_keeps_a_domain_out(deploy: Deploy) -> None:
    run, _ = deploy(
        "federation.num_rounds=1", "federation.connect_wait_seconds=0", limits={1: {"max_tokens_per_round": 63}}
    )
    assert parents(run, 1).keys() == {"clinical", "materials"}
    reasons = [e["reason"] for e in events(run, "client_dropped") if e["domain"] == "grid" and e["round"] == 1]
    assert len(reasons) == 1 and "at least one block, 64 tokens, got 63 tokens a round" in reasons[0]


def test_members_are_read_anew_before_each_round(deploy: Deploy, tmp_path: Path) -> None:
    """Revoked in round 1, out in round 2; enrolled in round 1, in from round 2. Red: the client registry is read once."""
    folder = tmp_path / "federation"
    write_members(folder, DOMAINS[:2])

    def change(grid: DeployedGrid, message: Message) -> None:
        if header_of(message)["round"] == 1:
            write_members(folder, DOMAINS, revoked=["grid"])

    run, grid = deploy(
        "federation.min_valid_clients=1", "federation.num_rounds=2", "federation.connect_wait_seconds=0", before=change
    )
    assert {k: sorted(v) for k, v in grid.asked().items()} == {1: [0, 1], 2: [0, 2]}
    assert [e for e in events(run, "client_dropped") if e["domain"] == "grid" and "revoked" in e["reason"]]


@pytest.mark.parametrize("robust", ["none", "clip"])
def test_a_late_reply_enters_the_next_round(deploy: Deploy, robust: str) -> None:
    """At half its weight, its client update taken against round 0; it is not asked again while it owes one.

    Red: the client update is taken against the current factors. Red: the weight is not halved.
    """
    held: list[Message] = []

    def hold(message: Message, reply: Message) -> None:
        held.append(reply)

    def release(grid: DeployedGrid, message: Message) -> None:
        if header_of(message)["round"] == 2 and held:
            reply = held.pop()
            grid.replies[reply.metadata.reply_to_message_id] = reply

    settings = [f"federation.robust={robust}", "federation.robust_clip=1000", "federation.stragglers=next"]
    settings += ["federation.round_deadline_seconds=1", "federation.server_rank=32"]
    run, grid = deploy(*settings, faults={1: in_round(1, hold)}, before=release)
    assert {k: sorted(v) for k, v in grid.asked().items()} == {1: [0, 1, 2], 2: [0, 2]}
    assert parents(run, 1) == {"clinical": 0.5, "materials": 0.5}
    weights = parents(run, 2)
    assert {d: round(w, 9) for d, w in weights.items()} == {"clinical": 0.4, "grid": 0.2, "materials": 0.4}
    (late,) = [e for e in events(run, "client_replied") if e.get("rounds_late")]
    assert (late["domain"], late["round"], late["rounds_late"]) == ("grid", 2, 1)
    glob = [Adapter.load(run.round(n) / "global").factors for n in range(3)]
    clients = {d: Adapter.load(run.round(2) / "clients" / d).factors for d in weights}
    for name in glob[0]:
        wanted = glob[1][name].delta()
        for domain, factors in clients.items():
            start = glob[0 if domain == "grid" else 1][name]
            step = factors[name].delta() - leading(start, factors[name].rank)[0].delta()
            assert float(step.norm()) > 0
            wanted = wanted + weights[domain] * step
        assert float((glob[2][name].delta() - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_a_domain_that_stays_silent_is_not_waited_for_twice(deploy: Deploy) -> None:
    """With late = next its old message is waited for in one more round, then it is asked again."""
    settings = ["federation.stragglers=next", "federation.round_deadline_seconds=0.5", "federation.num_rounds=3"]
    _, grid = deploy(*settings, "federation.max_failures=9", faults={1: silence})
    assert {k: sorted(v) for k, v in grid.asked().items()} == {1: [0, 1, 2], 2: [0, 2], 3: [0, 1, 2]}


def test_doubled_and_replayed_answers_change_nothing(deploy: Deploy) -> None:
    """An answer given twice, one of round 1 in round 2, one from another node. Red: the last one counts."""
    old: list[Message] = []

    def double(message: Message, reply: Message) -> Message:
        old.append(copy.deepcopy(reply))
        return reply

    def replay(grid: DeployedGrid, message: Message) -> None:
        if header_of(message)["round"] == 2 and old:
            grid.extra.append(copy.deepcopy(old[0]))

    run, _ = deploy(faults={1: double}, before=replay)
    whole, _ = deploy(name="whole")
    assert weights_of(run) == weights_of(whole)
    refused = events(run, "reply_rejected")
    assert refused and all("node 101 to no open request" in e["reason"] for e in refused)
    assert not events(whole, "reply_rejected")


def test_a_client_that_keeps_failing_is_suspended_until_a_resume(deploy: Deploy) -> None:
    """Flower's codes are told plainly. Red: it is asked in round 3; it is not told; failures outlive the start."""

    def dies(message: Message, reply: Message) -> Message:
        return Message(Error(code=8, reason="exit -9 in /home/someone"), reply_to=message)

    run, grid = deploy("federation.num_rounds=3", "federation.max_failures=2", faults={2: dies})
    assert {k: sorted(v) for k, v in grid.asked().items()} == {1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1]}
    (aside,) = events(run, "client_suspended")
    assert (aside["domain"], aside["round"]) == ("materials", 2)
    told = [(node, r["round"], r["num_failures"]) for node, kind, r in grid.requests if kind == "query.suspend"]
    assert told == [(2, 2, 2)]
    reasons = [e["reason"] for e in events(run, "client_dropped") if e["round"] == 1]
    assert ["domain 'materials'" in r and "the app died at its node" in r and "/home" not in r for r in reasons] == [
        True
    ]
    shutil.rmtree(run.round(3))
    _, again = deploy()
    assert sorted(again.asked()[3]) == [0, 1, 2]


def test_a_round_asks_a_sample_and_replaces_who_is_not_there(deploy: Deploy) -> None:
    """Two of three by the seed; after a resume the same, bit for bit.

    Red: the sample depends on the start or on the order. Red: a domain that was not asked in round 2 has lost the state
    of round 1 when it is asked for round 3 again.
    """
    settings = ["federation.fraction_train=0.5", "federation.min_valid_clients=1", "federation.num_rounds=3"]
    settings += ["federation.connect_wait_seconds=0", "train.seed=2"]
    run, grid = deploy(*settings)
    wanted = {n: sorted(DOMAINS.index(d) for d in draw(DOMAINS, 2, n)[:2]) for n in range(1, 4)}
    assert {k: sorted(v) for k, v in grid.asked().items()} == wanted
    assert wanted == {1: [0, 2], 2: [0, 1], 3: [1, 2]}
    shutil.rmtree(run.round(3))
    before = weights_of(run)
    _, again = deploy(*settings)
    assert {k: sorted(v) for k, v in again.asked().items()} == {3: wanted[3]}
    assert weights_of(run) == before
    order = draw(DOMAINS, 2, 1)
    gone, stays = order[0], sorted(DOMAINS.index(d) for d in order[1:])
    there = {0, 1, 2} - {DOMAINS.index(gone)}
    short, third = deploy(*settings[:2], "federation.num_rounds=1", *settings[3:], name="short", connected=there)
    assert sorted(third.asked()[1]) == stays
    out = [e for e in events(short, "client_dropped") if e["round"] == 1]
    assert [e["domain"] for e in out] == [gone] and "is not connected" in out[0]["reason"]


def test_too_few_nodes_end_the_run_after_a_while(deploy: Deploy) -> None:
    settings = ["federation.connect_wait_seconds=0", "federation.min_connected_wait_seconds=0.3"]
    with pytest.raises(FederationError, match=r"at least 2 domains that can be asked, got 1 of 3"):
        deploy(*settings, connected={1})
    run, _ = deploy()
    assert run.last_complete_round() == 2


@pytest.mark.parametrize(("needed", "back"), [(3, True), (2, False), (3, False)])
def test_a_node_that_flower_gave_up_is_asked_again_when_it_is_back(
    needed: int, back: bool, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waited for where the round would fail without it, and for no longer than a round waits for connections.

    Red: its error is taken for its answer. Red: a round that has enough waits for it.
    """
    monkeypatch.setattr("server.collection.LOOK_SECONDS", 0.05)
    grids: list[DeployedGrid] = []

    def give_up(message: Message, reply: Message) -> Message:
        grid = grids[0]
        if grid.asked()[1].count(1) > 1:
            return reply
        grid.connected.discard(1)
        if back:
            threading.Timer(0.5, grid.connected.add, [1]).start()
        return Message(Error(code=5, reason="Node Unavailable"), reply_to=message)

    def note(grid: DeployedGrid, message: Message) -> None:
        grids.append(grid)

    settings = [
        f"federation.min_valid_clients={needed}",
        "federation.connect_wait_seconds=0",
        "federation.num_rounds=1",
    ]
    settings.append(f"federation.min_connected_wait_seconds={600 if back or needed == 2 else 0.3}")
    if needed == 3 and not back:
        with pytest.raises(FederationError, match=r"at least 3 valid replies, got 2 of 3"):
            deploy(*settings, faults={1: in_round(1, give_up)}, before=note)
        assert grids[0].asked()[1].count(1) == 1
        return
    run, grid = deploy(*settings, faults={1: in_round(1, give_up)}, before=note)
    assert sorted(grid.asked()[1]) == ([0, 1, 1, 2] if back else [0, 1, 2])
    out = [e for e in events(run, "client_dropped") if e["round"] == 1]
    if back:
        assert not out
        assert [e["domain"] for e in events(run, "client_retried")] == ["grid"]
        assert weights_of(run) == weights_of(deploy(*settings, name="undisturbed")[0])
    else:
        assert [e["domain"] for e in out] == ["grid"] and "its node is gone" in out[0]["reason"]
        assert parents(run, 1).keys() == {"clinical", "materials"}


@pytest.mark.parametrize("factor", [30.0, -30.0])
def test_a_bad_client_moves_a_clipped_round_by_no_more_than_its_bound(deploy: Deploy, factor: float) -> None:
    """Below all other bounds, so that only the clip, the default, can stop it. Red: `deployed` is not called."""
    limits = ("federation.max_norm_ratio=1000", "federation.server_rank=12")
    run, _ = deploy("federation.num_rounds=1", *limits, faults={1: times(factor)})
    (done,) = events(run, "round_finished")
    norms = done["norms"]
    assert norms["grid"] > 5 * max(norms["clinical"], norms["materials"])
    median = sorted(norms.values())[1]
    glob = [Adapter.load(run.round(n) / "global").factors for n in (0, 1)]
    moved = sum(norm(stack([glob[1][m], glob[0][m]], [1.0, -1.0])) ** 2 for m in glob[0]) ** 0.5
    assert 0 < moved <= median * (1 + 1e-4)
    assert done["weights"]["grid"] * norms["grid"] <= median / 3 * (1 + 1e-6)


def test_an_update_far_above_the_rounds_median_is_dropped(deploy: Deploy) -> None:
    """Red: no look at the norms once the replies are there."""
    run, _ = deploy("federation.num_rounds=1", faults={1: times(30.0)})
    assert parents(run, 1).keys() == {"clinical", "materials"}
    (out,) = events(run, "client_dropped")
    assert out["domain"] == "grid" and "times the round's median" in out["reason"]


def test_an_update_that_worsens_public_text_is_dropped(deploy: Deploy) -> None:
    """Red: the client update is scored without the global factors, or not at all."""
    text = Path(__file__).parents[2] / "seeds" / "education.jsonl"
    settings = [f"federation.validation={text}", "federation.validation_tokens=256", "federation.num_rounds=1"]
    settings += ["federation.validation_max_worse_bpb=0.02"]  # a random base at 4.6 has little to lose
    run, _ = deploy(*settings, faults={1: times(-30.0)})
    assert parents(run, 1).keys() == {"clinical", "materials"}
    (out,) = events(run, "client_dropped")
    assert out["domain"] == "grid" and "at most 0.02 bits per byte worse, got +" in out["reason"]


@pytest.mark.parametrize(("name", "inside"), [("run", True), ("", False), ("..", False), ("a/b", False), ("/a", False)])
def test_only_a_bare_name_is_a_run_of_the_federation(
    name: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: any name is joined to the federation's folder."""
    monkeypatch.delenv("COGEN_FEDERATION", raising=False)
    assert deployment(name) is None
    monkeypatch.setenv("COGEN_FEDERATION", str(tmp_path))
    assert deployment(name) == (tmp_path if inside else None)


def test_a_run_whose_later_rounds_do_harm_ends_with_its_best_round(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round turns the model round. Red: merged/ is the last round's adapter."""

    def ruined(config: Any, current: Any, replies: Any, number: int, states: Any = None) -> Any:
        made = aggregate(config, current, replies, number, states)
        factor = 1.0 if number == 1 else -1.0
        factors = {name: replace(f, b=factor * f.b) for name, f in made.factors.items()}
        return replace(made, factors=factors)

    monkeypatch.setattr(rounds, "aggregate", ruined)
    run = RunFolder(tmp_path / "run")
    rules = ["train.tokens_per_round=256", "federation.num_rounds=2", "federation.keep_rounds=1"]
    run.create(load_config(config_file, rules).to_toml())
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    (chosen,) = events(run, "round_chosen")
    assert chosen["round"] == 1 and chosen["bits_per_byte"]["1"] < chosen["bits_per_byte"]["2"]
    first, last = (Adapter.load(run.round(n) / "global").factors for n in (1, 2))
    merged = Adapter.load(run.merged)
    assert factor_digest(merged.factors) == factor_digest(first) != factor_digest(last)
    assert merged.manifest["round"] == 1
    evaluation = Evaluation.load(run.evaluation)
    mean = evaluation.mean_bits_per_byte("combined")
    assert mean == pytest.approx(chosen["bits_per_byte"]["1"]) and "round:1" not in evaluation.models
