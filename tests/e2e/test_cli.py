"""The command line on bad input: one line, exit 2, nothing half-written; and on good input, once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.train.lora import init_factors
from tests.shell import Cogen, refused


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TRAIN = ("train", "--domain", "d", "--out", "adapter", "--data")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such path",)),
        ({}, ("documents in .txt",)),
        ({"a.pdf": b"%PDF"}, ("1 files",)),
        ({"a.txt": b"caf\xe9"}, ("UTF-8", "a.txt")),
        ({"a.jsonl": b'{"text": "x"}\n{"title": "no text"}\n'}, ("line 2",)),
        (
            {"a.jsonl": b'{"text": "only one"}\n'},
            ("got 0 documents at", "too small", "1 dropped (quality: number of words)"),
        ),
    ],
)
def test_bad_corpora(
    cogen: Cogen, tmp_path: Path, tiny_folder: Path, content: dict[str, bytes] | None, words: tuple[str, ...]
) -> None:
    corpus = tmp_path / "corpus"
    for name, text in (content or {}).items():
        write(corpus / name, text)
    if content == {}:
        corpus.mkdir()
    refused(cogen(*TRAIN, corpus, "--base", tiny_folder), *words)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.rank=0", ("train.rank",)),
        ("train.rnk=4", ("'rank'",)),
        ("federation.num_rounds=2", ("train.KEY=VALUE",)),
        ("base.name=other", ("base.precision=VALUE",)),
    ],
)
def test_bad_settings(cogen: Cogen, tiny_folder: Path, setting: str, words: tuple[str, ...]) -> None:
    refused(cogen(*TRAIN, "anything", "--base", tiny_folder, "--set", setting), *words)


def test_four_bits_without_a_gpu(cogen: Cogen, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the base loaded in the default precision, whatever is set."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    corpus = Path(__file__).parents[2] / "seeds/grid.jsonl"
    setting = ("--set", "base.precision=nf4")
    refused(cogen(*TRAIN, corpus, "--base", tiny_folder, *setting), "a CUDA device, got cpu", "base.precision")
    refused(cogen(*TRAIN, corpus, "--base", tiny_folder, "--lr-range-test", *setting), "a CUDA device, got cpu")
    assert not list(Path.cwd().iterdir())


def test_unknown_key_in_a_config(cogen: Cogen, config_file: Path) -> None:
    text = config_file.read_text().replace("num_rounds", "num_round")
    refused(cogen("simulate", write(config_file, text)), "'federation.num_round'", "'num_rounds'")
    assert not list(Path.cwd().iterdir())


def test_a_run_that_is_there_is_not_touched(cogen: Cogen, config_file: Path) -> None:
    kept = write(Path("runs/tiny/config.toml"), "kept")
    code, _, err = cogen("simulate", config_file)
    assert (code, kept.read_text()) == (2, "kept")
    assert "--resume" in err
    code, _, err = cogen("simulate", config_file, "--out", "elsewhere", "--resume")
    assert code == 2
    assert "cannot resume" in err


def test_adapters_that_do_not_fit(cogen: Cogen, tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Another base's adapter, a pickled one, a missing one; nothing is written."""
    factors = init_factors(tiny.info.modules, 2, 2.0, 0)
    Adapter(factors, "b", tiny.info.fingerprint).save(tmp_path / "mine")
    other = vars(tiny.info.fingerprint) | {"weights": "0" * 64}
    Adapter(factors, "b", type(tiny.info.fingerprint)(**other)).save(tmp_path / "other")
    pickled = tmp_path / "pickled"
    Adapter(factors, "b").save(pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    seeds = Path(__file__).parents[2] / "seeds"
    score = ("evaluate", "--base", tiny_folder, "--data", f"grid={seeds}/grid.jsonl", "--out", "e.json", "--adapter")
    refused(cogen(*score, f"x={tmp_path}/other"), "adapter mismatch", "x")
    refused(cogen(*score, f"x={pickled}"), "pickled")
    refused(cogen("merge", tmp_path / "mine", tmp_path / "other", "--out", "m"), "adapter mismatch")
    refused(cogen("merge", tmp_path / "mine", pickled, "--out", "m"), "left unread")
    refused(cogen("merge", tmp_path / "mine", tmp_path / "none", "--out", "m"), "no such folder")
    refused(cogen("merge", tmp_path / "mine", "--weights", "a,b", "--out", "m"), "numbers")
    refused(cogen("merge", tmp_path / "mine", "--weights", "0", "--out", "m"), "cannot weight")
    refused(cogen("merge", tmp_path / "mine", "--weights", "1,2", "--out", "m"), "1 numbers, got 2")
    refused(cogen("merge", tmp_path / "mine", tmp_path / "mine", "--out", "m"), "'mine' twice")
    refused(cogen("merge", tmp_path / "mine", "--rank", 0, "--out", "m"), "rank")
    assert not list(Path.cwd().iterdir())


def test_a_full_disk_leaves_the_old_adapter(
    cogen: Cogen, tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    Adapter(init_factors(tiny.info.modules, 2, 2.0, 0), "b", tiny.info.fingerprint).save(tmp_path / "a")
    assert cogen("merge", tmp_path / "a", "--out", "m")[0] == 0
    before = {p.name: p.read_bytes() for p in Path("m").iterdir()}

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(cogen("merge", tmp_path / "a", "--scale", "2", "--out", "m", "--overwrite"), "full disk")
    assert {p.name: p.read_bytes() for p in Path("m").iterdir()} == before
    assert [p.name for p in Path.cwd().iterdir()] == ["m"]


def test_train_merge_evaluate_report(cogen: Cogen, tiny_folder: Path) -> None:
    """The way of someone without a federation: two experts, merged, scored."""
    seeds = Path(__file__).parents[2] / "seeds"
    for domain in ("grid", "clinical"):
        made = cogen(
            "train", "--base", tiny_folder, "--data", seeds / f"{domain}.jsonl", "--domain", domain, "--out", domain,
            "--tokens", 512, "--set", "train.sequence_length=64", "--set", "train.learning_rate=0.01", "--json",
        )  # fmt: skip
        assert made[0] == 0, made[2]
        assert json.loads(made[1])["num_tokens"] == 512
    assert cogen("train", "--base", tiny_folder, "--data", seeds, "--domain", "x", "--out", "grid")[0] == 2
    code, out, err = cogen("merge", "grid", "clinical", "--out", "merged", "--json")
    assert code == 0, err
    assert json.loads(out)["energy_cut_frac"] < 1e-6
    code, out, err = cogen(
        "evaluate", "--base", tiny_folder, "--adapter", "merged=merged", "--adapter", "expert:grid=grid",
        "--data", f"grid={seeds}/grid.jsonl", "--max-heldout-tokens", 256, "--sequence-length", 64,
        "--heldout-frac", 0.15, "--out", "evaluation.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    cells = {c["model"]: c["bits_per_byte"] for c in json.loads(Path("evaluation.json").read_text())["cells"]}
    assert json.loads(out) == json.loads(Path("evaluation.json").read_text())
    assert set(cells) == {"base", "merged", "expert:grid"}
    assert cells["expert:grid"] < cells["base"]


def test_help_is_quick_because_torch_is_not_imported() -> None:
    import subprocess

    code = "import sys; sys.argv=['cogen','--help']\nfrom cogen.cli.app import main\ntry: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'flwr' not in sys.modules and 'pydantic' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout
