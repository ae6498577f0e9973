"""A folder for each example of a law."""

from __future__ import annotations

from pathlib import Path

import pytest


def emptied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder at every call, without files; `mktemp` lists all folders, and would make tens of thousands."""
    folder = tmp_path_factory.getbasetemp() / "example"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder
