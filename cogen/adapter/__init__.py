"""LoRA adapters: factors and manifest, read and written as plain PEFT folders.

Shapes: `a (r, d_in)`, `b (d_out, r)`, `delta_W = scaling * b @ a (d_out, d_in)`.
"""

from __future__ import annotations

from cogen.adapter.factors import Factors, Gram, Layout, factor_digest, layout_of
from cogen.adapter.fingerprint import Fingerprint
from cogen.adapter.folder import Adapter
from cogen.adapter.peft_config import lora_config

__all__ = ["Adapter", "Factors", "Fingerprint", "Gram", "Layout", "factor_digest", "layout_of", "lora_config"]
