"""A prepared corpus: what is kept, what is dropped and why, what is cached and when the cache is used.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogen.base import Base
from cogen.config import Data
from cogen.data import Document, Prepared, chunk, iter_corpus, read, read_corpus, split_documents, spool, tokenize
from cogen.data import prepare as prepare_module
from cogen.data.card import DataCard
from cogen.data.prepare import prepare
from cogen.data.split import hash_order, is_below, validation_documents
from cogen.data.store import StoreWriter, TokenStore, private_folder
from cogen.errors import ConfigError, DataError

SEEDS = Path(__file__).parents[2] / "seeds"
PLAIN = Data(boilerplate=False, quality=False, near_duplicates=False, leakage=False, exact_duplicates=False)
FRAC = 0.3
# Of form feeds, which part pages, there are none.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\f"), min_size=1, max_size=60).filter(str.strip)
WORDS = (SEEDS / "grid.jsonl").read_text().split()


def essay(seed: int, num_words: int = 120) -> str:
    """English words in an order of their own."""
    chance = random.Random(seed)
    return " ".join(w for w in chance.choices(WORDS, k=num_words) if w.isalpha())


def names(heldout: bool, count: int) -> list[str]:
    """The first ids that fall on this side of the split."""
    found = (f"doc{n}" for n in range(10**6) if is_below(f"doc{n}", FRAC) == heldout)
    return [next(found) for _ in range(count)]


def put(path: Path, documents: Sequence[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in documents))
    return path


def made(base: Base, path: Path, data: Data = PLAIN, frac: float = FRAC, **options: Any) -> Prepared:
    options = {"cache_dir": path.parent / "cache", "tokenizer_hash": base.info.fingerprint.tokenizer} | options
    return prepare(path, lambda: base.tokenizer, data, frac, **options)


def texts(base: Base, prepared: Prepared) -> list[str]:
    return [base.tokenizer.decode(d[:-1]) for d in prepared.train]


def folders(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.name != "index")


@pytest.mark.parametrize("domain", ["clinical", "grid", "materials", "education", "construction"])
def test_the_seeds_lose_nothing(tiny: Base, domain: str, tmp_path: Path) -> None:
    """What was published about them was trained on just these tokens, in this order."""
    path = SEEDS / f"{domain}.jsonl"
    split = split_documents(read_corpus(path), 0.15, domain)
    prepared = made(tiny, path, Data(), 0.15, cache_dir=tmp_path)
    assert prepared.heldout == split.heldout and prepared.card.dropped == {}
    want = tokenize(split.train, tiny.tokenizer)
    assert len(prepared.train) == len(want) > 20
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(prepared.train, want, strict=True))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(TEXT, min_size=2, max_size=9))
def test_the_store_holds_just_what_the_tokenizer_gives(
    tiny: Base, tmp_path_factory: pytest.TempPathFactory, found: list[str]
) -> None:
    path = put(tmp_path_factory.mktemp("corpus") / "a.jsonl", [(str(n), f"{t}<eos>") for n, t in enumerate(found)])
    data = PLAIN.model_copy(update={"unicode": False})
    split = split_documents(read_corpus(path), FRAC, "here")
    prepared = made(tiny, path, data)
    assert prepared.heldout == split.heldout and len(split.train) > 0
    assert [d.tolist() for d in prepared.train] == [d.tolist() for d in tokenize(split.train, tiny.tokenizer)]
    assert prepared.train.lengths.tolist() == [len(d) for d in prepared.train]
    assert prepared.num_train_tokens == sum(map(len, prepared.train)) == prepared.card.train.num_tokens


@pytest.mark.parametrize("vocabulary_size", [2**16, 2**16 + 1])
def test_a_store_gives_back_the_ids_of_any_vocabulary(tmp_path: Path, vocabulary_size: int) -> None:
    """Red: 16 bits for a vocabulary that does not fit."""
    documents = [np.array([5, vocabulary_size - 1, 0], np.int32), np.array([0], np.int32), np.array([7, 0], np.int32)]
    writer = StoreWriter(tmp_path, vocabulary_size)
    for document in documents:
        writer.add(document)
    writer.finish([])
    store = TokenStore(tmp_path)
    assert [d.tolist() for d in store] == [d.tolist() for d in documents]
    assert store[-1].tolist() == [7, 0] and [d.tolist() for d in store[1:]] == [[0], [7, 0]]
    assert (len(store), store.num_tokens, store.lengths.tolist()) == (3, 6, [3, 1, 2])
    assert sum(p.stat().st_size for p in tmp_path.glob("tokens.*")) == (12 if vocabulary_size == 2**16 else 24)
    with pytest.raises(IndexError):
        store[3]


def test_each_reason_to_drop_is_counted(tiny: Base, tmp_path: Path) -> None:
    """One document for each step, and every document read is either kept or counted."""
    train, held = names(False, 9), names(True, 2)
    long = essay(1)
    near = " ".join(long.split()[:-1])
    documents = [
        (train[0], long),
        (train[1], long),
        (train[2], near),
        (held[0], essay(2)),
        (train[3], essay(2) + " indeed"),
        (train[4], "too short"),
        (train[5], essay(3)),
        (held[1], essay(4)),
        (train[6], essay(4)),
        (train[7], "\u200b\ufeff"),
        (train[8], "Write to jane.doe@example.org. " + essay(5)),
    ]
    path = put(tmp_path / "a.jsonl", documents)
    card = made(tiny, path, Data(redact=True)).card
    assert {reason: amount.num_documents for reason, amount in card.dropped.items()} == {
        "exact duplicate": 2,
        "near-duplicate": 1,
        "near-duplicate of a held-out document": 1,
        "nothing left after cleaning": 1,
        "quality: number of words": 1,
    }
    assert (card.train.num_documents, card.heldout.num_documents, card.num_leaked) == (3, 2, 1)
    assert card.read.num_documents == 11 == card.num_documents + sum(a.num_documents for a in card.dropped.values())
    assert card.read.num_bytes == sum(len(t.encode()) for _, t in documents)
    assert card.personal_data == {"email": 1}
    found = texts(tiny, made(tiny, path, Data(redact=True)))
    assert found == [long, essay(3), "Write to [email]. " + essay(5)]


def test_held_out_documents_win_over_training_ones(tiny: Base, tmp_path: Path) -> None:
    """Red: documents taken in the order of the file. Whichever copy comes first, it is the training one that goes."""
    (held,), train = names(True, 1), names(False, 2)
    for order in ([held, train[0]], [train[0], held]):
        path = put(tmp_path / "-".join(order) / "a.jsonl", [*((i, essay(1)) for i in order), (train[1], essay(2))])
        prepared = made(tiny, path, Data())
        assert [d.id for d in prepared.heldout] == [held] and texts(tiny, prepared) == [essay(2)]


def test_leakage_and_near_duplicates_are_switched_apart(tiny: Base, tmp_path: Path) -> None:
    (held,), train = names(True, 1), names(False, 3)
    near = [essay(1) + " once", essay(1) + " twice", essay(2)]
    path = put(tmp_path / "a.jsonl", [(held, essay(1)), *zip(train, near, strict=True)])
    for changes, kept, leaked in (
        ({}, near[2:], 2),
        ({"leakage": False}, [near[0], near[2]], 2),
        ({"leakage": False, "near_duplicates": False}, near, 0),
        ({"near_duplicates": False}, near[2:], 2),
    ):
        prepared = made(tiny, path, Data(quality=False, **changes))
        assert (texts(tiny, prepared), prepared.card.num_leaked) == (kept, leaked), changes


def test_headers_and_page_numbers_of_a_pdf_are_gone(tiny: Base, tmp_path: Path) -> None:
    from tests.unit.test_formats import pdf

    for n in range(4):
        pages = [["City Hospital Ward Manual", essay(10 * n + p, 12), f"Page {p} of 5"] for p in range(1, 6)]
        path = tmp_path / "corpus" / f"doc{n}.pdf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pdf(pages))
    prepared = made(tiny, tmp_path / "corpus", Data(), 0.5)
    every = "\n".join([*texts(tiny, prepared), *(d.text for d in prepared.heldout)])
    assert "City Hospital" not in every and "Page" not in every and "\f" not in every
    assert essay(11, 12) in every and prepared.card.num_boilerplate_lines == 4 * 5 * 2
    assert prepared.card.num_files == 4


def test_workers_give_what_one_process_gives(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: results taken as they finish."""
    path = put(tmp_path / "a.jsonl", [(str(n), essay(n % 35)) for n in range(40)])
    monkeypatch.setattr(spool, "CHUNK_BYTES", 2000)
    alone = made(tiny, path, Data(), cache_dir=tmp_path / "one")
    monkeypatch.setattr(chunk, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(chunk, "num_cores", lambda: 3)
    seen: list[tuple[str, int, int]] = []
    group = made(tiny, path, Data(), cache_dir=tmp_path / "three", progress=lambda *of: seen.append(of))
    for name in folders(tmp_path / "one"):
        for file in (tmp_path / "one" / name).iterdir():
            assert file.read_bytes() == (tmp_path / "three" / name / file.name).read_bytes()
    assert alone == replaced(group, alone) and group.card.dropped["exact duplicate"].num_documents == 5
    assert {what for what, _, _ in seen} == {"looking for boilerplate", "preparing"}
    assert seen[-1][1] == seen[-1][2] > 10_000


def replaced(prepared: Prepared, like: Prepared) -> Prepared:
    """With the map of the other, which is no value to compare."""
    return Prepared(like.train, prepared.heldout, prepared.validation, prepared.sha256, prepared.card)


def test_what_is_in_the_cache_is_for_its_owner_alone(tiny: Base, tmp_path: Path) -> None:
    made(tiny, put(tmp_path / "a.jsonl", [(n, essay(1)) for n in (names(True, 1) + names(False, 1))]))
    (name,) = folders(tmp_path / "cache")
    for folder in (tmp_path / "cache", tmp_path / "cache" / name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name for p in (tmp_path / "cache" / name).iterdir()} == {
        "card.json",
        "ends.i64",
        "hashes.json",
        "heldout.jsonl",
        "tokens.u16",
    }


def corpus(tmp_path: Path) -> Path:
    """Long settled, as corpora are."""
    path = put(tmp_path / "a.jsonl", [(f"doc{n}", essay(n)) for n in range(12)])
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_second_start_reads_no_document(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: no link written; the link's key without the size, or without the time of a change."""
    path = corpus(tmp_path)
    first = made(tiny, path)

    def read(*_: object) -> object:
        raise AssertionError("read again")

    monkeypatch.setattr(prepare_module, "iter_corpus", read)
    second = made(tiny, path)
    assert second.sha256 == first.sha256 and second.heldout == first.heldout
    assert [d.tolist() for d in second.train] == [d.tolist() for d in first.train]
    for change in (lambda: os.utime(path, ns=(10**18, 10**18 + 1)), lambda: os.truncate(path, path.stat().st_size - 1)):
        change()
        with pytest.raises(AssertionError, match="read again"):
            made(tiny, path)


def test_a_file_just_written_is_not_known_by_its_time(tiny: Base, tmp_path: Path) -> None:
    """Its next change may come within the clock's own step, with the same size."""
    path = corpus(tmp_path)
    first = made(tiny, path)
    before = path.stat()
    put(path, [(f"doc{n}", essay(n)) for n in range(12)])
    made(tiny, path)
    put(path, [(f"doc{n}", essay(n).replace("a", "o")) for n in range(12)])
    now = path.stat()
    assert before.st_size == now.st_size
    assert made(tiny, path).sha256 != first.sha256


def test_a_touched_file_finds_what_was_made_of_its_content(tiny: Base, tmp_path: Path) -> None:
    path = corpus(tmp_path)
    made(tiny, path)
    before = folders(tmp_path / "cache")
    inode = (tmp_path / "cache" / before[0] / "ends.i64").stat().st_ino
    os.utime(path, ns=(10**18, 10**18 + 5))
    made(tiny, path)
    assert folders(tmp_path / "cache") == before
    assert (tmp_path / "cache" / before[0] / "ends.i64").stat().st_ino == inode


@pytest.mark.parametrize(
    "change",
    [
        {"data": Data(boilerplate=False)},
        {"frac": 0.4},
        {"tokenizer_hash": "another"},
        {"scorer_hash": "another"},
    ],
)
def test_another_setting_is_another_key(tiny: Base, tmp_path: Path, change: dict[str, Any]) -> None:
    """Red: any of them skipped of the key."""
    path = corpus(tmp_path)
    made(tiny, path)
    made(tiny, path)
    assert len(folders(tmp_path / "cache")) == 1
    made(tiny, path, **change)
    assert len(folders(tmp_path / "cache")) == 2


def test_prepared_twice_gives_the_same_bytes(tiny: Base, tmp_path: Path) -> None:
    path = corpus(tmp_path)
    one, two = (made(tiny, path, Data(), cache_dir=tmp_path / name) for name in ("one", "two"))
    assert one.sha256 == two.sha256 and one.card == two.card
    assert folders(tmp_path / "one") == folders(tmp_path / "two")
    (name,) = folders(tmp_path / "one")
    for file in (tmp_path / "one" / name).iterdir():
        assert file.read_bytes() == (tmp_path / "two" / name / file.name).read_bytes()


def test_a_preparation_that_fails_leaves_nothing(tiny: Base, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", [(names(False, 1)[0], essay(1))])
    with pytest.raises(DataError, match="got 1 document at"):
        made(tiny, path)
    assert folders(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_removed_and_what_runs_is_not(tiny: Base, tmp_path: Path) -> None:
    """Red: no lock asked for, so that the folder of another running process goes too."""
    path, cache = corpus(tmp_path), tmp_path / "cache"
    with private_folder(cache) as running:
        left = cache / ".building-left"
        left.mkdir()
        (left / "lock").touch()
        (left / "spool-train.jsonl").write_text("private")
        made(tiny, path)
        assert running.is_dir() and not left.exists()
    assert len(folders(cache)) == 1


def test_a_killed_process_leaves_nothing_that_is_used(tiny_folder: Path, tiny: Base, tmp_path: Path) -> None:
    """It dies with every file written but not in place; the next one starts afresh."""
    import signal
    import subprocess
    import sys

    path = corpus(tmp_path)
    script = (
        "import os, signal, sys, cogen.data.prepare as p\n"
        "from pathlib import Path; from cogen.config import Data; from transformers import AutoTokenizer\n"
        "p.keep_folder = lambda made, folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "p.prepare(sys.argv[2], lambda: tokenizer, Data(), 0.3, tokenizer_hash='t', cache_dir=Path(sys.argv[3]))\n"
    )
    cache = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", script, str(tiny_folder), str(path), str(cache)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = folders(cache)
    assert left.startswith(".building-") and (cache / left / "store" / "card.json").is_file()
    prepared = made(tiny, path, Data(), tokenizer_hash="t")
    assert len(prepared.train) > 5 and left not in folders(cache)


@pytest.mark.parametrize("file", ["tokens.u16", "ends.i64", "heldout.jsonl", "card.json", "hashes.json"])
def test_a_byte_that_flipped_is_found_and_the_corpus_is_prepared_again(
    tiny: Base, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the file, where it stays readable. Red: one of the files without a hash, or not compared."""
    path = corpus(tmp_path)
    first = made(tiny, path)
    tokens = [d.tolist() for d in first.train]
    (name,) = folders(tmp_path / "cache")
    files = {p.name: p.read_bytes() for p in (tmp_path / "cache" / name).iterdir()}
    content = bytearray(files[file])
    content[len(content) // 2] ^= 1
    (tmp_path / "cache" / name / file).write_bytes(content)
    again = made(tiny, path)
    assert [d.tolist() for d in again.train] == tokens
    assert (again.sha256, again.heldout, again.card) == (first.sha256, first.heldout, first.card)
    assert {p.name: p.read_bytes() for p in (tmp_path / "cache" / name).iterdir()} == files
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not as it was written; the corpus is prepared again") and name in line


@pytest.mark.parametrize("is_more", [True, False], ids=["more", "less"])
def test_a_file_that_is_missing_or_new_is_found_too(tiny: Base, tmp_path: Path, is_more: bool) -> None:
    path = corpus(tmp_path)
    made(tiny, path)
    (name,) = folders(tmp_path / "cache")
    place = tmp_path / "cache" / name
    if is_more:
        (place / "tokens.i32").write_bytes(b"\0\0\0\0")
    else:
        (place / "ends.i64").unlink()
    made(tiny, path)
    assert {p.name for p in place.iterdir()} == {"card.json", "ends.i64", "hashes.json", "heldout.jsonl", "tokens.u16"}


def test_results_that_were_not_used_for_longest_are_removed(
    tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the links to them. Red: the cache grows; the oldest is removed though it was used last."""
    monkeypatch.setattr(prepare_module, "NUM_KEPT_OF_ONE", 2)
    path, cache = corpus(tmp_path), tmp_path / "cache"
    first, second = (made(tiny, path, frac=frac).sha256 for frac in (0.3, 0.4))
    for age, folder in enumerate(sorted(prepare_module.prepared_from(path, cache), key=lambda p: p.stat().st_mtime)):
        os.utime(folder, (1000 + age, 1000 + age))
    made(tiny, path, frac=0.3)
    third = made(tiny, path, frac=0.5).sha256
    left = {DataCard.load(folder / "card.json").sha256 for folder in prepare_module.prepared_from(path, cache)}
    assert left == {first, third} and second not in left
    assert {link.read_text() for link in (cache / "index").iterdir()} == set(folders(cache))
    assert prepare_module.prepared_from(tmp_path / "other", cache) == []


def test_files_that_cannot_be_read_are_in_the_card_or_stop_it(tiny: Base, tmp_path: Path) -> None:
    put(tmp_path / "c" / "a.jsonl", [(f"doc{n}", essay(n)) for n in range(12)])
    (tmp_path / "c" / "b.txt").write_bytes(b"\xff")
    prepared = made(tiny, tmp_path / "c")
    (left,) = prepared.card.skipped
    assert (left.file, left.reason) == (str(tmp_path / "c" / "b.txt"), "expected UTF-8, got byte 0 that is not")
    with pytest.raises(DataError, match="got byte 0"):
        made(tiny, tmp_path / "c", PLAIN.model_copy(update={"strict": True}))
    with pytest.raises(DataError, match="got 1 files or lines that were skipped"):
        made(tiny, tmp_path / "c" / "b.txt")


def test_a_long_list_of_what_was_skipped_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_SKIPPED", 3)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + "bad\n" * 8)
    found = spool.write_spool(tmp_path, iter_corpus(path), FRAC)
    assert [left.file.rpartition(" ")[2] for left in found.reading.skipped] == ["2", "3", "4"]
    assert found.reading.num_skipped == 8


def test_documents_that_the_base_finds_absurd_are_dropped(tiny: Base, tmp_path: Path) -> None:
    train = names(False, 4)
    found = ["Good text.", "Good again.", "xq zzk", "la la la"]
    path = put(tmp_path / "a.jsonl", [(names(True, 1)[0], "Good held out."), *zip(train, found, strict=True)])
    data = PLAIN.model_copy(update={"perplexity_filter": True})
    with pytest.raises(ConfigError, match="cannot filter by perplexity"):
        made(tiny, path, data)

    def scorer(documents: Sequence[Document]) -> list[float]:
        return [1.0 if "Good" in d.text else 9.0 if "x" in d.text else 0.01 for d in documents]

    prepared = made(tiny, path, data, scorer=scorer)
    assert texts(tiny, prepared) == found[:2]
    assert {k: v.num_documents for k, v in prepared.card.dropped.items()} == {
        "gibberish to the base": 1,
        "too predictable": 1,
    }


def test_all_may_be_held_out(tiny: Base, tmp_path: Path) -> None:
    prepared = made(tiny, corpus(tmp_path), frac=1.0)
    assert len(prepared.heldout) == 12 and len(prepared.train) == prepared.num_train_tokens == 0


def test_validation_documents_are_kept_apart(tiny: Base, tmp_path: Path) -> None:
    """They lie next to the held-out ones by their hash, which stay the same. Red: validation documents trained on."""
    path = corpus(tmp_path)
    without, apart = made(tiny, path), made(tiny, path, validation_frac=0.3)
    want = validation_documents(read_corpus(path).documents, FRAC, 0.3, "here")
    assert apart.validation == want and without.validation == ()
    assert apart.heldout == without.heldout
    assert len(apart.train) == len(without.train) - len(want) > 0


@pytest.mark.parametrize("validation_frac", [0.0, 0.1])
def test_the_lowest_hash_that_survives_cleaning_is_held_out(tiny: Base, tmp_path: Path, validation_frac: float) -> None:
    """Red: the lowest hash of all documents read; a validation document taken before a held-out one."""
    ranked = sorted((f"doc{n}" for n in range(30)), key=lambda i: hash_order(Document(i, "", "", "")))
    ranked = [i for i in ranked if not is_below(i, 0.2)]  # 0.01 + 0.1 leaves both parts empty
    bad = {ranked[0]: "too short", ranked[2]: essay(1)}  # dropped by quality, and as a copy of the lowest one left
    documents = [(i, bad.get(i) or essay(n)) for n, i in enumerate(ranked)]
    path = put(tmp_path / "a.jsonl", documents)
    prepared = made(tiny, path, Data(), 0.01, validation_frac=validation_frac)
    reserved = [*prepared.heldout, *prepared.validation]
    assert [d.id for d in reserved] == ([ranked[1], ranked[3]] if validation_frac else [ranked[1]])
    assert [len(prepared.heldout), len(prepared.validation)] == [1, 1 if validation_frac else 0]
    assert len(prepared.train) == len(ranked) - 2 - len(reserved)
    card = prepared.card
    assert (card.train.num_documents, card.heldout.num_documents) == (len(prepared.train), len(reserved))
    assert {k: v.num_documents for k, v in card.dropped.items()} == {
        "exact duplicate": 1,
        "quality: number of words": 1,
    }
    assert made(tiny, path, Data(), 0.01, validation_frac=validation_frac).heldout == prepared.heldout


def test_the_highest_hash_is_trained_on_where_all_are_below(tiny: Base, tmp_path: Path) -> None:
    """Also where it is so only after cleaning. Red: the corpus refused; the document both held out and trained on."""
    held = sorted(names(True, 4), key=lambda i: hash_order(Document(i, "", "", "")))
    documents = [(i, essay(n)) for n, i in enumerate(held)] + [(names(False, 1)[0], "too short")]
    prepared = made(tiny, put(tmp_path / "a.jsonl", documents), Data())
    assert [d.id for d in prepared.heldout] == held[:-1]
    assert texts(tiny, prepared) == [essay(3)]
    with pytest.raises(DataError, match=r"validation .* and training documents.*got 4 documents.*1 dropped"):
        made(tiny, tmp_path / "a.jsonl", Data(), validation_frac=0.1)


def test_copies_with_one_id_cannot_be_split(tiny: Base, tmp_path: Path) -> None:
    """Red: the same text held out and trained on, or a loop without end."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": essay(1)}) + "\n" + json.dumps({"text": essay(1)}) + "\n")
    for data in (PLAIN, Data()):
        with pytest.raises(DataError, match="corpus too small"):
            made(tiny, tmp_path / "a.jsonl", data)
