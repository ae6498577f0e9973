"""Every causal architecture of transformers: equal to each document alone in transformers, or refused; nothing else.

The right values are computed by `benchmarks/architecture_models.py` with transformers and torch alone: logits, loss,
and the gradients of LoRA factors A and B through W + scaling B A.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.architecture_models import difference, small_model, try_architecture
from cogen.base import Base, BaseInfo
from cogen.data.pack import IGNORE, Batch
from cogen.errors import BaseModelError
from cogen.evaluate import generate
from cogen.train.fast.training import fast_training
from cogen.train.isolation import isolation_of, use_segment_attention
from cogen.train.loss import head_weight
from cogen.train.step import hidden_states

PACKED = [
    "deepseek_v3",
    "gemma3_text",
    "glm4_moe",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "olmoe",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
]
ALONE = [
    "bamba",
    "bloom",
    "falcon_h1",
    "gpt_oss",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "mamba",
    "mamba2",
    "minimax",
    "nemotron_h",
    "qwen3_5_text",
    "qwen3_next",
    "rwkv",
    "zamba",
]
WINDOWS = {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2}
REFUSED = {
    "bert": "a bias",
    "cohere": "logit_scale",
    "gemma2": "final_logit_softcapping",
    "recurrent_gemma": "logits that are not the product of hidden states and head",
    "xlm-roberta": "a bias",
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_documents_are_as_if_alone(kind: str) -> None:
    """Red, gpt_neox: rotary kernels for whole heads where a quarter of each is rotated."""
    found = try_architecture(kind)
    assert (found.state, found.reason) == ("packed", ""), found


@pytest.mark.parametrize("kind", ALONE)
def test_what_leaks_runs_a_document_at_a_time(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Red: `is_packed` true for all, as before there was a check."""
    found = try_architecture(kind)
    assert found.state == "one at a time" and found.reason, found
    said = capsys.readouterr().err.splitlines()
    assert sum("documents run one at a time, slower" in line for line in said) == 1, said


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_product_or_not_causal_is_refused_by_name(kind: str) -> None:
    found = try_architecture(kind)
    assert found.state == "refused" and REFUSED[kind] in found.reason, found


@pytest.mark.slow
def test_no_architecture_is_wrong() -> None:
    found = [try_architecture(kind) for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    assert not [o for o in found if o.state == "wrong"]
    states = [o.state for o in found]
    assert states.count("packed") >= 70 and states.count("one at a time") >= 45 and states.count("not built") <= 25


@pytest.mark.parametrize(
    ("kind", "more", "state"),
    [
        ("recurrent_gemma", {"logits_soft_cap": 1e6}, "one at a time"),
        ("gemma2", {"final_logit_softcapping": None}, "one at a time"),  # soft-capping of attention
        ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}, "one at a time"),
        ("mistral", {"sliding_window": None}, "packed"),
        ("qwen2", {**WINDOWS, "use_sliding_window": True, "sliding_window": 32}, "packed"),
        ("granite", {"residual_multiplier": 0.3, "attention_multiplier": 0.2, "embedding_multiplier": 5.0}, "packed"),
        ("granite", {"logits_scaling": 4.0}, "refused"),
        ("phi3", {"partial_rotary_factor": 0.5}, "packed"),
        ("gpt_neox", {"use_parallel_residual": False}, "packed"),
        ("lfm2", {"layer_types": ["full_attention", "full_attention"]}, "packed"),
        ("bert", {"is_decoder": False}, "refused"),
        ("gpt_neo", {"attention_types": [[["local"], 2]], "window_size": 4}, "one at a time"),
    ],
    ids=str,
)
def test_variants(kind: str, more: dict[str, Any], state: str) -> None:
    found = try_architecture(kind, **more)
    assert found.state == state, found


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_angles_that_grow_with_the_longest_segment(rope: str) -> None:
    """A long document would change the angles of a short one in its row. Red: `longest` None."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4} if rope == "longrope" else {"factor": 4.0}
    known = {"rope_type": rope, "rope_theta": 100.0, "original_max_position_embeddings": 20, **factors}
    model = small_model("phi3" if rope == "longrope" else "llama", rope_parameters=known)
    assert isolation_of(model).longest is not None and difference(model) < 1e-4


def leaking(model: Any, how: str) -> None:
    """Make layer 0 of a Llama-like model pass something on from each token to the next, whatever its document."""
    layer = model.model.layers[0].mlp

    def forward(x: torch.Tensor) -> torch.Tensor:
        shifted = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        if how == "without gradient":
            shifted = shifted.detach()
        y = type(layer).forward(layer, x + (1e-3 if how == "small" else 0.3) * shifted)
        return y.detach() + 0.5 * (y - y.detach()) if how == "gradient" and x.shape[1] > 8 else y

    layer.forward = forward


@pytest.mark.parametrize("how", ["state", "small", "without gradient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_leak_is_seen(how: str, dtype: torch.dtype) -> None:
    """In bfloat16 a small leak is below rounding; its gradient is not zero. Red: gradients between documents ignored."""
    model = small_model("llama").to(dtype)
    leaking(model, how)
    assert not isolation_of(model).is_packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_no_leak(dtype: torch.dtype) -> None:
    for kind in ("llama", "gemma3_text", "olmoe", "gpt2"):
        assert isolation_of(small_model(kind).to(dtype)).is_packed, kind


def test_a_state_between_calls_is_refused() -> None:
    model = small_model("llama")
    layer, kept = model.model.layers[0].mlp, []

    def forward(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.detach().mean())
        return type(layer).forward(layer, x + sum(kept))

    layer.forward = forward
    with pytest.raises(BaseModelError, match="results that depend on earlier calls") as refused:
        isolation_of(model)
    assert "\n" not in str(refused.value) and "LlamaForCausalLM" in str(refused.value)


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    model = small_model("llama")
    layer = model.model.layers[1].mlp
    layer.forward = lambda x: type(layer).forward(layer, x + 0.1 * x.mean(1, keepdim=True))
    with pytest.raises(BaseModelError, match="tokens that see later tokens"):
        isolation_of(model)


def test_fast_layers_are_for_packed_documents_only() -> None:
    model = small_model("lfm2")
    use_segment_attention(model)
    with fast_training(model, "fused") as fast:
        assert fast is None


@pytest.mark.parametrize("kind", ["lfm2", "mamba2", "qwen3_next", "jamba", "bloom"])
def test_generation_does_not_depend_on_the_batch(kind: str, tiny: Base) -> None:
    """The argmax of transformers, token by token from the whole text without cache. Red: prompts padded on the left."""
    model = small_model(kind)
    base = Base(BaseInfo(kind, tiny.info.folder, tiny.info.fingerprint, {}), model, tiny.tokenizer)
    prompts = ["a", "a current of", "the"]
    encoded = [[i % 120 + 4 for i in tiny.tokenizer(p)["input_ids"]] for p in prompts]
    expected = []
    for ids in encoded:
        tokens = list(ids)
        for _ in range(5):
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        expected.append(tokens[len(ids) :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_encode", lambda _b, p, *_: encoded[prompts.index(p)])
        patch.setattr(generate, "_ends", lambda _b: frozenset())
        found = generate.generate(base, prompts, 5)
    assert [g.text for g in found] == [tiny.tokenizer.decode(t) for t in expected]


def test_batches_score_the_same_however_they_are_divided() -> None:
    """Two documents in a batch, and each in its own. Red: `hidden_states` packs without asking."""
    model = small_model("lfm2")
    use_segment_attention(model)
    rng = np.random.default_rng(3)
    texts = [rng.integers(4, 128, n) for n in (11, 6)]
    whole = Batch(np.concatenate(texts), np.full(17, IGNORE), (11, 6))
    with torch.no_grad():
        together = hidden_states(model, whole) @ head_weight(model).T
        apart = [model(input_ids=torch.from_numpy(t)[None], use_cache=False).logits[0] for t in texts]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)
