"""Attacks of a coordinator on a domain's text, within the default policy: none finds more than chance.

Each attack also runs once with its bound removed, where it succeeds: so the test can fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from cogen.adapter import Factors
from cogen.base import Base, describe_base, load_base
from cogen.config import parse_config
from cogen.data.pack import PackedStream, Window
from cogen.errors import MessageError, PolicyError, TrainingError
from cogen.evaluate.matrix import Cell
from cogen.evaluate.score import score_windows
from cogen.node.domain_settings import read_domain_settings
from cogen.node.home import JoinedDomain, NodeHome
from cogen.node.node import Node, Site
from cogen.node.policy import Policy
from cogen.node.score_book import HeldoutText, ScoreBook
from cogen.node.trainer import Trainer
from cogen.node.usage import Usage
from cogen.protocol.factors import to_arrays, to_factors
from cogen.protocol.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest, pack, unpack_request
from cogen.protocol.settings import WorkSettings, work_settings
from cogen.protocol.wire import Frame
from cogen.train.loop import train_round
from cogen.train.lora import attached, init_factors
from cogen.train.schedule import plan_round
from cogen.train.start import start_factors
from tests.conftest import SEEDS
from tests.member import make_home

RUN = "0123456789abcdef"
ROUND = {"tokens_per_round": 4096, "sequence_length": 256, "batch_size": 2, "rank": 16, "learning_rate": 5e-4}
SECRET_TOKENS, NUM_SEEDS = 3, 6


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> NodeHome:
    """A domain with the default policy; a seventh of its documents is held out, which is enough for figures."""
    made = make_home(tmp_path / "home", tiny_folder, SEEDS / "grid.jsonl")
    made.policy.unlink()
    made.settings.write_text("[heldout]\nheldout_frac = 0.15\n")
    return made


@pytest.fixture
def node(home: NodeHome) -> Node:
    member = home.read_member()
    return Node(Site(domain=member.domain, data=member.data, base=member.base), home)


LATER_ROUNDS = "fresh_starts = false\n"
"""A policy that allows rounds after the first, whose starts the coordinator makes."""


def settings(num_rounds: int = 4, **train: object) -> WorkSettings:
    values = {
        "base": {"name": "b", "precision": "float32"},
        "domains": [{"name": "grid"}],
        "train": {**ROUND, **train},
        "federation": {"num_rounds": num_rounds, "optimizer_across_rounds": "reset"},
    }
    config = parse_config(values, "test")
    return work_settings(config, config.domains[0])


def fresh(node: Node, asked: WorkSettings) -> dict[str, Factors]:
    return start_factors(describe_base(node.site.base).modules, asked.train)


def round_of(
    node: Node, asked: WorkSettings, start: Mapping[str, Factors], number: int = 1, run: str = RUN
) -> TrainReply:
    reply = node.answer(TrainRequest(run=run, round=number, settings=asked).with_arrays(to_arrays(start)))
    assert isinstance(reply, TrainReply)
    return reply


def scores_of(
    node: Node, asked: WorkSettings, models: Mapping[str, Mapping[str, Factors]], run: str = RUN
) -> EvaluateReply:
    arrays = {k: a for name, f in models.items() for k, a in to_arrays(f, f"{name}/").items()}
    reply = node.answer(EvaluateRequest(run=run, round=4, settings=asked, models=tuple(models)).with_arrays(arrays))
    assert isinstance(reply, EvaluateReply)
    return reply


def unigram(base: Base, direction: np.ndarray) -> dict[str, Factors]:
    """Factors that make the model predict softmax(E (norm * u / rms u)) at every position, whatever came before."""
    d, layer = base.model.config.hidden_size, f"model.layers.{base.model.config.num_hidden_layers - 1}.mlp."
    width = base.model.config.intermediate_size
    a = torch.randn(1, d, generator=torch.Generator().manual_seed(5))
    r = torch.randn(width, 1, generator=torch.Generator().manual_seed(6))
    u = torch.tensor(direction, dtype=torch.float32)[:, None]
    return {
        f"{layer}gate_proj": Factors(1e3 * a, r, 1.0),
        f"{layer}up_proj": Factors(1e3 * a, r, 1.0),
        f"{layer}down_proj": Factors(torch.ones(1, width), 1e6 * u, 1.0),
    }


# Held-out text from scores


def test_the_old_steps_of_the_attack_are_refused(node: Node, home: NodeHome) -> None:
    """A split and windows that shrink to a document and grow by a token; models that tell tokens apart.

    Red: settings of the held-out text in a request; no bound on the size of an adapter; any number of models of a run.
    """
    home.policy.write_text(LATER_ROUNDS)
    asked = settings()
    scoring = EvaluateRequest(run=RUN, round=1, settings=asked, models=())
    for foreign in ({"heldout": {"heldout_frac": 0.5}}, {"data": {"quality": False}}, {"window": 8}):
        header = pack(scoring).header
        with pytest.raises(MessageError, match="settings"):
            unpack_request(Frame({**header, "settings": {**header["settings"], **foreign}}))
    base = load_base(node.site.base, device="cpu", precision="float32")
    crafted = unigram(base, np.eye(32)[0])
    small = {n: Factors(f.a, 0.01 * torch.ones_like(f.b), 2.0) for n, f in fresh(node, asked).items()}
    with pytest.raises(PolicyError, match="a run that this domain has trained in"):
        scores_of(node, asked, {"combined": small})
    mine = round_of(node, asked, fresh(node, asked))
    with pytest.raises(PolicyError, match="change a layer by up to"):
        scores_of(node, asked, {"combined": crafted})
    with pytest.raises(PolicyError, match="change a layer by up to"):
        round_of(node, asked, {**fresh(node, asked), **crafted}, 2)
    first = scores_of(node, asked, {"combined": small})
    other = {n: Factors(f.a, 0.02 * torch.ones_like(f.b), 2.0) for n, f in small.items()}
    with pytest.raises(PolicyError, match="a second combined one"):
        scores_of(node, asked, {"combined": other})
    with pytest.raises(PolicyError, match="more than 0 adapters of other domains"):
        scores_of(node, asked, {"expert:ward": other})
    # Other windows of training change nothing of the figures: two askings have no difference.
    own = scores_of(node, settings(sequence_length=512), {"combined": small, "expert:grid": {}})
    assert own.scores["combined"] == first.scores["combined"]
    assert own.scores["base"] == first.scores["base"]
    assert own.scores["base"].num_tokens >= 1024
    sent = scores_of(node, asked, {"expert:grid": to_factors(mine.arrays, 2.0)})
    assert sent.scores["expert:grid"] == own.scores["expert:grid"]  # what it sent, by its hash
    digits = [f"{s.bits_per_byte:.4g}" for r in (first, own) for s in r.scores.values()]
    assert [float(d) for d in digits] == [s.bits_per_byte for r in (first, own) for s in r.scores.values()]
    figures = [line for line in home.usage.read_text().splitlines() if '"kind":"figure"' in line]
    assert len(figures) == 3


def secret_and_text(base: Base, seed: int, num_tokens: int) -> tuple[list[int], HeldoutText]:
    """A short note of random tokens, and the held-out text that it is part of: `num_tokens` of other documents."""
    drawn = np.random.default_rng(seed)
    secret = drawn.choice(np.arange(1, 512), SECRET_TOKENS, replace=False).tolist()
    lines = (SEEDS / "grid.jsonl").read_text().splitlines()
    windows = [Window(np.array(secret, np.int32), 4 * SECRET_TOKENS)]
    left = num_tokens
    for number in drawn.permutation(len(lines)):
        if left <= 0:
            break
        tokens = base.tokenizer(json.loads(lines[number])["text"])["input_ids"][:512]
        windows.append(Window(np.array(tokens, np.int32), 4 * len(tokens)))
        left -= len(tokens)
    return secret, HeldoutText(windows, len(windows))


def read_tokens(base: Base, text: HeldoutText, policy: Policy, folder: Path, num_models: int) -> list[int]:
    """What an attacker finds who may have any models scored.

    Under a unigram model the figure is linear in the sum of all tokens' embeddings, so figures of many models give that
    sum. What public text of the same kind would add is taken off; the three tokens that explain the rest best remain.
    """
    book = ScoreBook(policy, Usage(folder / "usage.jsonl", folder / "receipts.jsonl"), "float32", "scoring")
    scale = base.model.model.norm.weight.detach().double().numpy()
    table = base.model.get_input_embeddings().weight.detach().double().numpy() * scale
    drawn, rows, sums = np.random.default_rng(0), [], []
    for number in range(num_models):
        u = drawn.standard_normal(32)
        factors = unigram(base, u)

        def work(factors: Mapping[str, Factors] = factors) -> Cell:
            with attached(base.model, factors):
                return score_windows(base, text.windows, "m", "grid")

        if (cell := book(f"model {number}", text, work)) is not None:
            h = u / math.sqrt((u**2).mean())
            log_sum = math.log(np.exp(table @ h).sum())
            rows.append(h)
            sums.append(cell.num_tokens * log_sum - cell.bits_per_byte * cell.num_bytes * math.log(2.0))
    if not rows:
        return []
    total = np.linalg.lstsq(np.stack(rows), np.array(sums), rcond=None)[0]
    expected = (public_frequencies(base) * (text.num_tokens - SECRET_TOKENS)) @ table
    return best_three(total - expected, table)


def best_three(total: np.ndarray, table: np.ndarray) -> list[int]:
    """The three rows of the table, of all triples, whose sum is closest to `total`."""
    best, found = math.inf, [0, 0, 0]
    for i in range(len(table)):
        left = total - table[i] - table[i:]
        distances = (left**2).sum(1)[:, None] - 2.0 * left @ table.T + (table**2).sum(1)[None]
        j, k = np.unravel_index(int(distances.argmin()), distances.shape)
        if distances[j, k] < best:
            best, found = float(distances[j, k]), [i, i + int(j), int(k)]
    return found


def public_frequencies(base: Base) -> np.ndarray:
    lines = (SEEDS / "clinical.jsonl").read_text().splitlines()
    ids = np.concatenate([base.tokenizer(json.loads(line)["text"])["input_ids"] for line in lines])
    return np.bincount(ids, minlength=512) / len(ids)


def hits(base: Base, policy: Policy, folder: Path, num_tokens: int, num_models: int) -> int:
    """Tokens of the secret that are found, of NUM_SEEDS * SECRET_TOKENS."""
    found = 0
    for seed in range(NUM_SEEDS):
        secret, text = secret_and_text(base, seed, num_tokens)
        found += len(set(secret) & set(read_tokens(base, text, policy, folder / str(seed), num_models)))
    return found


def test_a_days_figures_tell_no_token_of_the_held_out_text(tiny: Base, tmp_path: Path) -> None:
    """Even if every model were admitted. By chance 3 * 3 / 512 tokens are found a seed, 0.11 of 18 in all; 3 or more have p < 0.001."""
    assert hits(tiny, Policy(), tmp_path / "default", 1024, 100) < 3
    assert hits(tiny, Policy(), tmp_path / "short", 0, 100) == 0  # the note alone gets no figure


def test_the_same_attack_reads_a_text_that_may_be_short(tiny: Base, tmp_path: Path) -> None:
    """The control: without the least amount of text the tokens are found."""
    policy = Policy(min_scored_tokens=0, min_scored_documents=0, max_scorings_per_day=0)
    assert hits(tiny, policy, tmp_path, 0, 100) > 8


def test_figures_of_a_day_are_few_whatever_the_run_is_called(node: Node, home: NodeHome) -> None:
    """Two figures a round; after twelve, rounds are trained without. Red: a count by run."""
    home.policy.write_text(LATER_ROUNDS)
    asked = settings()
    drawn = torch.Generator().manual_seed(0)
    replies = []
    for number in range(8):
        start = {
            n: Factors(f.a, 1e-3 * torch.randn(f.b.shape, generator=drawn), 2.0) for n, f in fresh(node, asked).items()
        }
        replies.append(round_of(node, asked, start, 2, run=f"run{number}"))
    given = [r.figures.bits_per_byte_before is not None for r in replies]
    assert given == [True] * 6 + [False] * 2
    assert all((r.figures.bits_per_byte_after is not None) == g for r, g in zip(replies, given, strict=True))


# Training text from rounds

MODULE, DOWN = "model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"


def span_test(base: Base, start: Mapping[str, Factors], reply: TrainReply, rate: float) -> set[int]:
    """Tokens whose layer input lies in the row space of the change of B: exact where a round has fewer tokens than ranks."""
    table = base.model.get_input_embeddings().weight.detach().double()
    scale = base.model.model.layers[0].input_layernorm.weight.detach().double()
    inputs = table / (table.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * scale
    change = torch.from_numpy(reply.arrays[f"{MODULE}.b"].copy()).double() / rate
    gradient = 1e-8 * change / (1 - change.abs()).clamp_min(1e-9)  # Adam's first step, inverted
    _, sizes, rows = torch.linalg.svd(gradient, full_matrices=False)
    rows = rows[: int((sizes > sizes[0] * 1e-4).sum())]
    seen = inputs @ start[MODULE].a.double().T
    seen = seen / seen.norm(dim=1, keepdim=True)
    left = (seen - seen @ rows.T @ rows).norm(dim=1)
    return set(torch.nonzero(left < 0.02).flatten().tolist())


def orthonormal(base: Base, scaling: float) -> dict[str, Factors]:
    """A of full rank that loses nothing, B zero."""
    made, start = torch.Generator().manual_seed(0), {}
    for name, (d_out, d_in) in base.info.modules.items():
        q, _ = torch.linalg.qr(torch.randn(d_in, min(d_out, d_in), generator=made))
        start[name] = Factors(q.T.contiguous(), torch.zeros(d_out, min(d_out, d_in)), scaling)
    return start


def trained_tokens(node: Node, number: int) -> set[int]:
    """The tokens of a round with a target, as the domain's own trainer read them."""
    trainer = node._trainer
    assert trainer is not None
    train = trainer.settings.train
    num = -(-train.tokens_per_round // train.sequence_length)
    blocks = range((number - 1) * num, number * num)
    return {int(t) for i in blocks for piece in trainer.data.stream.segments(i) for t in piece[:-1]}


def advantage(found: set[int], truth: set[int]) -> float:
    """True positives less false positives, as shares; 0 is chance."""
    return len(found & truth) / len(truth) - len(found - truth) / (512 - len(truth))


ONE_STEP = {"tokens_per_round": 8, "sequence_length": 8, "batch_size": 1, "alpha": 64e-7, "learning_rate": 0.5}
FULL = {"rank": 64, "warmup_frac": 0.0, "schedule": "wsd", "decay_frac": 0.1, "cpu_kernels": "off"}


def test_the_tokens_of_a_round_of_one_step_can_be_read_without_the_bounds(
    node: Node, home: NodeHome, tiny: Base
) -> None:
    """The control, and what the defaults say to it."""
    asked = settings(30, **FULL, **ONE_STEP)
    start = orthonormal(tiny, asked.train.scaling)
    with pytest.raises(PolicyError):
        round_of(node, asked, start)
    home.policy.write_text(
        "min_tokens_per_round = 0\nmin_tokens_per_step = 0\nmin_documents = 0\nmin_steps = 0\n"
        "max_learning_rate = 0\nmin_scaling = 0\n" + LATER_ROUNDS
    )
    gains = []
    for number in range(1, 4):
        reply = round_of(node, asked, start, number)
        gains.append(advantage(span_test(tiny, start, reply, 0.5), trained_tokens(node, number)))
    assert min(gains) > 0.7


@pytest.mark.parametrize(
    "train",
    [
        {"tokens_per_round": 4096, "sequence_length": 256, "batch_size": 4},
        {"tokens_per_round": 4096, "sequence_length": 8, "batch_size": 128},  # short blocks
        {"tokens_per_round": 4096, "sequence_length": 256, "batch_size": 1, "max_grad_norm": 0.01},
    ],
)
def test_a_round_within_the_bounds_gives_no_token_away(
    node: Node, home: NodeHome, tiny: Base, train: dict[str, object]
) -> None:
    """The best of the same attack that is allowed: full rank, a start that loses nothing, level rates, small scaling."""
    home.policy.write_text(LATER_ROUNDS)
    asked = settings(30, **FULL, **train, alpha=6.4, learning_rate=0.005)
    start = orthonormal(tiny, asked.train.scaling)
    reply = round_of(node, asked, start)
    assert abs(advantage(span_test(tiny, start, reply, 0.005), trained_tokens(node, 1))) < 0.1


def test_two_rounds_that_differ_by_a_step_have_nothing_in_common(node: Node, home: NodeHome) -> None:
    """Their difference would be that step alone. Red, shown by the last line: the order is the coordinator's seed."""

    def first_blocks(run: str, number: int = 1, **train: object) -> list[int]:
        asked = settings(**train)
        round_of(node, asked, fresh(node, asked), number, run)
        assert node._trainer is not None
        segments = [piece for i in range(8) for piece in node._trainer.data.stream.segments(i)]  # one may begin alike
        return [int(token) for piece in segments for token in piece]

    home.policy.write_text(LATER_ROUNDS)
    blocks = [first_blocks("a"), first_blocks("a", tokens_per_round=4608), first_blocks("b")]
    assert len({tuple(b) for b in blocks}) == 3
    assert first_blocks("a", 2) == blocks[0]  # a run that is resumed goes on in its order
    home.policy.write_text("private_order = false\n" + LATER_ROUNDS)
    assert first_blocks("a", 3) == first_blocks("b", 3, tokens_per_round=4608)


def test_a_round_begins_only_from_fresh_factors(node: Node) -> None:
    """A gate in the start makes one token of thousands stand out; rows of A that read one neuron do so without a gate.

    On SmolLM2-135M, 64 gates in the last layer gave 7 next tokens exactly out of one round, of 49,152. Red: any start whose
    change is small.
    """
    with pytest.raises(PolicyError, match="a run of one round"):
        round_of(node, settings(2), fresh(node, settings(2)))
    asked = settings(1, learning_rate=1e-7)
    drawn = fresh(node, asked)
    f = drawn[DOWN]
    gate = Factors(f.a, 1e-3 * torch.ones_like(f.b), f.scaling)
    reader = Factors(torch.eye(*f.a.shape), f.b, f.scaling)
    for crafted in (gate, reader, Factors(1e-6 * f.a, f.b, f.scaling)):
        with pytest.raises(PolicyError, match="a start of fresh factors"):
            round_of(node, asked, {**drawn, DOWN: crafted})
    with pytest.raises(PolicyError, match="one layer or more"):
        round_of(node, asked, {})
    assert round_of(node, asked, {DOWN: f}).figures.num_tokens == 4096


def test_factors_whose_products_overflow_are_refused_and_end_a_round(node: Node, home: NodeHome, tiny: Base) -> None:
    """The gradients of 1e25 A are finite and their norm is not: clipped, such a step was 0, and only others remained.

    So a direction of A decided which step was left, and whether the loss was a number told of one token.
    """
    home.policy.write_text(LATER_ROUNDS)
    asked = settings(2)
    huge = {n: Factors(1e25 * f.a, f.b, f.scaling) for n, f in fresh(node, asked).items()}
    with pytest.raises(PolicyError, match="rows of A and columns of B of norm up to 100"):
        round_of(node, asked, huge)
    documents = [np.arange(1, 400, dtype=np.int32)] * 9
    plan = plan_round(asked.train.model_copy(update={"tokens_per_round": 512}), 1, 1)
    with pytest.raises(TrainingError, match="a gradient of finite norm"):
        train_round(tiny, huge, PackedStream(documents, 256, 0), plan, asked.train)


def test_a_round_has_one_start(node: Node, home: NodeHome) -> None:
    """The same blocks from another start are another equation for the same unknowns. Red: as many starts as rounds a day."""
    home.policy.write_text(LATER_ROUNDS)
    asked = settings(2)
    start = fresh(node, asked)
    other = {n: Factors(f.a, 1e-3 * torch.ones_like(f.b), f.scaling) for n, f in start.items()}
    first = round_of(node, asked, start)
    with pytest.raises(PolicyError, match="the start from which this round was trained before"):
        round_of(node, asked, other)
    again = round_of(node, asked, start)
    assert all((again.arrays[name] == array).all() for name, array in first.arrays.items())


def test_a_start_that_is_not_finite_or_not_of_this_base_is_refused(node: Node) -> None:
    asked = settings(1)
    start = fresh(node, asked)
    for bad in (
        {MODULE: Factors(start[MODULE].a, torch.full_like(start[MODULE].b, math.nan), 2.0)},
        {MODULE: Factors(1e30 * start[MODULE].a, torch.full_like(start[MODULE].b, 1e-27), 2.0)},
        {"lm_head": init_factors({"lm_head": (512, 32)}, 4, 2.0, 0)["lm_head"]},
    ):
        with pytest.raises(PolicyError):
            round_of(node, asked, {**start, **bad})


def test_a_step_is_at_most_half_of_the_corpus(node: Node, home: NodeHome) -> None:
    """Steps over all of it are equal in every order: two rounds that differ by a block differ by its gradient alone."""
    own = read_domain_settings(home.settings)

    def trainer(**train: object) -> Trainer:
        asked = TrainRequest(run=RUN, round=1, settings=settings(1, **train))
        return node.trainer_for(
            asked, home.run(RUN), own, JoinedDomain(home.prepared, home.read_member().fingerprint, 1)
        )

    half = trainer().data.own.epoch_tokens // 2
    for length, is_allowed in ((half, True), (half + 1, False)):
        asked = {"sequence_length": length, "batch_size": 1, "tokens_per_round": 4 * length}
        with nullcontext() if is_allowed else pytest.raises(PolicyError, match="at most half of the domain's"):
            trainer(**asked).require_text(Policy(), 1)


def test_a_corpus_that_is_too_small_is_not_trained(tiny_folder: Path, tmp_path: Path) -> None:
    """Read again and again, a few tokens would make a long round. And many tokens of two documents are not enough."""
    lines = (SEEDS / "grid.jsonl").read_text().splitlines()
    for name, texts, reason in (
        ("short", lines[:4], "4096 training tokens"),
        (
            "two",
            [
                json.dumps({"id": str(i), "text": " ".join(json.loads(li)["text"] for li in lines[i::3])})
                for i in range(3)
            ],
            "3 documents",
        ),
    ):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("\n".join(texts))
        home = make_home(tmp_path / name, tiny_folder, data)
        home.policy.unlink()
        member = home.read_member()
        node = Node(Site(domain="grid", data=member.data, base=member.base), home)
        with pytest.raises(PolicyError, match=reason):
            round_of(node, settings(1), fresh(node, settings(1)))
