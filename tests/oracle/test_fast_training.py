"""Fast layers on the CPU against the library's own: the same gradients in float32, bounded ones in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm, silu
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cogen.adapter import Factors
from cogen.data.pack import IGNORE, Batch
from cogen.train.fast import frozen, head, kernels
from cogen.train.fast.attention import BLOCK, block_attention
from cogen.train.fast.frozen import NARROW, OUTLIERS, Frozen, round_rows
from cogen.train.fast.kernels import array
from cogen.train.fast.training import fast_training
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached, init_factors
from cogen.train.loss import chunked_loss, head_weight, nll_and_gradient
from cogen.train.passes import autocast
from cogen.train.step import hidden_states

LENGTHS = ((40, 3, 1, 20), (64,), (33, 31))


def llama(act: str = "silu", hidden: int = 64, bias: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_act=act,
        attention_bias=bias,
        initializer_range=0.4 * hidden**-0.5,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data.uniform_(0.5, 1.5)
    use_segment_attention(model)
    return model.requires_grad_(False)


def factors(model: PreTrainedModel, rank: int, seed: int) -> dict[str, Factors]:
    shapes = {n: tuple(m.weight.shape) for n, m in model.named_modules() if n.endswith("_proj")}
    generator = torch.Generator().manual_seed(seed)
    made = init_factors(shapes, rank, 0.7, seed)  # type: ignore[arg-type]
    return {n: Factors(f.a, 0.1 * torch.randn(f.b.shape, generator=generator), f.scaling) for n, f in made.items()}


def batches() -> list[Batch]:
    chance = np.random.default_rng(0)
    made = []
    for lengths in LENGTHS:
        tokens = chance.integers(0, 300, sum(lengths))
        targets = np.append(tokens[1:], IGNORE)
        targets[np.cumsum(lengths) - 1] = IGNORE
        made.append(Batch(tokens, targets, lengths))
    return made


def gradients(model: PreTrainedModel, mode: str, rest: bool = False, threads: int = 1) -> tuple[float, list[Tensor]]:
    """Loss and gradients of all LoRA factors; `mode` as in train.cpu_kernels."""
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        live = stack.enter_context(attached(model, factors(model, 4, 1), factors(model, 3, 2) if rest else None))
        fast = stack.enter_context(fast_training(model, mode))
        assert (fast is None) == (mode == "off")
        chunk = fast.head if fast is not None else nll_and_gradient

        def loss_of(batch: Batch) -> Tensor:
            targets, weight = torch.from_numpy(batch.targets), head_weight(model)
            with autocast(model) if fast is None else nullcontext():
                hidden = hidden_states(model, batch)
            return chunked_loss(hidden.to(weight.dtype), weight, targets, 16, chunk)

        parameters = [p for pair in live.values() for p in pair]
        if fast is None:
            loss = sum(loss_of(batch) for batch in batches())
            torch.autograd.backward(loss)
            loss = float(loss.detach())
        else:
            loss = fast.gradients(loss_of, batches(), parameters)
        torch.set_num_threads(1)
        return loss, [p.grad.clone() for p in parameters if p.grad is not None]


def both(**settings: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A bfloat16 model, and the float32 model of the same weights."""
    return llama(**settings).to(torch.bfloat16), llama(**settings).to(torch.bfloat16).float()


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    assert len(found) == len(wanted) > 0
    off = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    return (off / sum(float(b.square().sum()) for b in wanted)) ** 0.5


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels that ran, by name."""
    ran: list[str] = []
    for name in (
        *("swiglu", "rms_norm", "rotate", "causal_softmax", "softmax_loss"),
        *("round_rows", "unround", "rounded_softmax_loss"),
    ):

        def wrapped(*args: object, inner: object = getattr(kernels, name), name: str = name) -> None:
            ran.append(name)
            inner(*args)  # type: ignore[operator]

        monkeypatch.setattr(kernels, name, wrapped)
    return ran


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_float32_gradients_are_those_of_the_library(rest: bool, bias: bool, counted: list[str]) -> None:
    """Red: the norm's mean term dropped; gate's dx not handed to up; rotate's sign turned; ds without `along`."""
    model = llama(bias=bias)
    loss, wanted = gradients(model, "off", rest)
    assert not counted
    fast_loss, found = gradients(model, "fused", rest)
    assert set(counted) == {"swiglu", "rms_norm", "rotate", "causal_softmax", "softmax_loss"}
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert relative(found, wanted) < 1e-5
    assert max(relative([a], [b]) for a, b in zip(found, wanted, strict=True)) < 1e-4


def test_int8_gradients_stay_within_a_tenth(counted: list[str]) -> None:
    """Random weights have no outliers, so the bound here is of rounding alone. Red: a column's scale off by two."""
    model = llama(hidden=NARROW)
    loss, wanted = gradients(model, "off")
    int8_loss, found = gradients(model, "int8")
    assert "round_rows" in counted
    assert int8_loss == pytest.approx(loss, rel=5e-3)
    assert 1e-4 < relative(found, wanted) < 0.1


@pytest.mark.parametrize("rest", [False, True])
def test_bfloat16_gradients_stay_within_hundredths(rest: bool, counted: list[str]) -> None:
    """Fused as near to float32 as the library's own bfloat16. Red: A not rounded; embeddings handed on as bfloat16."""
    model, exact = both()
    loss, wanted = gradients(exact, "off", rest)
    _, theirs = gradients(model, "off", rest)
    assert not counted
    fast_loss, found = gradients(model, "fused", rest)
    assert set(counted) == {"swiglu", "rms_norm", "rotate", "causal_softmax", "softmax_loss"}
    assert fast_loss == pytest.approx(loss, rel=2e-3)
    assert 1e-4 < relative(found, wanted) < min(0.02, 1.2 * relative(theirs, wanted))


def test_bfloat16_with_int8_stays_within_a_tenth(counted: list[str]) -> None:
    """Red: a column's scale off by two; kept columns of the head not added."""
    model, exact = both(hidden=NARROW)
    loss, wanted = gradients(exact, "off")
    int8_loss, found = gradients(model, "int8")
    assert {"round_rows", "unround", "rounded_softmax_loss"} <= set(counted)
    assert int8_loss == pytest.approx(loss, rel=5e-3)
    assert 1e-4 < relative(found, wanted) < 0.1


def test_bfloat16_with_a_layer_that_takes_no_float32_is_left_alone() -> None:
    """Red: `fits` answers yes to all."""
    model = llama().to(torch.bfloat16)
    with attached(model, factors(model, 4, 1)), fast_training(model, "fused") as fast:
        assert fast is not None
    model.model.norm = torch.nn.LayerNorm(64).to(torch.bfloat16).requires_grad_(False)
    other = LlamaForCausalLM(model.config).to(torch.bfloat16).requires_grad_(False)
    other.model.norm = model.model.norm
    use_segment_attention(other)
    with attached(other, factors(other, 4, 1)), fast_training(other, "fused") as fast:
        assert fast is None
        assert not any("forward" in vars(module) for module in other.modules())


def test_a_step_sees_the_factors_of_the_step_before() -> None:
    """A fused optimiser writes to its parameters and leaves their version as it was. Red: `refresh` dropped."""
    model, batch = llama(), batches()[:1]
    with attached(model, factors(model, 4, 1)) as live, fast_training(model, "fused") as fast:
        assert fast is not None
        parameters = [p for pair in live.values() for p in pair]
        optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)
        found = []
        for _ in range(2):
            found.append(fast.gradients(lambda b: hidden_states(model, b).square().mean(), batch, parameters))
            optimizer.step()
        assert found[0] != found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    model = llama(hidden=NARROW).to(dtype)
    one, many = gradients(model, "int8", threads=1), gradients(model, "int8", threads=3)
    assert one[0] == many[0] and all(torch.equal(a, b) for a, b in zip(one[1], many[1], strict=True))


def test_what_is_not_known_stays_as_it_is(counted: list[str]) -> None:
    """A feed-forward with another activation. Red: `_is_same` answers yes to all."""
    model = llama(act="gelu")
    _, wanted = gradients(model, "off")
    _, found = gradients(model, "fused")
    assert "swiglu" not in counted[counted.index("softmax_loss") :] and "rms_norm" in counted
    assert relative(found, wanted) < 1e-5


def test_everything_is_put_back() -> None:
    """Also after an error. Red: the loop over `replaced` dropped."""
    import transformers.models.llama.modeling_llama as home

    model, rotary = llama(), home.apply_rotary_pos_emb
    batch = batches()[0]
    before = hidden_states(model, batch)

    def fail() -> None:
        with attached(model, factors(model, 4, 1)), fast_training(model, "int8"):
            assert home.apply_rotary_pos_emb is not rotary
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert home.apply_rotary_pos_emb is rotary
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(hidden_states(model, batch), before)


def test_paused_the_model_scores_as_without() -> None:
    """Red: `paused` leaves the layers or the attention in place."""
    model, batch = llama(hidden=NARROW), batches()[0]
    with attached(model, factors(model, 4, 1)):
        wanted = hidden_states(model, batch)
        with fast_training(model, "int8") as fast:
            assert fast is not None and not torch.equal(hidden_states(model, batch), wanted)
            with fast.paused():
                assert torch.equal(hidden_states(model, batch), wanted)
            assert not torch.equal(hidden_states(model, batch), wanted)


@pytest.mark.parametrize("lengths", [(BLOCK * 2 + 5,), (3, BLOCK, 1, BLOCK + 1)])
def test_block_attention_is_softmax_attention(lengths: tuple[int, ...]) -> None:
    """Against float64, key heads shared by three. Red: the mask one column off; key gradients not summed."""
    tokens, heads, shared, size = sum(lengths), 6, 2, 8
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(h, tokens, size, generator=generator) for h in (heads, shared, shared))
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = (segment[:, None] == segment) & torch.ones(tokens, tokens).tril().bool()

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(heads // shared, dim=0) for x in (k, v))
        scores = (0.3 * q @ k.mT).masked_fill(~seen, -torch.inf)
        return (torch.softmax(scores, dim=-1) @ v).transpose(0, 1)

    outer = torch.randn(tokens, heads, size, generator=generator)
    exact = [x.double().requires_grad_() for x in (query, key, value)]
    wanted = torch.autograd.grad(dense(*exact), exact, outer.double())
    live = [x.requires_grad_() for x in (query, key, value)]
    out = block_attention(query, key, value, lengths, 0.3)
    assert torch.allclose(out.double(), dense(*exact), atol=1e-5)
    for a, b in zip(torch.autograd.grad(out, live, outer), wanted, strict=True):
        assert torch.allclose(a.double(), b, atol=1e-4)


def test_integer_products_are_exact_products_of_what_was_rounded() -> None:
    """Red: scales of rows and columns swapped; kept columns not added."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 300, generator=generator), torch.randn(NARROW, 300, generator=generator)
    x[:, 7] *= 100.0
    made = Frozen.of(weight, int8=True)
    rows = round_rows(x, OUTLIERS)
    assert 7 in rows.columns.tolist() and len(rows.columns) == OUTLIERS
    assert made.by_output is not None and made.by_input is not None
    rounded_w = made.by_output.values.double() * made.by_output.scales[:, None].double()
    rounded_x = rows.values.double() * rows.scales[:, None].double()
    kept = x[:, rows.columns].double() @ weight[:, rows.columns].T.double()
    wanted = rounded_x @ rounded_w.T + kept
    h, b = torch.randn(50, 4, generator=generator), torch.randn(NARROW, 4, generator=generator)
    low = h.double() @ b.T.double()
    assert torch.allclose(made.forward(x, h, b).double(), wanted + low, rtol=1e-5, atol=1e-3)
    error = (made.forward(x, 0.0 * h, b) - x @ weight.T).norm() / (x @ weight.T).norm()
    assert error < 0.01  # without the kept columns 0.3
    g, a = torch.randn(50, NARROW, generator=generator), torch.randn(4, 300, generator=generator)
    exact, more = g @ weight + h @ a, torch.randn(50, 300, generator=generator)
    assert (made.backward(g, h, a) - exact).norm() / exact.norm() < 0.02
    assert (made.backward(g, h, a, more.clone()) - exact - more).norm() / exact.norm() < 0.02


def test_columns_are_gathered_anew_for_another_set() -> None:
    """Red: the first set is returned for every other."""
    weight = torch.randn(NARROW, 40)
    made = Frozen.of(weight, int8=True)
    for channels in ((3, 5), (3, 6), (1, 2), (8, 9), (10, 11), (12, 13), (3, 5)):
        x = torch.rand(4, 40)
        x[:, channels] = 100.0
        rows = round_rows(x, 2)
        assert rows.columns.tolist() == list(channels)
        assert torch.equal(made.columns(rows), weight[:, channels])


def test_rows_are_rounded_to_the_nearest_of_254_steps() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    rows = round_rows(x)
    assert rows.values.tolist() == [[127, 0, 2, -2, -127], [0, 0, 0, 0, 0]]
    assert rows.scales[0] == 1.0 and bool(torch.isfinite(rows.scales).all())


def test_narrow_weights_are_not_rounded() -> None:
    assert Frozen.of(torch.ones(NARROW - 1, 300), int8=True).by_output is None
    assert Frozen.of(torch.ones(NARROW, 300), int8=True, is_last=True).by_input is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unlikely_tokens_enter_the_heads_gradient_by_their_mean_row(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the mass is in columns dropped. Red: without the mean row; the targets' own mass in it."""
    monkeypatch.setattr(head, "COLUMNS", 8)
    monkeypatch.setattr(head, "UNLIKELY", 3e-3)
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 + torch.randn(NARROW * 2, 64, generator=generator)).to(dtype)
    hidden = (0.25 * torch.randn(64, generator=generator) + 0.02 * torch.randn(200, 64, generator=generator)).to(dtype)
    targets = torch.randint(len(weight), (200,), generator=generator)
    nll, found = head.fast_head(Frozen.of(weight, int8=True, is_last=True))(hidden, weight, targets)
    exact = hidden.double().requires_grad_()
    logits = exact @ weight.double().T
    losses = cross_entropy(logits, targets, reduction="none")
    (wanted,) = torch.autograd.grad(losses.sum(), exact)
    assert torch.allclose(nll.double(), losses, atol=0.1)
    assert (found.double() - wanted).norm() / wanted.norm() < 0.02


def test_likely_columns_come_in_few_numbers() -> None:
    """Red: the columns above the bound alone."""
    peaks = torch.zeros(2 * head.COLUMNS + 5)
    peaks[7::9] = 1.0
    assert len(head._likely(peaks)) == head.COLUMNS and set(range(7, len(peaks), 9)) <= set(
        head._likely(peaks).tolist()
    )
    assert len(head._likely(peaks + 1.0)) == len(peaks)
    assert head._likely(torch.zeros(9)).tolist() == []


def test_auto_asks_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: auto is always int8."""
    model = llama(hidden=NARROW)
    results = {}
    for able in (True, False):
        monkeypatch.setattr(frozen, "is_int8_fast", lambda able=able: able)
        results[able] = gradients(model, "auto")[0]
    assert results[True] == gradients(model, "int8")[0] != results[False] == gradients(model, "fused")[0]


def test_kernels_are_their_formulas() -> None:
    """Against float64 over the range in which float32 has an answer."""
    generator = torch.Generator().manual_seed(0)
    gate, up = 30.0 * torch.randn(9, 77, generator=generator), torch.randn(9, 77, generator=generator)
    out, inverse = torch.empty_like(gate), torch.empty(9)
    kernels.swiglu(gate.numpy(), up.numpy(), out.numpy())
    assert torch.allclose(out.double(), silu(gate.double()) * up.double(), rtol=1e-6, atol=1e-9)
    weight = torch.rand(77, generator=generator)
    kernels.rms_norm(gate.numpy(), weight.numpy(), np.float32(1e-3), out.numpy(), inverse.numpy())
    assert torch.allclose(out.double(), rms_norm(gate.double(), (77,), weight.double(), 1e-3), rtol=1e-6)
    logits, targets = 20.0 * torch.randn(9, 1001, generator=generator), torch.arange(9) * 100
    exact = logits.double().requires_grad_()
    losses = cross_entropy(exact, targets, reduction="none")
    wanted = torch.autograd.grad(losses.sum(), exact)[0]
    found = torch.empty(9)
    kernels.softmax_loss(logits.numpy(), targets.numpy(), logits.numpy(), found.numpy())
    assert torch.allclose(found.double(), losses, rtol=1e-6, atol=1e-6)
    assert torch.allclose(logits.double(), wanted, atol=1e-6)


def test_kernels_round_to_bfloat16_as_torch_does() -> None:
    """Halves to even, both signs, subnormal and infinite. Red: the lowest bit kept not added to the half."""
    x = torch.cat([torch.randn(1000), torch.tensor([1.00390625, 1.01171875, -1.00390625, 3e38, -3.4e38, 1e-40, 0.0])])
    out, no_more = torch.empty(1, len(x), dtype=torch.bfloat16), x[None]
    nothing = torch.zeros(1, len(x), dtype=torch.int32)
    kernels.unround(array(nothing), array(torch.ones(1)), array(torch.ones(len(x))), array(no_more), array(out))
    assert torch.equal(out[0].view(torch.int16), x.to(torch.bfloat16).view(torch.int16))


def test_a_weight_is_rounded_once_until_it_is_written_to() -> None:
    """Red: a rounding that outlives what it was made of."""
    weight = torch.nn.Parameter(torch.randn(NARROW, 8), requires_grad=False)
    first = Frozen.of(weight, int8=True)
    assert Frozen.of(weight, int8=True) is first
    assert Frozen.of(weight, int8=False).by_output is None
    weight.mul_(2.0)
    second = Frozen.of(weight, int8=True)
    assert first.by_output is not None and second.by_output is not None
    assert torch.equal(second.by_output.scales, 2.0 * first.by_output.scales)
    assert Frozen.of(weight, int8=True, is_last=True).by_input is None
    before = len(frozen._ROUNDED)
    del weight
    assert len(frozen._ROUNDED) == before - 1
