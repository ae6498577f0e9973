"""A run folder is audited by domain and model, with the blocks that its domains really trained.

The domains are trained by the class that trains them in a simulation; only Flower is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from cogen.adapter import Adapter, Factors
from cogen.audit.record import Audit
from cogen.audit.run_targets import CHANGED, run_targets, used_rounds
from cogen.base import Base
from cogen.config import load_config
from cogen.data.pack import PackedStream
from cogen.data.run_metadata import describe_run
from cogen.node.domain_settings import settings_of_run
from cogen.node.trainer import Trainer
from cogen.protocol.settings import work_settings
from cogen.runs import RunFolder
from cogen.train.corpus import prepare_corpus
from cogen.train.lora import init_factors
from tests.shell import Cogen, refused

REPLIES = (("clinical", 1, True), ("clinical", 2, True), ("grid", 1, False), ("grid", 2, True), ("materials", 2, False))


def save(base: Base, factors: Mapping[str, Factors], folder: Path) -> None:
    Adapter(factors, base.info.name, base.info.fingerprint, {"kind": "global"}).save(folder)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], set[int]]:
    """By number of documents and seed, the blocks that are read for training."""
    found: dict[tuple[int, int], set[int]] = {}
    original = PackedStream.segments

    def segments(stream: PackedStream, index: int) -> list[np.ndarray]:
        found.setdefault((len(stream.documents), stream.seed), set()).add(index)
        return original(stream, index)

    monkeypatch.setattr(PackedStream, "segments", segments)
    return found


@pytest.fixture
def run(tmp_path: Path, tiny: Base, config_file: Path, seen: dict[tuple[int, int], set[int]]) -> Iterator[RunFolder]:
    """Two rounds; the update of grid was dropped in round 1, that of materials in both."""
    made = RunFolder(tmp_path / "run")
    replay = Path(__file__).parents[2] / "seeds/education.jsonl"
    made.create(load_config(config_file, [f"train.replay='{replay}'", "train.replay_frac=0.25"]).to_toml())
    config = load_config(made.config)
    cards = {
        d: prepare_corpus(tiny, p, config.data, config.evaluate.heldout_frac).card for d, p in config.corpora.items()
    }
    describe_run(cards).write(made.run_metadata)
    now: Mapping[str, Factors] = init_factors(tiny.info.modules, 4, config.train.scaling, 0)
    for number in (1, 2):
        for domain in config.domains[:2]:
            if (domain.name, number, True) in REPLIES:
                settings, own = work_settings(config, domain), settings_of_run(config)
                trainer = Trainer(
                    settings, own, domain.name, str(domain.data), config.base.name, made.node(domain.name)
                )
                now = trainer.train(number, now).factors
        save(tiny, now, made.round(number) / "global")
        (made.round(number) / "round.json").write_text("{}")
    save(tiny, now, made.merged)
    for domain, number, is_used in REPLIES:
        made.append_event("client_replied", round=number, domain=domain)
        if not is_used:
            made.append_event("client_dropped", round=number, domain=domain, reason="too large")
    return made


def test_a_run_is_audited_by_domain_and_model(run: RunFolder, cogen: Cogen) -> None:
    code, out, err = cogen("audit", run.path, "--rounds", "all", "--windows", 24)
    assert code == 0, err
    audit = Audit.load(run.audit)
    assert [(r.domain, r.model) for r in audit.rows] == [
        ("clinical", "base"),
        ("clinical", "round:1"),
        ("clinical", "combined"),
        ("grid", "base"),
        ("grid", "combined"),
    ]
    assert [(g.domain, g.reason) for g in audit.not_measured] == [("materials", "no round used an adapter of it")]
    assert [r.num_trained_tokens for r in audit.rows] == [0, 6 * 64, 12 * 64, 0, 6 * 64]
    assert audit.window_tokens == 32 and audit.prefix_tokens == audit.continuation_tokens == 16
    assert all(r.membership.num_others == 24 and r.membership.num_members <= 24 for r in audit.rows)
    base, earlier, combined = audit.rows[:3]
    assert earlier.membership.num_members < combined.membership.num_members == base.membership.num_members
    assert base.membership.figures("ratio") is None and combined.membership.figures("ratio") is not None
    assert "clinical, grid: 24 unseen windows are too few" in out and str(run.audit) in out
    assert "combined on grid" in err or "audit" in err
    report, card = ((run.path / name).read_text("utf-8") for name in ("report.html", "merged/MODEL_CARD.md"))
    assert "With the combined model, " in report and str(run.path / "report.html") in out
    assert "With the combined model, " in card


def test_members_are_the_blocks_that_training_read(
    run: RunFolder, tiny: Base, seen: dict[tuple[int, int], set[int]]
) -> None:
    """A quarter of the blocks is replayed text. Red: replayed blocks count; a round that was dropped counts."""
    read = {key: set(blocks) for key, blocks in seen.items()}
    targets = run_targets(tiny, run, has_rounds=True)
    assert [d.name for d in targets.domains] == ["clinical", "grid"]
    for domain in targets.domains:
        stream = domain.text.stream
        assert set(domain.text.blocks) == read[len(stream.documents), stream.seed]
    assert used_rounds(run) == {"clinical": {1: 1, 2: 2}, "grid": {2: 2}}
    clinical, grid = targets.domains
    assert {m.name: sorted(m.blocks) for m in clinical.models} == {
        "round:1": list(range(6)),
        "combined": list(range(12)),
    }
    assert {m.name: sorted(m.blocks) for m in grid.models} == {"combined": list(range(6, 12))}


def test_another_corpus_is_not_audited(run: RunFolder, tiny: Base) -> None:
    values = json.loads(run.run_metadata.read_text())
    values["data"]["grid"]["sha256"] = "0" * 64
    run.run_metadata.write_text(json.dumps(values))
    targets = run_targets(tiny, run)
    assert [d.name for d in targets.domains] == ["clinical"]
    assert ("grid", CHANGED) in [(g.domain, g.reason) for g in targets.not_measured]


def test_a_straggler_is_in_the_round_that_it_entered(run: RunFolder, tiny: Base) -> None:
    """Grid's text of round 1 came with round 2. Red: the round of the event is taken for the one that was trained."""
    run.append_event("client_replied", round=2, domain="grid", rounds_late=1)
    assert used_rounds(run)["grid"] == {1: 2}
    grid = run_targets(tiny, run, has_rounds=True).domains[1]
    assert {m.name: sorted(m.blocks) for m in grid.models} == {"combined": list(range(6))}


def test_what_cannot_be_audited_is_refused(run: RunFolder, cogen: Cogen, tmp_path: Path) -> None:
    refused(cogen("audit"), "a run folder, or --adapter NAME=FOLDER")
    refused(cogen("audit", run.path, "--adapter", "a=b", "--data", "a=c"), "both")
    refused(cogen("audit", "--adapter", "a=b"), "one of them")
    refused(cogen("audit", tmp_path / "nothing"), "no config.toml")
    run.run_metadata.unlink()
    refused(cogen("audit", run.path), "a run whose texts are with its domains")
