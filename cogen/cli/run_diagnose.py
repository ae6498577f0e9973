"""The work of `cogen merge --diagnose`, imported only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cogen.adapter import Adapter
from cogen.analysis.diagnose import diagnose
from cogen.analysis.diagnosis import Diagnosis, Finding
from cogen.analysis.diagnosis_text import format_diagnosis
from cogen.cli.show import print_json
from cogen.errors import AdapterError, MergeError
from cogen.files import write_file
from cogen.report.diagnosis import diagnosis_page


def run_diagnose(folders: Mapping[str, str], out: Path | None, *, as_json: bool) -> None:
    """Open, look with a bar over modules, print, and write `diagnosis.json` and `diagnosis.html` into `out`.

    Args:
        folders: name to adapter folder. One that is refused becomes a finding, and the others go on.
    Raises:
        MergeError: fewer than two of the folders can be used.
    """
    adapters, refused = _open_all(folders)
    if len(adapters) < 2:
        raise MergeError(
            "cannot diagnose",
            expected="two adapters or more that can be used",
            got=f"{len(adapters)} of {len(folders)}" + "".join(f"; {f.adapter}: {f.text}" for f in refused),
            fix="Name two folders or more that hold an adapter.",
        )
    found = _diagnose(adapters)
    found = found.model_copy(update={"findings": (*refused, *found.findings)})
    if out is not None:
        found.write(out / "diagnosis.json")
        write_file(out / "diagnosis.html", diagnosis_page(found).encode())
    if as_json:
        print_json(found.model_dump())
    else:
        print(format_diagnosis(found), end="")


def _open_all(folders: Mapping[str, str]) -> tuple[dict[str, Adapter], list[Finding]]:
    adapters, refused = {}, []
    for name, folder in folders.items():
        try:
            adapters[name] = Adapter.open(folder)
        except AdapterError as error:
            refused.append(Finding(name, "refused", "problem", "", f"Refused, and in none of the numbers: {error}"))
    return adapters, refused


def _diagnose(adapters: Mapping[str, Adapter]) -> Diagnosis:
    total = len(set().union(*(a.factors for a in adapters.values())))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("diagnosing", total=total)
        return diagnose(list(adapters.values()), list(adapters), progress=lambda _: bar.advance(task))
