"""Laws of packing documents into batches: no token and no byte is lost, repeated or reordered."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cogen.base import Base
from cogen.data import Document, PackedStream, Window, heldout_windows, split_documents, tokenize, window_batch
from cogen.data.pack import IGNORE, InterleavedStream, train_batch
from cogen.data.split import hash_order, is_below
from cogen.errors import DataError

EOS = 0
LENGTHS = st.lists(st.integers(0, 23), min_size=1, max_size=7)
BLOCK = st.integers(1, 17)
SEED = st.integers(0, 2**31 - 1)
NUM_BLOCKS = st.integers(1, 25)
# Text with characters of one to four bytes, and of several code points, as people write it.
PIECES = st.sampled_from(["the grid ", "für ", "naïve", "水泥 ", "🙂", "👩‍🔬", "🇩🇪", "\n\n", "  ", "a", "é", "Ω = 3 "])
TEXT = st.lists(PIECES, min_size=1, max_size=40).map("".join)
Ids = NDArray[np.int32]


def law(test: Callable[..., None]) -> Any:
    """The same 40 examples on every run, with no limit on time."""
    return settings(max_examples=40, deadline=None, derandomize=True, database=None)(test)


def numbered(lengths: Sequence[int], first: int = 1) -> list[Ids]:
    """Documents whose tokens are all different, so that a token says whence it came; EOS ends each."""
    count = itertools.count(first)
    return [np.array([*itertools.islice(count, n), EOS], dtype=np.int32) for n in lengths]


def of(identity: str, text: str = "x") -> Document:
    return Document(id=identity, title="", text=text, source="")


def flat(stream: PackedStream | InterleavedStream, num_blocks: int) -> list[int]:
    return [int(t) for n in range(num_blocks) for piece in stream.segments(n) for t in piece]


def read_by_hand(documents: Sequence[Ids], seed: int, num_tokens: int) -> list[int]:
    """The endless stream as its docstring says it: epoch after epoch, each in the order seeded by (seed, epoch)."""
    read: list[int] = []
    for epoch in itertools.count():
        if len(read) >= num_tokens:
            return read[:num_tokens]
        for n in np.random.default_rng([seed, epoch]).permutation(len(documents)):
            read += documents[n].tolist()
    raise AssertionError


@law
@given(LENGTHS, BLOCK, SEED, NUM_BLOCKS)
def test_blocks_are_the_seeded_epochs_end_to_end(lengths: list[int], block: int, seed: int, num_blocks: int) -> None:
    documents = numbered(lengths)
    assert flat(PackedStream(documents, block, seed), num_blocks) == read_by_hand(documents, seed, num_blocks * block)


@law
@given(LENGTHS, BLOCK, SEED)
def test_each_epoch_reads_every_token_once(lengths: list[int], block: int, seed: int) -> None:
    documents = numbered(lengths)
    size = sum(len(d) for d in documents)
    stream = flat(PackedStream(documents, block, seed), -(-3 * size // block))
    everything = sorted(t for d in documents for t in d.tolist())
    for epoch in range(3):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == everything


@law
@given(LENGTHS, BLOCK, SEED, NUM_BLOCKS)
def test_segments_fill_a_block_and_stay_in_one_document(
    lengths: list[int], block: int, seed: int, num_blocks: int
) -> None:
    documents = numbered(lengths)
    stream = PackedStream(documents, block, seed)
    texts = [d.tobytes() for d in documents]
    for n in range(num_blocks):
        segments = stream.segments(n)
        assert sum(len(s) for s in segments) == block and all(len(s) > 0 for s in segments)
        assert all(any(s.tobytes() in text for text in texts) for s in segments)
        assert all(EOS not in s[:-1] for s in segments)
        assert all(s[-1] == EOS for s in segments[:-1]), "only a block's end cuts a document"


@law
@given(LENGTHS, BLOCK, SEED)
def test_a_documents_pieces_in_order_are_the_document_with_one_eos(lengths: list[int], block: int, seed: int) -> None:
    documents = numbered(lengths)
    stream = PackedStream(documents, block, seed)
    whole: list[list[int]] = [[]]
    for n in range(-(-stream.epoch_tokens // block)):
        for piece in stream.segments(n):
            whole[-1] += piece.tolist()
            if piece[-1] == EOS:
                whole.append([])
    assert sorted(whole[: len(documents)]) == sorted(d.tolist() for d in documents)


@law
@given(LENGTHS, BLOCK, SEED, st.integers(0, 9), st.integers(1, 4))
def test_a_target_is_the_next_token_of_its_segment(
    lengths: list[int], block: int, seed: int, first: int, num_blocks: int
) -> None:
    stream = PackedStream(numbered(lengths), block, seed)
    batch = train_batch(stream, first, num_blocks)
    segments = [s.tolist() for n in range(first, first + num_blocks) for s in stream.segments(n)]
    assert batch.tokens.tolist() == [t for s in segments for t in s]
    assert batch.targets.tolist() == [t for s in segments for t in [*s[1:], IGNORE]]
    assert batch.lengths == tuple(len(s) for s in segments)
    assert batch.tokens.dtype == batch.targets.dtype == np.int64


@law
@given(LENGTHS, BLOCK, SEED, st.randoms(use_true_random=False))
def test_any_order_of_access_reads_the_same_blocks(
    lengths: list[int], block: int, seed: int, chance: random.Random
) -> None:
    documents = numbered(lengths)
    stream = PackedStream(documents, block, seed)
    in_turn = [[s.tolist() for s in stream.segments(n)] for n in range(20)]
    shuffled = list(range(20)) * 2
    chance.shuffle(shuffled)
    jumping = PackedStream(documents, block, seed)
    assert all([s.tolist() for s in jumping.segments(n)] == in_turn[n] for n in shuffled)


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    documents = numbered([3] * 30)
    size = 30 * 4
    orders = {seed: flat(PackedStream(documents, 4, seed), 60) for seed in (0, 1)}
    epochs = [order[at : at + size] for order in orders.values() for at in (0, size)]
    assert len({tuple(e) for e in epochs}) == 4
    assert flat(PackedStream(documents, 4, 0), 60) == orders[0]


@law
@given(st.lists(LENGTHS, min_size=1, max_size=4), BLOCK, SEED, st.integers(1, 6))
def test_interleaved_streams_take_equal_turns(lengths: list[list[int]], block: int, seed: int, num_turns: int) -> None:
    streams = [PackedStream(numbered(own, first=1 + 1000 * n), block, seed) for n, own in enumerate(lengths)]
    mixed = InterleavedStream(streams)
    assert mixed.sequence_length == block
    for n in range(num_turns * len(streams)):
        turn, which = n // len(streams), n % len(streams)
        assert [s.tolist() for s in mixed.segments(n)] == [s.tolist() for s in streams[which].segments(turn)]


@law
@given(st.sets(st.text(max_size=8), max_size=30), st.sampled_from([0.1, 0.5, 0.9]), st.randoms(use_true_random=False))
def test_a_split_is_disjoint_complete_and_blind_to_order(ids: set[str], frac: float, chance: random.Random) -> None:
    documents = [of(i) for i in sorted(ids | {f"always-{n}" for n in range(60)})]
    split = split_documents(documents, frac, "here")
    assert {d.id for d in split.train} & {d.id for d in split.heldout} == set()
    assert len(split.train) + len(split.heldout) == len(documents)
    assert {*split.train, *split.heldout} == set(documents)
    held = set(split.heldout)
    assert list(split.train) == [d for d in documents if d not in held], "training keeps the corpus's order"
    shuffled = list(documents)
    chance.shuffle(shuffled)
    again = split_documents(iter(shuffled), frac, "there")
    assert again.heldout == split.heldout and set(again.train) == set(split.train)


@law
@given(st.sets(st.integers(0, 199), min_size=60), st.sampled_from([0.2, 0.5]))
def test_a_documents_side_does_not_depend_on_the_others(present: set[int], frac: float) -> None:
    everyone = split_documents([of(f"doc-{n}") for n in range(200)], frac, "here")
    some = split_documents([of(f"doc-{n}", text="another text") for n in sorted(present)], frac, "here")
    sides = {d.id: True for d in everyone.heldout} | {d.id: False for d in everyone.train}
    assert all(sides[d.id] for d in some.heldout) and not any(sides[d.id] for d in some.train)


@pytest.mark.parametrize("frac", [0.05, 0.15, 0.5])
def test_about_the_right_fraction_is_held_out_and_more_only_adds(frac: float) -> None:
    documents = [of(f"page-{n}") for n in range(2000)]
    held = split_documents(documents, frac, "here").heldout
    four_sigma = 4 * (frac * (1 - frac) / 2000) ** 0.5
    assert abs(len(held) / 2000 - frac) < four_sigma
    assert set(held) < set(split_documents(documents, frac + 0.1, "here").heldout)


def test_the_same_documents_are_held_out_on_every_machine() -> None:
    # printf 'cogen-heldout\0page-0' | sha256sum, and so on; held out below 0.15 * 2**256, least first
    held = split_documents([of(f"page-{n}") for n in range(40)], 0.15, "here").heldout
    assert [d.id for d in held] == ["page-38", "page-8", "page-10"]


IDS = st.sets(st.integers(0, 99), min_size=2, max_size=12)
FRACS = st.sampled_from([1e-9, 0.05, 0.3, 0.7, 1 - 1e-9])


@law
@given(IDS, FRACS, st.randoms(use_true_random=False))
def test_any_two_documents_can_be_split(numbers: set[int], frac: float, chance: random.Random) -> None:
    """Red: no document taken where none is below; the parts depend on the order of reading."""
    documents = [of(f"page-{n}") for n in numbers]
    chance.shuffle(documents)
    split = split_documents(documents, frac, "here")
    assert split.heldout and split.train
    assert sorted(d.id for d in split.heldout + split.train) == sorted(d.id for d in documents)
    below = {d.id for d in documents if is_below(d.id, frac)}
    held, ranked = [d.id for d in split.heldout], [d.id for d in sorted(documents, key=hash_order)]
    assert held == ranked[: min(max(len(below), 1), len(ranked) - 1)]


@law
@given(IDS, IDS, FRACS)
def test_adding_documents_moves_only_what_the_law_says(old: set[int], new: set[int], frac: float) -> None:
    """Red: the lowest document held out besides those that are below."""
    before, after = (split_documents([of(f"page-{n}") for n in ns], frac, "") for ns in (old, old | new))
    held = [{d.id for d in split.heldout} for split in (before, after)]
    for identity in held[0] - held[1]:  # into training
        assert not is_below(identity, frac) and held[0] == {identity}
        assert all(hash_order(of(i)) < hash_order(of(identity)) for i in held[1])
    for identity in held[1] - held[0]:  # into the held-out part
        assert identity not in {d.id for d in before.train} or (is_below(identity, frac) and len(before.train) == 1)


@pytest.mark.parametrize(("count", "frac"), [(0, 0.5), (1, 0.05), (1, 0.95)])
def test_a_corpus_of_one_document_is_refused(count: int, frac: float) -> None:
    expected = rf"expected at least one held-out and one training document, got {count} document.* \(grid\)"
    with pytest.raises(DataError, match=expected):
        split_documents([of(str(n)) for n in range(count)], frac, "grid")


@law
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_tokenizing_adds_one_eos_and_loses_nothing(tiny: Base, texts: list[str]) -> None:
    found = tokenize([of(str(n), t) for n, t in enumerate(texts)], tiny.tokenizer)
    assert [tiny.tokenizer.decode(ids[:-1]) for ids in found] == texts
    assert all(ids[-1] == tiny.eos_id and tiny.eos_id not in ids[:-1] for ids in found)


def plain_ids(tiny: Base, text: str) -> list[int]:
    ids: list[int] = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@law
@given(text=TEXT, block=st.integers(8, 20))
def test_windows_are_all_tokens_and_all_bytes_of_the_text(tiny: Base, text: str, block: int) -> None:
    windows = heldout_windows([of("x", text)], tiny.tokenizer, block, 10**6)
    assert [int(t) for w in windows for t in w.tokens] == plain_ids(tiny, text)
    assert sum(w.num_bytes for w in windows) == len(text.encode())
    assert all(0 < len(w.tokens) <= block for w in windows)
    assert all(w.num_bytes == len(tiny.tokenizer.decode(w.tokens).encode()) for w in windows)
    assert "\ufffd" not in "".join(tiny.tokenizer.decode(w.tokens) for w in windows), "a character is torn apart"


def test_a_long_text_of_emoji_gives_many_windows_of_nearly_full_size(tiny: Base) -> None:
    text = "Mörtel 👩‍🔬🇩🇪 水泥 " * 40
    windows = heldout_windows([of("x", text)], tiny.tokenizer, 16, 10**6)
    assert len(windows) > 20
    assert all(13 <= len(w.tokens) <= 16 for w in windows[:-1]), "a cut moves by at most three bytes"
    assert any(len(w.tokens) < 16 for w in windows[:-1]), "no cut had to move: the text does not test it"
    assert sum(w.num_bytes for w in windows) == len(text.encode())


@law
@given(text=TEXT, block=st.integers(1, 3))
def test_blocks_shorter_than_a_character_still_add_up(tiny: Base, text: str, block: int) -> None:
    windows = heldout_windows([of("x", text)], tiny.tokenizer, block, 10**6)
    assert [int(t) for w in windows for t in w.tokens] == plain_ids(tiny, text)
    assert sum(w.num_bytes for w in windows) == len(text.encode())
    assert all(0 < len(w.tokens) <= block for w in windows)


@law
@given(texts=st.lists(TEXT, min_size=1, max_size=6), budget=st.integers(1, 200))
def test_a_budget_is_met_to_within_one_window_firsts_first(tiny: Base, texts: list[str], budget: int) -> None:
    block = 8
    documents = [of(str(n), t) for n, t in enumerate(texts)]
    apart = [heldout_windows([d], tiny.tokenizer, block, 10**6) for d in documents]
    turns = [w for turn in itertools.zip_longest(*apart) for w in turn if w is not None]
    chosen = heldout_windows(documents, tiny.tokenizer, block, budget)
    assert [w.tokens.tolist() for w in chosen] == [w.tokens.tolist() for w in turns[: len(chosen)]]
    sizes = [len(w.tokens) for w in turns]
    read, available = sum(sizes[: len(chosen)]), sum(sizes)
    assert min(budget, available) <= read < budget + block
    assert sum(sizes[: len(chosen) - 1]) < budget or not chosen


def test_every_document_gives_its_first_window_before_any_gives_a_second(tiny: Base) -> None:
    long, short = "the grid carries load " * 30, "one"
    firsts = heldout_windows([of("a", long), of("b", short), of("c", long)], tiny.tokenizer, 8, 18)
    assert [tiny.tokenizer.decode(w.tokens) for w in firsts][1] == "one"
    assert firsts[0].tokens.tolist() == firsts[2].tokens.tolist() == plain_ids(tiny, long)[:8]
    assert len(firsts) == 3


@law
@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=5))
def test_a_window_is_predicted_from_eos_and_scored_whole(windows: list[list[int]]) -> None:
    batch = window_batch([Window(np.array(w, dtype=np.int32), 1) for w in windows], start_id=EOS)
    assert batch.tokens.tolist() == [t for w in windows for t in [EOS, *w[:-1]]]
    assert batch.targets.tolist() == [t for w in windows for t in w]
    assert batch.lengths == tuple(len(w) for w in windows)
    assert batch.tokens.dtype == batch.targets.dtype == np.int64


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.integers(2, 9),
    st.integers(0, 9),
    st.integers(1, 9),
    st.booleans(),
)
def test_documents_of_blocks_are_those_whose_tokens_are_in_them(
    lengths: list[int], sequence_length: int, first: int, num_blocks: int, with_bos: bool
) -> None:
    """Counted from the blocks themselves: every token of document i is i + 1."""
    documents = [np.full(n, i + 1, dtype=np.int32) for i, n in enumerate(lengths)]
    stream = PackedStream(documents, sequence_length, seed=0, bos=0 if with_bos else None)
    seen = {int(t) for b in range(first, first + num_blocks) for piece in stream.segments(b) for t in piece} - {0}
    assert stream.num_documents(first, num_blocks) == len(seen)
