"""`cogen merge --routed` and who answers: experts stay as they are, come and go exactly, and the gate chooses by the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter
from cogen.adapter.gate import GATE_NAME
from cogen.base import Base
from cogen.file_hashes import file_sha256
from cogen.routing.folder import COMMON, ROUTED_NAME, RoutedManifest, RoutedModel
from cogen.routing.gate import likeliest
from tests.conftest import SEEDS
from tests.routed_example import save_expert
from tests.shell import Cogen, refused

TEXTS = {
    "grid": "A relay trips when the current",
    "clinical": "The patient has a fever and",
    "education": "Pupils learn to read when",
}


def files_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def experts(tiny: Base, tmp_path: Path) -> dict[str, Path]:
    return {n: save_expert(tiny, tmp_path / "adapters", n, i, t) for i, (n, t) in enumerate(TEXTS.items(), 1)}


@pytest.fixture
def routed(cogen: Cogen, experts: dict[str, Path], tmp_path: Path) -> Path:
    code, said, err = cogen("merge", *experts.values(), "--routed", "--out", tmp_path / "routed")
    assert code == 0, err
    assert "3 experts, grid, clinical, education, and a common adapter" in said
    return tmp_path / "routed"


def test_experts_stay_as_they_are_and_the_common_adapter_is_their_merge(
    cogen: Cogen, routed: Path, experts: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    """Red: an expert is rewritten; the rule of the command line does not reach the merge."""
    for name, folder in experts.items():
        assert files_of(routed / "experts" / name) == files_of(folder)
    assert cogen("merge", *experts.values(), "--out", tmp_path / "merged")[0] == 0
    merged = Adapter.load(tmp_path / "merged").digest
    assert Adapter.load(routed / COMMON).digest == merged
    manifest = RoutedManifest.load(routed / ROUTED_NAME)
    assert (manifest.common_sha256, manifest.common_learned, manifest.left) == (merged, tuple(TEXTS), ())
    assert [(e.name, e.owner, e.gate_tokens) for e in manifest.experts] == [(n, n, 4096) for n in TEXTS]
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    PeftModel.from_pretrained(model, routed / "experts" / "grid")  # what PEFT loads is an adapter of its own
    assert cogen("merge", *experts.values(), "--routed", "--method", "mean", "--out", tmp_path / "mean")[0] == 0
    assert Adapter.load(tmp_path / "mean" / COMMON).digest != merged


def test_who_leaves_leaves_no_trace_and_who_joins_was_always_there(
    cogen: Cogen, routed: Path, experts: dict[str, Path], tmp_path: Path
) -> None:
    """Bit for bit. Red: the common adapter keeps its old inputs; the gate keeps a row; the recipe names other places."""
    two = tmp_path / "two"
    assert cogen("merge", experts["grid"], experts["clinical"], "--routed", "--out", two)[0] == 0
    assert cogen("merge", routed, "--routed", "--without", "education", "--out", tmp_path / "left")[0] == 0
    assert files_of(tmp_path / "left") == files_of(two)
    assert cogen("merge", two, experts["education"], "--routed", "--out", tmp_path / "joined")[0] == 0
    assert files_of(tmp_path / "joined") == files_of(routed)


def test_a_common_adapter_of_rounds_stays_and_is_said_to_be_older(
    cogen: Cogen, experts: dict[str, Path], tiny: Base, tmp_path: Path
) -> None:
    """Private tails: the tail of who leaves is gone, what the common model learned of it is not, and that is said."""
    common = save_expert(tiny, tmp_path, "relay", 9)
    parents = [{"name": name, "factors_sha256": "0"} for name in TEXTS]
    adapter = Adapter.load(common)
    Adapter(adapter.factors, adapter.base_name, adapter.fingerprint, {"kind": "global", "parents": parents}).save(
        common
    )
    out = tmp_path / "out"
    assert cogen("merge", *experts.values(), "--routed", "--common", common, "--out", out)[0] == 0
    code, _, err = cogen("merge", out, "--routed", "--without", "grid", "--out", tmp_path / "left")
    assert code == 0
    assert "the common adapter still has what it learned of grid" in err
    manifest = RoutedManifest.load(tmp_path / "left" / ROUTED_NAME)
    assert (manifest.left, manifest.common_learned) == (("grid",), tuple(TEXTS))
    assert not (tmp_path / "left" / "experts" / "grid").exists()
    assert files_of(tmp_path / "left" / COMMON) == files_of(common)
    again = tmp_path / "again"
    assert cogen("merge", tmp_path / "left", experts["grid"], "--routed", "--out", again)[0] == 0
    assert RoutedManifest.load(again / ROUTED_NAME).left == ()


def test_the_expert_that_the_gate_chooses_answers(cogen: Cogen, routed: Path) -> None:
    """With the bits of that expert alone. Red: the gate reads with an adapter attached; replies change places."""
    texts = [*TEXTS.values(), TEXTS["grid"]]
    ask = ("generate", *texts, "--from", routed, "--max-tokens", 6, "--temperature", 0.8, "--json")
    code, said, err = cogen(*ask)
    assert code == 0, err
    replies = [json.loads(line) for line in said.splitlines()]
    assert [r["expert"] for r in replies] == [*TEXTS, "grid"]
    assert [r["prompt"] for r in replies] == texts
    for i, reply in enumerate(replies):
        assert 1 / 3 < reply["chance"] <= 1
        alone = cogen(*ask, "--model", f"expert:{reply['expert']}")[1].splitlines()[i]
        assert json.loads(alone)["text"] == reply["text"]
    said = cogen("generate", TEXTS["grid"], "--from", routed, "--max-tokens", 3)[1]
    assert said.startswith("routed, grid (")


def test_an_expert_can_be_left_aside_for_one_question(cogen: Cogen, routed: Path) -> None:
    ask = ("generate", TEXTS["grid"], "--from", routed, "--max-tokens", 3, "--json")
    assert json.loads(cogen(*ask)[1])["expert"] == "grid"
    assert json.loads(cogen(*ask, "--without", "grid")[1])["expert"] != "grid"
    refused(cogen(*ask, "--without", "nobody"), "--without", "grid, clinical, education", "'nobody'")
    refused(cogen(*ask, "--without", "grid", "--without", "clinical", "--without", "education"), "all of them")
    refused(cogen("generate", "text", "--from", routed / "experts/grid", "--without", "grid"), "a routed model")


def test_chat_names_who_answers(cogen: Cogen, routed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([TEXTS["grid"], "/without grid", TEXTS["grid"], "/use expert:grid", "hello", "/without nobody"])

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    code, said, err = cogen("chat", routed, "--max-tokens", 3)
    assert code == 0
    named = [line for line in err.splitlines() if line.startswith("[")]
    assert len(named) == 2
    assert named[0].startswith("[grid (")
    assert not named[1].startswith("[grid (")
    assert "routed without grid" in err
    assert "'nobody'" in err
    assert len(said.splitlines()) >= 3


def test_text_of_no_domain_goes_to_the_common_adapter(
    cogen: Cogen, experts: dict[str, Path], tiny: Base, tmp_path: Path
) -> None:
    """Where the gate has statistics of public text; they stay when experts come and go."""
    out = tmp_path / "public"
    options = ("--routed", "--public", SEEDS / "general.jsonl")
    assert cogen("merge", experts["grid"], experts["clinical"], *options, "--out", out)[0] == 0
    public = RoutedModel.open(out).opened[COMMON].gate
    assert public is not None
    assert public.num_tokens > 4096
    gate = RoutedModel.open(out).gate
    assert gate.names == ("grid", "clinical", COMMON)
    assert likeliest(gate.chances(public.mean, 64)).expert == COMMON
    assert cogen("merge", out, experts["education"], "--routed", "--out", tmp_path / "more")[0] == 0
    kept = RoutedModel.open(tmp_path / "more").opened[COMMON].gate
    assert kept is not None
    assert torch.equal(kept.mean, public.mean)


def test_what_cannot_be_routed_is_refused_and_nothing_is_written(
    cogen: Cogen, routed: Path, experts: dict[str, Path], tiny: Base, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    plain = save_expert(tiny, tmp_path, "plain", 8)
    refused(cogen("merge", experts["grid"], plain, "--routed", "--out", out), "gate statistics", "plain", "--gate")
    refused(cogen("merge", experts["grid"], experts["grid"], "--routed", "--out", out), "grid")
    refused(cogen("merge", routed, experts["grid"], "--routed", "--out", out), "grid twice", "NAME=FOLDER")
    refused(cogen("merge", routed, routed, "--routed", "--out", out), "one routed model", "2")
    refused(cogen("merge", f"a/b={experts['grid']}", "--routed", "--out", out), "'a/b'")
    refused(cogen("merge", experts["grid"], "--common", plain, "--out", out), "--routed with --common")
    refused(cogen("merge", routed, "--routed", "--without", "x", "--out", out), "'x'", "--without")
    refused(cogen("merge", experts["grid"], "--routed", "--out", routed), "a new folder", "a routed model")
    refused(cogen("merge", experts["grid"], "--routed", "--out", experts["clinical"]), "a folder with other files")
    assert not out.exists()
    other = tmp_path / "other"
    shutil.copytree(experts["clinical"], other)
    manifest = json.loads((other / "cogen.json").read_text())
    manifest["fingerprint"]["weights"] = "0" * 64
    (other / "cogen.json").write_text(json.dumps(manifest))
    refused(cogen("merge", experts["grid"], other, "--routed", "--common", plain, "--out", out), "adapters of one base")


@pytest.mark.parametrize("harm", ["another", "missing", "statistics", "manifest"])
def test_a_routed_folder_that_was_altered_is_refused(
    cogen: Cogen, routed: Path, experts: dict[str, Path], harm: str
) -> None:
    """Red: an expert in the place of another speaks under its name."""
    place = routed / "experts" / "grid"
    if harm == "another":
        shutil.rmtree(place)
        shutil.copytree(experts["clinical"], place)
    elif harm == "missing":
        shutil.rmtree(place)
    elif harm == "statistics":
        shutil.copy(experts["clinical"] / GATE_NAME, place / GATE_NAME)
    else:
        values = json.loads((routed / ROUTED_NAME).read_text())
        values["experts"][0]["name"] = "../grid"
        (routed / ROUTED_NAME).write_text(json.dumps(values))
    refused(cogen("generate", "A relay", "--from", routed), "grid")


def test_train_keeps_statistics_of_its_own_text_alone(cogen: Cogen, tiny_folder: Path, tmp_path: Path) -> None:
    """Red: replayed text counts; without --gate they are taken."""
    train = ("train", "--base", tiny_folder, "--data", SEEDS / "grid.jsonl", "--domain", "grid", "--tokens", 512)
    train = (*train, "--set", "train.sequence_length=64", "--set", "base.precision='float32'")
    assert cogen(*train, "--out", tmp_path / "plain")[0] == 0
    assert cogen(*train, "--gate", "--out", tmp_path / "gate")[0] == 0
    mixed = (*train, "--gate", "--replay", SEEDS / "general.jsonl", "--set", "train.replay_frac=0.5")
    assert cogen(*mixed, "--out", tmp_path / "mixed")[0] == 0
    assert Adapter.load(tmp_path / "plain").gate is None
    gate, other = (Adapter.load(tmp_path / name).gate for name in ("gate", "mixed"))
    assert gate is not None
    assert other is not None
    assert gate.num_tokens == 512
    assert torch.equal(gate.mean, other.mean)
    assert Adapter.load(tmp_path / "plain").digest == Adapter.load(tmp_path / "gate").digest
