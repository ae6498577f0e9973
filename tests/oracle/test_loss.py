"""The chunked head compared with torch's own cross-entropy, and the check that no (N, V) tensor is made.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from cogen.data.pack import IGNORE
from cogen.errors import BaseModelError
from cogen.train.loss import chunked_loss, chunked_nll, head_weight

N, D, V = 11, 6, 37
CHUNKS = [1, 3, N, N + 50]
SMALL: Any = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def case(dtype: torch.dtype, ignored: tuple[int, ...] = (0, 4, 10)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (torch.randn(V, D, generator=generator, dtype=torch.float64) * 2).to(dtype)
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[list(ignored)] = IGNORE
    return hidden, weight, targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of torch's mean cross-entropy, in float64."""
    leaf = hidden.detach().double().requires_grad_()
    loss = cross_entropy(leaf @ weight.double().T, targets, ignore_index=IGNORE)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ignored", [(), (0, 4, 10), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)], ids=["none", "some", "but-one"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradient(chunk: int, ignored: tuple[int, ...], dtype: torch.dtype) -> None:
    """Red: the mean over all tokens; the one-hot dropped of the gradient; the mean within each chunk."""
    hidden, weight, targets = case(dtype, ignored)
    expected, gradient = reference(hidden, weight, targets)
    loss = chunked_loss(hidden, weight, targets, chunk)
    loss.backward()
    assert hidden.grad is not None
    torch.testing.assert_close(loss.detach().double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(hidden.grad.double(), gradient, rtol=1e-5, atol=1e-6)
    assert bool((hidden.grad[list(ignored)] == 0).all())


@pytest.mark.parametrize("chunk", CHUNKS)
def test_nothing_predicted_costs_nothing(chunk: int) -> None:
    hidden, weight, targets = case(torch.float32, tuple(range(N)))
    loss = chunked_loss(hidden, weight, targets, chunk)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None and torch.equal(hidden.grad, torch.zeros(N, D))
    assert torch.equal(chunked_nll(hidden, weight, targets, chunk), torch.zeros(N))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_nll_of_each_token(chunk: int) -> None:
    """Red: log-probabilities of the wrong row (gather before the rows are chosen)."""
    hidden, weight, targets = case(torch.float32)
    expected = cross_entropy(hidden.double() @ weight.double().T, targets, ignore_index=IGNORE, reduction="none")
    found = chunked_nll(hidden, weight, targets, chunk)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    assert bool((found[[0, 4, 10]] == 0).all())


def test_large_logits_do_not_overflow() -> None:
    """exp(200) is infinite in float32."""
    hidden, weight, targets = case(torch.float32)
    found = chunked_loss(hidden * 200, weight, targets, 3)
    assert bool(torch.isfinite(found))
    torch.testing.assert_close(found.double().detach(), reference(hidden * 200, weight, targets)[0], rtol=1e-5, atol=0)


def test_the_gradient_scales_with_what_comes_from_above() -> None:
    """Red: backward returns the saved gradient as it is."""
    hidden, weight, targets = case(torch.float32)
    _, gradient = reference(hidden, weight, targets)
    (chunked_loss(hidden, weight, targets, 3) * -2.5).backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.double(), -2.5 * gradient, rtol=1e-5, atol=1e-6)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation gives, and of the largest float one with V columns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


def largest(compute: Callable[[Tensor, Tensor, Tensor], Tensor], tokens: int, vocabulary: int) -> int:
    hidden = torch.randn(tokens, 4, requires_grad=True)
    weight, targets = torch.randn(vocabulary, 4), torch.randint(0, vocabulary, (tokens,))
    with Largest() as recorded:
        loss = compute(hidden, weight, targets)
        if loss.requires_grad:
            loss.backward()
    return recorded.numel


def test_no_tensor_of_all_logits_exists() -> None:
    """Only C tokens have logits at a time. Red: one chunk of all rows, whatever chunk_tokens says."""
    tokens, vocabulary, chunk = 90, 70, 7
    assert largest(lambda h, w, t: cross_entropy(h @ w.T, t), tokens, vocabulary) == tokens * vocabulary
    bound = max(chunk * vocabulary, tokens * 4, vocabulary * 4)
    assert largest(lambda h, w, t: chunked_loss(h, w, t, chunk), tokens, vocabulary) == bound
    assert largest(lambda h, w, t: chunked_nll(h, w, t, chunk), tokens, vocabulary) == bound


def llama(**config: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_attention_heads=2, **config))


def test_head_weight_is_the_output_embedding() -> None:
    assert head_weight(llama(tie_word_embeddings=True)).shape == (32, 8)
    untied = llama(tie_word_embeddings=False, logits_scaling=1.0, final_logit_softcapping=None)
    assert head_weight(untied) is untied.lm_head.weight


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_a_head_that_bends_its_logits_is_refused(name: str) -> None:
    with pytest.raises(BaseModelError, match=name) as refused:
        head_weight(llama(**{name: 8.0}))
    assert "\n" not in str(refused.value)


def test_gemmas_soft_capping_is_refused() -> None:
    model: Any = Gemma2ForCausalLM(Gemma2Config(**SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=4))
    with pytest.raises(BaseModelError, match="final_logit_softcapping"):
        head_weight(model)


def test_a_head_with_a_bias_is_refused() -> None:
    model = llama(tie_word_embeddings=False)
    model.set_output_embeddings(torch.nn.Linear(8, 32, bias=True))
    with pytest.raises(BaseModelError, match="a bias"):
        head_weight(model)
