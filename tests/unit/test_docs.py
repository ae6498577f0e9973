"""The docs: everything that they name exists, and everything that exists is named."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cogen
from cogen.cli.app import app
from cogen.config import BaseTable, Data, Domain, Evaluate, Federation, RunConfig, Track, Train

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "docs/concepts.md",
    "docs/adapters.md",
    "docs/data.md",
    "docs/evaluating.md",
    "docs/reading-the-report.md",
    "docs/results.md",
    "docs/settings.md",
    "docs/own-documents.md",
    "docs/merge-methods.md",
    "docs/training.md",
    "docs/deploy/coordinator.md",
    "docs/threat-model.md",
    "docs/federation.md",
    "docs/deploy/domain.md",
    "seeds/README.md",
    "benchmarks/LOG.md",
)
TABLES: dict[str, Any] = {
    "base": BaseTable,
    "domains": Domain,
    "train": Train,
    "federation": Federation,
    "evaluate": Evaluate,
    "data": Data,
    "track": Track,
}


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def commands() -> dict[str, Any]:
    return dict(get_command(app).commands)  # type: ignore[attr-defined]


def documented(table: str) -> dict[str, str]:
    """Key to default, as docs/settings.md has them."""
    found = re.search(rf"^## `\[+{table}\]+`\n(.*?)(?=^#|\Z)", text("docs/settings.md"), re.M | re.S)
    assert found, f"no table of [{table}]"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines() if "|" in line]
    assert rows[0][:2] == ["key", "default"]
    keys = [row[0].strip("`") for row in rows[2:]]
    assert len(keys) == len(set(keys))
    return {row[0].strip("`"): row[1] for row in rows[2:]}


def options(command: str, words: list[str]) -> set[str]:
    """Of a command, or of the one that `words` name within its group."""
    found = commands()[command]
    found = getattr(found, "commands", {}).get(words[0] if words else "", found)
    return {option for parameter in found.params for option in parameter.opts}


def examples() -> Iterator[tuple[str, list[str]]]:
    """Every `cogen ...` line of a shell block: the document, and the words after `cogen`."""
    for name in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", text(name), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(";"):
                    words = shlex.split(part, comments=True)
                    if "cogen" in words and "clone" not in words:
                        yield name, words[words.index("cogen") + 1 :]


def test_readme_names_every_command_of_help() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert len(commands()) >= 5
    for name in commands():
        assert re.search(rf"^\W*{name}\b", shown, re.M), f"{name} is not in --help"
        assert re.search(rf"\bcogen {name}\b", text("README.md")), f"{name} is not in README.md"


def test_examples_use_commands_and_options_that_exist() -> None:
    seen = set()
    for document, (command, *words) in examples():
        known = options(command, words)
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{document}: cogen {command} has no {sorted(used - known)}"
        seen.add(command)
    assert seen == set(commands())


def test_documents_name_no_command_that_is_absent() -> None:
    for name in DOCUMENTS:
        for command in re.findall(r"`cogen ([a-z]+)\b", text(name)):
            assert command in commands(), f"{name} speaks of cogen {command}"


def test_tables_cover_the_config() -> None:
    assert set(TABLES) == set(RunConfig.model_fields)


@pytest.mark.parametrize("table", TABLES)
def test_settings_have_every_key_with_its_default(table: str) -> None:
    fields, shown = TABLES[table].model_fields, documented(table)
    assert list(shown) == list(fields)
    for key, field in fields.items():
        if field.is_required():
            assert shown[key] == "required", key
        elif field.default is None:
            assert shown[key] == "unset", key
        else:
            assert re.fullmatch(r"`.+`", shown[key]), key
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert tomllib.loads(f"value = {shown[key].strip('`')}")["value"] == default, key


def test_readme_names_the_public_api() -> None:
    for name in cogen.__all__:
        assert f"`{name}`" in text("README.md"), f"{name} is not in README.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(document)):
        path = target.partition("#")[0]
        if path and "://" not in path:
            assert ((ROOT / document).parent / path).exists(), f"{document} links to {target}"


def test_documents_are_linked_from_the_readme() -> None:
    for name in DOCUMENTS[1:]:
        assert f"]({name})" in text("README.md"), f"README.md does not link to {name}"
