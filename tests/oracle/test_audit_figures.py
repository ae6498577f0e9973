"""Figures of the audit against independent computations: scikit-learn, float64, generated text, a hook in training.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

import cogen.train.likelihood as likelihood
from cogen.audit.intervals import attack_estimates, wilson
from cogen.audit.membership import membership, membership_figures, score_both
from cogen.audit.scores import score_continuations, score_excerpts, split_tokens
from cogen.audit.windows import AuditText, Excerpt, distinct_places, member_windows, trained_blocks, unseen_windows
from cogen.base import Base
from cogen.config import Train
from cogen.data.pack import PackedStream, Place, train_batch
from cogen.evaluate.continuation import Continuation
from cogen.train.isolation import use_stock_attention
from cogen.train.lora import attached
from tests.oracle.test_bpb import some_adapter


def scores_of(kind: str, seed: int) -> tuple[list[float], list[float]]:
    draw = np.random.default_rng(seed)
    members, others = draw.normal(0.7, 1.0, 90), draw.normal(0.0, 1.0, 150)
    return (
        (members.tolist(), others.tolist()) if kind == "fine" else (members.round().tolist(), others.round().tolist())
    )


@pytest.mark.parametrize("kind", ["fine", "tied"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auc_and_true_positives_are_those_of_scikit_learn(kind: str, seed: int) -> None:
    """Red: ties that count 1 or 0; a threshold that equals an unseen score and counts it as below."""
    members, others = scores_of(kind, seed)
    auc, found = attack_estimates(members, others, list(range(90)), list(range(150)), 0)
    labels, values = [1] * 90 + [0] * 150, [*members, *others]
    assert auc.value == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    false, true, _ = roc_curve(labels, values, drop_intermediate=False)
    assert found.value == pytest.approx(true[false <= 0.01].max(), abs=1e-12)
    assert auc.low < auc.value < auc.high and found.low <= found.value <= found.high


def test_windows_of_one_document_do_not_count_as_many() -> None:
    """30 documents of 5 equal windows know as much as 30 windows. Red: windows are drawn instead of documents."""
    draw = np.random.default_rng(3)
    members, others = np.repeat(draw.normal(0.5, 1.0, 30), 5), np.repeat(draw.normal(0.0, 1.0, 30), 5)
    documents = np.repeat(np.arange(30), 5).tolist()
    clustered, _ = attack_estimates(members.tolist(), others.tolist(), documents, documents, 0)
    alone, _ = attack_estimates(members[::5].tolist(), others[::5].tolist(), list(range(30)), list(range(30)), 0)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert clustered.high - clustered.low > 0.2


def test_the_interval_covers_the_truth() -> None:
    """95% intervals of scores that differ by nothing hold 0.5 nearly as often as they say."""
    covered = 0
    for seed in range(100):
        draw = np.random.default_rng(100 + seed)
        auc, _ = attack_estimates(
            draw.normal(size=40).tolist(), draw.normal(size=40).tolist(), list(range(40)), list(range(40)), seed
        )
        covered += auc.low <= 0.5 <= auc.high
    assert covered >= 88


def test_two_documents_say_nothing() -> None:
    auc, found = attack_estimates([1.0, 2.0], [0.0, 0.1], [0, 1], [5, 6], 0)
    assert (auc.value, auc.low, auc.high) == (1.0, 0.0, 1.0) and (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("num", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_wilson(num: int, total: int, low: float, high: float) -> None:
    """The last row is Newcombe's example (Statistics in Medicine 1998)."""
    found = wilson(num, total)
    assert (found.value, found.low, found.high) == pytest.approx((num / total, low, high), abs=1e-4)


def windows_of(base: Base, num: int, tokens: int, seed: int = 0) -> list[Excerpt]:
    draw = np.random.default_rng(seed)
    return [Excerpt(i, i, draw.integers(1, 512, tokens).astype(np.int32)) for i in range(num)]


@torch.no_grad()
def log_probabilities(base: Base, tokens: Sequence[int]) -> torch.Tensor:
    """`(n, V)` in float64 after each token, from the stock model."""
    use_stock_attention(base.model)
    logits = base.model(input_ids=torch.tensor([list(tokens)])).logits[0]
    return torch.log_softmax(logits.double(), dim=1)


def test_window_scores_against_a_direct_computation(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 tokens cross windows. Red: variance without the square of the mean; highest fifth; BOS counted."""
    monkeypatch.setattr(likelihood, "CHUNK_TOKENS", 7)
    windows = windows_of(tiny, 5, 33)
    with attached(tiny.model, some_adapter(tiny, 0.3).factors):
        found = score_excerpts(tiny, windows)
        for i, window in enumerate(windows):
            ids = window.tokens.tolist()
            logp = log_probabilities(tiny, ids)[:-1]
            own = logp[torch.arange(32), torch.tensor(ids[1:])]
            mean = (logp.exp() * logp).sum(1)
            z = (own - mean) / ((logp.exp() * logp**2).sum(1) - mean**2).sqrt()
            assert found.nats[i] == pytest.approx(-float(own.mean()), rel=1e-5)
            assert found.min_k[i] == pytest.approx(float(z.sort().values[:6].mean()), rel=1e-4)


def test_the_continuation_is_the_one_that_is_generated(tiny: Base) -> None:
    """Text that begins as the model itself would go on, for 0, 3 and all tokens. Red: an offset of one."""
    prefix, continued = split_tokens(32)
    windows, wanted = [], [0, 3, continued]
    for number, same in enumerate(wanted):
        ids = windows_of(tiny, 1, prefix, number)[0].tokens.tolist()
        for _ in range(same):
            ids.append(int(log_probabilities(tiny, ids)[-1].argmax()))
        while len(ids) < prefix + continued:
            ids.append((int(log_probabilities(tiny, ids)[-1].argmax()) + 1) % 512)
        windows.append(Excerpt(number, 0, np.array(ids, dtype=np.int32)))
    assert score_excerpts(tiny, windows).num_matched.tolist() == wanted


def test_scores_of_a_continuation_do_not_depend_on_its_neighbours(tiny: Base) -> None:
    """Only the tokens after the context are scored. Red: the context counts; batches share attention."""
    draw = np.random.default_rng(1)
    texts = [
        Continuation(draw.integers(1, 512, c).astype(np.int32), draw.integers(1, 512, n).astype(np.int32))
        for c, n in ((5, 9), (1, 30), (0, 12), (40, 1))
    ]
    together = score_continuations(tiny, texts)
    assert [len(found.nats) for found in together] == [9, 30, 11, 1]
    for text, found in zip(texts, together, strict=True):
        (alone,) = score_continuations(tiny, [text])
        assert torch.allclose(found.nats, alone.nats, rtol=1e-4)
        ids = [*text.context.tolist(), *text.tokens.tolist()]
        logp = log_probabilities(tiny, ids)[:-1]
        own = logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][-len(found.nats) :]
        assert torch.allclose(found.nats, -own, rtol=1e-4)


def test_the_attacks_follow_from_the_scores(tiny: Base) -> None:
    """Red: a ratio with the wrong sign; zlib times the loss."""
    members, others = windows_of(tiny, 12, 32, 1), windows_of(tiny, 14, 32, 2)
    factors = some_adapter(tiny, 0.3).factors
    found = membership(tiny, factors, members, others)
    before, after = score_both(tiny, {}, members, others), score_both(tiny, factors, members, others)
    assert membership_figures(tiny, after, before, members, others) == found
    labels = [1] * 12 + [0] * 14

    def auc(high: np.ndarray, low: np.ndarray) -> float:
        return float(roc_auc_score(labels, [*high, *low]))

    sizes = [
        np.array([len(zlib.compress(tiny.tokenizer.decode(w.tokens).encode())) for w in some])
        for some in (members, others)
    ]
    expected = {
        "ratio": auc(before.members.nats - after.members.nats, before.others.nats - after.others.nats),
        "min_k": auc(after.members.min_k, after.others.min_k),
        "zlib": auc(-after.members.nats / sizes[0], -after.others.nats / sizes[1]),
        "loss": auc(-after.members.nats, -after.others.nats),
    }
    assert {s.score: s.auc.value for s in found.scores} == pytest.approx(expected)
    assert len(set(expected.values())) == 4


def documents(seed: int, num: int = 12, eos: int = 0) -> list[np.ndarray]:
    """Documents without a token in common, each ending in EOS."""
    draw, made, first = np.random.default_rng(seed), [], 1
    for _ in range(num):
        length = int(draw.integers(5, 90))
        made.append(np.array([*range(first, first + length), eos], dtype=np.int32))
        first += length
    return made


def test_the_places_of_a_block_are_where_its_tokens_are() -> None:
    for bos in (None, 9999):
        texts = documents(4) if bos is None else [np.concatenate(([bos], d)).astype(np.int32) for d in documents(4)]
        stream = PackedStream(texts, 32, 7, bos)
        for block in range(40):  # into the third epoch
            pieces = stream.segments(block)
            for piece, place in zip(pieces, stream.places(block), strict=True):
                own = texts[place.document][place.first : place.end]
                assert piece[-len(own) :].tolist() == own.tolist() and len(piece) - len(own) in (0, 1)


def test_the_pieces_of_a_document_are_those_of_its_blocks() -> None:
    """Blocks of every length, so that some end with a document. Red: an edge that is one block off."""
    texts = documents(4)
    for size in range(3, 40):
        stream = PackedStream(texts, size, 7)
        num_blocks = -(-stream.epoch_tokens // size)
        found = [pair for number in range(len(texts)) for pair in stream.document_places(number)]
        wanted, left = [], stream.epoch_tokens  # the last block goes on into the next epoch
        for block in range(num_blocks):
            for place in stream.places(block):
                if left > 0:
                    wanted.append((place, block))
                left -= place.end - place.first
        assert sorted(found, key=repr) == sorted(wanted, key=repr)


@pytest.mark.parametrize("num_blocks", [3, 6, 40])
def test_members_were_trained_and_others_were_not(num_blocks: int) -> None:
    """Against the tokens of the blocks themselves. Red: windows across pieces; other epochs' cuts; EOS inside."""
    texts, held = documents(4), [d + 5000 * (d > 0) for d in documents(5, 4)]
    stream = PackedStream(texts, 32, 7)
    trained = {int(t) for b in range(num_blocks) for t in train_batch(stream, b, 1).tokens}
    text = AuditText(stream, range(num_blocks), held)
    members, others = member_windows(text, 8), unseen_windows(text, 8)
    assert all(0 not in w.tokens and len(w.tokens) == 8 for w in (*members, *others))
    assert all(set(w.tokens.tolist()) <= trained for w in members)
    assert not any(set(w.tokens.tolist()) & trained for w in others)
    assert all(w.is_heldout == (w.document >= len(texts)) == (w.tokens[0] > 5000) for w in others)
    assert any(w.is_heldout for w in others) and any(not w.is_heldout for w in others) == (num_blocks < 40)
    for window in members:
        assert any(set(window.tokens.tolist()) <= set(piece.tolist()) for piece in stream.segments(window.block))
    tokens = [int(t) for w in members for t in w.tokens]
    assert len(tokens) == len(set(tokens))


def test_windows_are_from_as_many_documents_as_possible() -> None:
    text = AuditText(PackedStream(documents(4), 32, 7), range(6), documents(5, 4))
    most = len({w.document for w in member_windows(text, 8)})
    assert most >= 3 and len(member_windows(text, 8)) > most
    assert len({w.document for w in member_windows(text, 8, most)}) == len(member_windows(text, 8, most)) == most


def test_distinct_places_hold_each_token_once() -> None:
    stream = PackedStream(documents(4), 32, 7)
    once = distinct_places(stream, range(60))
    tokens = [t for place in once for t in range(place.first, place.end)]
    assert len(tokens) <= stream.epoch_tokens and Place(-1, 0, 0) not in once
    by_document: dict[int, list[Place]] = {}
    for place in once:
        by_document.setdefault(place.document, []).append(place)
    for some in by_document.values():
        assert all(a.end <= b.first for a, b in pairwise(sorted(some, key=lambda place: place.first)))


def test_mixed_in_blocks_are_no_blocks_of_the_corpus() -> None:
    """Of 20 blocks a quarter is replayed; two corpora take turns with the others. Red: replay is not counted."""
    settings = Train(sequence_length=32, tokens_per_round=640, replay="general", replay_frac=0.25)
    first, second = trained_blocks(settings, 2, range(20), 20)
    assert (first, second) == (list(range(8)), list(range(7)))
    assert trained_blocks(settings.model_copy(update={"replay": None}), 1, range(4, 6), 20) == [[4, 5]]
