"""Models of random weights for `train.py --shape`, text to train them on, and what a token of it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RANK, HEAD_SIZE = 16, 64
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 512},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "vocab_size": 49152},
}  # the last two are those of SmolLM2-135M and SmolLM2-1.7B
KEY_HEADS = {"tiny": 1, "135m": 3, "1b": 32}


def random_base(shape: str, device: Any) -> Any:
    """A Llama-like base of that shape, in the dtype that `cogen train` would take on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cogen.adapter import Fingerprint
    from cogen.base import Base, BaseInfo, compute_dtype

    sizes = SHAPES[shape]
    num_heads = sizes["hidden_size"] // HEAD_SIZE
    config = LlamaConfig(
        **sizes,
        num_attention_heads=num_heads,
        num_key_value_heads=KEY_HEADS[shape],
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device=device, dtype=compute_dtype(device, "auto")).eval()
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    modules = {
        n: (m.out_features, m.in_features)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head
    }
    info = BaseInfo(shape, Path(shape), Fingerprint(weights=shape, tokenizer=shape, modules=shape), modules)
    return Base(info, model, None)  # type: ignore[arg-type]


def random_documents(num_tokens: int, vocabulary: int) -> list[Any]:
    """Documents of 16 to 4096 tokens, half of them shorter than 300, with `num_tokens` in all or a little more."""
    import numpy as np

    rng = np.random.default_rng(0)
    documents: list[Any] = []
    while sum(map(len, documents)) < num_tokens:
        length = int(np.clip(rng.lognormal(np.log(300.0), 1.0), 16, 4096))
        documents.append(rng.integers(1, vocabulary, length, dtype=np.int32))
    return documents


def mean_context(documents: list[Any], sequence_length: int) -> float:
    """Tokens that a token looks at, itself included, where segments end with a document or a block."""
    from cogen.data import PackedStream

    num_blocks = max(1, sum(map(len, documents)) // sequence_length)
    stream = PackedStream(documents, sequence_length, 0)
    lengths = [len(p) for block in range(num_blocks) for p in stream.segments(block)]
    return sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)


def flop_per_token(shape: str, context: float, rank: int = RANK) -> float:
    """Of one token's step with frozen weights: 4 by weight, 6 by factor, and attention over `context` tokens."""
    sizes, key_heads = SHAPES[shape], KEY_HEADS[shape]
    d, wide = sizes["hidden_size"], sizes["intermediate_size"]
    keys = key_heads * HEAD_SIZE
    layers = [(d, d), (keys, d), (keys, d), (d, d), (wide, d), (wide, d), (d, wide)]
    weights = sum(d_out * d_in for d_out, d_in in layers)
    factors = sum(min(rank, d_out, d_in) * (d_out + d_in) for d_out, d_in in layers)
    attention = 12.0 * d * context  # scores and values: 2 products of 2 flop, forward once and backward twice
    head = 4.0 * sizes["vocab_size"] * d
    return sizes["num_hidden_layers"] * (4.0 * weights + 6.0 * factors + attention) + head
