"""`cogen export --to hf`: what transformers loads is the base with the adapter, and what is said of it is measured."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from cogen.adapter import Adapter
from cogen.base import Base, describe_base, load_base
from cogen.config import parse_config
from cogen.evaluate.matrix import Evaluation
from cogen.export.manifest import EXPORT_MANIFEST, ExportManifest
from cogen.file_hashes import file_sha256
from cogen.train.lora import attached, init_factors
from tests.conftest import SEEDS
from tests.shell import Cogen

TEXT = ("--data", f"grid={SEEDS / 'grid.jsonl'}", "--sequence-length", 64, "--max-heldout-tokens", 512)


def random_adapter(folder: Path, modules: Mapping[str, tuple[int, int]], base: Path, size: float = 0.05) -> Adapter:
    """Factors of which none is zero."""
    factors = init_factors(modules, 4, 2.0, 0)
    for number, f in enumerate(factors.values()):
        f.b.normal_(0, size, generator=torch.Generator().manual_seed(number))
    made = Adapter(factors, str(base), describe_base(str(base)).fingerprint)
    made.save(folder)
    return made


@pytest.fixture
def adapter(tiny: Base, tiny_folder: Path, tmp_path: Path) -> Path:
    random_adapter(tmp_path / "adapter", tiny.info.modules, tiny_folder)
    return tmp_path / "adapter"


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(1, 60)[None]).logits


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_what_peft_merges(
    cogen: Cogen, adapter: Path, tiny_folder: Path, tmp_path: Path, dtype: str
) -> None:
    """Red: the scaling is forgotten; the sum is made after rounding."""
    code, said, err = cogen("export", adapter, "--out", tmp_path / "model", "--dtype", dtype)
    assert code == 0, err
    merged = PeftModel.from_pretrained(loaded(tiny_folder), adapter).merge_and_unload()
    model = loaded(tmp_path / "model", "auto")
    assert model.dtype == getattr(torch, dtype)
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight.to(model.dtype), atol=1e-6, rtol=0.01, msg=name)
    if dtype == "float32":
        torch.testing.assert_close(logits_of(model), logits_of(merged), atol=1e-4, rtol=1e-4)
        assert "rounded off: 0.0%" in said
    tokenizers = [AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (tmp_path / "model", tiny_folder)]
    ids = [t("A relay trips when the current é 电.")["input_ids"] for t in tokenizers]
    assert ids[0] == ids[1]
    assert model.config.eos_token_id == merged.config.eos_token_id


def test_what_is_said_is_what_can_be_measured_again(
    cogen: Cogen, adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Bits per byte of the stored model by `cogen evaluate`, the rounding by its definition, every hash by its file."""
    out = tmp_path / "model"
    code, said, err = cogen("export", adapter, "--out", out, *TEXT, "--json")
    assert code == 0, err
    made = ExportManifest.load(out / EXPORT_MANIFEST)
    assert json.loads(said)["factors_sha256"] == made.factors_sha256 == Adapter.load(adapter).digest
    (score,) = made.scores
    for base, row, value in (
        (out, "base", score.exported),
        (tiny_folder, "base", score.base),
        (tiny_folder, "a", score.adapter),
    ):
        named = () if base == out else ("--adapter", f"a={adapter}")
        code, _, err = cogen("evaluate", "--base", base, *named, *TEXT, "--out", tmp_path / "scores.json")
        assert code == 0, err
        found = Evaluation.load(tmp_path / "scores.json").bits_per_byte(row, "grid")
        assert found == pytest.approx(value, rel=1e-5)
    assert score.exported != score.adapter and score.num_tokens == 512
    assert 0.5 < score.same_top_frac <= 1.0
    before, after = loaded(tiny_folder).state_dict(), loaded(out).state_dict()
    rounded = changed = 0.0
    for name, f in Adapter.load(adapter).factors.items():
        exact = before[f"{name}.weight"] + f.delta()
        rounded += float((exact - after[f"{name}.weight"]).square().sum())
        changed += float(f.delta().square().sum())
    assert made.rounding_frac == pytest.approx(math.sqrt(rounded / changed), rel=1e-3) and made.rounding_frac > 1e-4
    assert made.sha256 == {p.name: file_sha256(p) for p in out.iterdir() if p.name != EXPORT_MANIFEST}
    card = (out / "README.md").read_text()
    assert f"{score.exported:.4f}" in card and "bfloat16" in card and str(tmp_path) not in card


def test_layers_that_hold_the_transpose(cogen: Cogen, tiny_folder: Path, tmp_path: Path) -> None:
    """GPT-2's, of which some are square. Red: transposed by the shape alone."""
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=128, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    for path in tiny_folder.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    base = load_base(str(folder), device="cpu", precision="float32")
    assert any(out == into for out, into in base.info.modules.values())
    made = random_adapter(tmp_path / "adapter", base.info.modules, folder)
    code, _, err = cogen("export", tmp_path / "adapter", "--out", tmp_path / "model", "--dtype", "float32")
    assert code == 0, err
    with attached(base.model, made.factors):
        wanted = logits_of(base.model)
    torch.testing.assert_close(logits_of(loaded(tmp_path / "model")), wanted, atol=1e-4, rtol=1e-4)


def test_a_run_is_exported_by_its_combined_model_or_an_expert(
    cogen: Cogen, adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """With the card of the run; a licence in the base's folder goes along."""
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (base / "LICENSE").write_text("Do good.")
    run = tmp_path / "run"
    for part in ("merged", "experts/grid"):
        shutil.copytree(adapter, run / part)
    (run / "merged/MODEL_CARD.md").write_text("what it remembers")
    values = {"base": {"name": str(base)}, "domains": [{"name": "grid", "data": str(SEEDS / "grid.jsonl")}]}
    (run / "config.toml").write_text(parse_config(values, "test").to_toml())
    code, said, err = cogen("export", run, "--out", tmp_path / "combined")
    assert code == 0 and "with combined" in said, err
    assert (tmp_path / "combined/ADAPTER_CARD.md").read_text() == "what it remembers"
    assert (tmp_path / "combined/LICENSE").read_text() == "Do good."
    code, said, err = cogen("export", run, "--out", tmp_path / "expert", "--model", "expert:grid")
    assert code == 0 and "with expert:grid" in said, err
    assert not (tmp_path / "expert/ADAPTER_CARD.md").exists()


def test_bad_input_is_one_line_and_leaves_nothing(
    cogen: Cogen, adapter: Path, tiny: Base, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: a staging folder stays behind; the base is loaded before the folder is looked at."""
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    model = loaded(other)
    with torch.no_grad():
        model.model.norm.weight += 1
    model.save_pretrained(other)
    taken, out = tmp_path / "taken", tmp_path / "here/model"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    embeddings = tmp_path / "embeddings"
    table = {"model.embed_tokens": next(iter(tiny.info.embeddings.values()))}
    factors = init_factors(table, 2, 1.0, 0)
    Adapter(factors, str(tiny_folder), tiny.info.fingerprint, embeddings=frozenset(table)).save(embeddings)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((adapter,), "expected --out, got nothing"),
        ((adapter, "--out", taken), "expected a new folder, got a folder with other files"),
        ((adapter, "--out", taken / "thesis.txt"), "expected a new folder, got a file"),
        ((tmp_path / "no", "--out", out), "got none of them"),
        ((adapter, "--out", out, "--base", other), "adapter mismatch"),
        ((adapter, "--out", out, "--model", "base"), "expected a model with an adapter, got base"),
        ((adapter, "--out", out, "--model", "expert"), "no such model"),
        ((adapter, "--out", out, "--data", "no.jsonl"), "no.jsonl"),
        ((embeddings, "--out", out), "expected a base whose embeddings are not its head"),
    ]
    for words, wanted in cases:
        code, _, err = cogen("export", *words)
        assert code == 2 and wanted in err and err.splitlines()[-1].startswith("error: "), (words, err)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    code, _, err = cogen("export", adapter, "--out", out)
    assert code == 2 and "of free disk, got 1 MB" in err
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"] and not out.parent.exists()


def test_an_export_is_replaced_only_when_asked(
    cogen: Cogen, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the old one stays where the new one cannot be written."""
    out = tmp_path / "model"
    assert cogen("export", adapter, "--out", out)[0] == 0
    code, _, err = cogen("export", adapter, "--out", out)
    assert code == 2 and "got an exported model" in err and "--overwrite" in err
    before = (out / EXPORT_MANIFEST).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cogen.export.hf.shutil.copyfile", full)
        code, _, err = cogen("export", adapter, "--out", out, "--overwrite", "--dtype", "float32")
    assert code == 2 and "got a full disk" in err
    assert (out / EXPORT_MANIFEST).read_bytes() == before and len(list(tmp_path.glob("model*"))) == 1
    assert not list(tmp_path.glob(".model*"))
    assert cogen("export", adapter, "--out", out, "--overwrite", "--dtype", "float32")[0] == 0
    assert ExportManifest.load(out / EXPORT_MANIFEST).dtype == "float32"
