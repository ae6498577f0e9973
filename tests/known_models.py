"""The configs of the known bases, as their repositories on the hub have them, and tiny random models of each kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).parent.parent / "seeds"

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "vocab_size": 262144,
}
LLAMA3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}


def _sizes(kind: dict[str, Any], hidden: int, intermediate: int, **other: Any) -> dict[str, Any]:
    return {**kind, "hidden_size": hidden, "intermediate_size": intermediate, **other}


def _heads(layers: int, heads: int, groups: int, theta: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "rope_theta": theta,
    }


def _pattern(layers: int) -> list[str]:
    """Gemma 3: five layers with a sliding window, then one without."""
    return ["full_attention" if n % 6 == 5 else "sliding_attention" for n in range(layers)]


CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2-135m": _sizes(SMOLLM2, 576, 1536, **_heads(30, 9, 3, 100000)),
    "smollm2-360m": _sizes(SMOLLM2, 960, 2560, **_heads(32, 15, 5, 100000)),
    "smollm2-1.7b": _sizes(SMOLLM2, 2048, 8192, **_heads(24, 32, 32, 130000)),
    "qwen3-0.6b": _sizes(QWEN3, 1024, 3072),
    "qwen3-1.7b": _sizes(QWEN3, 2048, 6144),
    "gemma-3-270m": _sizes(
        GEMMA3, 640, 2048, num_hidden_layers=18, _sliding_window_pattern=6, layer_types=_pattern(18)
    ),
    "gemma-3-1b": _sizes(GEMMA3, 1152, 6912, num_hidden_layers=26, sliding_window_pattern=6),
    "llama-3.2-1b": LLAMA3,
}
"""Of the models that can chat; the others differ in the ids of special tokens, and Qwen3's in its context (32,768)."""


@dataclass(frozen=True)
class Kind:
    """A kind of known base: what its tokenizer and its stops are, and the sizes of a tiny model of it.

    Args:
        special: special tokens, whose ids are their places.
        stops: `eos_token_id` of generation_config.json.
        bos: the token that the tokenizer puts before a text.
    """

    name: str
    tokenizer_class: str
    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    bos: str | None
    template: str
    tiny: dict[str, Any]

    def id(self, token: str) -> int:
        return self.special.index(token)


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else"
    " message['role']) + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
KINDS = {
    "smollm2": Kind(
        "smollm2-360m",
        "GPT2Tokenizer",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        ("<|im_end|>",),
        None,
        CHATML,
        {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6, "num_key_value_heads": 2},
    ),
    "qwen3": Kind(
        "qwen3-0.6b",
        "Qwen2Tokenizer",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        None,
        CHATML,
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
    ),
    "gemma3": Kind(
        "gemma-3-270m",
        "GemmaTokenizer",
        ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        ("<eos>", "<end_of_turn>"),
        "<bos>",
        GEMMA_CHAT,
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
        },
    ),
    "llama3": Kind(
        "llama-3.2-1b",
        "PreTrainedTokenizerFast",
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        LLAMA_CHAT,
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        },
    ),
}


def write_tiny(kind: Kind, folder: Path, *, template_file: bool = False, **other: Any) -> Path:
    """A random model of the kind, with a tokenizer trained on the seeds.

    Args:
        template_file: the chat template in chat_template.jinja, as Gemma 3 270M has it.
        other: values of the config to change.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = write_tokenizer(kind, folder, template_file=template_file)
    real = CONFIGS[kind.name]
    layers = 6 if "layer_types" in real else 2
    config = {**real, **kind.tiny, "num_hidden_layers": layers, "vocab_size": vocab_size, "initializer_range": 0.2}
    if "layer_types" in real:
        config["layer_types"] = real["layer_types"][:layers]
    ids = [kind.id(token) for token in kind.stops]
    config |= {"eos_token_id": ids if len(ids) > 1 else ids[0], "pad_token_id": 0, **other}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    for weight in model.parameters():
        if weight.ndim == 1:  # norms start at one number everywhere, which would hide where they are
            weight.data += 0.2 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": config["eos_token_id"], "do_sample": True, "top_k": 64}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def write_tokenizer(kind: Kind, folder: Path, *, template_file: bool = False) -> int:
    """tokenizer.json, and tokenizer_config.json with the class of the real one; the size of the vocabulary."""
    from tokenizers import processors

    tokenizer = _gemma(kind) if kind.name.startswith("gemma") else _byte_level(kind)
    if kind.bos is not None:
        marks = [(kind.bos, kind.id(kind.bos))]
        template = processors.TemplateProcessing(single=f"{kind.bos} $A", special_tokens=marks)
        tokenizer.post_processor = template
        if kind.name.startswith("llama"):
            tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": kind.tokenizer_class,
        "eos_token": kind.eos,
        "bos_token": kind.bos or (None if kind.name.startswith("qwen") else "<|im_start|>"),
        "model_max_length": 8192,
    }
    about |= {"add_bos_token": True} if kind.name.startswith("gemma") else {}
    about |= {"add_bos_token": False} if kind.name.startswith("qwen") else {}
    about |= {} if template_file else {"chat_template": kind.template}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    if template_file:
        (folder / "chat_template.jinja").write_text(kind.template)
    size: int = tokenizer.get_vocab_size()
    return size


def _texts() -> list[str]:
    paths = sorted(SEEDS.glob("*.jsonl"))
    return [json.loads(line)["text"] for path in paths for line in path.read_text("utf-8").splitlines()]


def _byte_level(kind: Kind) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = r"\p{N}{1,3}" if kind.name.startswith("llama") else r"\p{N}"
    words = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s+"
    if kind.name.startswith("smollm2"):
        steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    else:
        steps = [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if kind.name.startswith("qwen"):
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=list(kind.special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _gemma(kind: Kind) -> Any:
    """Spaces are "▁", and a character without a token is its bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # a token has it in front alone
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    known = [*kind.special, *(f"<0x{n:02X}>" for n in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=known, limit_alphabet=90)
    tokenizer.train_from_iterator(_texts(), trainer)
    made = json.loads(tokenizer.to_str())
    made["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < len(kind.special)]
    return Tokenizer.from_str(json.dumps(made))
