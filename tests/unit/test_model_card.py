"""MODEL_CARD.md: the hub's own library reads it, and PEFT loads the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.report import write_report
from cogen.train.lora import init_factors
from tests.unit.test_report import replied, started, whole_run, write_run, write_scores

BAD = 'grid"\n---\n# <script>|x|'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of which a merged adapter is described."""
    folder = write_run(tmp_path / "demo", whole_run())
    write_scores(folder)
    (folder / "config.toml").write_text('[train]\nrank = 4\n[federation]\nmethod = "tsv_m"\n')
    about = {"num_documents": 27, "num_tokens": 7421, "num_heldout_documents": 5, "num_heldout_tokens": 1021}
    (folder / "run_metadata.json").write_text(json.dumps({"format": 1, "versions": {}, "data": {"grid": about}}))
    (folder / "merged").mkdir()
    manifest = {
        "format": 1,
        "base": "/home/me/bases/tiny",
        "factors_sha256": "b" * 64,
        "fingerprint": {"weights": "a" * 64},
    }
    (folder / "merged/cogen.json").write_text(json.dumps(manifest))
    return folder


def test_the_hub_reads_its_head(run: Path) -> None:
    write_report(run)
    card = ModelCard.load(run / "merged/MODEL_CARD.md")
    assert card.data.base_model == "tiny"  # of a folder, not where it lies
    assert (card.data.library_name, card.data.license) == ("peft", "unknown")
    assert "lora" in card.data.tags
    results = [(r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert results == [
        ("held-out text of clinical", "bits_per_byte", 0.85),
        ("held-out text of grid", "bits_per_byte", 1.01),
    ]
    assert "/home/me" not in card.content


def test_the_body_tells_scores_amounts_settings_and_hashes(run: Path) -> None:
    write_report(run)
    text = (run / "merged/MODEL_CARD.md").read_text("utf-8")
    assert "it keeps 85% of what the domains gained alone, on average." in text
    assert "| combined | 0.8500 | 1.0100 |\n| combined against base | −15.0% | −15.8% |" in text
    assert "| grid | 27 | 7,421 | 5,000 | 5 | 1,021 |" in text
    assert "| clinical | – | – | 5,000 | – | – |" in text
    assert "| federation.method | tsv\\_m |\n| train.rank | 4 |" in text
    assert "ECE" not in text and "made up" not in text and "benchmark" not in text  # nothing was asked
    assert f"| base, weights | {'a' * 64} |\n| this adapter | {'b' * 64} |" in text


def test_what_was_asked_stands_in_the_body_with_its_uncertainty(run: Path) -> None:
    """Of base and combined; an expert's figures are in the report."""
    probe = {"domain": "grid", "num_probes": 20, "low_frac": 0.251, "high_frac": 0.652, "sum_accuracy_frac": 0.4}
    probe |= {"chance_frac": 0.25, "calibration_error_frac": 0.123}
    question = {"model": "combined", "domain": "grid", "num_answerable": 10, "num_unanswerable": 7}
    question |= {"right_frac": 0.31, "abstained_frac": 0.11, "wrong_frac": 0.58, "made_up_frac": 0.93}
    question |= {"confidence_frac": 0.6, "overconfidence_frac": 0.3}
    task = {"model": "base", "task": "arc_easy", "metric": "acc", "value": 0.512, "stderr": None, "num_samples": 9}
    path = run / "evaluation.json"
    probes = [
        {"model": m, "accuracy_frac": a, **probe} for m, a in (("base", 0.3), ("expert:grid", 0.5), ("combined", 0.45))
    ]
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "probes": probes, "questions": [question], "tasks": [task]})
    )
    write_report(run)
    text = (run / "merged/MODEL_CARD.md").read_text("utf-8")
    assert "| combined | grid | 20 | 45.0% | 25.1% to 65.2% | 25.0% | 12.3% |" in text
    assert "| base | grid | 20 | 30.0% |" in text and "expert:grid | grid | 20" not in text
    assert "| combined | grid | 10 | 31% | 7 | 93% |" in text
    assert "| base | arc\\_easy | acc | 0.5120 | – |" in text


def test_names_cannot_break_head_or_body(run: Path) -> None:
    write_run(run, [started([BAD], 1), replied(1, BAD)])
    write_scores(run, {"base": (1.0,), "combined": (0.9,)}, [BAD])
    write_report(run)
    card = ModelCard.load(run / "merged/MODEL_CARD.md")
    assert card.data.eval_results[0].dataset_config == BAD
    assert card.data.license == "unknown"
    assert "<script" not in card.text
    assert '| grid" --- \\# &lt;script>\\|x\\| | – | – | 5,000 |' in card.text


def test_without_scores_the_head_has_no_results(run: Path) -> None:
    (run / "evaluation.json").unlink()
    write_report(run)
    assert ModelCard.load(run / "merged/MODEL_CARD.md").data.eval_results is None


def test_no_card_without_a_merged_adapter(run: Path) -> None:
    (run / "merged/cogen.json").unlink()
    write_report(run)
    assert not (run / "merged/MODEL_CARD.md").exists()


def test_peft_and_cogen_load_the_folder_as_before(run: Path, tiny: Base, tiny_folder: Path) -> None:
    shapes = {"model.layers.0.self_attn.q_proj": (32, 32)}
    factors = init_factors(shapes, 4, 2.0, seed=1)
    folder = run / "merged"
    Adapter(factors, str(tiny_folder), tiny.info.fingerprint).save(folder)
    write_report(run)
    assert (folder / "MODEL_CARD.md").is_file()
    assert Adapter.load(folder).digest == Adapter(factors, "", None).digest
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    loaded = [p for name, p in model.named_parameters() if "lora_A" in name]
    assert len(loaded) == 1
    torch.testing.assert_close(loaded[0].data, factors["model.layers.0.self_attn.q_proj"].a)
