"""Search and contributions with a tiny base: the reported scores are those of separate merges."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter, Factors
from cogen.analysis.bench import open_adapters, part_of
from cogen.base import Base
from cogen.cli.contributions import run_contributions
from cogen.cli.search import run_search
from cogen.data import heldout_windows, read_corpus
from cogen.data.split import validation_documents
from cogen.errors import CogenError
from cogen.evaluate.score import evaluate_adapters
from cogen.merge import Rule, merge_adapters

SEEDS = Path(__file__).parents[2] / "seeds"
DATA = {name: f"{SEEDS / name}.jsonl" for name in ("grid", "clinical")}
SIZES: dict[str, Any] = {"heldout_frac": 0.15, "validation_frac": 0.2, "max_tokens": 96, "sequence_length": 48}


@pytest.fixture(scope="module")
def folders(tiny: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two random adapters of rank 2, small against the base."""
    place, found = tmp_path_factory.mktemp("adapters"), {}
    for seed, name in enumerate(DATA):
        chance = torch.Generator().manual_seed(seed)
        factors = {
            module: Factors(torch.randn(2, d_in, generator=chance), 0.02 * torch.randn(d_out, 2, generator=chance), 1.0)
            for module, (d_out, d_in) in tiny.info.modules.items()
        }
        Adapter(factors, tiny.info.name, tiny.info.fingerprint).save(place / name)
        found[name] = str(place / name)
    return found


def rescored(tiny: Base, merged: Adapter, data: dict[str, str]) -> dict[str, dict[str, float]]:
    """By the ordinary evaluation, on validation text cut anew."""
    windows = {}
    for name, path in data.items():
        documents = validation_documents(read_corpus(path).documents, 0.15, 0.2, name)
        windows[name] = heldout_windows(documents, tiny.tokenizer, 48, 96)
    evaluation = evaluate_adapters(tiny, {"merged": merged}, windows)
    rows = {row: {d: evaluation.bits_per_byte(row, d) for d in data} for row in ("base", "merged")}
    return {row: {d: v for d, v in cells.items() if v is not None} for row, cells in rows.items()}


def test_the_scores_of_a_search_are_those_of_the_merge_it_chose(
    tiny: Base, tiny_folder: Path, folders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Red: run_search reads the held-out documents, or leaves rank out of its merges."""
    general = f"{SEEDS}/materials.jsonl"
    rule, weights, result = run_search(
        open_adapters(folders), str(tiny_folder), DATA, general, budget=7, methods=["mean", "ties:0.5"],
        rank=3, **SIZES,
    )  # fmt: skip
    assert len(result.trials) == 7 and rule.rank == 3
    adapters = [Adapter.load(f) for f in folders.values()]
    rows = rescored(tiny, merge_adapters(adapters, weights, **asdict(rule)).adapter, {**DATA, "general text": general})
    assert rows["base"] == pytest.approx(result.base, rel=1e-6)
    assert rows["merged"] == pytest.approx(result.trials[result.choice].bits_per_byte, rel=1e-6)
    assert rows["merged"] != pytest.approx(rows["base"], rel=1e-4), "the adapters do something"
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 10 and f"choice: {result.explanation}" in printed.out
    assert "searching · 7 trials" in printed.err


def test_contributions_sum_to_what_the_merge_gains(
    tiny: Base, tiny_folder: Path, folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red: the merge of one adapter alone is at the scale of all."""
    rule = Rule("mean", 1.5)
    options: dict[str, Any] = {"rule": rule, "weights": [3, 1], "num_permutations": 4, "seed": 0, **SIZES}
    alone, found = run_contributions(open_adapters(folders), str(tiny_folder), DATA, tmp_path / "c.json", **options)
    adapters = {n: Adapter.load(f) for n, f in folders.items()}
    whole = rescored(tiny, merge_adapters(list(adapters.values()), [3, 1], method="mean", scale=1.5).adapter, DATA)
    first = rescored(tiny, merge_adapters([adapters["grid"]], method="mean", scale=1.125).adapter, DATA)
    for domain in DATA:
        total = whole["base"][domain] - whole["merged"][domain]
        assert found.total[domain] == pytest.approx(total, abs=1e-6)
        assert sum(row[domain].value for row in found.shares.values()) == pytest.approx(total, abs=1e-6)
        assert alone["clinical"][domain] == pytest.approx(first["merged"][domain] - whole["merged"][domain], abs=1e-6)
    assert found.total["mean"] == pytest.approx((found.total["grid"] + found.total["clinical"]) / 2)
    assert found.is_exact and json.loads((tmp_path / "c.json").read_text())["adapters"]["grid"]["mean"]
    assert "Shapley values: exact" in capsys.readouterr().out


def test_each_adapter_keeps_its_share_of_a_mean() -> None:
    """Red: sums are rescaled too."""
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert part_of(Rule("mean", 2.0), shares, ["a", "c"]).scale == pytest.approx(1.4)
    for kept in (Rule("tsv_m", 2.0), Rule("ties", 2.0), Rule("mean", 2.0, calibrate="pico")):
        assert part_of(kept, shares, ["a", "c"]) == kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["magic"]}, "got 'magic'"),
        ({"budget": 3}, "at least 4 trials"),
        ({"data": {}}, "expected --data NAME=PATH, got nothing"),
        ({"data": {"general text": "x"}}, "one called 'general text'"),
        ({"data": {"grid": "nowhere"}}, "no such path"),
        ({"validation_frac": 0.9}, "their sum at most 1"),
        ({"max_tokens": 0}, "1 token or more, got 0 and 48"),
        ({"folders": {"grid": "nowhere"}}, "two or more adapters"),
    ],
)
def test_bad_input_is_refused_before_the_base_is_loaded(
    folders: dict[str, str], change: dict[str, Any], words: str
) -> None:
    """The base does not exist, and nobody finds out. Red: make_bench comes first."""
    settings: dict[str, Any] = {"folders": folders, "data": DATA, "budget": 4, "methods": ["mean", "ties:0.5"]}
    settings |= SIZES | change
    chosen, data = settings.pop("folders"), settings.pop("data")
    with pytest.raises(CogenError, match=words):
        run_search(open_adapters(chosen), "no/base", data, None, **settings)
