"""Commands on terminals that lack characters, or that go away: the result is written, and the exit status is right.

Every command runs in a process of its own, in an environment whose encoding is not UTF-8. "Red" names a change of the
code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.cli.app import COMMANDS
from cogen.train.lora import init_factors

NAME = "Żółć 电网"
TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
TRAIN = ("--set", "train.tokens_per_round=64", "--set", "train.sequence_length=32", "--set", "train.batch_size=2")


def named(*names: str, slow: str) -> list[ParameterSet]:
    """Terminals as parameters of a test: each command imports torch, so some are left to the slow tests."""
    marks = {name: [pytest.mark.slow] for name in slow.split()}
    return [pytest.param(TERMINALS[name], id=name, marks=marks.get(name, [])) for name in names]


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> object:
    def start(terminal: dict[str, str], *args: object, shell: str = "") -> subprocess.CompletedProcess[bytes]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}
        root = str(Path(__file__).parents[2])
        env = {**kept, "LC_ALL": "C.UTF-8", "PYTHONPATH": root, "COGEN_CACHE": str(cache), **terminal}
        command: list[str] = [sys.executable, "-m", "cogen.cli.app", *map(str, args)]
        if shell:
            command = ["bash", "-c", shell, "cogen", *command]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=120, check=False)

    return start


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Documents long enough for the rules of cleaning, in a folder and a file of a name with letters of many scripts."""
    place = tmp_path / NAME / f"{NAME}.jsonl"
    place.parent.mkdir()
    grid = (Path(__file__).parents[2] / "seeds/grid.jsonl").read_text("utf-8")
    place.write_text(grid, "utf-8")
    return place


@pytest.fixture
def adapters(tiny: Base, tiny_folder: Path, tmp_path: Path) -> list[Path]:
    made = []
    for seed, end in enumerate(("a", "b")):
        factors = init_factors(tiny.info.modules, 2, 1.0, seed)
        for f in factors.values():
            f.b.normal_(generator=torch.Generator().manual_seed(seed))
        folder = tmp_path / f"{NAME} {end}"
        Adapter(factors, str(tiny_folder), tiny.info.fingerprint, {"domain": f"{NAME} {end}"}).save(folder)
        made.append(folder)
    return made


def good(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in done.stderr and b"bug:" not in done.stderr
    return done.stdout.decode("latin-1")


@pytest.mark.parametrize("terminal", named("ascii", "C locale", slow="ascii"))
def test_training_and_its_scores_are_kept(run, corpus: Path, tiny_folder: Path, tmp_path: Path, terminal) -> None:  # type: ignore[no-untyped-def]
    """Red: stdout as Python opens it."""
    out = tmp_path / f"adapter {NAME}"
    at = ("--base", tiny_folder, "--data")
    said = good(run(terminal, "train", *at, f"{NAME}={corpus}", "--domain", "d", "--out", out, *TRAIN))
    assert "64 tokens" in said
    assert Adapter.load(out).manifest["domain"] == "d"
    scores = ("--max-heldout-tokens", 64, "--sequence-length", 32, "--adapter", f"{NAME}={out}", "--out", "scores.json")
    good(run(terminal, "evaluate", *at, f"{NAME}={corpus}", *scores))
    rows = json.loads((tmp_path / "scores.json").read_text("utf-8"))["cells"]
    assert {row["model"] for row in rows} == {"base", NAME}


@pytest.mark.parametrize("terminal", named(*TERMINALS, slow="latin-1 cp1252"))
def test_merges_and_reports_are_kept(run, adapters: list[Path], tmp_path: Path, terminal) -> None:  # type: ignore[no-untyped-def]
    good(run(terminal, "merge", *adapters, "--out", f"merged {NAME}"))
    assert Adapter.load(tmp_path / f"merged {NAME}").rank == 4
    assert json.loads(good(run(terminal, "merge", *adapters, "--out", f"again {NAME}", "--json")))["num_adapters"] == 2
    good(run(terminal, "diagnose", *adapters, "--out", f"diagnosis {NAME}"))
    assert (tmp_path / f"diagnosis {NAME}/diagnosis.html").is_file()


def test_errors_are_one_line_with_the_name(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for terminal in TERMINALS.values():
        done = run(terminal, "report", f"no {NAME}")
        assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1


def test_a_generated_text_is_printed_in_ascii(run, tiny_folder: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("generate", "--base", tiny_folder, "--max-tokens", 1)
    piped = run(TERMINALS["ascii"], *options, "-", shell=f"printf '{NAME}\\n' | \"$@\"")
    with_numbers = NAME.encode("ascii", "backslashreplace").decode()  # for letters that it lacks
    assert good(piped).startswith(with_numbers)


@pytest.mark.slow
def test_a_generated_text_is_printed_in_any_encoding(run, tiny_folder: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("generate", "--base", tiny_folder, "--max-tokens", 1)
    said = good(run(TERMINALS["ascii"], *options, NAME))
    assert said.startswith(NAME.encode("ascii", "backslashreplace").decode())
    for terminal in ({}, TERMINALS["C locale"]):
        assert run(terminal, *options, NAME).stdout.decode("utf-8").startswith(NAME)


def test_input_that_is_no_text_is_one_line(run, tiny_folder: Path) -> None:  # type: ignore[no-untyped-def]
    for prompt, shell in ((os.fsdecode(b"\xf3"), ""), ("-", "printf '\\xf3\\n' | \"$@\"")):
        done = run({}, "generate", "--base", tiny_folder, prompt, shell=shell)
        assert done.returncode == 2 and done.stderr.startswith(b"error: cannot read text: expected text in UTF-8")
    done = run({}, "merge", os.fsdecode(b"\xf3"), "b", "--out", "c")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


def test_a_file_name_that_is_no_text_is_printed(run, adapters: list[Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The bytes of a name in another encoding come as surrogates, which UTF-8 cannot write."""
    odd = os.fsdecode(b"merged \xf3\xb3\xe6")
    for i, terminal in enumerate([{}, TERMINALS["ascii"]]):
        assert "2 adapters, rank 4" in good(run(terminal, "merge", *adapters, "--out", f"{odd}{i}"))


@pytest.mark.parametrize("name", ["", *(command.__name__ for command in COMMANDS), "probes"])
def test_help_is_printed_in_ascii(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, for speed."""
    from cogen.cli.app import main

    with open(1, "w", encoding="ascii", closefd=False) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "argv", ["cogen", *([name] if name else []), "--help"])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code and re.search(r"^Usage: .*cogen", capfd.readouterr().out, re.M)  # or -m pytest.cogen


def test_a_reader_that_goes_away_costs_no_result(run, adapters: list[Path], tiny_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Red: "bug: BrokenPipeError", or Python's own note on a pipe at its end."""
    done = run({}, "merge", *adapters, "--out", "merged", shell='"$@" | true; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stdout, done.stderr) == (141, b"", b"")
    assert Adapter.load(tmp_path / "merged").rank == 4
    many = ["generate", "--base", tiny_folder, "--max-tokens", 1, *["word " * 400] * 50]  # more than a pipe holds
    done = run({}, *many, shell='"$@" | head -c 9; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stdout, done.stderr) == (141, b"word word", b"")


def test_no_stdout_at_all(run, adapters: list[Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run({}, "merge", *adapters, "--out", "merged", shell='"$@" >&- 2>&-')
    assert done.returncode == 0
    assert Adapter.load(tmp_path / "merged").rank == 4
