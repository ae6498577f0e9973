"""`cogen probes make` and `cogen evaluate` with files of probes, questions and tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.tables import format_evaluation
from cogen.train.lora import init_factors
from tests.shell import Cogen, refused

ROOT = Path(__file__).parents[2]
PROBE = {"id": "p", "question": "What trips?", "choices": ["a relay", "a song", "the sea", "a tax"], "answer": 0}
ASKED = (
    {"id": "q", "question": "At what frequency does the grid run?", "answers": ["50 hz"]},
    {"id": "u", "question": "Who ate the sandwich?", "answers": []},
)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_probes_made_and_scored(cogen: Cogen, tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Everything at once, for the base and an adapter that does nothing: equal scores, one table a part."""
    seeds = ROOT / "seeds"
    code, out, err = cogen(
        "probes", "make", seeds / "grid.jsonl", "--general", seeds / "education.jsonl", "--heldout-frac", 1,
        "--num", 9, "--out", "cloze.jsonl", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out) == {"out": "cloze.jsonl", "num_probes": 9, "num_documents": 32}
    Adapter(init_factors(tiny.info.modules, 2, 2.0, 0), "a", tiny.info.fingerprint).save(tmp_path / "a")
    code, out, err = cogen(
        "evaluate", "--base", tiny_folder, "--adapter", f"combined={tmp_path}/a",
        "--data", f"grid={seeds}/grid.jsonl", "--heldout-frac", 1, "--max-heldout-tokens", 128,
        "--probes", "grid=cloze.jsonl", "--probes", f"other={lines(tmp_path / 'p.jsonl', PROBE)}",
        "--questions", f"grid={lines(tmp_path / 'q.jsonl', *ASKED)}", "--out", "evaluation.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    written = Path("evaluation.json").read_text()
    assert json.loads(out) == json.loads(written)
    found = Evaluation.from_json(written, "here")
    assert [(s.model, s.domain, s.num_probes) for s in found.probes] == [
        (row, domain, num) for row in ("base", "combined") for domain, num in (("grid", 9), ("other", 1))
    ]
    assert [(s.model, s.num_answerable, s.num_unanswerable) for s in found.questions] == [
        ("base", 1, 1),
        ("combined", 1, 1),
    ]
    assert {s.made_up_frac for s in found.questions} == {1.0}
    assert found.probes[0].accuracy_frac == found.probes[2].accuracy_frac
    assert [line.split("  ")[0] for line in format_evaluation(found).splitlines() if line] == [
        "bits per byte", "base", "combined", "combined - base",
        "probe accuracy", "base", "combined", "chance", "probes",
        "calibration error", "base", "combined",
        "questions", "base", "combined",
    ]  # fmt: skip


def test_tasks_of_one_s_own(cogen: Cogen, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    code, out, err = cogen(
        "evaluate", "--base", tiny_folder, "--tasks", "grid_terms", "--task-folder", ROOT / "docs" / "tasks",
        "--task-limit", 2,
    )  # fmt: skip
    assert code == 0, err
    assert [line.split("  ")[0] for line in out.splitlines() if line] == [
        "tasks",
        "grid_terms acc",
        "grid_terms acc_norm",
        "grid_terms acc_bytes",
    ]


def test_bad_requests(cogen: Cogen, tiny_folder: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", "--base", tiny_folder)
    refused(cogen(*evaluate), "--probes", "got nothing")
    refused(cogen(*evaluate, "--probes", tmp_path / "none.jsonl"), "No such file")
    bad = lines(tmp_path / "bad.jsonl", PROBE, {**PROBE, "id": "p2", "answer": 4})
    refused(cogen(*evaluate, "--probes", bad), "bad.jsonl, line 2", "from 0 to 3")
    refused(cogen(*evaluate, "--questions", bad), "bad.jsonl, line 1", "answers")
    good = lines(tmp_path / "good.jsonl", PROBE)
    refused(cogen(*evaluate, "--probes", f"x={good}", "--probes", f"x={good}"), "'x' twice")
    make = ("probes", "make", ROOT / "seeds" / "grid.jsonl", "--general", ROOT / "seeds" / "education.jsonl")
    refused(cogen(*make, "--out", good, "--heldout-frac", 1), "good.jsonl", "--overwrite")
    refused(cogen(*make, "--out", "new.jsonl", "--num", 0), "got 0, 400 and 0.05")
    refused(cogen(*make, "--out", "new.jsonl", "--general", tmp_path / "none"), "no such path")
    assert not list(Path.cwd().iterdir())
