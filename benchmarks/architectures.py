"""Write docs/architectures.md: every causal architecture of transformers, tried as a tiny random model.

Usage: python benchmarks/architectures.py [--out docs/architectures.md] [KIND ...]

An architecture is tried in a process of its own for at most a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections import Counter
from datetime import date
from pathlib import Path

STATES = {
    "packed": "Documents share a row; results and gradients are those of each document alone.",
    "one at a time": "Each document runs alone, in the attention of transformers: the same results, slower.",
    "refused": "One line names the reason before anything is trained or scored.",
    "not built": "No small model of it could be made here; a real one is checked at its first use like all others.",
    "wrong": "A fault of CO-GEN.",
}
SECONDS = 60


def main() -> None:
    """Try all architectures or those named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("kinds", nargs="*")
    args = parser.parse_args()
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    torch.set_num_threads(1)  # a forked process has no threads of torch
    _try_here("llama")  # imports and compiles once for all processes
    rows = [_try_apart(kind) for kind in args.kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)]
    text = page(rows)
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text)


def page(rows: list[tuple[str, str, str]]) -> str:
    """The page from `(kind, state, reason)` of each architecture."""
    import transformers

    counts = Counter(state for _, state, _ in rows)
    lines = ["# Architectures", "", "Whether documents that share a row stay apart is tried at the first use of a base"]
    lines[-1] += ", on its own modules with tiny documents, forward and backward. This page tries it for"
    lines[-1] += " tiny random models of every causal architecture of transformers, and compares logits, loss and the"
    lines[-1] += " gradients of LoRA factors with transformers, each document alone, in float32."
    lines += ["", f"Made by `python benchmarks/architectures.py --out docs/architectures.md` on {date.today()} with"]
    lines[-1] += f" transformers {transformers.__version__}: " + ", ".join(f"{n} {s}" for s, n in counts.most_common())
    lines[-1] += "."
    for state, meaning in STATES.items():
        some = [(kind, reason) for kind, found, reason in rows if found == state]
        if some:
            lines += ["", f"## {state.capitalize()} ({len(some)})", "", meaning, ""]
            lines += [", ".join(f"`{k}`" for k, _ in some)] if state == "packed" else _table(some)
    return "\n".join(lines) + "\n"


def _table(some: list[tuple[str, str]]) -> list[str]:
    rows = [f"| `{kind}` | {reason.replace('|', '/')} |" for kind, reason in some]
    return ["| architecture | reason |", "|---|---|", *rows]


def _try_here(kind: str) -> tuple[str, str, str]:
    import transformers
    from architecture_models import try_architecture

    transformers.logging.set_verbosity_error()
    found = try_architecture(kind)
    return kind, found.state, found.reason.removeprefix("expected a causal language model that reads each text alone, ")


def _try_apart(kind: str) -> tuple[str, str, str]:
    """Try it in a forked process, which cannot take longer than a minute or end this one."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(_try_here(kind)))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(SECONDS) else (kind, "not built", f"no result within {SECONDS} s")
    except EOFError:
        return kind, "wrong", "its process ended"
    finally:
        process.kill()
        process.join()


if __name__ == "__main__":
    main()
