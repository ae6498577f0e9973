"""Files without read permission: skipped with the reason, or an error with exit 2, for a user who is not root.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shell import Cogen, refused
from tests.unprivileged import unprivileged

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="modes and privileges as Linux has them")

FILE, FOLDER = "expected a readable file, got Permission denied", "expected a readable folder, got Permission denied"
LINK = "it is a link into a folder that may not be entered"


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Path]:
    """Three fine files; a file of mode 000, a folder of 000, one of 444; links into what may not be entered."""
    root, private = tmp_path / "corpus", tmp_path / "private"
    names = ("file.txt", "shut/a.txt", "listed/a.txt", "listed/sub/b.txt", "fine.txt", "also.txt", "more.txt")
    for path in (*(root / name for name in names), private / "c.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The text of {path.name} in {path.parent.name}.")
        os.utime(path, ns=(10**18, 10**18))  # long settled: the next start may know it by its time
    (root / "link.txt").symlink_to(private / "c.txt")
    (root / "listed" / "to.txt").symlink_to(root / "fine.txt")
    modes = {root / "file.txt": 0, root / "shut": 0, root / "listed": 0o444, private: 0}
    for path, mode in modes.items():
        path.chmod(mode)
    with unprivileged():
        yield root
    for path in modes:
        path.chmod(0o755)


@pytest.fixture
def options(tiny_folder: Path) -> tuple[object, ...]:
    settings = ("quality=false", "near_duplicates=false", "leakage=false")
    switches = [word for setting in settings for word in ("--set", f"data.{setting}")]
    return ("--base", tiny_folder, "--no-cost", "--json", "--heldout-frac", 0.5, *switches)


def card(cogen: Cogen, corpus: Path, options: tuple[object, ...]) -> dict[str, Any]:
    code, out, err = cogen("data", corpus, *options)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_what_may_not_be_read_is_skipped_with_its_reason(
    cogen: Cogen, corpus: Path, options: tuple[object, ...]
) -> None:
    """Red: `path.is_dir()`, which a folder of mode 444 breaks; `_stat` without its `except`;
    a link there taken for one that leads nowhere."""
    found = card(cogen, corpus, options)
    assert found["read"]["num_documents"] == 3
    assert {os.path.relpath(left["file"], corpus): left["reason"] for left in found["skipped"]} == {
        "file.txt": FILE,
        "link.txt": LINK,
        "listed/a.txt": FILE,
        "listed/sub": FOLDER,
        "listed/to.txt": LINK,
        "shut": FOLDER,
    }


def test_what_may_be_read_after_all_is_read_the_next_time(
    cogen: Cogen, corpus: Path, options: tuple[object, ...]
) -> None:
    """Neither its size nor its time has changed. Red: `_stat` without the mode."""
    assert [card(cogen, corpus, options)["read"]["num_documents"] for _ in range(2)] == [3, 3]
    (corpus / "file.txt").chmod(0o644)
    assert card(cogen, corpus, options)["read"]["num_documents"] == 4
    (corpus / "listed").chmod(0o755)
    assert card(cogen, corpus, options)["read"]["num_documents"] == 6


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../private/c.txt", "expected a file or folder, got Permission denied"),
        ("shut", "got 1 files or lines that were skipped, the first"),
        ("shut/a.txt", "expected a file or folder, got Permission denied"),
        ("file.txt", "got 1 files or lines that were skipped, the first"),
        ("x" * 300, "expected a file or folder, got File name too long"),
        ("~no-such-user-at-all/x", "expected a file or folder, got Could not determine home directory"),
    ],
)
def test_a_path_that_may_not_be_seen_is_one_line(
    cogen: Cogen, corpus: Path, options: tuple[object, ...], path: str, words: str
) -> None:
    """Red: `corpus_root` without its `except`."""
    where = path if path.startswith("~") else corpus / path
    code, out, err = cogen("data", where, *options)
    lines = err.splitlines(keepends=True)
    refused((code, out, lines[-1]), words)
    train = ("train", *options[:2], "--domain", "d", "--out", "made", "--data")
    refused(cogen(*train, where), *([words] if "got 1" not in words else []))
    assert not list(Path.cwd().iterdir())


def test_strict_stops_at_it(cogen: Cogen, corpus: Path, options: tuple[object, ...]) -> None:
    code, out, err = cogen("data", corpus / "listed", *options, "--strict")
    refused((code, out, err.splitlines(keepends=True)[-1]), FILE, "listed/a.txt")
