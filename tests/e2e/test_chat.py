"""`cogen chat` with a run's models: which model answers, what is kept, and that switching leaves no adapter attached."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from cogen.adapter import Adapter, Factors
from cogen.base import Base
from cogen.config import load_config
from cogen.evaluate.generate import generate
from cogen.evaluate.models import find_models, newest_run
from cogen.runs import RunFolder
from cogen.train.lora import attached, init_factors
from tests.shell import Cogen, refused

PROMPT = "The relay"


def adapter(base: Base, seed: int) -> Adapter:
    """One that changes what the tiny base says."""
    start = init_factors(base.info.modules, 2, 1.0, seed)
    drawn = torch.Generator().manual_seed(seed)
    factors = {n: Factors(f.a, torch.randn(f.b.shape, generator=drawn), 1.0) for n, f in start.items()}
    return Adapter(factors, base.info.name, base.info.fingerprint, {})


@pytest.fixture
def run(config_file: Path, tiny: Base, tmp_path: Path) -> RunFolder:
    """A run with a combined adapter and one expert."""
    folder = RunFolder(tmp_path / "runs" / "mine")
    folder.create(load_config(config_file).to_toml())
    adapter(tiny, 1).save(folder.merged)
    adapter(tiny, 2).save(folder.expert("grid"))
    return folder


def said_by(base: Base, made: Adapter | None, prompt: str = PROMPT, **how: float) -> str:
    options = {"max_new_tokens": 8, "temperature": 0.0, "seed": 0, **how}
    if made is None:
        return generate(base, [prompt], **options)[0].text  # type: ignore[arg-type]
    with attached(base.model, made.factors):
        return generate(base, [prompt], **options)[0].text  # type: ignore[arg-type]


def test_generate_asks_each_model(cogen: Cogen, run: RunFolder, tiny: Base) -> None:
    """Red: an adapter that stays attached speaks for the base."""
    models = ["--model", "combined", "--model", "base", "--model", "expert:grid"]
    code, out, err = cogen("generate", PROMPT, "--from", run.path, *models, "--max-tokens", "8", "--json")
    assert code == 0, err
    found = {line["model"]: line for line in map(json.loads, out.splitlines())}
    expected = {"combined": adapter(tiny, 1), "base": None, "expert:grid": adapter(tiny, 2)}
    assert {name: line["text"] for name, line in found.items()} == {n: said_by(tiny, a) for n, a in expected.items()}
    assert len({line["text"] for line in found.values()}) == 3
    assert all(len(line["token_logprobs"]) > 0 for line in found.values())


def test_prompts_from_a_pipe(cogen: Cogen, run: RunFolder, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The relay\n\nA patient\n"))
    code, out, _ = cogen("generate", "-", "--from", run.merged, "--max-tokens", "8")
    assert code == 0
    assert out == "".join(p + said_by(tiny, adapter(tiny, 1), p) + "\n" for p in ("The relay", "A patient"))


def test_a_session_switches_models(cogen: Cogen, run: RunFolder, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [PROMPT, "/use base", PROMPT, "/use nobody", "/use expert:grid", PROMPT, "/frob", "/quit", "never said"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = cogen("chat", run.path, "--max-tokens", "8", "--temperature", "0")
    assert code == 0
    replies = [said_by(tiny, a) for a in (adapter(tiny, 1), None, adapter(tiny, 2))]
    assert out == "\n".join(replies) + "\n"
    assert "expected one of combined, expert:grid, base, got 'nobody'" in err and "/frob is not known" in err


def test_what_was_said_is_kept_when_asked_for(
    cogen: Cogen, run: RunFolder, tiny: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/keep\nThe relay\nA patient\n/new\nA patient\n"))
    code, out, _ = cogen("chat", run.path, "--model", "base", "--max-tokens", "8", "--temperature", "0")
    first = said_by(tiny, None)
    second = said_by(tiny, None, f"The relay{first}\n\nA patient")
    third = said_by(tiny, None, "A patient")
    assert code == 0 and second != third
    assert out == f"{first}\n{second}\n{third}\n"


def test_side_by_side_has_a_column_for_each(cogen: Cogen, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
    code, out, _ = cogen("chat", run.path, "--side-by-side", "--max-tokens", "4")
    assert code == 0
    assert all(name in out.splitlines()[1] for name in ("combined", "expert:grid", "base"))


def test_the_newest_run_is_taken(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert newest_run(Path("runs")) == Path("runs/mine")
    assert find_models(None, {}, None).names == ("combined", "expert:grid", "base")


def test_bad_input(cogen: Cogen, run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(cogen("chat", tmp_path / "empty"), "nothing to talk to", "adapter_config.json")
    refused(cogen("generate", "x"), "no run found")
    refused(cogen("generate", "x", "--from", run.path, "--model", "expert:clinical"), "no such model", "expert:grid")
    refused(cogen("chat", run.path, "--template"), "chat template")
