"""Log-likelihoods of continuations against closed forms and against transformers' stock forward.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import cogen.evaluate.continuation as continuation
from cogen.base import Base
from cogen.evaluate.continuation import Continuation, encode_pair, log_likelihoods
from cogen.evaluate.probes import Probe, as_prompt, score_probes

PAIRS = (
    ("The feeder tripped at", " 14:02"),
    (as_prompt("Which device opens a faulted circuit?"), " the breaker"),
    ("Naïve café —", " 中文 → 5 °C"),
    ("A", " wall moves with the seasons without cracking"),
)


@pytest.fixture(scope="module")
def stock(tiny_folder: Path) -> Any:
    """The tiny base once more, as transformers alone loads and runs it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def pairs_of(base: Base) -> list[Continuation]:
    return [encode_pair(base.tokenizer, *pair) for pair in PAIRS]


@torch.no_grad()
def one_by_one(model: Any, pair: Continuation) -> float:
    """Each token from a forward of its own over all that is before it."""
    nats, ids = 0.0, list(pair.context)
    for token in pair.tokens:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        nats += float(torch.log_softmax(logits, dim=0)[token])
        ids.append(token)
    return nats


@pytest.mark.parametrize("batch_tokens", [1, 40, 2048])
def test_one_token_at_a_time(tiny: Base, stock: Any, monkeypatch: pytest.MonkeyPatch, batch_tokens: int) -> None:
    """Red: the context's tokens counted; the first token dropped; an order that is not undone; EOS in front."""
    monkeypatch.setattr(continuation, "BATCH_TOKENS", batch_tokens)
    pairs, seen = pairs_of(tiny), list[int]()
    assert len({p.num_tokens for p in pairs}) == 4
    expected = [one_by_one(stock, pair) for pair in pairs]
    assert log_likelihoods(tiny, pairs, seen.append) == pytest.approx(expected, rel=1e-5)
    assert sum(seen) == sum(p.num_tokens for p in pairs)
    assert len(seen) == {1: 4, 40: len(seen), 2048: 1}[batch_tokens]


def test_a_uniform_model(tiny: Base) -> None:
    """ln(1/V) a token: fewest tokens win by sum, most bytes a token by bytes. Red: the context is divided by too."""
    model = copy.deepcopy(tiny.model)
    head = torch.nn.Linear(32, 512, bias=False)
    torch.nn.init.zeros_(head.weight)
    model.set_output_embeddings(head)
    uniform = replace(tiny, model=model)
    pairs = pairs_of(tiny)
    expected = [-math.log(512) * len(p.tokens) for p in pairs]
    assert log_likelihoods(uniform, pairs) == pytest.approx(expected, rel=1e-6)
    choices = ("zq", " ".join(["the"] * 12))
    num_tokens = [len(encode_pair(tiny.tokenizer, "x", " " + c).tokens) for c in choices]
    assert num_tokens[0] < num_tokens[1] and num_tokens[0] / 2 > num_tokens[1] / len(choices[1])
    found = score_probes(uniform, [Probe("a", "Some context", choices, 1)], "uniform", "x")
    assert (found.accuracy_frac, found.sum_accuracy_frac) == (1.0, 0.0)


class Copying(torch.nn.Module):
    """A head that says the token just read comes again, with logit `sure` against 0 for all others."""

    def __init__(self, table: torch.Tensor, sure: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(table * sure, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight.T


def test_a_model_that_copies(tiny: Base) -> None:
    """One-hot embeddings, no layers: ln p is known in closed form, and only repeated tokens are likely."""
    model = copy.deepcopy(tiny.model)
    model.config.tie_word_embeddings = False
    table = torch.eye(512)
    model.model.layers = torch.nn.ModuleList()
    model.model.embed_tokens = torch.nn.Embedding.from_pretrained(table)
    model.model.norm = torch.nn.Identity()
    model.set_output_embeddings(Copying(table, sure=5.0))
    again = math.log(math.exp(5) / (math.exp(5) + 511))
    other = math.log(1 / (math.exp(5) + 511))
    pairs = [Continuation((7, 9), (9, 9)), Continuation((9, 7), (9, 9)), Continuation((3,), (4, 5))]
    expected = [2 * again, other + again, 2 * other]
    assert log_likelihoods(replace(tiny, model=model), pairs) == pytest.approx(expected, rel=1e-5)
