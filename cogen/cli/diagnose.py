"""`cogen diagnose`: compare adapters before they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import Adapters, AsJson, Without
from cogen.console import MODULES, Bar, print_json

if TYPE_CHECKING:
    from cogen.adapter import Adapter
    from cogen.analysis.diagnosis import Diagnosis, Finding


def diagnose(
    inputs: Adapters,
    out: Annotated[Path | None, typer.Option(help="Folder for diagnosis.json and diagnosis.html.")] = None,
    without: Without = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compare adapters: overlap, conflicting signs, outliers.

    No base and no text is needed. An adapter that cannot be used becomes a finding.

    Example: cogen diagnose adapters/grid adapters/clinical --out diagnosis
    """
    from cogen.cli.recipes import read_recipe
    from cogen.merge_folder import folders_of

    run_diagnose(folders_of(read_recipe(inputs, "", {}, without)), out, as_json=as_json)


def run_diagnose(folders: Mapping[str, str], out: Path | None, *, as_json: bool) -> None:
    """Open the adapters, compare them with a bar over modules, print, and write both files into `out`.

    Args:
        folders: name to adapter folder. One that is refused becomes a finding, and the others are compared.
    Raises:
        MergeError: fewer than two of the folders can be used.
    """

    from cogen.analysis.diagnosis_text import format_diagnosis
    from cogen.errors import MergeError
    from cogen.files import write_file
    from cogen.report.diagnosis import diagnosis_page

    adapters, refused = _open_all(folders)
    if len(adapters) < 2:
        raise MergeError(
            "cannot diagnose",
            expected="two adapters or more that can be used",
            got=f"{len(adapters)} of {len(folders)}" + "".join(f"; {f.adapter}: {f.text}" for f in refused),
            fix="Name two folders or more that hold an adapter.",
        )
    found = _compare(adapters)
    found = found.model_copy(update={"findings": (*refused, *found.findings)})
    if out is not None:
        found.write(out / "diagnosis.json")
        write_file(out / "diagnosis.html", diagnosis_page(found).encode())
    if as_json:
        print_json(found.model_dump())
    else:
        print(format_diagnosis(found), end="")


def _open_all(folders: Mapping[str, str]) -> tuple[dict[str, Adapter], list[Finding]]:
    """The adapters that can be used, and a finding for each other one."""
    from cogen.adapter import Adapter
    from cogen.analysis.diagnosis import Finding
    from cogen.errors import AdapterError

    adapters, refused = {}, []
    for name, folder in folders.items():
        try:
            adapters[name] = Adapter.open(folder)
        except AdapterError as error:
            refused.append(Finding(name, "refused", "problem", "", f"Refused, and in none of the numbers: {error}"))
    return adapters, refused


def _compare(adapters: Mapping[str, Adapter]) -> Diagnosis:
    from cogen.analysis import diagnose as compare
    from cogen.cli.recipes import num_modules

    with Bar("diagnosing", MODULES, num_modules(adapters.values())) as bar:
        return compare(list(adapters.values()), list(adapters), progress=lambda _: bar.advance())
