"""The part of train.py for `--shape`: models with random weights, on a GPU or the CPU, without a corpus.

- ours: as `cogen train` does it, with what the device and the installed packages allow;
- trainer: transformers' Trainer + PEFT with the same settings: documents end to end in full rows, the same dtype,
  rank, batch and fused AdamW;
- trainer-liger: the same with `use_liger_kernel`.

Model-flops count forward, backward through activations, and both kinds of products of the factors; not what is
computed twice. They are compared with the largest matrix product that this device was measured at in the same dtype,
and with `--peak-tflops`, the data sheet's figure, where it is given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from shape_models import RANK, SHAPES, flop_per_token, mean_context, random_base, random_documents

TOOLS = ("ours", "trainer", "trainer-liger")
RATE = 2e-4
Ends = list[tuple[int, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that have a meaning with `--shape`."""
    add = parser.add_argument_group("random weights").add_argument
    add("--shape", choices=SHAPES, help="a model of random weights instead of --base and --data")
    add("--device", default="cpu", help="as torch names it, for --shape; default: %(default)s")
    add("--sequence-length", type=int, default=512, metavar="N", help="for --shape; default: %(default)s")
    add("--batch-size", type=int, default=4, metavar="N", help="of a step, for --shape; default: %(default)s")
    add("--peak-tflops", type=float, metavar="N", help="of the device's data sheet, for --shape")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what cannot be measured; `--tools` not given means ours and the Trainer."""
    if not args.shape:
        if args.device != "cpu":
            parser.error("--device: expected --shape too")
        return
    args.tools = args.tools or ["ours", "trainer"]
    if not set(args.tools) <= set(TOOLS):
        parser.error(f"--tools: expected some of {','.join(TOOLS)} with --shape")
    if args.tokens < 2 * args.sequence_length * args.batch_size:
        parser.error(f"--tokens: expected two steps of {args.sequence_length * args.batch_size} or more")
    import torch

    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA device, got none")


def main(args: argparse.Namespace) -> int:
    """One job, or all of them in turns: one JSON object on stdout."""
    if args.job:
        print(json.dumps(job(args.job, args)))
        return 0
    found = json.dumps(measure(args), indent=2)
    print(found)
    if args.json:
        args.json.write_text(found + "\n")
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every tool in turns, each run a process of its own."""
    runs = [_measured("ceiling", args)]
    runs += [_measured(tool, args) | {"repeat": n} for n in range(args.repeats) for tool in args.tools]
    ceiling, found = runs[0], runs[1:]
    rates = {tool: [r["tokens_per_second"] for r in found if r["tool"] == tool] for tool in args.tools}
    middle = {tool: median(values) for tool, values in rates.items()}
    flop = found[0]["flop_per_token"]
    tflops = {tool: rate * flop / 1e12 for tool, rate in middle.items()}
    summary: dict[str, Any] = {
        "shape": args.shape,
        **{k: v for k, v in ceiling.items() if k != "tool"},
        "tokens": args.tokens,
        "sequence_length": args.sequence_length,
        "batch_size": args.batch_size,
        "flop_per_token": flop,
        "tokens_per_second": {t: [round(min(v), 1), round(middle[t], 1), round(max(v), 1)] for t, v in rates.items()},
        "peak_mb": {tool: max(r["peak_mb"] for r in found if r["tool"] == tool) for tool in args.tools},
        "model_tflops": {tool: round(v, 4) for tool, v in tflops.items()},
        "of_ceiling": {tool: round(v / ceiling["ceiling_tflops"], 3) for tool, v in tflops.items()},
    }
    if args.peak_tflops:
        summary["model_flops_utilisation"] = {tool: round(v / args.peak_tflops, 3) for tool, v in tflops.items()}
    if "ours" in middle:
        summary["ours_over"] = {t: round(middle["ours"] / v, 2) for t, v in middle.items() if t != "ours"}
    return {**summary, "runs": found}


def job(tool: str, args: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if tool == "ceiling":
        return _ceiling(device)
    base = random_base(args.shape, device)
    documents = random_documents(args.tokens, base.model.config.vocab_size)
    ends = (_ours if tool == "ours" else _trainer)(tool, base, documents, args)
    (skipped, first), (total, last) = ends[0], ends[-1]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    flop = flop_per_token(args.shape, mean_context(documents, args.sequence_length))
    rate = (total - skipped) / (last - first)
    return {"tokens_per_second": rate, "num_tokens": total, "peak_mb": round(peak), "flop_per_token": flop}


def _ours(tool: str, base: Any, documents: list[Any], args: argparse.Namespace) -> Ends:
    """(tokens so far, time) after every step."""
    from cogen.config import Train
    from cogen.data import PackedStream
    from cogen.train.loop import train_round
    from cogen.train.lora import init_factors
    from cogen.train.schedule import plan_round

    sizes = {"sequence_length": args.sequence_length, "batch_size": args.batch_size, "rank": RANK}
    settings = Train(tokens_per_round=args.tokens, learning_rate=RATE, **sizes)
    ends: Ends = []
    train_round(
        base,
        init_factors(base.info.modules, RANK, settings.scaling, settings.seed),
        PackedStream(documents, args.sequence_length, settings.seed),
        plan_round(settings, 1, 1),
        settings,
        on_step=lambda step: ends.append((step.num_tokens, time.perf_counter())),
    )
    return ends


def _trainer(tool: str, base: Any, documents: list[Any], args: argparse.Namespace) -> Ends:
    """The same from the Trainer; a GPU is waited for after the first step and the last."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    flat = np.concatenate(documents)
    starts = range(0, len(flat) - args.sequence_length + 1, args.sequence_length)
    blocks = [flat[i : i + args.sequence_length].tolist() for i in starts]
    step_tokens, is_cpu, ends = args.sequence_length * args.batch_size, base.model.device.type == "cpu", []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, given: Any, state: Any, baseline: Any, **_: Any) -> None:
            if not is_cpu and state.global_step in (1, state.max_steps):
                torch.cuda.synchronize()
            ends.append((state.global_step * step_tokens, time.perf_counter()))

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        given = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=-(-args.tokens // step_tokens),
            learning_rate=RATE,
            optim="adamw_torch_fused",
            bf16=base.model.dtype == torch.bfloat16,
            use_cpu=is_cpu,
            use_liger_kernel=tool == "trainer-liger",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        rows = [{"input_ids": block, "labels": block} for block in blocks]
        model = get_peft_model(base.model, config)
        kept = {"train_dataset": rows, "data_collator": default_data_collator, "callbacks": [Watch()]}
        Trainer(model=model, args=given, **kept).train()
    return ends


def _ceiling(device: Any) -> dict[str, Any]:
    """The best of three seconds of square matrix products, in 1e12 operations a second."""
    import torch

    from cogen.base import compute_dtype

    is_cuda = device.type == "cuda"
    dtype, size, best = compute_dtype(device, "auto"), 8192 if is_cuda else 1024, 0.0
    x = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1.0:
            for _ in range(8 if is_cuda else 1):
                x @ x
            if is_cuda:
                torch.cuda.synchronize()
            count += 8 if is_cuda else 1
        best = max(best, 2.0 * size**3 * count / (time.perf_counter() - start) / 1e12)
    name = torch.cuda.get_device_name(device) if is_cuda else "cpu"
    return {"device": name, "dtype": str(dtype), "ceiling_tflops": round(best, 4)}


def _measured(tool: str, args: argparse.Namespace) -> dict[str, Any]:
    names = ("shape", "device", "sequence-length", "batch-size", "tokens", "threads")
    given = [f"--{name}={getattr(args, name.replace('-', '_'))}" for name in names]
    script = Path(__file__).resolve().with_name("train.py")
    command = [sys.executable, str(script), f"--job={tool}", *given]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    values: dict[str, Any] = {"tool": tool, **json.loads(done.stdout.splitlines()[-1])}
    print(values, file=sys.stderr, flush=True)
    return values
