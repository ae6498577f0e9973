"""Commands with corpora and settings that do not fit: one line with the number, the reason and what to do.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.deploy.serve import check_settings
from cogen.errors import ConfigError
from tests.conftest import DOMAINS, SEEDS
from tests.shell import Cogen, refused

TEXTS = [json.loads(line)["text"] for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").open(encoding="utf-8")]


def put(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"doc{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


@pytest.mark.parametrize("command", ["data", "train"])
@pytest.mark.parametrize("kind", ["exact duplicate", "near-duplicate"])
def test_everything_is_a_duplicate(cogen: Cogen, tmp_path: Path, tiny_folder: Path, command: str, kind: str) -> None:
    """Of 24 documents one is left. Red: the error without `lost`."""
    endings = [""] * 24 if kind == "exact duplicate" else [f" Note {n}." for n in range(24)]
    path = put(tmp_path / "a.jsonl", [TEXTS[0] + ending for ending in endings])
    more = ("--no-cost", path) if command == "data" else ("--domain", "d", "--out", "made", "--data", path)
    code, out, err = cogen(command, "--base", tiny_folder, *more)
    refused(
        (code, out, err.splitlines(keepends=True)[-1]),
        "got 1 document at heldout_frac",
        f"23 dropped ({kind}",
        "Add documents",
    )
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_gigabytes_on_one_line_cost_a_reason_and_little_memory(tmp_path: Path, tiny_folder: Path) -> None:
    """Sparse files of 2 GiB next to good text. Red: lines read whole; a limit for .jsonl alone."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    put(corpus / "good.jsonl", TEXTS[:32])
    starts = {"a.txt": "", "b.jsonl": '{"text": "one', "c.csv": "text\nfine words\n"}
    for name, start in starts.items():
        (corpus / name).write_text(start)
        os.truncate(corpus / name, 2 * 2**30)
    script = (
        "import sys\nfrom cogen.cli.app import main\ntry:\n    main()\nfinally:\n"
        "    print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
    )
    options = ["data", str(corpus), "--base", str(tiny_folder), "--no-cost", "--json", "--heldout-frac", "0.15"]
    argv = [sys.executable, "-c", script, *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    why = "expected at most 67108864 bytes in one document, got more"
    assert [(Path(left["file"]).name, left["reason"]) for left in card["skipped"]] == [
        ("a.txt", why),
        ("b.jsonl, line 1", why),
        ("c.csv, line 3", why),
    ]
    peak_mib = int(done.stderr.rpartition("VmHWM:")[2].split()[0]) // 1024
    assert peak_mib < 1100, f"{peak_mib} MiB"


def test_a_document_of_ten_contexts_trains(cogen: Cogen, tmp_path: Path, tiny_folder: Path) -> None:
    """It is cut into blocks, all of one document. Red: documents cut off at the context."""
    path = tmp_path / "a.jsonl"
    short, long = "doc17", "doc0"  # by the hash of their ids: held out, and trained on
    rows = [{"id": short, "text": TEXTS[-1]}, {"id": long, "text": "\n\n".join(TEXTS[:60])}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--base", tiny_folder, "--data", path, "--domain", "d", "--out", "made", "--json", "--heldout-frac", 0.2)
    sizes = ("--set", "train.sequence_length=1024", "--set", "train.batch_size=1", "--tokens", 10 * 1024)
    code, out, err = cogen("train", *given, *sizes)
    assert code == 0, err
    assert json.loads(out)["num_tokens"] == 10 * 1024 and Path("made/adapter_model.safetensors").is_file()
    code, out, err = cogen("data", path, "--base", tiny_folder, "--no-cost", "--json", "--heldout-frac", 0.2)
    assert code == 0, err
    assert json.loads(out)["train"]["num_documents"] == 1 and json.loads(out)["train"]["num_tokens"] > 10 * 1024


WORDS = ("train.sequence_length of at most 1024, the context of base ", "got 1025", "Lower train.sequence_length")


def test_blocks_longer_than_the_context_are_refused(cogen: Cogen, tiny_folder: Path, config_file: Path) -> None:
    """Before anything is read or started; a block of the context's length is not. Red: no `require_context`."""
    train = ("train", "--base", tiny_folder, "--data", SEEDS / "grid.jsonl", "--domain", "d", "--out", "made")
    long = ("--set", "train.sequence_length=1025")
    refused(cogen(*train, *long), *WORDS)
    refused(cogen("train", *train[1:5], "--lr-range-test", *long), *WORDS)
    refused(cogen("data", SEEDS / "grid.jsonl", "--base", tiny_folder, *long), *WORDS)
    refused(cogen("simulate", config_file, *long), *WORDS)
    with pytest.raises(ConfigError, match="at most 1024, the context of base"):
        check_settings(load_config(config_file, ["train.sequence_length=1025"]))
    assert not list(Path.cwd().iterdir())
    check_settings(load_config(config_file, ["train.sequence_length=1024"]))
    code, _, err = cogen(*train, "--set", "train.sequence_length=1024", "--set", "train.batch_size=1", "--tokens", 8)
    assert code == 0, err
