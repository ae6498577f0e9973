"""The findings of the doctor on both sides of each limit, and its proposals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogen.base import describe_base
from cogen.config import Train, load_config
from cogen.data.card import CorpusCost
from cogen.data.prepare import prepared_from
from cogen.flower.bundle import installed_app_sha256
from cogen.node.doctor import (
    Check,
    Proposal,
    check_corpus,
    check_machine,
    check_matrix_rate,
    check_round,
    check_versions,
    free_memory_bytes,
    proposal_text,
    propose,
    worst,
)
from cogen.node.home import NodeHome
from cogen.node.round_spec import RoundSpec, default_round_spec, round_spec
from tests.conftest import SEEDS
from tests.shell import Cogen
from tests.stub_gateway import StubGateway, running_stub

GB = 10**9
ASKED = Train(tokens_per_round=20_000, sequence_length=500, batch_size=4, rank=16)


def cost_of(settings: Train) -> CorpusCost:
    """1 GB, 1 GB a block, 0.1 GB a rank; 100 tokens a second."""
    memory = 1000 + 1000 * settings.batch_size + 100 * settings.rank
    tokens = settings.tokens_per_round
    return CorpusCost(tokens, 100.0, tokens / 6000, 0.0, memory, 4.0)


@pytest.mark.parametrize(
    ("free_gb", "deadline", "memory", "time"),
    [(6.5, 200, "problem", "problem"), (7.0, 210, "warning", "warning"), (8.3, 251, "ok", "ok")],
)
def test_a_round_must_fit_memory_and_time(free_gb: float, deadline: float, memory: str, time: str) -> None:
    """6.6 GB and 200 s: beyond four fifths it is a warning, beyond all of it a problem."""
    fits, ends, sent = check_round(cost_of(ASKED), deadline - 1, int(free_gb * GB))
    assert (fits.state, ends.state, sent.state) == (memory, time, "ok")
    assert bool(fits.fix) == (memory != "ok")


def test_the_batch_gives_way_before_the_rank_and_tokens_fit_the_deadline() -> None:
    assert propose(ASKED, 1e6, 100 * GB, cost_of).__dict__ == {
        "rank": 16,
        "batch_size": 4,
        "tokens_per_round": 20_000,
        "minutes": 20_000 / 6000,
        "peak_memory_mb": 6600,
        "is_late": False,
    }
    small = propose(ASKED, 100.0, 6 * GB, cost_of)  # 4.8 GB may be planned: two blocks take 4.6
    assert (small.batch_size, small.rank, small.tokens_per_round) == (2, 16, 8000)
    least = propose(ASKED, 1.0, 1 * GB, cost_of)
    assert (least.batch_size, least.rank, least.tokens_per_round) == (1, 4, 500)
    assert least.is_late and not small.is_late


@pytest.mark.parametrize(
    ("min_tokens", "tokens"), [(0, 8000), (4096, 8000), (8001, 8500), (20_000, 20_000), (10**6, 20_000)]
)
def test_a_proposal_is_not_below_the_policys_least(min_tokens: int, tokens: int) -> None:
    """Of 20,000 tokens 8,000 meet the deadline. Red: lines for policy.toml with which it allows no round at all."""
    found = propose(ASKED, 100.0, 6 * GB, cost_of, min_tokens)
    assert (found.tokens_per_round, found.is_late) == (tokens, tokens == 20_000)
    assert found.limits(ASKED).get("max_tokens_per_round", 10**9) >= min_tokens or min_tokens > 20_000
    assert ("round_deadline_seconds" in proposal_text(found, ASKED, Path("p"))) == found.is_late


def test_a_corpus_must_hold_a_block_and_should_hold_a_round() -> None:
    found = [check_corpus(n, ASKED) for n in (499, 500, 20_000)]
    assert [c.state for c in found] == ["problem", "warning", "ok"]
    assert "40.0 times" in found[1].fix


def test_the_worst_finding_counts(tmp_path: Path) -> None:
    ok, warning, problem = (Check("x", s, "") for s in ("ok", "warning", "problem"))  # type: ignore[arg-type]
    assert worst([ok, warning, ok]) == "warning"
    assert worst([warning, problem]) == "problem"
    assert worst([ok]) == "ok"
    assert {c.name for c in check_machine(tmp_path / "not" / "made")} == {"cores", "memory", "disk", "gpu"}
    assert check_versions({"torch": "2", "flwr": "unknown", "cogen-ai": "1"}).fix == "Install flwr."


def test_the_command_measures_and_proposes(cogen: Cogen, config_file: Path, tmp_path: Path) -> None:
    """Real steps of the tiny base; a corpus that is not there stops it with exit code 2."""
    code, out, _ = cogen("doctor", config_file, "--data", SEEDS / "grid.jsonl", "--json")
    found = json.loads(out)
    states = {c["name"]: c["state"] for c in found["checks"]}
    assert code == (2 if "problem" in states.values() else 0)
    assert {"versions", "memory", "matrix rate", "base", "corpus", "round memory", "round time"} <= set(states)
    assert (found["proposal"]["rank"], found["proposal"]["tokens_per_round"]) == (4, 512)
    code, out, _ = cogen("doctor", config_file, "--data", tmp_path / "none")
    assert code == 2
    assert "problem training" in " ".join(out.split())


# By an invite


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubGateway]:
    monkeypatch.setattr("cogen.node.doctor.check_matrix_rate", lambda: check_matrix_rate(0.1))
    with running_stub(tmp_path / "federation") as made:
        yield made


def examined(
    cogen: Cogen, gateway: StubGateway, base: Path, place: Path, asks: RoundSpec | None
) -> tuple[int, dict[str, Any]]:
    """The doctor's exit code and findings for a healthy invite, in a member's folder of its own."""
    fingerprint = describe_base(str(base)).fingerprint
    invite = place / "one.invite"
    invite.write_text(gateway.invite(str(base), fingerprint, installed_app_sha256(), round=asks).to_toml())
    more = ("--data", SEEDS / "grid.jsonl", "--folder", place / "member", "--json")
    code, out, err = cogen("doctor", invite, *more)
    assert out, err
    return code, json.loads(out)


def texts(found: dict[str, Any]) -> dict[str, str]:
    return {c["name"]: f"{c['state']} {c['text']}" for c in found["checks"]}


def test_an_invite_is_measured_by_its_own_round(
    cogen: Cogen, gateway: StubGateway, config_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """512 tokens at rank 4, not the 20,480 at rank 16 of the defaults. Red: the defaults measured in any case."""
    config = load_config(config_file)
    asks, home = round_spec(config, config.domains[1]), NodeHome(tmp_path / "member")
    code, found = examined(cogen, gateway, tiny_folder, tmp_path, asks)
    assert (code, texts(found)["round"]) == (2, "problem rank 4, 512 tokens, 2 blocks of 64 a step")  # by the policy
    (first,) = prepared_from(SEEDS / "grid.jsonl", home.prepared)
    assert texts(found)["prepared text"].endswith(f"MB in {home.prepared}")
    assert "a run is 2 rounds" in next(c["fix"] for c in found["checks"] if c["name"] == "round")
    home.policy.write_text("fresh_starts = false\n")
    code, found = examined(cogen, gateway, tiny_folder, tmp_path, asks)
    assert "allows none of less than 4096" in next(c["fix"] for c in found["checks"] if c["name"] == "round")
    home.policy.write_text("fresh_starts = false\nmin_tokens_per_round = 512\n")
    home.settings.write_text("[heldout]\nheldout_frac = 0.5\n")
    tokens = {texts(found)["corpus"]}
    code, found = examined(cogen, gateway, tiny_folder, tmp_path, asks)
    said = texts(found)
    assert (code, found["policy"]) == (0, {}), said
    assert said["corpus"] not in tokens and len(prepared_from(SEEDS / "grid.jsonl", home.prepared)) == 2
    assert first.is_dir() and not prepared_from(SEEDS / "grid.jsonl", tmp_path)
    assert said["round"] == "ok rank 4, 512 tokens, 2 blocks of 64 a step"
    assert "a round of 512 tokens" in said["round time"] and said["round time"].endswith("of 360")
    assert said["coordinator"].startswith("ok localhost") and said["app"].startswith("ok")
    assert (found["proposal"]["rank"], found["proposal"]["batch_size"]) == (4, 2)
    assert found["proposal"]["tokens_per_round"] == 512


def test_what_is_too_much_for_the_machine_is_limited_by_the_lines_to_paste(
    cogen: Cogen, gateway: StubGateway, tiny_folder: Path, tmp_path: Path
) -> None:
    """Pasted, they are what is measured. Red: a policy that the doctor does not read, or lines that it does not print."""
    asks = default_round_spec().model_copy(
        update={"tokens_per_round": 10**9, "sequence_length": 64, "rank": 4, "round_deadline_seconds": 20.0}
    )
    code, found = examined(cogen, gateway, tiny_folder, tmp_path, asks)
    assert code == 2 and texts(found)["round time"].startswith("problem")
    (limit,) = found["policy"].items()
    assert limit[0] == "max_tokens_per_round" and 64 <= limit[1] < 10**7
    (tmp_path / "member" / "policy.toml").write_text(f"{limit[0]} = {limit[1]}\n")
    _, found = examined(cogen, gateway, tiny_folder, tmp_path, asks)
    assert texts(found)["round"] == f"ok rank 4, {limit[1]} tokens, 1 blocks of 64 a step (within policy.toml)"
    assert f"a round of {limit[1]} tokens" in texts(found)["round time"]


def test_an_invite_that_says_nothing_of_its_rounds_is_measured_by_the_defaults_and_says_so(
    cogen: Cogen, gateway: StubGateway, tiny_folder: Path, tmp_path: Path
) -> None:
    _, found = examined(cogen, gateway, tiny_folder, tmp_path, None)
    assert texts(found)["round"] == "warning rank 16, 20000 tokens, 1 blocks of 512 a step"


def test_the_proposal_is_told_as_lines_of_the_policy_and_a_request() -> None:
    """The batch is for all domains, and no domain's to choose. Red: a limit where nothing gives way."""
    policy = Path("member/policy.toml")
    same = Proposal(ASKED.rank, ASKED.batch_size, ASKED.tokens_per_round, 1.0, 100.0)
    assert proposal_text(same, ASKED, policy).count("\n") == 0
    less = proposal_text(Proposal(8, 2, 8000, 1.0, 100.0), ASKED, policy).splitlines()
    assert less[1:] == [
        "so that no more is asked of this machine, put into member/policy.toml:",
        "max_rank = 8",
        "max_tokens_per_round = 8000",
        "and ask the coordinator for train.batch_size = 2, which is for all domains",
    ]


def test_free_memory_is_the_gpus_where_training_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 GB free and 2 GB that this process keeps for itself. Red: the machine's own memory."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (3 * GB, 80 * GB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 2 * GB)
    assert free_memory_bytes("cuda") == 5 * GB
    assert free_memory_bytes("cpu") != 5 * GB
