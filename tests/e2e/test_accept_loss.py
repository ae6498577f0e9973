"""Commands that read a corpus say what became of it, and stop where much of it is lost, before anything is written.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cogen.cli.options import MAX_LOSS_FRAC
from cogen.config import Data, load_config
from cogen.errors import DataError
from cogen.flower.simulate import check_input
from tests.conftest import DOMAINS, SEEDS
from tests.shell import Cogen

TEXTS = [json.loads(line)["text"] for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").open(encoding="utf-8")]


def test_the_share_is_the_same_for_commands_with_and_without_a_config() -> None:
    assert Data().max_loss_frac == MAX_LOSS_FRAC


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twenty-four good documents, and about as many bytes that are no UTF-8."""
    folder = tmp_path / "notes"
    folder.mkdir()
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS[:24])]
    (folder / "good.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "scan.txt").write_bytes(b"\xff" * (folder / "good.jsonl").stat().st_size)
    return folder


def test_training_stops_and_goes_on_when_it_is_accepted(cogen: Cogen, damaged: Path, tiny_folder: Path) -> None:
    """Red: no check in `train_adapter`; an account that is told after the check."""
    small = (
        "--tokens",
        "64",
        "--set",
        "train.sequence_length=32",
        "--set",
        "train.batch_size=1",
        "--set",
        "train.rank=2",
    )
    command = ("train", "--base", tiny_folder, "--data", f"notes={damaged}", "--domain", "d", "--out", "made", *small)
    code, out, err = cogen(*command)
    *_, told, refusal = err.splitlines()
    assert (code, out) == (2, "") and not Path("made").exists()
    assert told.startswith("notes: 24 documents read") and "skipped 1: " in told and "expected UTF-8" in told
    assert refusal.startswith("error: too much of corpus 'notes' is lost: expected at most 20%")
    assert "--accept-loss" in refusal
    for accepting in (["--accept-loss"], ["--set", "data.max_loss_frac=0.6", "--overwrite"]):
        code, _, err = cogen(*command, *accepting)
        assert code == 0 and "of the text lost" in err and Path("made", "adapter_model.safetensors").is_file()


def test_scoring_stops_and_goes_on_when_it_is_accepted(cogen: Cogen, damaged: Path, tiny_folder: Path) -> None:
    command = ("evaluate", "--base", tiny_folder, "--data", f"notes={damaged}", "--max-heldout-tokens", "64")
    code, out, err = cogen(*command)
    assert (code, out) == (2, "") and "notes: 24 documents read" in err and "--accept-loss" in err.splitlines()[-1]
    for accepting in (["--accept-loss"], ["--max-loss-frac", "0.6"]):
        code, out, err = cogen(*command, *accepting)
        assert code == 0 and "notes" in out and "50% of the text lost" in err


def test_a_simulation_stops_before_it_starts(damaged: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    domains = "".join(
        f'[[domains]]\nname = "{name}"\ndata = "{path}"\n'
        for name, path in (("grid", SEEDS / "grid.jsonl"), ("notes", damaged))
    )
    config.write_text(f'[base]\nname = "{tiny_folder}"\n[train]\nsequence_length = 32\n{domains}')
    told: dict[str, str] = {}
    with pytest.raises(DataError, match="too much of corpus 'notes' is lost"):
        check_input(load_config(config), lambda name, account: told.update({name: str(account)}))
    assert told["grid"].endswith("nothing skipped or dropped") and "50% of the text lost" in told["notes"]
    assert set(check_input(load_config(config, ["data.max_loss_frac=1"]))) == {"grid", "notes"}
