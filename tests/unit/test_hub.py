"""A dataset of the hub as a corpus: the requests and the files that are read, without asking the real hub.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from cogen.data import read_corpus
from cogen.errors import DataError

FILES = {
    "README.md": "About the set.",
    "part/a.txt": "one",
    "part/deep/b.jsonl.gz": None,
    "part/picture.png": "png",
    "partial/c.txt": "two",
    "weights.bin": "bin",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A cache as the hub's library fills it: a snapshot of links into a store of blobs. Returns the calls."""
    import gzip

    calls: list[dict[str, Any]] = []

    def fake(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched = list(filter_repo_objects(FILES, allow_patterns=allow_patterns))
        calls.append({"name": name, "type": repo_type, "revision": revision, "files": fetched})
        snapshot = tmp_path / "hub" / "snapshots" / str(len(calls))
        snapshot.mkdir(parents=True)
        for number, wanted in enumerate(fetched):
            blob, content = tmp_path / "hub" / "blobs" / f"{len(calls)}-{number}", FILES[wanted]
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(gzip.compress(b'{"text": "three"}\n') if content is None else content.encode())
            (snapshot / wanted).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / wanted).symlink_to(blob)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    return calls


@pytest.mark.parametrize(
    ("address", "revision", "inside", "texts"),
    [
        ("org/set", None, "", ["About the set.", "one", "three", "two"]),
        ("org/set@v1.2", "v1.2", "", ["About the set.", "one", "three", "two"]),
        ("org/set/part", None, "part/", ["one", "three"]),
        ("org/set@abc123/part/", "abc123", "part/", ["one", "three"]),
        ("org/set@v1/part/deep", "v1", "part/deep/", ["three"]),
        ("org/set/partial/c.txt", None, "partial/c.txt", ["two"]),
        ("o-r_g.x/s.e-t/part/deep/b.jsonl.gz", None, "part/deep/b.jsonl.gz", ["three"]),
    ],
)
def test_an_address_names_revision_and_path(
    hub: list[dict[str, Any]], address: str, revision: str | None, inside: str, texts: list[str]
) -> None:
    """Only files with a reader are fetched. Red: `part` fetches `partial` too; no revision."""
    corpus = read_corpus(f"hf://datasets/{address}", strict=True)
    assert [d.text for d in corpus] == texts and corpus.skipped == ()
    name = address.partition("@")[0] if "@" in address else "/".join(address.split("/")[:2])
    files = [f for f in FILES if f.startswith(inside) and not f.endswith((".png", ".bin"))]
    assert hub == [{"name": name, "type": "dataset", "revision": revision, "files": files}]


@pytest.mark.parametrize("inside", ["nowhere", "part/none.txt"])
def test_a_path_that_the_dataset_has_not_is_named(hub: list[dict[str, Any]], inside: str) -> None:
    with pytest.raises(DataError, match=f"expected {inside} in the dataset, got nothing there") as caught:
        read_corpus(f"hf://datasets/org/set/{inside}")
    assert "\n" not in str(caught.value) and f"(hf://datasets/org/set/{inside})" in str(caught.value)


@pytest.mark.parametrize("failing", ["OSError", "HFValidationError"])
def test_what_the_library_says_is_one_line(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    from huggingface_hub.errors import HFValidationError

    error: Callable[[str], Exception] = {"OSError": OSError, "HFValidationError": HFValidationError}[failing]

    def fail(*_: Any, **__: Any) -> str:
        raise error("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(DataError, match=f"got {failing}: no route") as caught:
        read_corpus("hf://datasets/org/set")
    assert "\n" not in str(caught.value)
