"""What `merge.py` measures: model shapes, numbers of adapters, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = {"mean": "svd", "ties": "ties_svd", "dare": "dare_linear_svd"}  # of cogen, and PEFT's name for the like
DENSITY = 0.2  # of ties and dare


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama; adapters act on its seven linear modules a layer."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab: int

    def modules(self) -> dict[str, tuple[int, int]]:
        """Module name to `(d_out, d_in)`."""
        kv = self.hidden // self.num_heads * self.num_kv_heads
        layer = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        return {f"model.layers.{i}.{name}": size for i in range(self.num_layers) for name, size in layer.items()}

    def sampled(self) -> list[str]:
        """Modules for the comparison with a dense SVD: narrow, square, tall and wide."""
        last = self.num_layers - 1
        places = (
            (0, "self_attn.k_proj"),
            (last // 2, "self_attn.q_proj"),
            (last, "mlp.up_proj"),
            (last, "mlp.down_proj"),
        )
        return [f"model.layers.{i}.{name}" for i, name in places]

    def adapter_bytes(self, rank: int) -> int:
        """Size of one adapter in float32."""
        return 4 * rank * sum(map(sum, self.modules().values()))

    def model_bytes(self) -> int:
        """Size of the whole model in float32, head tied."""
        return 4 * (self.vocab * self.hidden + sum(d_out * d_in for d_out, d_in in self.modules().values()))


@dataclass(frozen=True)
class Case:
    """One group of rows.

    Args:
        counts: numbers of adapters; each is measured by itself, on the first so many of the same adapters.
        rank: of every adapter and of the result.
        methods: of cogen (METHODS). others: of these, the ones that PEFT does too.
        others_once: PEFT runs in the first repeat only.
        is_sampled: whether the mean is compared with a dense float64 SVD of some modules.
    """

    name: str
    shape: Shape
    counts: tuple[int, ...]
    rank: int
    methods: tuple[str, ...] = ("mean",)
    others: tuple[str, ...] = ("mean",)
    others_once: bool = False
    is_sampled: bool = False


SMOLLM2_135M = Shape(hidden=576, intermediate=1536, num_layers=30, num_heads=9, num_kv_heads=3, vocab=49152)
LLAMA2_7B = Shape(hidden=4096, intermediate=11008, num_layers=32, num_heads=32, num_kv_heads=32, vocab=32000)
TINY = Shape(hidden=64, intermediate=96, num_layers=2, num_heads=4, num_kv_heads=2, vocab=128)
ALL = tuple(METHODS)


def cases(smoke: bool) -> dict[str, Case]:
    """Every case by name; with `smoke` the same ones in tiny sizes.

    PEFT is dropped at 7B: it wants the base in memory (27 GB in float32) and a dense SVD of 224 matrices.
    """
    if smoke:
        found = (
            Case("135m", TINY, (5,), rank=4, methods=ALL, others=ALL, is_sampled=True),
            Case("7b", TINY, (10,), rank=4, others=()),
            Case("many", TINY, (2, 8), rank=2, others_once=True),
        )
    else:
        found = (
            Case("135m", SMOLLM2_135M, (5,), rank=16, methods=ALL, others=ALL, is_sampled=True),
            Case("7b", LLAMA2_7B, (10,), rank=32, others=()),
            Case("many", SMOLLM2_135M, (10, 30, 100), rank=8, others_once=True),
        )
    return {case.name: case for case in found}
