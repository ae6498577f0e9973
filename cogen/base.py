"""Base models: load one by name, and compute its fingerprint.

A base is a local folder, a hub id such as `HuggingFaceTB/SmolLM2-360M`, or one of `KNOWN_BASES` (`base_fetch`).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cogen.adapter import Adapter, Fingerprint, layout_of
from cogen.adapter.peft_config import CONFIG_NAME, WEIGHTS_NAME
from cogen.base_fetch import base_folder, cache_folder, quiet_transformers
from cogen.distributed import process_rank
from cogen.errors import BaseModelError, ConfigError, FingerprintMismatch, RunError
from cogen.records import Record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "Naive cafe: 3.14 kV at 25 deg C;\n\tthe patient's SpO2 fell to 88%. \u00e9\u4e2d\u2192"


@dataclass(frozen=True)
class BaseInfo:
    """A base model on disk, without its weights in memory.

    Args:
        name: as the user wrote it.
        folder: holds config, tokenizer and safetensors.
        fingerprint: an adapter must have the same.
        modules: linear layers that LoRA may adapt, name to `(d_out, d_in)`, without the head.
        embeddings: the input embeddings, name to `(d_out, d_in)`; d_in is the size of the vocabulary.
        max_tokens: length of the context (`max_position_embeddings`); None if the architecture has no limit.
        num_parameters: all parameters but embeddings and head.
        fused: tensors that hold the weights of several layers, such as all experts, and that LoRA does not adapt; name
            with `*` for the number of the layer, to number of weights.
    """

    name: str
    folder: Path
    fingerprint: Fingerprint
    modules: Mapping[str, tuple[int, int]]
    embeddings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    max_tokens: int | None = None
    num_parameters: int = 0
    fused: Mapping[str, int] = field(default_factory=dict)

    def require_context(self, num_tokens: int, where: str, fix: str) -> None:
        """Raise ConfigError if `num_tokens` in one piece are more than the base has positions for."""
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            expected = f"at most {self.max_tokens} tokens, the context of base {self.name}"
            raise ConfigError("text too long", expected=expected, got=str(num_tokens), where=where, fix=fix)

    def require(self, adapter: Adapter, where: str) -> None:
        """Raise FingerprintMismatch unless `adapter` fits this base.

        An adapter without a fingerprint (one made by PEFT) must at least have modules and shapes of the base.
        """
        if adapter.fingerprint is not None:
            self.fingerprint.require(adapter.fingerprint, where)
        for name, layout in layout_of(adapter.factors).items():
            known = self.embeddings if name in adapter.embeddings else self.modules
            if known.get(name) != layout.shape:
                raise FingerprintMismatch(
                    "adapter mismatch",
                    expected=f"{name} {known.get(name, 'absent')} of base {self.name}",
                    got=str(layout.shape),
                    where=where,
                    fix="Use adapters that were trained from this base model.",
                )


def doubt(adapter: Adapter, where: str, *bases: str) -> str | None:
    """A line to show if `adapter` has no fingerprint and names a base that is none of `bases`; None if there is no doubt.

    PEFT does not compare the names, and one base has many: a hub id, a folder, a copy of it. So it is not refused.
    """
    named = adapter.base_name.rstrip("/")
    if adapter.fingerprint is not None or not named or Path(named).name in {Path(base).name for base in bases}:
        return None
    return (
        f"{where}: its base_model_name_or_path is {named!r}, not {bases[0]!r}; "
        "the shapes are equal, but without a cogen.json nothing shows that the weights are"
    )


@dataclass(frozen=True)
class Base:
    """A base model in memory, in eval mode, with frozen weights in their compute dtype."""

    info: BaseInfo
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def eos_id(self) -> int:
        """The token that ends each document."""
        return int(self.tokenizer.eos_token_id)

    @property
    def precision(self) -> str:
        """Precision of the frozen weights in memory."""
        return "nf4" if getattr(self.model, "is_loaded_in_4bit", False) else str(self.model.dtype)

    @property
    def start_id(self) -> int:
        """The token from which the first token of a text is predicted: BOS if the tokenizer adds one, else EOS."""
        bos = leading_id(self.tokenizer)
        return self.eos_id if bos is None else bos


def load_base(
    name: str, *, device: str | None = None, precision: str = "auto", fingerprint: Fingerprint | None = None
) -> Base:
    """Load a base model, ready to be adapted.

    Args:
        name: a local folder, a hub id, or one of `KNOWN_BASES`.
        device: as torch names it; None takes `default_device`.
        precision: "bfloat16", "float32", "nf4" (4 bits), or "auto": bfloat16 if the device has it in hardware.
        fingerprint: that the base must have, computed from its files.
    Raises:
        BaseModelError: not found, cannot be fetched, or cannot be trained here.
        FingerprintMismatch: its files have another fingerprint.

    >>> base = load_base("smollm2-135m")  # doctest: +SKIP
    >>> base.info.fingerprint.weights[:12]   # doctest: +SKIP
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = torch.device(device or default_device())
    dtype = compute_dtype(where, precision)
    four_bit = four_bit_options(where, dtype) if precision == "nf4" else {}
    info = describe_base(name, from_files=fingerprint is not None)
    if fingerprint is not None:
        _require_unaltered(info, fingerprint)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(info.folder, dtype=dtype, local_files_only=True, **four_bit)
        tokenizer = AutoTokenizer.from_pretrained(info.folder, local_files_only=True)
    model.requires_grad_(False)
    model.eval()
    return Base(info=info, model=model if four_bit else model.to(where), tokenizer=tokenizer)


def default_device() -> str:
    """CUDA if there is one, where each of several processes takes its own device; else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    here = process_rank()
    return "cuda" if here.count == 1 else f"cuda:{here.local_index}"


def load_tokenizer(info: BaseInfo) -> PreTrainedTokenizerBase:
    """The base's tokenizer, without its weights."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(info.folder, local_files_only=True)


def leading_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS that the tokenizer adds before a text; None if it adds no token, or more than one."""
    ids = leading_ids(tokenizer)
    return ids[0] if len(ids) == 1 else None


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that the tokenizer adds before a text; those that it adds behind it are not among them."""
    marked, plain = (list(tokenizer(PROBE, add_special_tokens=marks)["input_ids"]) for marks in (True, False))
    places = range(len(marked) - len(plain) + 1)
    return marked[: next((n for n in places if marked[n : n + len(plain)] == plain), 0)]


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The dtype of the weights; auto is bfloat16 if the device has it in hardware (emulated it is six times slower)."""
    import torch

    if precision not in ("auto", "nf4"):
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def _require_unaltered(info: BaseInfo, fingerprint: Fingerprint) -> None:
    for part, found in vars(info.fingerprint).items():
        if found != (expected := getattr(fingerprint, part)):
            raise FingerprintMismatch(
                "cannot use the base model",
                expected=f"{part} {expected[:12]}",
                got=f"{found[:12]}, computed from its files",
                where=str(info.folder),
                fix="Restore its files: they are not those of before.",
            )


def describe_base(name: str, *, from_files: bool = False) -> BaseInfo:
    """Find a base model, fetch and convert it if needed, and read its fingerprint from the cache or compute it.

    Args:
        from_files: compute it, whatever the cache says; it goes by names, sizes and times of the files.
    Raises:
        BaseModelError: not found, cannot be fetched, or cannot be trained here.
    """
    folder = base_folder(name)
    _require_no_adapter(name, folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise _unusable(name, "safetensors weights", "none" if folder.is_dir() else "no folder", folder)
    files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".txt", ".model"})
    stamp = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), stamp]).encode()).hexdigest()[:24]
    cached = cache_folder() / "fingerprints" / f"{key}.json"
    known = None if from_files else _read_cached(cached)
    if known is None:
        found = _layers(name, folder)
        fingerprint = Fingerprint(
            weights=_weights_digest(name, weights),
            tokenizer=_tokenizer_digest(name, folder, min((n for _, n in found.embeddings.values()), default=None)),
            modules=hashlib.sha256(json.dumps(sorted(found.modules.items())).encode()).hexdigest(),
        )
        known = _Cached(fingerprint=fingerprint, **vars(found))
        known.write(cached)
    layers = (known.modules, known.embeddings, known.max_tokens, known.num_parameters, known.fused)
    return BaseInfo(name, folder, known.fingerprint, *layers)


class _Cached(Record):
    """What was computed from the files of a base model; it is used until one of them changes."""

    file_name = "a base's fingerprint"

    format: Literal[4] = 4
    fingerprint: Fingerprint
    modules: Mapping[str, tuple[int, int]]
    embeddings: Mapping[str, tuple[int, int]]
    max_tokens: int | None
    num_parameters: int
    fused: Mapping[str, int]


def _read_cached(path: Path) -> _Cached | None:
    """The cached values; None where there are none, or not of this format."""
    try:
        return _Cached.load_if_present(path)
    except RunError:
        return None


@dataclass(frozen=True)
class _Layers:
    """What a base's config says of its layers; the fields are those of `BaseInfo`."""

    modules: dict[str, tuple[int, int]]
    embeddings: dict[str, tuple[int, int]]
    max_tokens: int | None
    num_parameters: int
    fused: dict[str, int]


def _layers(name: str, folder: Path) -> _Layers:
    """The layers of a base; reads the config only, not the weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(name, "a causal language model", str(error).splitlines()[0], folder) from None
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tables = {p: m for p, m in model.named_modules() if isinstance(m, torch.nn.Embedding)}
    sizes = {p: (m.embedding_dim, m.num_embeddings) for p, m in tables.items() if m is table}
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    apart = {id(p) for m in (*tables.values(), head) if m is not None for p in m.parameters()}
    inner = {name: p.numel() for name, p in model.named_parameters() if id(p) not in apart}
    fused: dict[str, int] = {}
    for name, p in model.named_parameters():
        if p.dim() > 2 and name in inner and not name.endswith(".weight"):  # convolutions call theirs "weight"
            kind = re.sub(r"\.\d+\.", ".*.", name)
            fused[kind] = fused.get(kind, 0) + p.numel()
    return _Layers(adaptable(model, linear_layers(model)), sizes, context, sum(inner.values()), fused)


def linear_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """The linear layers of a model but its head, name to `(d_out, d_in)`; a router that returns more than a product is none."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Conv1D):
            found[path] = (module.nf, module.nx)
        elif isinstance(module, torch.nn.Linear) and module is not head and _is_product(module):
            found[path] = (module.out_features, module.in_features)
    return found


def _is_product(layer: torch.nn.Linear) -> bool:
    """Whether a class derived from Linear still returns one output for each input."""
    import torch

    if type(layer).forward is torch.nn.Linear.forward:
        return True
    row = torch.zeros(1, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)
    try:
        with torch.no_grad():
            out = layer(row)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(out, torch.Tensor) and out.shape == (1, layer.out_features)


def adaptable(model: PreTrainedModel, layers: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The layers that PEFT wraps when it is asked for all of them; `model` must be a copy on the meta device.

    PEFT refuses the `out_proj` of Mamba layers, which read its weight without calling it. In architectures whose
    experts transformers 5 fuses, it takes the names of shared experts for those of the fused ones.
    """
    from peft import LoraConfig, LoraModel

    for names in (list(layers), [name for name in layers if name.rpartition(".")[2] != "out_proj"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                LoraModel(model, LoraConfig(r=1, target_modules=names, init_lora_weights=False), "probe")
            except ValueError:
                continue
        return {name: layers[name] for name in names if hasattr(model.get_submodule(name), "lora_A")}
    return {}


def _weights_digest(name: str, files: list[Path]) -> str:
    """sha256 over names, dtypes, shapes and bytes of all tensors, however they are divided among files."""
    from safetensors import SafetensorError, safe_open

    where = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                where.update(dict.fromkeys(opened.keys(), path))
        except (SafetensorError, OSError) as error:
            raise _unusable(name, "safetensors weights", f"{path.name}: {error}", path.parent) from None
    digest = hashlib.sha256()
    for key in sorted(where):
        with safe_open(where[key], framework="pt") as opened:
            tensor = opened.get_tensor(key).contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        import torch

        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_no_adapter(name: str, folder: Path) -> None:
    """Refuse a folder with an adapter's files: transformers would load the adapter too, as if it were the base."""
    for file in (CONFIG_NAME, WEIGHTS_NAME, "adapter_model.bin"):
        if (folder / file).is_file():
            raise BaseModelError(
                f"cannot use base model {name!r}",
                expected="a base model without an adapter",
                got=f"an adapter's {file} in its folder",
                where=str(folder),
                fix="Move the adapter's files to a folder of their own, and name it with --adapter.",
            )


def _require_rows(name: str, tokenizer: PreTrainedTokenizerBase, num_rows: int, folder: Path) -> None:
    """Refuse a tokenizer with tokens that have no row in the embedding.

    Special tokens but EOS and BOS may lack one: a text never holds them (see `cogen.data.pack`).
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = {tokenizer.eos_token_id, leading_id(tokenizer)}
    missing = {i: t for t, i in tokenizer.get_vocab().items() if i >= num_rows and (i not in special or i in needed)}
    if missing:
        shown = ", ".join(f"{missing[i]!a} = {i}" for i in sorted(missing)[:3])
        raise BaseModelError(
            f"cannot use base model {name!r}",
            expected=f"token ids below {num_rows}, the rows of its embedding",
            got=f"{len(missing)} at {num_rows} or above: {shown}{', ...' if len(missing) > 3 else ''}",
            where=str(folder),
            fix="Resize the embedding to the tokenizer (resize_token_embeddings), or use the tokenizer it came with.",
        )


def _tokenizer_digest(name: str, folder: Path, num_rows: int | None) -> str:
    """sha256 over the behaviour of a tokenizer: vocabulary, EOS, the ids of a fixed text, and the BOS that it adds."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unusable(name, "a tokenizer", str(error).splitlines()[0], folder) from None
    if tokenizer.eos_token_id is None or not tokenizer.is_fast:
        raise _unusable(name, "a fast tokenizer with an EOS token", "one without", folder)
    if num_rows is not None:
        _require_rows(name, tokenizer, num_rows, folder)
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    known = [sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id, ids]
    if (bos := leading_id(tokenizer)) is not None:
        known.append(bos)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _unusable(name: str, expected: str, got: str, folder: Path) -> BaseModelError:
    return BaseModelError(
        f"cannot use base model {name!r}",
        expected=expected,
        got=got,
        where=str(folder),
        fix="Name a folder with config.json, a fast tokenizer and safetensors weights.",
    )


def four_bit_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` to load all linear layers except the head in NF4 (4 bits), by bitsandbytes.

    Args:
        dtype: the dtype in which products are computed, after unpacking the weights.
    Raises:
        BaseModelError: the device is no GPU, or bitsandbytes is not installed.
    Source: QLoRA (Dettmers et al., arXiv 2305.14314), with its double quantisation of the scales.
    """
    if device.type != "cuda":
        raise _no_four_bit("a CUDA device", device.type, 'Set base.precision = "auto".')
    if find_spec("bitsandbytes") is None:
        raise _no_four_bit("the package bitsandbytes", "none", "Install it with pip install 'cogen-ai[gpu]'.")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _no_four_bit(expected: str, got: str, fix: str) -> BaseModelError:
    return BaseModelError("cannot load a base in 4 bits", expected=expected, got=got, where="base.precision", fix=fix)
