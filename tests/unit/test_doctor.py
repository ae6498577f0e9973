"""What the doctor finds, by numbers on both sides of each border, and what it proposes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.config import Train
from cogen.data.card import Cost
from cogen.node.doctor import Check, check_corpus, check_machine, check_round, check_versions, propose, worst
from tests.conftest import SEEDS
from tests.shell import Cogen

GB = 10**9
ASKED = Train(tokens_per_round=20_000, block_tokens=500, batch_blocks=4, rank=16)


def cost_of(settings: Train) -> Cost:
    """1 GB, 1 GB a block, 0.1 GB a rank; 100 tokens a second."""
    memory = 1000 + 1000 * settings.batch_blocks + 100 * settings.rank
    tokens = settings.tokens_per_round
    return Cost(tokens, 100.0, tokens / 6000, 0.0, memory, 4.0)


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
        "batch_blocks": 4,
        "tokens_per_round": 20_000,
        "minutes": 20_000 / 6000,
        "peak_memory_mb": 6600,
    }
    small = propose(ASKED, 100.0, 6 * GB, cost_of)  # 4.8 GB may be planned: two blocks take 4.6
    assert (small.batch_blocks, small.rank, small.tokens_per_round) == (2, 16, 8000)
    least = propose(ASKED, 1.0, 1 * GB, cost_of)
    assert (least.batch_blocks, least.rank, least.tokens_per_round) == (1, 4, 500)


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
