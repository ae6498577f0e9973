"""Baselines, seeds and general text of a finished run: trained once, interrupted, resumed, summarized.

The runs are made by the ServerApp in this process; "red" names a change of the code, made once by hand, under
which the test fails.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from cogen.adapter import Adapter, factor_digest
from cogen.base import Base
from cogen.config import RunConfig, load_config
from cogen.errors import DataError, RunError
from cogen.evaluate.baselines import baselines_of, train_baselines
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.run_scores import read_evaluation, score_seed
from cogen.flower.simulate import simulate
from cogen.report.model_card import MODEL_CARD
from cogen.report.progress import compared, num_left_tokens
from cogen.report.reader import RunReader, read_run
from cogen.report.record import RunRecord
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.e2e.test_simulate import PATIENCE_SECONDS, launch, started  # noqa: F401 - a fixture
from tests.in_process_grid import InProcessGrid
from tests.interrupted_training import Interrupted
from tests.shell import Cogen

DOMAINS = ("clinical", "grid", "materials")
GENERAL = (
    "The ferry leaves the harbour at nine and is back before the shops close. Bring a coat, since the wind is cold.",
    "She put the letter on the table, read it twice, and went out to look for her brother in the orchard.",
    "Bread wants flour, water, salt and time. The dough is folded every half hour until it holds its shape.",
)


@pytest.fixture
def general(tmp_path: Path) -> Path:
    path = tmp_path / "general.jsonl"
    path.write_text("".join(json.dumps({"id": f"g{i}", "text": t}) + "\n" for i, t in enumerate(GENERAL)))
    return path


@pytest.fixture
def finished(tmp_path: Path, config_file: Path) -> Callable[..., RunFolder]:
    """A run whose rounds are over."""

    def make(*overrides: str, name: str = "run") -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.create(load_config(config_file, overrides).to_toml())
        server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
        return run

    return make


def scored(run: RunFolder, show: Callable[[dict[str, Any]], None] = lambda event: None) -> RunConfig:
    config = load_config(run.config)
    score_seed(run, config, run.baselines(0), show)
    return config


def files(run: RunFolder, *parts: str) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.path)): p.read_bytes()
        for part in parts
        for p in (run.path / part).rglob("*")
        if p.is_file() and p.name != MODEL_CARD  # written with the report, from the folder's name
    }


def num_trained(run: RunFolder) -> dict[str, int]:
    """Rows of finished baselines, as the events have them."""
    return {e["baseline"]: e["num_tokens"] for e in read_lines(run.events_path) if e["event"] == "baseline_trained"}


@pytest.mark.parametrize("rslora", ["false", "true"])
def test_with_one_round_the_experts_are_the_domains_alone(
    finished: Callable[..., RunFolder], config_file: Path, tiny: Base, tmp_path: Path, rslora: str
) -> None:
    """Trained as a baseline, each is bit for bit the run's own expert, a domain of lower rank too; so none is.

    Red: the lower rank's alpha left as it is; the learning rate's schedule over the tokens of a round.
    """
    text = config_file.read_text().replace('name = "grid"\n', 'name = "grid"\nrank = 2\n', 1)
    config_file.write_text(text)
    run = finished("federation.num_rounds=1", "train.alpha=12", f"train.rslora={rslora}", "evaluate.baselines=true")
    config = load_config(run.config)
    alone = baselines_of(RunFolder(tmp_path / "nowhere"), config, tmp_path / "alone")
    train_baselines(tiny, RunFolder(tmp_path / "nowhere"), config, alone[:-1], lambda event: None)
    for domain in DOMAINS:
        made = Adapter.load(tmp_path / "alone" / "local" / domain)
        assert factor_digest(made.factors) == factor_digest(Adapter.load(run.expert(domain)).factors)
    scored(run)
    assert num_trained(run) == {"centralized": 3 * 512}
    rows = read_evaluation(run).models
    assert rows == ("base", *(f"expert:{d}" for d in DOMAINS), "combined", "centralized")


def test_baselines_of_several_rounds_have_all_their_tokens_and_nothing_is_done_twice(
    finished: Callable[..., RunFolder], general: Path
) -> None:
    """Red: the tokens of one round; general text cut at max_heldout_tokens or held out in part."""
    run = finished("evaluate.baselines=true", f"evaluate.general={general}", "evaluate.max_heldout_tokens=64")
    before = read_evaluation(run)
    scored(run)
    assert num_trained(run) == {**{f"local:{d}": 1024 for d in DOMAINS}, "centralized": 3072}
    for name, tokens in (("local/grid", 1024), ("centralized", 3072)):
        assert Adapter.load(run.baselines(0) / name).manifest["num_tokens"] == tokens
    found = read_evaluation(run)
    rows = ("base", "combined", *(f"local:{d}" for d in DOMAINS), "centralized")
    assert found.models == rows and found.domains == DOMAINS
    assert found.cells[: len(before.cells)] == before.cells
    assert tuple(c.model for c in found.general) == rows
    assert {c.num_bytes for c in found.general} == {sum(len(t.encode()) for t in GENERAL)}
    assert len({c.bits_per_byte for c in found.general}) == len(rows)
    for domain in DOMAINS:  # the same windows as the domain's own
        assert {c.num_bytes for c in found.cells if c.domain == domain} == {
            c.num_bytes for c in before.cells if c.domain == domain
        }
    whole = files(run, "baselines", "evaluation.json")
    events: list[dict[str, Any]] = []
    scored(run, events.append)
    assert events == []
    assert files(run, "baselines", "evaluation.json") == whole


def test_cut_off_between_and_within_baselines_and_scores(
    finished: Callable[..., RunFolder], general: Path, tmp_path: Path
) -> None:
    """Cut in the second baseline and again after one scored row; the rest is as if nothing had happened.

    Red: baselines that start afresh (the file of the state is there, yet step 1 is seen again).
    """
    run = finished("evaluate.baselines=true", f"evaluate.general={general}", "train.checkpoint_seconds=1e-9")
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run.path, other.path)
    scored(other)

    def cut_in_the_second(event: dict[str, Any]) -> None:
        if event["event"] == "baseline_step" and (event["baseline"], event["step"]) == ("local:grid", 3):
            raise Interrupted

    with pytest.raises(Interrupted):
        scored(run, cut_in_the_second)
    assert num_trained(run) == {"local:clinical": 1024}
    seen: list[dict[str, Any]] = []

    def cut_after_a_row(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["event"] == "evaluated":
            raise Interrupted

    with pytest.raises(Interrupted):
        scored(run, cut_after_a_row)
    steps = [(e["baseline"], e["step"]) for e in seen if e["event"] == "baseline_step"]
    assert steps[0] == ("local:grid", 3)
    assert len(read_evaluation(run).general) == 1
    scored(run)
    assert files(run, "baselines", "evaluation.json") == files(other, "baselines", "evaluation.json")
    assert not list(run.path.rglob("*.training"))


def test_a_control_that_fails_is_said_and_dropped_until_it_is_mended(finished: Callable[..., RunFolder]) -> None:
    run = finished("evaluate.baselines=true", "federation.num_rounds=1")
    state = run.baselines(0) / ".centralized.training"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"half of one")
    seen: list[dict[str, Any]] = []
    scored(run, seen.append)
    (said,) = [e for e in seen if e["event"] == "baseline_failed"]
    assert said["baseline"] == "centralized" and "cannot resume" in said["reason"]
    assert [e["reason"] for e in read_lines(run.events_path) if e["event"] == "baseline_failed"] == [said["reason"]]
    assert "centralized" not in read_evaluation(run).models
    state.unlink()
    scored(run)
    assert "centralized" in read_evaluation(run).models


def test_the_live_page_knows_which_control_trains_and_when_it_is_all_over(
    finished: Callable[..., RunFolder], config_file: Path
) -> None:
    """From the run folder alone; red: a page that says `finished` from the last round on."""
    run = finished("federation.num_rounds=1")
    reader = RunReader(run, on_malformed=lambda error: pytest.fail(str(error)))

    def record() -> RunRecord:
        reader.read()
        return reader.record

    assert record().phase == "finished"
    seen = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "baseline_step" and event["step"] == 3:
            seen.append((record().phase, record().baselines.current, num_left_tokens(record())))
        elif event["event"] == "score_step":
            assert record().phase == "comparing"

    simulate(config_file, out=run.path, overrides=["evaluate.baselines=true"], resume=True, on_event=look)
    assert seen == [("baseline", "centralized", 3 * 512 - 3 * 128)]
    assert record().phase == "finished"
    (row,) = compared(record())
    assert (row.name, row.state, row.progress, row.num_left_tokens) == (
        "centralized",
        "trained",
        "step 12 of 12",
        0,
    )


def test_general_text_that_is_gone_is_told_on_the_live_page(
    finished: Callable[..., RunFolder], config_file: Path, general: Path
) -> None:
    """It was there when the run began, and not when it came to scoring; the rounds stay done."""
    run = finished("federation.num_rounds=1")

    def lose(event: dict[str, Any]) -> None:
        general.unlink(missing_ok=True)

    with pytest.raises(DataError):
        simulate(config_file, out=run.path, overrides=[f"evaluate.general={general}"], resume=True, on_event=lose)
    record = read_run(run.path)
    assert record.phase == "failed" and str(general) in record.reason
    assert run.is_finished()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_control_and_a_resume(
    finished: Callable[..., RunFolder],
    config_file: Path,
    tmp_path: Path,
    started: list[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL with a state of the centralized baseline on the disk; --resume alone knows what was asked for."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = finished("train.checkpoint_seconds=1e-9", "federation.num_rounds=1", "train.tokens_per_round=4096")
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run.path, other.path)
    killed = launch(config_file, run.path, "--resume", "--baselines")
    started.append(killed)
    state = run.baselines(0) / ".centralized.training"
    until = time.monotonic() + PATIENCE_SECONDS
    while not state.is_file() and time.monotonic() < until and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert state.is_file() and not (run.baselines(0) / "centralized").exists()
    assert not run.seed_summary.exists()
    resumed = launch(config_file, run.path, "--resume")
    started.append(resumed)
    out, err = resumed.communicate(timeout=PATIENCE_SECONDS)
    assert resumed.returncode == 0, err
    assert "starting Flower" not in err and "training centralized" in err
    assert "grid: joining" in out and "one seed" in out
    simulate(config_file, out=other.path, overrides=["evaluate.baselines=true"], resume=True)
    parts = ("baselines", "evaluation.json", "seed_summary.json", "merged")
    assert files(run, *parts) == files(other, *parts)


@pytest.mark.slow
def test_two_seeds_with_baselines_and_general_text(
    finished: Callable[..., RunFolder], config_file: Path, general: Path, cogen: Cogen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seed is there, so Flower runs the second alone; then both are scored together."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = finished("federation.num_rounds=1", "federation.parallel_clients=3")
    first = files(run, "merged", "experts")
    options = ("--baselines", "--seeds", 2, "--general", general, "--resume")
    code, out, err = cogen("simulate", config_file, "--out", run.path, *options)
    assert code == 0, err
    assert err.count("starting Flower") == 1 and "seed 1 · 2 of 2" in err
    assert files(run, "merged", "experts") == first
    second = run.seed(1)
    assert second.is_finished() and load_config(second.config).train.seed == 1
    assert files(second, "experts").keys() == files(run, "experts").keys()
    assert files(second, "experts") != files(run, "experts")
    for seed in (0, 1):
        assert (run.baselines(seed) / "centralized" / "cogen.json").is_file()
    told = [(e["event"], e["number"]) for e in read_lines(run.events_path) if e["event"].startswith("seed_")]
    assert told == [("seed_started", 1), ("seed_finished", 1), ("seed_started", 2), ("seed_finished", 2)]
    seed_summary = json.loads(run.seed_summary.read_text())
    assert seed_summary["seeds"] == [0, 1]
    for place, one in enumerate((run, second)):
        found = read_evaluation(one)
        assert (found.models[-1], len(found.general)) == ("centralized", 6)
        for row in seed_summary["rows"]:
            assert row["values"][place] == found.bits_per_byte(row["model"], row["domain"])
        own = found.bits_per_byte("expert:grid", "grid") - found.bits_per_byte("combined", "grid")  # type: ignore[operator]
        assert seed_summary["members"]["grid"]["own"]["values"][place] == pytest.approx(own)
    spreads = {r["model"]: r["sd"] for r in seed_summary["general"]}
    assert spreads["base"] == 0.0 and spreads["combined"] > 0.0 and spreads["centralized"] > 0.0
    assert math.isfinite(seed_summary["forgetting"]["combined"]["mean"])
    assert "general" in out and " ± " in out and "clinical: joining" in out
    code, out, err = cogen("simulate", config_file, "--out", run.path, "--resume", "--json")
    assert code == 0, err
    assert "starting Flower" not in err and "training" not in err
    assert json.loads(out)["seed_summary"] == seed_summary


def test_resuming_takes_additions_and_nothing_else(
    finished: Callable[..., RunFolder], config_file: Path, general: Path, tmp_path: Path
) -> None:
    """Red: other general text taken for the one that half of the rows were scored on."""
    run = finished("federation.num_rounds=1")
    simulate(config_file, out=run.path, overrides=[f"evaluate.general={general}"], resume=True)
    assert load_config(run.config).evaluate.general == str(general)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "The kettle sings, and nobody gets up to take it off the stove."}) + "\n")
    for override in (f"evaluate.general={other}", "evaluate.max_heldout_tokens=64", "train.rank=2"):
        with pytest.raises(RunError, match="the settings that the run began with"):
            simulate(config_file, out=run.path, overrides=[override], resume=True)


def test_general_text_that_a_domain_has_is_refused(config_file: Path, tmp_path: Path) -> None:
    """A document of the grid corpus with a word changed: before anything is started, and nothing is left behind."""
    config = load_config(config_file)
    line = json.loads(Path(config.domains[1].data).read_text().splitlines()[4])
    line["text"] = line["text"].replace("the", "some", 1)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(
        json.dumps({"id": "mine", "text": GENERAL[0]}) + "\n" + json.dumps({**line, "id": "theirs"}) + "\n"
    )
    with pytest.raises(DataError, match=r"got 1 of its documents in the corpora, 'theirs' as '.*' of grid"):
        simulate(config_file, out=tmp_path / "run", overrides=[f"evaluate.general={mixed}"])
    assert not (tmp_path / "run").exists()
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"id": "mine", "text": GENERAL[0]}) + "\n")
    replayed = [f"evaluate.general={plain}", f"train.replay={plain}"]
    with pytest.raises(DataError, match=r"of train\.replay"):
        simulate(config_file, out=tmp_path / "run", overrides=replayed)


def test_the_matrix_keeps_general_text_apart(finished: Callable[..., RunFolder], general: Path) -> None:
    run = finished("federation.num_rounds=1", f"evaluate.general={general}")
    before = read_evaluation(run).mean_bits_per_byte("combined")
    scored(run)
    found = Evaluation.from_json(run.evaluation.read_text(), "here")
    assert found.mean_bits_per_byte("combined") == before
    assert found.domains == DOMAINS
    forgotten = [found.general_bits_per_byte(m) for m in ("base", "combined")]
    assert None not in forgotten and forgotten[0] != forgotten[1]
