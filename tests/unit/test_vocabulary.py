"""No text uses a word of an earlier version: code, settings, tests and docs use the field's words."""

from __future__ import annotations

import ast
import functools
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDINGS = {".py", ".j2", ".js", ".css", ".toml", ".md", ".yaml", ".yml", ".service"}
SKIPPED_FOLDERS = {"build", "dist", "runs", "node_modules", "__pycache__"}
HISTORY = {"CHANGELOG.md", "benchmarks/LOG.md", "tests/unit/test_vocabulary.py"}

# Old word -> the field's word. A pattern matches whole words in lower case. Identifiers count as their words:
# `set_aside`, `set-aside` and `SetAside` are all "set aside".
OLD_WORDS = {
    "block tokens": "sequence_length",
    "batch blocks": "batch_size",
    "checkpoint activations": "gradient_checkpointing",
    "clip norm": "max_grad_norm",
    "final learning rate frac": "min_lr_ratio",
    "end phases?": "annealing",
    "server scale": "server_learning_rate",
    "sample frac": "fraction_train",
    "late weight": "straggler_weight",
    "turn factors": "align_factors",
    "robust f": "num_byzantine",
    "max increment norm": "max_update_norm",
    "rosters?": "client registry",
    "contracts?": "fingerprint",
    "increments?": "client update",
    "pooled": "centralized",
    "sets? aside|setting aside": "suspended",
    "client asked again": "client_retried",
    "answer refused": "reply_rejected",
    "left out|leaves? out": "dropped, skipped, omitted",
    "voices?": "models",
    "tally|tallies": "module_stats",
    "beside": "artifacts; compared with",
    "facts": "run_metadata; overview",
    "handed out": "redelivery",
    "given up": "lost nodes",
    "asked round": "round_spec",
    "judg(e|es|ed|ing|ements?|ments?)": "score, seed summary, perplexity",
    "launched": "distributed; started",
    # "Recompute activations" is how the field explains gradient checkpointing.
    r"recomput(e|es|ed|ing|ation)(?! activations?)": "gradient_checkpointing",
    r"sketch\w*": "checksum; GramEstimator",
    "be lean|be patient": "patch_...",
    "keep pages": "tune_allocator",
    "lean": "memory",
    r"guard\w*": "supervisor; constraints",
    r"warm(?! up)(ed|s)?": "prefork",
    "mean that is meant": "average updates, not factors",
    # Control characters and Flower's Control API keep their names.
    "controls|control (started|step|trained|left out)": "baselines",
}
# No function or class has one of these names, and no module. They may stand in English sentences.
OLD_NAMES = {
    *("voices", "tally", "beside", "lean", "facts", "given_up", "handed_out", "asked_round", "asking", "post", "turn"),
    *("roster", "early", "warm", "guard", "follow", "judge", "judging", "judgement", "controls", "control", "together"),
    *("launched", "recompute", "spent", "sketch", "be_lean", "be_patient", "keep_pages"),
}
OLD_MODULES = {*OLD_NAMES, "given", "prepared", "probe"}
PATTERNS = [
    (re.compile(r"\b({})\b".format(words.replace(" ", r"\s+"))), instead) for words, instead in OLD_WORDS.items()
]
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@functools.cache
def text_files() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS]
        paths = [Path(folder, name) for name in names]
        found += [path for path in paths if path.suffix in ENDINGS or path.name == "Makefile"]
    return sorted(path for path in found if path.is_file())


def current_text(path: Path) -> str:
    """The text of a file without names that must stay: the keys of RENAMED, and a key of import-linter."""
    text = path.read_text("utf-8")
    if path == ROOT / "pyproject.toml":
        return text.replace("importlinter.contracts", "importlinter")
    if path == ROOT / "cogen" / "config.py":
        found = re.search(r"^RENAMED: .*?^}$", text, re.MULTILINE | re.DOTALL)
        assert found is not None
        return text.replace(found[0], "\n" * found[0].count("\n"))
    return text


def old_words(text: str) -> list[tuple[int, str, str]]:
    """Line, old word and the field's word, for each old word."""
    plain = re.sub(r"[_-]", " ", CAMEL.sub(" ", text)).lower()
    return sorted(
        (plain.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead)
        for pattern, instead in PATTERNS
        for match in pattern.finditer(plain)
    )


def old_names(path: Path) -> list[tuple[int, str]]:
    """Line and name of each definition that has an old name; line 1 for the module itself."""
    found = [(1, path.stem)] if path.stem in OLD_MODULES else []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = re.sub(" ", "_", CAMEL.sub(" ", node.name).lower()).lstrip("_")
            found += [(node.lineno, node.name)] if name in OLD_NAMES else []
    return found


def test_no_text_has_an_old_word() -> None:
    """Red: a setting, an event, a comment or a test with a word of an earlier version."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word!r} ({instead})"
        for path in text_files()
        if path.relative_to(ROOT).as_posix() not in HISTORY
        for line, word, instead in old_words(current_text(path))
    ]
    assert not found, "\n".join(found)


def test_no_definition_has_an_old_name() -> None:
    """Words that are also plain English may be written, but nothing may be called by them alone."""
    files = [path for path in text_files() if path.suffix == ".py"]
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in files for line, name in old_names(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("batch_blocks = 2", "batch blocks"),
        ("--end-phase FILE", "end phase"),
        ("BLOCK_TOKENS", "block tokens"),
        ("class GramSketch:", "sketch"),
        ("client_set_aside", "set aside"),
        ("a domain is left\nout", "left out"),
        ("test_increments_are_summed", "increments"),
        ("a warm process", "warm"),
        ("ContractMismatch", "contract"),
    ],
)
def test_an_old_word_is_found_however_it_is_written(text: str, word: str) -> None:
    assert [found for _, found, _ in old_words(f"first\n{text}")] == [word]
    assert old_words(f"first\n{text}")[0][0] == 2


@pytest.mark.parametrize(
    "text",
    [
        "leave-one-out effects",
        "besides, warm-up and warmup_frac",
        "control characters and Flower's Control API",
        "incremental decoder",
        "recompute activations in the backward pass",
        "num_blocks and tokens",
    ],
)
def test_words_of_the_field_are_no_old_words(text: str) -> None:
    assert old_words(text) == []
