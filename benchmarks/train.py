"""How fast a domain trains, compared with transformers' Trainer: tokens per second, peak memory, bits per byte.

Each measurement is a process of its own on the same prepared text, base and LoRA shape; tools take turns:

- ours, ours-fused, ours-off: `train.cpu_kernels` auto, fused and off, in bfloat16 where the CPU has it;
- float32: as ours-off in float32 everywhere, what the others are measured against in what is learnt;
- padded: Trainer + PEFT as recipes have it: float32, a document a row, cut at the block, padded;
- packed: Trainer + PEFT at its best: documents end to end in full rows, bfloat16 where the CPU has it.

`--tokens` are timed and then scored on the held-out part; the first step of each counts for neither rate.
With `--shape`, models of random weights are trained in their place, on `--device`: see shapes.py.
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

import shapes

EXAMPLE = "example: python benchmarks/train.py --data grid.jsonl --tokens 12288 --repeats 2 --json train.json"
TOOLS = ("ours", "ours-fused", "ours-off", "float32", "padded", "packed")
OURS = {"ours": "auto", "ours-fused": "fused", "ours-off": "off", "float32": "off"}
RANK, SEQUENCE_LENGTH, BATCH, RATE, HELDOUT_TOKENS = 16, 512, 4, 2e-4, 8192
FLOP_PER_TOKEN = 0.66e9  # of SmolLM2-135M at 512 tokens: forward, and backward through activations alone


def main() -> int:
    """Measure every tool in turns and print one JSON object; progress on stderr."""
    args = _arguments()
    if args.shape:
        return shapes.main(args)
    if args.job:
        print(json.dumps(_job(args.job, args.base, args.data, args.tokens, args.threads)))
        return 0
    runs: list[dict[str, Any]] = [_measured("ceiling", args)]
    for repeat in range(args.repeats):
        for tool in args.tools:
            runs.append(_measured(tool, args) | {"repeat": repeat})
    found = {
        "data": Path(args.data).name,
        "tokens": args.tokens,
        "threads": args.threads,
        **_summary(runs),
        "runs": runs,
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _measured(tool: str, args: argparse.Namespace) -> dict[str, Any]:
    return job_in_process(__file__, tool, args.threads, base=args.base, data=args.data, tokens=args.tokens)


def job_in_process(script: str, job: str, num_threads: int, **given: object) -> dict[str, Any]:
    """What `script --job JOB` prints, a JSON object, from a process of its own; also on stderr."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(num_threads),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    options = [f"--{name}={value}" for name, value in {**given, "threads": num_threads}.items()]
    command = [sys.executable, script, f"--job={job}", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    values: dict[str, Any] = {"tool": job, **json.loads(done.stdout.splitlines()[-1])}
    print(values, file=sys.stderr, flush=True)
    return values


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {t: [r["tokens_per_second"] for r in runs if r["tool"] == t] for t in TOOLS}
    rates = {t: values for t, values in rates.items() if values}
    ceiling = next(r for r in runs if r["tool"] == "ceiling")
    best = max(ceiling["gflops"], ceiling["bfloat16_gflops"])  # emulated, bfloat16 is the slower one
    mine = median(rates["ours"]) if "ours" in rates else 0.0
    return {
        "tokens_per_second": {t: [round(min(v), 1), round(median(v), 1), round(max(v), 1)] for t, v in rates.items()},
        "ours_over": {t: round(mine / median(v), 2) for t, v in rates.items() if t != "ours"},
        "peak_mb": {t: max(r["peak_mb"] for r in runs if r["tool"] == t) for t in rates},
        "bits_per_byte": {t: next(r["bits_per_byte"] for r in runs if r["tool"] == t) for t in rates},
        "gflops": {"float32": ceiling["gflops"], "bfloat16": ceiling["bfloat16_gflops"]},
        "ours_of_ceiling": round(mine * FLOP_PER_TOKEN / 1e9 / best, 2),
    }


def _job(tool: str, base_name: str, data: str, num_tokens: int, num_threads: int) -> dict[str, Any]:
    from cogen.train.memory import tune_allocator

    if tool in OURS:  # the other side runs as its users run it
        tune_allocator()
    import torch

    torch.set_num_threads(num_threads)
    if tool == "ceiling":
        return {"gflops": _ceiling(torch.float32), "bfloat16_gflops": _ceiling(torch.bfloat16)}
    from cogen.base import load_base
    from cogen.data import heldout_windows
    from cogen.evaluate.score import score_windows
    from cogen.train.corpus import prepare_corpus
    from cogen.train.lora import attached

    precision = "float32" if tool in ("padded", "float32") else "auto"
    base = load_base(base_name, device="cpu", precision=precision)
    prepared = prepare_corpus(base, data)
    documents = [prepared.train[i] for i in range(len(prepared.train))]
    ends, factors = (
        train_with_cogen(base, documents, num_tokens, cpu_kernels=OURS[tool], batch_size=BATCH, learning_rate=RATE)
        if tool in OURS
        else train_with_trainer(tool, base, documents, num_tokens)
    )
    (skipped, first), (total, last) = ends[0], ends[-1]
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    exact = load_base(base_name, device="cpu", precision="float32")
    windows = heldout_windows(prepared.heldout, exact.tokenizer, SEQUENCE_LENGTH, HELDOUT_TOKENS)
    with attached(exact.model, factors):
        bits = score_windows(exact, windows, tool, "heldout").bits_per_byte
    rate = (total - skipped) / (last - first)
    return {"tokens_per_second": rate, "num_tokens": total, "peak_mb": peak, "bits_per_byte": bits}


def train_with_cogen(
    base: Any, documents: list[Any], num_tokens: int, **values: Any
) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """(tokens so far, time) after every step, and the factors."""
    from cogen.config import Train
    from cogen.data import PackedStream
    from cogen.train.loop import train_round
    from cogen.train.lora import init_factors
    from cogen.train.schedule import plan_round

    settings = Train(tokens_per_round=num_tokens, rank=RANK, sequence_length=SEQUENCE_LENGTH, **values)
    ends: list[tuple[int, float]] = []
    made = train_round(
        base,
        init_factors(base.info.modules, RANK, settings.scaling, settings.seed),
        PackedStream(documents, SEQUENCE_LENGTH, settings.seed),
        plan_round(settings, 1, 1),
        settings,
        on_step=lambda step: ends.append((step.num_tokens, time.perf_counter())),
    )
    return ends, made.factors


def train_with_trainer(
    tool: str, base: Any, documents: list[Any], num_tokens: int
) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """The same from transformers' Trainer with PEFT, for as many steps as `num_tokens` of text take."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    from cogen.adapter import Adapter

    base.tokenizer.pad_token = base.tokenizer.eos_token
    rows = _rows(tool, documents)
    seen, ends = [0], []
    collate = DataCollatorForLanguageModeling(base.tokenizer, mlm=False)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, baseline: Any, **_: Any) -> None:
            ends.append((seen[0], time.perf_counter()))

    class Counted(Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen[0] += int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, *args, **kwargs)

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base.model, config)
    with tempfile.TemporaryDirectory() as folder:
        options = {"output_dir": folder, "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
        args = TrainingArguments(
            per_device_train_batch_size=BATCH,
            max_steps=-(-num_tokens // round(BATCH * sum(len(r["input_ids"]) for r in rows) / len(rows))),
            learning_rate=RATE,
            lr_scheduler_type="cosine_with_min_lr",  # as ours
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=1,
            bf16=base.model.dtype == torch.bfloat16,
            **options,
        )
        Counted(model=model, args=args, train_dataset=rows, data_collator=collate, callbacks=[Watch()]).train()
        model.save_pretrained(folder)
        return ends, dict(Adapter.load(folder).factors)


def _rows(tool: str, documents: list[Any]) -> list[dict[str, Any]]:
    if tool == "padded":
        ids = [[int(t) for t in d[:SEQUENCE_LENGTH]] for d in documents]
    else:
        flat = [int(t) for d in documents for t in d]
        ids = [flat[i : i + SEQUENCE_LENGTH] for i in range(0, len(flat) - SEQUENCE_LENGTH + 1, SEQUENCE_LENGTH)]
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids]


def _ceiling(dtype: Any) -> float:
    """Matrix products a second of the model's widest layer, in 1e9 operations, best of three."""
    import torch

    x, weight, best = torch.randn(2048, 576).to(dtype), torch.randn(1536, 576).to(dtype), 0.0
    for _ in range(3):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 1.0:
            x @ weight.T
            count += 1
        best = max(best, 2.0 * 2048 * 576 * 1536 * count / (time.perf_counter() - start) / 1e9)
    return round(best)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EXAMPLE)
    add = parser.add_argument
    add("--base", default="smollm2-135m")
    add(
        "--data",
        default=str(Path(__file__).resolve().parent.parent / "seeds/grid.jsonl"),
        help="default: a seed corpus",
    )
    add("--tokens", type=int, default=12288, help="of text that each trains; default: %(default)s")
    add(
        "--tools",
        type=lambda text: text.split(","),
        help="default: ours,padded,packed; with --shape ours,trainer",
    )
    add("--repeats", type=int, default=2, metavar="N", help="of every measurement, in turns; default: %(default)s")
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="default: %(default)s")
    add("--json", type=Path, metavar="PATH", help="write everything to a file")
    add("--job", help=argparse.SUPPRESS)
    shapes.add_arguments(parser)
    args = parser.parse_args()
    shapes.check(parser, args)
    if args.shape:
        return args
    args.tools = args.tools or ["ours", "padded", "packed"]
    if not args.job and not set(args.tools) <= set(TOOLS):
        parser.error(f"--tools: expected some of {','.join(TOOLS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
