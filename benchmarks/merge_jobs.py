"""The work behind `merge.py`: one job a process, so that its peak memory is its own.

`python merge_jobs.py '{"job": "ours", ...}'` prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from merge_cases import DENSITY, METHODS, Shape

NORM = 0.1  # of the largest direction of an update, small against a weight matrix
DECAY = 50.0  # from the first to the last direction of all adapters together


def make(job: dict[str, Any]) -> dict[str, Any]:
    """Write adapters of seeded random factors, one in memory at a time; also say what machine this is."""
    import torch

    shape = Shape(**job["shape"])
    for index, folder in enumerate(job["folders"]):
        random_adapter(shape, index, len(job["folders"]), job["rank"]).save(folder)
    return {"threads": torch.get_num_threads(), "isa": torch.backends.cpu.get_cpu_capability()}


def random_adapter(shape: Shape, index: int, count: int, rank: int) -> Any:
    """Adapter `index` of `count`: delta = B A with sigma_j near NORM * DECAY^(-(j count + index) / (rank count)).

    The spectra interleave, so that the sum decays evenly and a cut at any rank falls into a gap:
    without one, the best cut itself is not determined. A random rotation between B and A hides the order.
    """
    import torch

    from cogen.adapter import Adapter, Factors

    generator = torch.Generator().manual_seed(index)
    place = torch.arange(rank) * count + index
    sigma = NORM * DECAY ** (-place / (rank * count))
    factors = {}
    for name, (d_out, d_in) in shape.modules().items():
        a = torch.randn(rank, d_in, generator=generator) / d_in**0.5
        b = torch.randn(d_out, rank, generator=generator) / d_out**0.5 * sigma
        turn = torch.linalg.qr(torch.randn(rank, rank, generator=generator)).Q
        factors[name] = Factors(a=turn @ a, b=b @ turn.T / 2.0, scaling=2.0)
    return Adapter(factors, "random", manifest={"domain": f"d{index}"})


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """From folders on disk to a folder that was read back and checked; the call is `merge_adapters`.

    The call reads the factors too, one module at a time, since `Adapter.open` leaves them on disk.
    """
    import peft  # noqa: F401  saving imports it; both sides are timed after their imports

    from cogen.adapter import Adapter
    from cogen.merge import merge_adapters
    from cogen.merge_folder import save_checked
    from cogen.parallel import in_parallel

    imported = peak_mb()
    start = time.perf_counter()
    adapters = list(in_parallel(Adapter.open, job["folders"]))  # as `cogen merge` does
    opened = time.perf_counter()
    merged = merge_adapters(adapters, method=job["method"], rank=job["rank"], density=DENSITY)
    called = time.perf_counter()
    found = save_checked(merged, Path(job["out"]))
    times = {"call_s": called - opened, "whole_s": time.perf_counter() - start}
    return {**times, **_memory(imported), "self_check": found.error, "self_check_expected": found.expected_error}


def peft(job: dict[str, Any]) -> dict[str, Any]:
    """From folders on disk to a folder; the call is `add_weighted_adapter`. The base is made before the clock."""
    import torch
    from peft import PeftModel

    imported = peak_mb()
    torch.manual_seed(0)
    base = _random_base(Shape(**job["shape"]))
    names = [f"d{i}" for i in range(len(job["folders"]))]
    start = time.perf_counter()
    first, *others = zip(names, job["folders"], strict=True)
    settings = {"torch_device": "cpu", "low_cpu_mem_usage": True}  # no random weights for what is filled at once
    model = PeftModel.from_pretrained(base, first[1], adapter_name=first[0], **settings)
    for name, folder in others:
        model.load_adapter(folder, adapter_name=name, **settings)
    loaded = time.perf_counter()
    model.add_weighted_adapter(
        names,
        [1 / len(names)] * len(names),
        "merged",
        combination_type=METHODS[job["method"]],
        svd_rank=job["rank"],
        svd_full_matrices=False,
        density=DENSITY,
    )
    called = time.perf_counter()
    model.save_pretrained(job["out"], selected_adapters=["merged"], save_embedding_layers=False)
    return {"call_s": called - loaded, "whole_s": time.perf_counter() - start, **_memory(imported)}


def errors(job: dict[str, Any]) -> dict[str, Any]:
    """|written - best| / |best| in the Frobenius norm, the worst of the sampled modules, by tool.

    best = the cut of (1/K) sum_i delta_i at the rank, by dense SVD in float64.
    """
    import torch

    from cogen.adapter import Adapter, Factors

    def dense(f: Factors) -> torch.Tensor:
        return Factors(f.a.double(), f.b.double(), f.scaling).delta()

    adapters = [Adapter.open(folder).factors for folder in job["folders"]]
    results = {tool: Adapter.open(folder).factors for tool, folder in job["results"].items()}
    worst = dict.fromkeys(results, 0.0)
    for name in Shape(**job["shape"]).sampled():
        u, s, vh = torch.linalg.svd(sum(dense(a[name]) for a in adapters) / len(adapters), full_matrices=False)
        best = (u[:, : job["rank"]] * s[: job["rank"]]) @ vh[: job["rank"]]
        for tool, factors in results.items():
            worst[tool] = max(worst[tool], float((dense(factors[name]) - best).norm() / best.norm()))
    return worst


def fold(job: dict[str, Any]) -> dict[str, Any]:
    """Whole models for mergekit: the base, and the base with each adapter added."""
    import torch

    from cogen.adapter import Adapter

    torch.manual_seed(0)
    model = _random_base(Shape(**job["shape"]))
    model.save_pretrained(job["base"])
    weights = dict(model.named_parameters())
    names = list(Shape(**job["shape"]).modules())
    before = {name: weights[f"{name}.weight"].detach().clone() for name in names}
    for folder, out in zip(job["folders"], job["folded"], strict=True):
        factors = Adapter.open(folder).factors
        for name in names:
            weights[f"{name}.weight"].data = before[name] + factors[name].delta()
        model.save_pretrained(out)
    return {}


def _random_base(shape: Shape) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def _memory(imported: float) -> dict[str, float]:
    return {"peak_mb": peak_mb(), "imports_mb": imported}


def peak_mb() -> float:
    """Peak resident memory of this program in MB.

    Linux: VmHWM, since ru_maxrss begins at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


JOBS = {"make": make, "ours": ours, "peft": peft, "errors": errors, "fold": fold}

if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print("\n" + json.dumps(JOBS[wanted.pop("job")](wanted)))
