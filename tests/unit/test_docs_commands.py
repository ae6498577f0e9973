"""Every command line of the docs is parsed by the real program, and run here or by the test that is named."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from typer.main import get_command

from cogen.adapter import Adapter, Factors
from cogen.adapter.gate import GateStatistics
from cogen.base import Base
from cogen.cli.app import app
from cogen.config import load_config
from cogen.routing.folder import write_routed
from cogen.runs import RunFolder
from cogen.train.lora import init_factors
from tests.shell import Cogen
from tests.unit.test_docs import DOCUMENTS, ROOT, text

SEEDS = ROOT / "seeds"
HERE = "here"
# How a documented command is run, by how it begins; the first that fits counts. It needs training, a network or
# hands where a test is named.
RUN = {
    "data ": HERE,
    "plan ": "tests/unit/test_plan.py::test_the_command",
    "train --data seeds/grid.jsonl --lr-range-test": "tests/unit/test_range_test.py::test_from_the_command_line",
    "train --data seeds/grid.jsonl --domain grid --out adapters/grid --replay": (
        "tests/e2e/test_mixed_training.py::test_from_the_command_line"
    ),
    "train ": "tests/e2e/test_cli.py::test_train_merge_evaluate_report",
    "simulate configs/quickstart.toml --baselines": "tests/e2e/test_run_scores.py::test_two_seeds_with_baselines_and_general_text",
    "simulate configs/quickstart.toml --watch": (
        "tests/e2e/test_watch_browser.py::test_the_page_follows_a_run_to_its_end_and_comes_back"
    ),
    "simulate ": "tests/e2e/test_simulate.py::test_a_simulation_by_flower_is_what_its_parts_give",
    "watch ": "tests/e2e/test_watch_browser.py::test_the_page_follows_a_run_to_its_end_and_comes_back",
    "serve ": "tests/e2e/test_attacks.py::test_the_others_finish_with_the_same_bits",
    "invite ": "tests/e2e/test_coordinator_cli.py::test_an_invite_says_all_that_a_domain_needs_and_no_path",
    "nodes": "tests/e2e/test_coordinator_cli.py::test_nodes_and_revoke",
    "revoke ": "tests/e2e/test_coordinator_cli.py::test_nodes_and_revoke",
    "run federation.toml --resume": "tests/e2e/test_deployment.py::test_whatever_is_killed_the_model_is_the_same",
    "run ": "tests/e2e/test_attacks.py::test_the_others_finish_with_the_same_bits",
    "doctor ": "tests/unit/test_doctor.py::test_the_command_measures_and_proposes",
    "join clinical.invite --data ./notes --dry-run": (
        "tests/unit/test_join.py::test_a_dry_run_shows_what_would_be_sent_and_asks_nobody"
    ),
    "join ": "tests/e2e/test_attacks.py::test_the_others_finish_with_the_same_bits",
    "receipts ": "tests/unit/test_join.py::test_receipts_of_a_member_are_printed",
    "leave ": "tests/unit/test_leave.py::test_all_goes_but_the_record",
    "export ": "tests/e2e/test_export_cli.py::test_a_run_is_exported_by_its_combined_model_or_an_expert",
    "diagnose ": HERE,
    "search ": "tests/e2e/test_merge_cli.py::test_a_search_is_merged_and_explained",
    "contributions ": "tests/e2e/test_merge_cli.py::test_a_search_is_merged_and_explained",
    "merge ": HERE,
    "evaluate --tasks": "tests/e2e/test_evaluate_cli.py::test_tasks_of_one_s_own",
    "evaluate --adapter expert:grid=adapters/grid --tasks": "tests/oracle/test_harness.py::test_accuracies_are_the_harness_s_and_adapters_count",
    "evaluate ": HERE,
    "probes make ": HERE,
    "audit runs/": "tests/e2e/test_audit_run.py::test_a_run_is_audited_by_domain_and_model",
    "audit ": "tests/e2e/test_audit_cli.py::test_an_adapter_trained_to_excess_is_caught_and_no_text_is_told",
    "report ": HERE,
    "chat ": "tests/e2e/test_chat.py::test_a_session_switches_models",
    "generate ": HERE,
}


def shell_lines(document: str) -> Iterator[str]:
    """The lines of its shell blocks, a loop over words written out."""
    for block in re.findall(r"^```sh\n(.*?)^```", text(document), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            loop = re.fullmatch(r"for (\w+) in (.*?); do (.*); done", line.strip())
            yield from (loop[3].replace(f"${loop[1]}", word) for word in loop[2].split()) if loop else (line,)


def documented(document: str) -> list[list[str]]:
    """Every `cogen ...` of its shell blocks: the words after `cogen`, without where the output goes."""
    found = []
    for line in shell_lines(document):
        words = shlex.split(line, comments=True)
        if words[:1] == ["cogen"]:
            found.append(words[1 : words.index(">") if ">" in words else None])
    return found


COMMANDS = [(document, words) for document in DOCUMENTS for words in documented(document)]
NAMES = [" ".join([document, *words]) for document, words in COMMANDS]


def beginning(words: list[str]) -> str | None:
    line = " ".join(words) + " "
    return next((known for known in RUN if line.startswith(known)), None)


def parse(words: list[str]) -> click.Context:
    """As the program does before it does anything: every option and value must be good."""
    command, context, args, name = get_command(app), None, list(words), "cogen"
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=name, parent=context)
        found, command, args = command.resolve_command(context, args)
        assert found is not None and command is not None
        name = found
    return command.make_context(name, args, parent=context)


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=NAMES)
def test_a_documented_command_parses_whole(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse(words)


def test_what_does_not_parse_is_seen() -> None:
    """The check above can fail: an option, a value, an argument and a command that are not there."""
    for wrong in ("merge a b --no-such", "merge a b --scale much", "revoke", "probes bake x", "watch a b"):
        with pytest.raises(click.UsageError):
            parse(wrong.split())


def test_every_documented_command_is_run_somewhere() -> None:
    assert len(COMMANDS) > 40
    known = {beginning(words) for _, words in COMMANDS}
    missing = [name for name, (_, words) in zip(NAMES, COMMANDS, strict=True) if beginning(words) is None]
    assert not missing, f"say in RUN how these are run: {missing}"
    assert known == set(RUN), f"no document has {set(RUN) - known}"


@pytest.mark.parametrize("test", sorted({how for how in RUN.values() if how != HERE}))
def test_the_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_inline_commands_have_options_that_exist() -> None:
    """Between backticks, with words in capitals for what the reader puts in."""
    seen = 0
    for document in DOCUMENTS:
        for words in map(str.split, re.findall(r"`cogen ([a-z][^`\n]*)`", text(document))):
            command: click.Command | None = get_command(app)
            while isinstance(command, click.Group) and words:
                command, words = command.commands.get(words[0]), words[1:]
            assert command is not None, f"{document}: no such command"
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            used = {word.partition("=")[0].rstrip(",.") for word in words if word.startswith("--")}
            assert used <= known, f"{document}: cogen {command.name} has no {sorted(used - known)}"
            seen += bool(used)
    assert seen > 5


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    for document in DOCUMENTS:
        used = {line.split()[1] for line in shell_lines(document) if line.startswith("make ")}
        used |= set(re.findall(r"`make ([a-z-]+)`", text(document)))
        assert used <= targets, document


# --- run for real, on the tiny base, in a folder that has what a reader of the documents would have by then


def expert(base: Base, folder: Path, name: str, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    start = init_factors(base.info.modules, 4, 2.0, seed)
    factors = {n: Factors(f.a, 0.02 * torch.randn(f.b.shape, generator=drawn), 1.0) for n, f in start.items()}
    gate = GateStatistics(torch.randn(32, generator=drawn).half().float(), torch.ones(32), 100)
    manifest = {"domain": name, "num_tokens": 100}
    Adapter(factors, base.info.name, base.info.fingerprint, manifest, gate=gate).save(folder)


@pytest.fixture
def workplace(cogen: Cogen, tiny: Base, config_file: Path) -> Cogen:
    """Three experts, a routed model of two, their corpora, some questions, two folders of text and a finished run."""
    Path("seeds").symlink_to(SEEDS)
    Path("documents").mkdir()
    for seed, name in enumerate(("grid", "clinical", "materials")):
        expert(tiny, Path("adapters") / name, name, seed)
        rows = [json.loads(line) for line in (SEEDS / f"{name}.jsonl").read_text("utf-8").splitlines()]
        parts = [part for row in rows for part in row["text"].split(". ") if len(part) > 80]
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), "utf-8")
    write_routed(
        Path("adapters/routed"), Path("adapters/grid"), {n: Path("adapters") / n for n in ("grid", "clinical")}
    )
    Path("general.jsonl").write_bytes((SEEDS / "education.jsonl").read_bytes())
    Path("documents/grid.jsonl").write_bytes((SEEDS / "grid.jsonl").read_bytes())
    Path("my-questions.jsonl").write_bytes(
        b"".join((SEEDS / "questions/grid.jsonl").read_bytes().splitlines(True)[-2:])
    )
    run = RunFolder("runs/quickstart")
    run.create(load_config(config_file).to_toml())
    run.append_event("run_started", run="quickstart", base="tiny", domains=["grid"], num_rounds=1)
    expert(tiny, run.merged, "combined", 7)
    Path("runs/mine").symlink_to(run.path.resolve())
    folders_of_text(Path())
    return cogen


def folders_of_text(place: Path) -> None:
    for folder, name in (("ward", "clinical"), ("plant", "grid")):
        (place / folder).mkdir()
        for number, line in enumerate((SEEDS / f"{name}.jsonl").read_text("utf-8").splitlines()):
            (place / folder / f"{number}.txt").write_text(json.loads(line)["text"], "utf-8")


def test_the_config_for_one_s_own_documents_loads(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", text("docs/own-documents.md"), re.M | re.S)
    (tmp_path / "mine.toml").write_text(block)
    folders_of_text(tmp_path)
    config = load_config(tmp_path / "mine.toml")
    assert [(d.name, Path(str(d.data))) for d in config.domains] == [
        ("ward", tmp_path / "ward"),
        ("plant", tmp_path / "plant"),
    ]


def test_the_merge_method_of_the_document_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what it says, and the same whatever factors stand for the updates."""
    from cogen.merge import rule

    code, entry = re.findall(r"^```python\n(.*?)^```", text("docs/merge-methods.md"), re.M | re.S)
    told: dict[str, object] = {"Entry": rule.Entry}
    exec(compile(code, "merge-methods.md", "exec"), told)
    added = eval("{" + entry.strip() + "}", told)
    monkeypatch.setattr(rule, "METHODS", {**rule.METHODS, **added})
    drawn = torch.Generator().manual_seed(0)

    def factors(b: list[list[float]], a: list[list[float]]) -> Factors:
        mixed = torch.randn(2, 2, generator=drawn) + 3 * torch.eye(2)
        return Factors(torch.linalg.inv(mixed) @ torch.tensor(a), torch.tensor(b) @ mixed, 1.0)

    identity = [[1.0, 0.0], [0.0, 1.0]]
    parts = [factors(identity, [[s, 0.0], [0.0, 10.0 * s]]) for s in (1.0, 2.0, 6.0)]
    made = rule.combine(parts, [1 / 3] * 3, rule.Rule("median"))
    assert torch.allclose(made.whole.delta(), torch.tensor([[2.0, 0.0], [0.0, 20.0]]), atol=1e-4)


@pytest.mark.parametrize("document", sorted({d for d, words in COMMANDS if RUN.get(beginning(words) or "") == HERE}))
def test_commands_run_as_they_stand(workplace: Cogen, document: str, tiny_folder: Path) -> None:
    """In the order in which the document has them, on the tiny base in place of the packaged one."""
    for words in documented(document):
        if RUN[beginning(words) or ""] == HERE:
            base = ["--base", str(tiny_folder)] if words[0] in ("data", "evaluate", "probes") else []
            code, _, err = workplace(*words, *base)  # the last --base counts
            assert code == 0, f"cogen {' '.join(words)}: {err}"
            if "--out" in words:
                assert Path(words[words.index("--out") + 1]).exists(), words
