"""How far adapters change the layers of their base, against `max_adapter_norm` of a domain's policy.

    python benchmarks/adapter_norms.py runs/textbooks/experts/* runs/textbooks/merged --base smollm2-135m

For each adapter folder: the relative change of a layer, |scaling B A| / |W| in Frobenius norms, over its modules: median,
largest, and the layer with the largest. Prints a table on stdout; --json prints one JSON object with every module instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.base import Base, load_base
from cogen.console import print_json, table
from cogen.errors import CogenError
from cogen.merge.factored import norm
from cogen.node.policy import Policy

if TYPE_CHECKING:
    from torch import Tensor

Changes = Mapping[str, float]
"""Module name to its relative change."""


def relative_changes(base: Base, adapter: Adapter) -> dict[str, float]:
    """|scaling B A|_F / |W|_F of every module of the adapter.

    Raises:
        FingerprintMismatch: the adapter was made for another base.
    """
    base.info.require(adapter, "the adapter")
    weights: dict[str, Tensor] = {name: base.model.get_submodule(name).weight for name in adapter.factors}
    return {name: norm(f) / float(weights[name].detach().double().norm()) for name, f in adapter.factors.items()}


def changes_table(found: Mapping[str, Changes], bound: float) -> str:
    """One line for each adapter; `bound` is that of the policy."""
    rows = [("adapter", "layers", "median", "largest", "of the bound", "in")]
    for name, changes in found.items():
        worst = max(changes, key=lambda module: changes[module])
        shown = (f"{median(changes.values()):.2%}", f"{changes[worst]:.2%}", f"{changes[worst] / bound:.0%}")
        rows.append((name, str(len(changes)), *shown, worst))
    return table(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the folders of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        base = load_base(asked.base, device="cpu", precision="float32")
        found = {str(folder): relative_changes(base, Adapter.load(folder)) for folder in asked.folders}
    except CogenError as error:
        sys.exit(f"error: {error}")
    bound = Policy().max_adapter_norm
    if asked.json:
        summary = {
            n: {"median": median(c.values()), "largest": max(c.values()), "modules": c} for n, c in found.items()
        }
        print_json({"base": asked.base, "max_adapter_norm": bound, "adapters": summary})
    else:
        print(changes_table(found, bound))


if __name__ == "__main__":
    main()
