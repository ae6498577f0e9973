"""`cogen leave`: what is removed, what stays, and in which cases nothing is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogen.base import Base
from cogen.data.prepare import INDEX, common_cache, prepared_from
from cogen.deploy.join import sole
from cogen.node import leave as leaving
from cogen.node.home import NodeHome
from cogen.node.leave import parts_of, remove
from cogen.train.corpus import prepare_corpus
from tests.conftest import SEEDS
from tests.member import make_home
from tests.shell import Cogen, refused

RECORD = {"receipts.jsonl", "usage.jsonl", "work.jsonl", "policy.toml", "domain.toml", "member.toml"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Long settled, as corpora are, and like no other: an equal one would share its prepared text."""
    path = tmp_path / "notes.jsonl"
    more = json.dumps({"id": "mine", "text": str(tmp_path)})
    path.write_text((SEEDS / "grid.jsonl").read_text() + more + "\n")
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def home(tmp_path: Path, tiny: Base, tiny_folder: Path, corpus: Path) -> NodeHome:
    """As a domain leaves it that has trained; its text is prepared here and, by other commands, in the common cache."""
    made = make_home(tmp_path / "home", tiny_folder, corpus)
    prepare_corpus(tiny, corpus, cache_dir=made.prepared)
    prepare_corpus(tiny, corpus)
    inside = [made.runs / "r" / "state-0001.safetensors", made.logs / "trainer.log", made.programs / "flwr"]
    inside += [made.path / ".key.x7f", made.prepared / ".building-1" / "spool.jsonl"]
    files = [path for path in (*inside, *vars(made).values()) if path != made.lock]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("a patient")
    return made


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_all_goes_but_the_record(cogen: Cogen, home: NodeHome, corpus: Path) -> None:
    """Red: a file of the folder that no part names; prepared text that stays in the common cache, or its link."""
    (text,) = (*prepared_from(corpus, common_cache()),)
    links = {p.name for p in (common_cache() / INDEX).iterdir() if p.read_text() == text.name}
    code, out, err = cogen("leave", "--folder", home.path, "--yes")
    assert code == 0, err
    assert names(home.path) - {".lock"} == RECORD
    assert not text.exists() and links and not links & {p.name for p in (common_cache() / INDEX).iterdir()}
    assert corpus.is_file()
    for what in ("keys and secrets", "prepared text", "optimizer states", "programs"):
        assert what in out
    assert str(text) in out and " bytes" in out
    assert "cogen revoke grid" in err and "receipts.jsonl" in err
    assert cogen("receipts", "--folder", home.path)[0] == 0
    code, out, err = cogen("leave", "--folder", home.path, "--yes")
    assert (code, out) == (0, "") and "nothing is left to remove" in err
    refused(cogen("join", "--folder", home.path), "a folder without a key")


def test_everything_is_everything(cogen: Cogen, home: NodeHome) -> None:
    assert cogen("leave", "--folder", home.path, "--yes", "--everything")[0] == 0
    assert not home.path.exists()


def test_what_is_not_its_own_stays(cogen: Cogen, home: NodeHome) -> None:
    """A file that the user put there. Red: the folder removed as a whole."""
    (home.path / "general.jsonl").write_text("mine")
    code, _, err = cogen("leave", "--folder", home.path, "--yes", "--everything")
    assert code == 0 and "left alone" in err and "general.jsonl" in err
    assert names(home.path) - {".lock"} == {"general.jsonl"}


def test_an_equal_corpus_of_someone_else_keeps_its_text(
    tiny: Base, home: NodeHome, corpus: Path, tmp_path: Path
) -> None:
    """Red: what was prepared from another path is removed."""
    other = tmp_path / "other" / "notes.jsonl"
    other.parent.mkdir()
    other.write_text(corpus.read_text().replace("the", "thee"))
    prepare_corpus(tiny, other)
    remove(home, parts_of(home))
    assert len(prepared_from(other, common_cache())) == 1 and not prepared_from(corpus, common_cache())


def test_nothing_is_removed_unless_it_is_said(cogen: Cogen, home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(home.path)
    code, out, err = cogen("leave", "--folder", home.path)
    assert code == 2 and "expected --yes" in err and "keys and secrets" in out
    for answer, ends in (("n\n", 2), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("typer.confirm", lambda *_, said=answer, **__: said == "y\n")
        assert names(home.path) - {".lock"} == before
        assert cogen("leave", "--folder", home.path)[0] == ends
    assert not home.key.exists()


def test_not_while_the_domain_takes_part(cogen: Cogen, home: NodeHome) -> None:
    """Red: no lock, or one that is waited for."""
    before = names(home.path)
    with sole(home):
        refused(cogen("leave", "--folder", home.path, "--yes"), "no other cogen join in it", "got one that is running")
    assert names(home.path) - {".lock"} == before


def test_only_a_members_folder(cogen: Cogen, tmp_path: Path, tiny_folder: Path, corpus: Path) -> None:
    """Another folder has `data` and `runs`, too. Red: its files are removed, or a lock is made in it."""
    other = tmp_path / "project"
    for name in ("data", "runs", "programs", "src"):
        (other / name).mkdir(parents=True)
    refused(cogen("leave", "--folder", other, "--yes"), "a folder of cogen join", "another folder")
    refused(cogen("leave", "--folder", tmp_path / "none", "--yes"), "no folder")
    assert names(other) == {"data", "runs", "programs", "src"} and not (tmp_path / "none").exists()
    inside = make_home(tmp_path / "member", tiny_folder, tmp_path / "member" / "data" / "notes.jsonl")
    refused(cogen("leave", "--folder", inside.path, "--yes"), "a corpus outside the member's folder")


def test_a_folder_that_only_the_doctor_made(cogen: Cogen, tiny: Base, tmp_path: Path, corpus: Path) -> None:
    home = NodeHome(tmp_path / "home")
    home.make()
    prepare_corpus(tiny, corpus, cache_dir=home.prepared)
    assert cogen("leave", "--folder", home.path, "--yes")[0] == 0
    assert not home.path.exists()


@pytest.mark.parametrize("everything", [False, True])
def test_a_removal_that_is_cut_off_is_finished_by_the_next(
    home: NodeHome, corpus: Path, everything: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file or folder in turn. Red: the text cannot be found once `member.toml` is gone."""

    class Cut(Exception): ...

    def cut(path: object, *_: object, **__: object) -> None:
        raise Cut

    for _ in range(40):
        parts = parts_of(home, everything=everything)
        if not parts:
            break
        first = parts[0].paths[0]
        one = leaving.Part("one", (first,))
        with monkeypatch.context() as patch:
            patch.setattr(leaving, "remove_dead_links", cut)
            with pytest.raises(Cut):
                remove(home, [one])
        assert not first.exists()
        if everything and not home.member.exists():
            break
    assert not prepared_from(corpus, common_cache()) and not home.prepared.exists() and not home.key.exists()
    assert home.member.exists() != everything
