"""Which part of a corpus `cogen evaluate` scores: all of it, or what the training of an adapter held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogen.adapter import Adapter
from cogen.adapter.trained_on import TrainedCorpus, inherited, trained_corpora
from cogen.base import Base
from cogen.config import Data, Train
from cogen.data import read_corpus
from cogen.data.run_metadata import describe_run
from cogen.data.split import is_below
from cogen.errors import AdapterError, ConfigError, RunError
from cogen.evaluate.heldout import choose_part, corpora_of
from cogen.merge import merge_adapters
from cogen.runs import RunFolder
from cogen.train.corpus import prepare_corpus
from cogen.train.lora import init_factors
from cogen.train.single import train_adapter
from tests.conftest import SEEDS
from tests.shell import Cogen

GRID = str(SEEDS / "grid.jsonl")
CLINICAL = str(SEEDS / "clinical.jsonl")
TINY = Train(tokens_per_round=128, sequence_length=32, batch_size=2, rank=2)


def trained(base: Base, path: str = GRID, settings: Train = TINY, **options: Any) -> Adapter:
    return train_adapter(base, {"text": path}, settings, domain="grid", **options).adapter


def identities(documents: tuple[Any, ...]) -> set[str]:
    return {d.id for d in documents}


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"heldout_frac": 0.15}),
        ({}, {"heldout_frac": 0.15, "data": Data(redact=True, near_duplicates=False)}),
        ({"early_stop_patience": 2, "early_stop_every": 1, "early_stop_frac": 0.2}, {"heldout_frac": 0.2}),
    ],
)
def test_only_the_heldout_part_of_a_corpus_that_was_trained_on(
    tiny: Base, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    """Red: the settings of cleaning, or the validation part, are not in the manifest, and the hashes differ."""
    adapter = trained(tiny, settings=TINY.model_copy(update=settings), **options)
    known = {"mine": trained_corpora(adapter.manifest, "mine")}
    part = choose_part(tiny, GRID, known)
    frac = options["heldout_frac"]
    kept = prepare_corpus(tiny, GRID, options.get("data"), frac).heldout
    assert identities(part.documents) == identities(tuple(kept)) and 0 < len(part.documents) < 32
    assert all(is_below(d.id, frac) for d in part.documents)
    assert (part.part, part.reason) == (f"the held-out part ({frac:g})", "because mine was trained on this corpus")


def test_the_whole_of_any_other_corpus(tiny: Base, tmp_path: Path) -> None:
    """Another text, and the same text with a document more. Red: corpora are told by their path or fraction."""
    known = {"mine": trained_corpora(trained(tiny, heldout_frac=0.15).manifest, "mine")}
    longer = tmp_path / "grid.jsonl"
    longer.write_text(Path(GRID).read_text() + Path(CLINICAL).read_text().splitlines(True)[0])
    for path in (CLINICAL, str(longer)):
        part = choose_part(tiny, path, known)
        assert part.documents == read_corpus(path).documents
        assert str(part).startswith("scoring the whole corpus, ") and "no adapter's manifest" in part.reason
    assert len(choose_part(tiny, GRID, {}).documents) == 32
    short = tmp_path / "one.jsonl"
    short.write_text(json.dumps({"text": "Only one."}) + "\n")  # too small to be prepared
    assert len(choose_part(tiny, str(short), known).documents) == 1


def test_a_fraction_that_is_given_is_forced(tiny: Base) -> None:
    known = {"mine": trained_corpora(trained(tiny, heldout_frac=0.15).manifest, "mine")}
    part = choose_part(tiny, GRID, known, 0.3)
    assert identities(part.documents) == identities(tuple(prepare_corpus(tiny, GRID, heldout_frac=0.3).heldout))
    assert part.part == "the held-out part" and part.reason == "because of --heldout-frac 0.3"
    whole = choose_part(tiny, GRID, known, 1.0)
    assert str(whole) == "scoring the whole corpus, 32 documents, because of --heldout-frac 1"


def test_of_several_adapters_the_smallest_heldout_part(tiny: Base) -> None:
    """No adapter has seen any of it. Red: the first adapter decides."""
    known = {
        name: trained_corpora(trained(tiny, heldout_frac=frac).manifest, name)
        for name, frac in (("most", 0.3), ("few", 0.1))
    }
    part = choose_part(tiny, GRID, known)
    assert "because few was" in part.reason and all(is_below(d.id, 0.1) for d in part.documents)


def test_a_merge_knows_what_its_inputs_were_trained_on(tiny: Base) -> None:
    """Replayed text too. Red: a merge of merges forgets it; an adapter of weight 0 counts."""
    mixed = TINY.model_copy(update={"replay": CLINICAL})
    one, other = trained(tiny, settings=mixed, heldout_frac=0.15), trained(tiny, CLINICAL, heldout_frac=0.2)
    merged = merge_adapters([one, other], [1, 1], names=["one", "other"]).adapter
    twice = merge_adapters([merged, one], names=["merged", "one"]).adapter
    found = trained_corpora(twice.manifest, "twice")
    assert [(c.heldout_frac, c.validation_frac) for c in found] == [(0.15, 0.0), (0.15, 0.0), (0.2, 0.0)]
    for path in (GRID, CLINICAL):
        assert "(0.15)" in choose_part(tiny, path, {"twice": found}).part
    alone = merge_adapters([one, other], [0, 1], names=["one", "other"]).adapter
    assert trained_corpora(alone.manifest, "alone") == trained_corpora(other.manifest, "other")
    assert inherited({"peft": {}}) == {} and trained_corpora({}, "peft") == []


def test_a_simulation_s_folder_knows_what_its_models_were_trained_on(tiny: Base, tmp_path: Path) -> None:
    """A server sees no hash of a corpus, so that the manifests of a run name none."""
    run = RunFolder(tmp_path / "run")
    domains = "".join(f'[[domains]]\nname = "{n}"\ndata = "{p}"\n' for n, p in (("grid", GRID), ("clinical", CLINICAL)))
    run.create(f"{domains}[evaluate]\nheldout_frac = 0.2\n")
    cards = {n: prepare_corpus(tiny, p, heldout_frac=0.2).card for n, p in (("grid", GRID), ("clinical", CLINICAL))}
    factors = init_factors(tiny.info.modules, 2, 2.0, 0)
    merged = Adapter(factors, "b", tiny.info.fingerprint, {"kind": "global", "round": 1})
    own = Adapter(factors, "b", tiny.info.fingerprint, {"kind": "expert", "domain": "grid", "round": 1})
    assert corpora_of(tiny, merged, run.merged) == []
    describe_run(cards).write(run.run_metadata)
    both = corpora_of(tiny, merged, run.merged)
    assert [c.sha256 for c in both] == [cards["grid"].sha256, cards["clinical"].sha256]
    assert [c.sha256 for c in corpora_of(tiny, own, run.expert("grid"))] == [cards["grid"].sha256]
    assert "(0.2)" in choose_part(tiny, CLINICAL, {"combined": both}).part
    run.run_metadata.write_text("{}")
    with pytest.raises(RunError, match="--heldout-frac"):
        corpora_of(tiny, merged, run.merged)


def test_a_manifest_that_cannot_be_read_is_named(tiny: Base) -> None:
    with pytest.raises(AdapterError, match=r"corpora of training.*\(here\)"):
        trained_corpora({"trained_on": [{"hash": "x"}]}, "here")
    unknown = TrainedCorpus("x", 0.05, 0.0, {"odd": 1})
    with pytest.raises(ConfigError, match=r"unknown key 'odd'.*manifest of mine"):
        choose_part(tiny, GRID, {"mine": [unknown]})


def test_from_the_command_line(cogen: Cogen, tiny: Base, tiny_folder: Path) -> None:
    """One line on stderr says what is scored. Red: 5% of the file by default."""
    trained(tiny, heldout_frac=0.15).save("mine")
    line = ("evaluate", "--base", tiny_folder, "--data", f"grid={GRID}", "--max-heldout-tokens", 10**6, "--json")
    tokens = {}
    for name, options, said in (
        ("whole", (), "grid: scoring the whole corpus, 32 documents, because no adapter"),
        ("heldout", ("--adapter", "mine=mine"), "documents, because mine was trained on this corpus"),
        (
            "forced",
            ("--adapter", "mine=mine", "--heldout-frac", 1),
            "the whole corpus, 32 documents, because of --heldout-frac 1",
        ),
    ):
        code, out, err = cogen(*line, *options)
        assert code == 0, err
        assert sum(said in text for text in err.splitlines()) == 1, err
        tokens[name] = json.loads(out)["cells"][0]["num_tokens"]
    assert 0 < tokens["heldout"] < tokens["whole"] == tokens["forced"]
