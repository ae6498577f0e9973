"""Every causal architecture of transformers as a tiny random model: its default config with small sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

VOCABULARY, CONTEXT = 128, 64

# A size is set where the architecture's config has one of this name.
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(
        ("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), CONTEXT
    ),
    **dict.fromkeys(("model_max_length", "context_length"), CONTEXT),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("lru_width", "embedding_dim", "input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(
        ("intermediate_size", "decoder_ffn_dim", "ffn_dim", "dim_ff", "dff", "d_inner", "ffn_hidden_size"), 48
    ),
    **dict.fromkeys(("encoder_ffn_dim", "feed_forward_size", "intermediate_size_mlp", "dense_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("shared_intermediate_size",), 24),
    **dict.fromkeys(("num_attention_heads", "decoder_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "attention_head_size", "d_head", "dim_head", "kv_channels"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "num_layers", "num_blocks"), 2),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period"), 2),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), 32),
    **dict.fromkeys(("window_size", "attention_chunk_size", "keep_window_size"), 32),
    **dict.fromkeys(("index_topk",), 32),
    **dict.fromkeys(("qk_head_dim", "rotary_dim"), None),
    "qk_head_dim": 16,
    "rotary_dim": 4,
    "max_window_layers": 1,
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_ssm": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_headdim": 8,
    "n_mamba_heads": 8,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "index_n_heads": 2,
    "first_k_dense_replace": 1,
    "attention_hidden_size": 32,
    "query_pre_attn_scalar": 8,
    "zero_expert_num": 1,
    "adapter_rank": 4,
    "router_hidden_size": 16,
}
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "indexer_types", "mtp_layers_block_type")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id")
# Sizes that depend on each other in ways of the architecture's own.
OWN: Mapping[str, Mapping[str, Any]] = {
    "cohere_compass_text": {"layer_types": ["full_attention", "full_attention"], "num_hidden_layers": 2},
    "falcon_mamba": {"intermediate_size": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2},
    "jamba": {"num_hidden_layers": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "mamba2": {"num_heads": 8},
    "bamba": {"attn_layer_indices": [1]},
    "nemotron": {"head_dim": 8},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "plbart": {"encoder_attention_heads": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_embds": False},
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "mamba_expand": 2,
        "n_mamba_heads": 8,
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def small_model(kind: str, **more: Any) -> Any:
    """A random float32 model of the architecture with this `model_type`, in eval mode, frozen.

    Args:
        more: values of the text config.
    """
    from transformers import AutoModelForCausalLM

    config = small_config(kind, **more)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    _spread(model)
    return model.eval().requires_grad_(False)


def small_config(kind: str, **more: Any) -> Any:
    """The architecture's default config with small sizes, and with each kind of its layers."""
    from transformers import CONFIG_MAPPING

    whole = CONFIG_MAPPING[kind]()
    text = whole.get_text_config(decoder=True)
    sizes = _sizes(kind, text, more)
    made = type(text)(**sizes)
    if whole is text or type(whole) is type(text):
        return made
    name = next(n for n in whole.sub_configs if getattr(whole, n) is text)
    return type(whole)(**{name: made.to_dict()})


def _sizes(kind: str, config: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    known = config.to_dict()
    found = {n: size for n, size in SIZES.items() if n in known and not isinstance(known[n], (bool, list))}
    if "kv_lora_rank" in known or kind == "longcat_flash":
        found |= {"num_key_value_heads": 4}
    lists = {n: list(known[n]) for n in LISTS if isinstance(known.get(n), (list, tuple)) and known[n]}
    found |= {n: 1 for n in TOKENS if known.get(n) is not None}
    own = OWN.get(kind, {})
    layers = _each_kind(list(lists.values()))
    if layers:
        found |= {n: [v[i] for i in layers] for n, v in lists.items()}
        found |= {n: len(layers) for n in ("num_hidden_layers",) if n in found}
    return {**found, **own, **more}


def _each_kind(lists: Sequence[Sequence[Any]]) -> list[int]:
    """The first layers that have each combination of kinds, in order."""
    seen: dict[tuple[Any, ...], int] = {}
    for i, kinds in enumerate(zip(*(x for x in lists), strict=False)):
        seen.setdefault(kinds, i)
    return sorted(seen.values())


def _spread(model: Any) -> None:
    """Weights large enough that every layer matters, also those that are drawn as zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)


LENGTHS = (40, 1, 9, 35)  # two of them longer than the windows and chunks above
RANK, SCALING = 3, 0.5
MAX_PARAMETERS = 8_000_000


@dataclass(frozen=True)
class Outcome:
    """What became of an architecture.

    Args:
        state: "packed", "one at a time", "refused", "not built" (its config has no small form here) or "wrong".
        reason: why it is not packed; empty if it is.
        error: the largest relative difference from transformers, over logits, loss and gradients of LoRA factors.
    """

    kind: str
    state: str
    reason: str = ""
    error: float = 0.0


def try_architecture(kind: str, **more: Any) -> Outcome:
    """Build the architecture, and compare a batch in `hidden_states` with transformers and each document alone."""
    from cogen.errors import BaseModelError
    from cogen.train.isolation import isolation_of

    try:
        model = small_model(kind, **more)
    except Exception as error:  # noqa: BLE001 - whatever a config raises
        return Outcome(kind, "not built", f"{type(error).__name__}: {' '.join(str(error).split())[:90]}")
    if sum(p.numel() for p in model.parameters()) > MAX_PARAMETERS:
        return Outcome(kind, "not built", "parts other than the text model are large")
    try:
        found = isolation_of(model)
    except BaseModelError as error:
        return Outcome(kind, "refused", error.reason)
    state = "packed" if found.is_packed else "one at a time"
    try:
        error = difference(model)
    except Exception as failed:  # noqa: BLE001 - an accepted architecture must not fail
        return Outcome(kind, "wrong", f"{type(failed).__name__}: {failed}")
    return Outcome(kind, state if error < 1e-3 else "wrong", found.reason, error)


def difference(model: Any) -> float:
    """The largest relative difference between cogen and transformers for one batch of documents."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(4, VOCABULARY, n) for n in LENGTHS]
    stock, modules = copy.deepcopy(model), called_modules(model, texts[0])
    generator = torch.Generator().manual_seed(1)
    factors = {n: random_factors(shape, generator) for n, shape in modules.items()}
    wanted = stock_results(stock, texts, factors)
    found = [own_results(model, texts, factors, kernels) for kernels in ("off", "fused")]
    return max(relative(f[key], value) for f in found for key, value in wanted.items())


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over the norm of `wanted`."""
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-3))


def called_modules(model: Any, text: Any) -> dict[str, tuple[int, int]]:
    """The layers that cogen adapts and that a forward calls, name to `(d_out, d_in)`."""
    from cogen.base import adaptable, linear_layers

    layers = linear_layers(model)
    with torch.device("meta"):
        layers = adaptable(type(model)(copy.deepcopy(model.config)), layers)
    called: set[str] = set()
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, _o, n=name: called.add(n)) for name in layers
    ]
    with torch.no_grad():
        model(input_ids=torch.from_numpy(text)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: shape for name, shape in layers.items() if name in called}


def random_factors(shape: tuple[int, int], generator: torch.Generator) -> Any:
    """Factors with neither side zero."""
    from cogen.adapter import Factors

    d_out, d_in = shape
    rank = min(RANK, d_out, d_in)
    a, b = (torch.randn(s, generator=generator) * 0.1 for s in ((rank, d_in), (d_out, rank)))
    return Factors(a, b, SCALING)


def stock_results(stock: Any, texts: Sequence[Any], factors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Logits, mean loss and gradients of the factors, each document alone in transformers with W + scaling B A."""
    from transformers.pytorch_utils import Conv1D

    weights, layers = dict(stock.named_parameters(remove_duplicate=False)), dict(stock.named_modules())
    leaves = {n: (f.a.clone().requires_grad_(), f.b.clone().requires_grad_()) for n, f in factors.items()}
    changed = {}
    for name, (a, b) in leaves.items():
        delta = SCALING * b @ a
        changed[f"{name}.weight"] = weights[f"{name}.weight"] + (delta.T if isinstance(layers[name], Conv1D) else delta)
    total, found = torch.zeros(()), {}
    for i, text in enumerate(texts):
        ids = torch.from_numpy(text)
        given = {"input_ids": ids[None], "use_cache": False}
        logits = found[f"logits {i}"] = functional_call(stock, changed, (), given, tie_weights=False).logits[0]
        total = total + cross_entropy(logits[:-1], ids[1:], reduction="sum") if len(ids) > 1 else total
    loss = found["loss"] = total / sum(len(t) - 1 for t in texts)
    loss.backward()
    return {k: v.detach() for k, v in found.items()} | _grads(leaves)


def own_results(model: Any, texts: Sequence[Any], factors: Mapping[str, Any], kernels: str) -> dict[str, torch.Tensor]:
    """The same from cogen's own path: one batch of all documents, PEFT's layers, the loss in chunks."""
    from cogen.data.pack import IGNORE, Batch
    from cogen.train.fast.training import fast_training
    from cogen.train.isolation import use_segment_attention
    from cogen.train.lora import attached
    from cogen.train.loss import chunked_loss, head_weight
    from cogen.train.step import hidden_states

    targets = np.concatenate([np.append(t[1:], IGNORE) for t in texts])
    batch = Batch(np.concatenate(texts), targets, tuple(len(t) for t in texts))
    use_segment_attention(model)
    with attached(model, factors) as live, fast_training(model, kernels):
        hidden = hidden_states(model, batch)
        weight = head_weight(model)
        loss = chunked_loss(hidden.to(weight.dtype), weight, torch.from_numpy(targets), 16)
        loss.backward()
        logits = (hidden @ weight.T).detach().split(batch.lengths)
        return {**{f"logits {i}": x for i, x in enumerate(logits)}, "loss": loss.detach(), **_grads(live)}


def _grads(pairs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """All gradients in one, since those of a single module may be zero up to rounding."""
    return (
        {
            f"grad {side}": torch.cat(
                [(torch.zeros_like(p[i]) if p[i].grad is None else p[i].grad).flatten() for p in pairs.values()]
            )
            for i, side in enumerate("AB")
        }
        if pairs
        else {}
    )
