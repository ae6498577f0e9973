"""An expert for tests of routed models."""

from __future__ import annotations

from pathlib import Path

import torch

from cogen.adapter import Adapter
from cogen.adapter.gate import GateStatistics
from cogen.base import Base
from cogen.train.lora import init_factors
from cogen.train.text_states import mean_state


def save_expert(base: Base, folder: Path, name: str, number: int, text: str = "") -> Path:
    """Random factors; the gate statistics say that texts like `text` are its own."""
    factors = init_factors(base.info.modules, 4, 2.0, number)
    for place, f in enumerate(factors.values()):
        f.b.normal_(0, 0.3, generator=torch.Generator().manual_seed(100 * number + place))
    gate = None
    if text:
        state, _ = mean_state(base, [base.start_id, *base.tokenizer(text)["input_ids"]])
        gate = GateStatistics(state.half().float(), torch.full_like(state, 0.01).half().float(), 4096)
    manifest = {"kind": "expert", "domain": name, "parents": []}
    Adapter(factors, base.info.name, base.info.fingerprint, manifest, gate=gate).save(folder / name)
    return folder / name
