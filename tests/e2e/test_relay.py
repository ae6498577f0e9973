"""A relay: the adapter visits the domains in turn, through the real apps in this process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from cogen.adapter import Adapter, Factors
from cogen.config import RunConfig, load_config
from cogen.errors import ConfigError, FederationError, MergeError
from cogen.merge_folder import recipe_of
from cogen.node.domain_settings import settings_of_run
from cogen.node.trainer import Trainer
from cogen.protocol.factors import num_bytes, through_wire
from cogen.protocol.settings import work_settings
from cogen.runs import RunFolder, read_lines
from cogen.train.schedule import Visit, learning_rate, plan_round
from server import relay
from server.server_app import app as server_app
from tests.in_process_grid import InProcessGrid

RELAY = ("federation.schedule=relay", "train.tokens_per_round=256", "federation.connect_wait_seconds=0")


def made(path: Path, config: Path, *rules: str) -> RunFolder:
    run = RunFolder(path)
    run.create(load_config(config, [*RELAY, *rules]).to_toml())
    return run


def serve(run: RunFolder, grid: InProcessGrid | None = None) -> list[dict[str, Any]]:
    server_app(grid or InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    return read_lines(run.events_path)


def named(events: Iterable[dict[str, Any]], kind: str) -> list[tuple[int, str]]:
    return [(e["round"], e["domain"]) for e in events if e["event"] == kind]


def trained_in_turn(
    config: RunConfig, visits: Iterable[tuple[int, str]], start: dict[str, Factors], place: Path
) -> Any:
    """The adapter after these visits, each trained from the one before, at learning rates that go on."""
    now, done = start, 0
    total = config.federation.num_rounds * sum(config.steps_of(d) for d in config.domains)
    trainers = {
        d.name: Trainer(
            work_settings(config, d), settings_of_run(config), d.name, str(d.data), config.base.name, place / d.name
        )
        for d in config.domains
    }
    for number, domain in visits:
        made = trainers[domain].train(number, now, visit=Visit(first_step=done, total_steps=total)).factors
        now = through_wire(made, config.federation.wire)
        done += config.steps_of(next(d for d in config.domains if d.name == domain))
    return now


def equal(left: Any, right: Any) -> bool:
    return all(torch.equal(left[n].a, right[n].a) and torch.equal(left[n].b, right[n].b) for n in left)


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_each_visit_trains_on_what_the_one_before_left(config_file: Path, tmp_path: Path, wire: str) -> None:
    """Bit for bit the training of one domain after the other, in an order drawn for each round.

    Red: each visit starts from the round's global adapter. Red: every visit has the learning rates of a whole schedule.
    """
    run = made(tmp_path / "run", config_file, "train.seed=3", f"federation.wire={wire}")
    events, config = serve(run), load_config(run.config)
    visits = named(events, "visit_started")
    assert [n for n, _ in visits] == [1] * 3 + [2] * 3
    for number in (1, 2):
        assert sorted(d for n, d in visits if n == number) == sorted(d.name for d in config.domains)
    assert [d for _, d in visits[:3]] != [d for _, d in visits[3:]]
    assert named(events, "client_replied") == visits
    start = dict(Adapter.load(run.round(0) / "global").factors)
    whole = trained_in_turn(config, visits, start, tmp_path / "nodes")
    assert equal(Adapter.load(run.merged).factors, whole)
    assert not (run.path / "visits").exists() and not (run.path / "experts").exists()
    finished = [e for e in events if e["event"] == "round_finished"]
    assert [e["num_valid"] for e in finished] == [3, 3] and "weights" not in finished[0]
    with pytest.raises(MergeError, match="Every domain trained what the others had trained before it"):
        recipe_of(run.merged)
    sent = {e["bytes_up"] for e in events if e["event"] == "client_replied"}
    assert sent == {num_bytes(whole, load_config(run.config).federation.wire)}


def test_the_visits_have_one_schedule_of_learning_rates(config_file: Path) -> None:
    """Together they are the learning rates of one place with all text, whatever the order."""
    config = load_config(config_file, [*RELAY])
    sizes = [128, 256, 512]
    domains = tuple(d.model_copy(update={"tokens_per_round": n}) for d, n in zip(config.domains, sizes, strict=True))
    config = config.model_copy(update={"domains": domains})
    rates: list[float] = []
    for number in (1, 2):
        order = domains if number == 1 else domains[::-1]
        for i, domain in enumerate(order):
            visit = relay.visit_of(config, number, {d.name for d in order[:i]})
            settings = config.train.model_copy(update={"tokens_per_round": config.tokens_of(domain)})
            plan = plan_round(settings, number, 2, visit)
            rates += [learning_rate(settings, plan.first_step + s, plan.total_steps) for s in range(plan.num_steps)]
    assert rates == [learning_rate(config.train, s, len(rates)) for s in range(2 * sum(sizes) // 128)]


class Away(InProcessGrid):
    """The first node is away until so many train messages were answered."""

    def __init__(self, until: int) -> None:
        super().__init__(3)
        self.until = until

    def get_node_ids(self) -> Iterable[int]:
        trained = [m for m in self.seen if m.metadata.message_type == "train"]
        return [100 + i for i in range(3) if i or len(trained) >= self.until]


def first_domain(config: RunConfig, number: int) -> str:
    return relay.draw([d.name for d in config.domains], config.train.seed, number)[0]


def at_first_node(config_file: Path) -> Path:
    """The config with the domains in such an order that the first node's is the first to be visited."""
    config = load_config(config_file, [*RELAY])
    first = first_domain(config, 1)
    domains = sorted(config.domains, key=lambda d: d.name != first)
    path = config_file.with_name("first.toml")
    path.write_text(config.model_copy(update={"domains": tuple(domains)}).to_toml())
    return path


def test_a_domain_that_is_away_is_visited_at_the_end_of_the_round(config_file: Path, tmp_path: Path) -> None:
    """Red: it is dropped from the round."""
    config = at_first_node(config_file)
    run = made(tmp_path / "run", config, "federation.num_rounds=1")
    events = serve(run, Away(until=2))
    visits = named(events, "visit_started")
    domains = [d.name for d in load_config(config).domains]
    assert named(events, "visit_postponed")[0] == (1, domains[0])
    assert [d for _, d in visits][2] == domains[0] and len(visits) == 3
    assert not named(events, "client_dropped")
    start = dict(Adapter.load(run.round(0) / "global").factors)
    assert equal(
        Adapter.load(run.merged).factors, trained_in_turn(load_config(run.config), visits, start, tmp_path / "nodes")
    )


def test_without_a_domain_the_relay_goes_on(config_file: Path, tmp_path: Path) -> None:
    """One that stays away, and one that fails, are dropped with a reason; the next gets what the last one left."""
    config = at_first_node(config_file)
    run = made(tmp_path / "away", config, "federation.num_rounds=1")
    events = serve(run, Away(until=99))
    assert named(events, "client_dropped")[0] == (1, load_config(config).domains[0].name)
    assert [e["num_valid"] for e in events if e["event"] == "round_finished"] == [2]

    failed = made(tmp_path / "failed", config, "federation.num_rounds=1")
    events = serve(failed, InProcessGrid(3, {0: lambda m, r: Message(Error(code=2, reason="no room"), reply_to=m)}))
    visits = [(n, d) for n, d in named(events, "client_replied")]
    assert len(visits) == 2 and "no room" in str([e for e in events if e["event"] == "client_dropped"])
    assert equal(Adapter.load(run.merged).factors, Adapter.load(failed.merged).factors)


def test_too_few_visits_end_the_run(config_file: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", config_file, "federation.min_valid_clients=3")
    fault = {0: lambda m, r: Message(Error(code=2, reason="no room"), reply_to=m)}
    with pytest.raises(FederationError, match=r"round 1 failed: expected at least 3 visits, got 2 of 3"):
        serve(run, InProcessGrid(3, fault))


def test_killed_in_the_middle_of_a_round_it_goes_on_with_the_next_visit(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit as undisturbed, and no visit is made twice. Red: the round begins again."""
    whole, cut = made(tmp_path / "whole", config_file), made(tmp_path / "cut", config_file)
    serve(whole)
    original, count = relay.save_visit, 0

    def killed(*args: Any) -> None:
        nonlocal count
        original(*args)
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(relay, "save_visit", killed)
    with pytest.raises(KeyboardInterrupt):
        serve(cut)
    monkeypatch.undo()
    before = named(read_lines(cut.events_path), "visit_started")
    events = serve(cut)
    assert len(before) == 5 and len(named(events, "visit_started")) == 6
    assert len(named(events, "client_replied")) == 5 + 2 + 1  # the two of the round that began again are told again
    parts = [p for part in ("rounds", "merged") for p in (whole.path / part).rglob("*") if p.is_file()]
    assert len(parts) > 10
    for path in parts:
        assert (cut.path / path.relative_to(whole.path)).read_bytes() == path.read_bytes(), path


def test_a_domain_of_lower_rank_changes_its_directions_of_the_whole_adapter(config_file: Path, tmp_path: Path) -> None:
    """Its update is added: the directions of the others are kept. Red: the next domain gets the lower rank alone."""
    text = config_file.read_text().replace('name = "grid"\n', 'name = "grid"\nrank = 2\n')
    config_file.write_text(text)
    run = made(tmp_path / "run", config_file)
    events = serve(run)
    ranks = {e["domain"]: e["rank"] for e in events if e["event"] == "client_replied"}
    assert sorted(ranks.values()) == [2, 4, 4] and not named(events, "client_dropped")
    assert {f.rank for f in Adapter.load(run.merged).factors.values()} == {4}


def test_an_update_far_above_the_others_is_dropped(config_file: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", config_file, "federation.max_norm_ratio=1.0001", "federation.num_rounds=1")
    events = serve(run)
    dropped = [e["reason"] for e in events if e["event"] == "client_dropped"]
    norms = sum("median of the round's visits" in reason for reason in dropped)
    assert norms == len(dropped) <= 1


@pytest.mark.parametrize(
    "rule", ["method=tsv_m", "robust=median", "server_optimizer=adam", "stragglers=next", "fraction_train=0.5"]
)
def test_what_needs_several_updates_is_refused_by_name(config_file: Path, rule: str) -> None:
    key = rule.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"federation\.{key} = .* in a relay there is one at a time"):
        load_config(config_file, ["federation.schedule=relay", f"federation.{rule}"])
    load_config(config_file, [f"federation.{rule}"])
