"""A folder that transformers loads as one model: the base with an adapter added to its weights.

The sum is made in float32, whatever it is stored in: an update is small against the weights, and adding it to rounded ones
rounds a part of it off.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.base_fetch import KNOWN_BASES, quiet_transformers, without_path
from cogen.data import Window
from cogen.errors import BaseModelError, RunError
from cogen.evaluate.score import score_windows
from cogen.export.manifest import EXPORT_MANIFEST, ExportManifest, ExportScore
from cogen.file_hashes import file_sha256
from cogen.files import building_folder, cannot_write, free_disk_bytes, write_file
from cogen.report.markdown import escaped, markdown_table
from cogen.train.likelihood import likeliest_tokens
from cogen.train.lora import attached
from cogen.versions import versions

if TYPE_CHECKING:
    import torch
    from torch import Tensor


CARD = "README.md"
ADAPTER_CARD = "ADAPTER_CARD.md"
TOKENIZER_FILES = re.compile(
    r"(tokenizer.*|special_tokens_map|added_tokens|vocab|chat_template.*|merges)\.(json|txt|model|jinja)|.*\.tiktoken"
)
LICENCE_FILES = re.compile(r"(licen[cs]e|notice|use_policy)(\..*)?", re.IGNORECASE)
SHARD_BYTES = 4_000_000_000
SPARE_BYTES = 50_000_000  # for the other files

Progress = Callable[[str, int], None]
"""Called with what was worked on and how many tokens of it were scored since."""


def export_hf(
    base: Base,
    adapter: Adapter,
    name: str,
    out: Path,
    dtype: str,
    windows: Mapping[str, Sequence[Window]],
    card: Path | None = None,
    progress: Progress = lambda _what, _num_tokens: None,
) -> ExportManifest:
    """Add the adapter to the base's weights and write the model as transformers loads it. `base` is changed.

    W' = W + scaling * B A in every adapted layer, in float32; then every weight is rounded to `dtype`.

    Args:
        base: in float32, on the CPU; afterwards it is the exported model.
        name: of the adapter's row.
        out: the folder; it appears whole or not at all, and replaces one that is there.
        dtype: "float32" or "bfloat16".
        windows: text by domain to measure the result on; none is measured without.
        card: the adapter's own model card, which is copied.
    Returns:
        what `export.json` in the folder says.
    Raises:
        FingerprintMismatch: the adapter was made for another base.
        BaseModelError: its base cannot hold it in its own weights.
        RunError: no room on the disk, or the folder cannot be written.

    >>> export_hf(load_base("smollm2-135m", precision="float32"), Adapter.load("merged"), "combined",
    ...           Path("model"), "bfloat16", {})  # doctest: +SKIP
    """
    import torch

    base.info.require(adapter, name)
    _require_own_weights(base, adapter)
    stored_as = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    num_parameters = sum(p.numel() for p in base.model.parameters())
    _require_room(out, num_parameters * stored_as.itemsize + SPARE_BYTES)
    before = _scores(base, windows, "base", progress)
    with attached(base.model, adapter.factors) if windows else nullcontext():
        wanted, tokens = _scores(base, windows, name, progress), _likeliest(base, windows)
    rounding_frac = _add(base, adapter, stored_as)
    base.model.to(stored_as)
    with building_folder(out) as staging:
        _save(base, staging, out, card)
        stored = Base(base.info, _read_back(staging), base.tokenizer)
        after, tokens_after = _scores(stored, windows, "exported", progress), _likeliest(stored, windows)
        scores = tuple(
            ExportScore(
                domain=d,
                num_tokens=sum(len(w.tokens) for w in windows[d]),
                base=before[d],
                adapter=wanted[d],
                exported=after[d],
                same_top_frac=float((tokens[d] == tokens_after[d]).double().mean()),
            )
            for d in windows
        )
        write_file(staging / CARD, _card(base, name, dtype, rounding_frac, scores, card is not None).encode())
        manifest = ExportManifest(
            dtype=dtype,
            base=_public_name(base),
            base_fingerprint=base.info.fingerprint,
            adapter=name,
            factors_sha256=adapter.digest,
            num_parameters=num_parameters,
            rounding_frac=rounding_frac,
            scores=scores,
            versions=versions(),
            sha256={p.name: file_sha256(p) for p in sorted(staging.iterdir())},
        )
        manifest.write(staging / EXPORT_MANIFEST)
    return manifest


def _require_own_weights(base: Base, adapter: Adapter) -> None:
    """An embedding that is also the head cannot be changed alone, as an adapter on it does."""
    config = base.model.config.get_text_config()
    if adapter.embeddings and getattr(config, "tie_word_embeddings", False):
        raise BaseModelError(
            "cannot export this adapter",
            expected="a base whose embeddings are not its head",
            got="LoRA on embeddings that the head shares",
            where=base.info.name,
            fix="Use the adapter with PEFT, or train one without embeddings.",
        )


def _require_room(out: Path, num_bytes: int) -> None:
    free = free_disk_bytes(out)
    if free < num_bytes:
        raise RunError(
            "cannot export",
            expected=f"{num_bytes / 1e6:,.0f} MB of free disk",
            got=f"{free / 1e6:,.0f} MB",
            where=str(out),
            fix="Free some space, name another --out, or store in bfloat16.",
        )


def _scores(base: Base, windows: Mapping[str, Sequence[Window]], row: str, progress: Progress) -> dict[str, float]:
    """Bits per byte by domain."""
    return {
        d: score_windows(base, some, row, d, partial(progress, f"{row} on {d}")).bits_per_byte
        for d, some in windows.items()
    }


def _likeliest(base: Base, windows: Mapping[str, Sequence[Window]]) -> dict[str, Tensor]:
    return {domain: likeliest_tokens(base, some) for domain, some in windows.items()}


def _add(base: Base, adapter: Adapter, stored_as: torch.dtype) -> float:
    """Add every update to its weight, in float32; returns `rounding_frac` of the manifest."""
    import torch
    from transformers.pytorch_utils import Conv1D

    rounded, changed = 0.0, 0.0
    with torch.no_grad():
        for module, factors in adapter.factors.items():
            weight = base.model.get_submodule(module).weight
            delta = factors.delta()
            if module in adapter.embeddings or isinstance(base.model.get_submodule(module), Conv1D):
                delta = delta.T  # these hold the transpose
            weight += delta
            rounded += float((weight.to(stored_as).float() - weight).double().square().sum())
            changed += float(delta.double().square().sum())
    return math.sqrt(rounded / changed) if changed else 0.0


def _save(base: Base, staging: Path, out: Path, card: Path | None) -> None:
    """Weights in shards, configs, tokenizer, licence and the adapter's card."""
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            base.model.save_pretrained(staging, max_shard_size=SHARD_BYTES)
        for path in sorted(base.info.folder.iterdir()):
            if TOKENIZER_FILES.fullmatch(path.name) or LICENCE_FILES.fullmatch(path.name):
                shutil.copyfile(path, staging / path.name)
        if card is not None:
            shutil.copyfile(card, staging / ADAPTER_CARD)
    except OSError as error:
        raise cannot_write(out, error) from None
    except SafetensorError as error:
        raise cannot_write(out, OSError(0, str(error))) from None


def _read_back(folder: Path) -> torch.nn.Module:
    """The stored model as transformers loads it, from this folder alone, computed in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()  # type: ignore[no-any-return]


def _public_name(base: Base) -> str:
    """The base's id on the hub; of a folder, whose path may tell who made it, the last part alone."""
    known = KNOWN_BASES.get(base.info.name)
    return known.repo_id if known else without_path(base.info.name)


def _card(
    base: Base, name: str, dtype: str, rounding_frac: float, scores: Sequence[ExportScore], has_adapter_card: bool
) -> str:
    """README.md of the folder, with the head that the hub reads."""
    from huggingface_hub import ModelCardData

    known = KNOWN_BASES.get(base.info.name)
    head = ModelCardData(
        base_model=_public_name(base),
        library_name="transformers",
        license="unknown",
        tags=["cogen", "continual-pretraining"],
        pipeline_tag="text-generation",
    )
    licence = f"The base has the licence `{known.license}`." if known else "See the base for its licence."
    own = f" [{ADAPTER_CARD}]({ADAPTER_CARD}) says what it was trained on." if has_adapter_card else ""
    return f"""---
{head.to_yaml()}
---

# {_public_name(base)} with an adapter of CO-GEN

The adapter `{name}` was added to the weights of `{_public_name(base)}` in float32; the sum is stored in {dtype}.{own}
`{EXPORT_MANIFEST}` has the hashes of what it was made of.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

## Measured

{_measured(dtype, rounding_frac, scores)}

## Limits

- {licence} No licence has been chosen for this model: it depends on that one and on those of every domain's text.
- **A model can reveal text that it was trained on to people who probe it.** Ask every domain before you publish it.
- It cannot be split into base and adapter again.
"""


def _measured(dtype: str, rounding_frac: float, scores: Sequence[ExportScore]) -> str:
    lost = f"Rounding to {dtype} changed the adapted layers by {rounding_frac:.1%} of the size of the update."
    if not scores:
        return f"{lost} Bits per byte were not measured: no text was given."
    header = ["bits per byte", "base", "with the adapter", "this model", "gain kept", "same next token"]
    rows = [
        [
            escaped(s.domain),
            *(f"{v:.4f}" for v in (s.base, s.adapter, s.exported)),
            "" if s.kept_frac is None else f"{s.kept_frac:.1%}",
            f"{s.same_top_frac:.1%}",
        ]
        for s in scores
    ]
    return f"{lost} Text that the adapter was not trained on, lower is better:\n\n{markdown_table(header, rows)}"
