"""`cogen data` on a folder with a file of each format: every number of the card against the test's own computation.

What goes into the files is known here, so is what cleaning must leave of it; tokens are counted by the
tokenizer's file itself. "Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from cogen.base import Base, load_base
from cogen.config import Data
from cogen.data.card import GENERAL_SAMPLE, DataCard
from cogen.data.card import CorpusCost as CardCost
from tests.conftest import SEEDS
from tests.shell import Cogen
from tests.unit.test_formats import parquet, pdf

FRAC = 0.3
SEED_TEXTS = [json.loads(line)["text"] for d in ("grid", "education") for line in (SEEDS / f"{d}.jsonl").open()]
GERMAN = (
    "Das Relais löst aus, wenn der Strom in der Leitung den eingestellten Wert für mehr als vierzig Millisekunden "
    "übersteigt. Danach wird die Leitung nach einer kurzen Pause wieder eingeschaltet, denn die meisten Fehler an "
    "Freileitungen sind nach dem Abschalten verschwunden. Bleibt der Fehler bestehen, so wird endgültig abgeschaltet."
)
MANUAL = [
    "A nurse checks the chart of the patient before a dose is given.",
    "The second nurse reads the name of the drug and the dose aloud.",
    "If the two do not agree then the doctor on call has to be asked.",
    "Each dose is written down with the time and the initials of both.",
    "A dose that was missed is told to the doctor, and never doubled.",
]


@dataclass(frozen=True)
class Known:
    """A document that the test wrote: as it is read, as it must be after cleaning, and what must become of it."""

    id: str
    source: str
    raw: str
    final: str = ""
    title: str = ""
    dropped: str = ""
    language: str = "en"

    @property
    def text(self) -> str:
        return self.final or self.raw

    @property
    def is_heldout(self) -> bool:
        return unit(self.id) < FRAC


def unit(identity: str) -> float:
    return int.from_bytes(hashlib.sha256(b"cogen-heldout\0" + identity.encode()).digest()[:8], "big") / 2**64


def names(heldout: bool) -> Iterator[str]:
    return (name for n in range(10**6) if (unit(name := f"note{n}") < FRAC) == heldout)


def put(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, ns=(10**18, 10**18))


def docx(lines: Sequence[str], row: Sequence[str]) -> bytes:
    import io

    import docx as library

    made, out = library.Document(), io.BytesIO()
    for line in lines:
        made.add_paragraph(line)
    table = made.add_table(1, len(row))
    for cell, text in zip(table.rows[0].cells, row, strict=True):
        cell.text = text
    made.save(out)
    return out.getvalue()


def a_page(title: str, text: str) -> str:
    paragraphs = "".join(f"<p>{part}</p>" for part in text.split("\n\n"))
    menu = "<nav><a href='/'>Home</a> <a href='/shop'>Shop</a></nav>"
    return f"<html><head><title>{title}</title></head><body>{menu}<article>{paragraphs}</article><footer>Imprint</footer></body></html>"


def write(folder: Path) -> list[Known]:
    """The files, in the order in which they are read, and their documents."""
    import zstandard

    text = iter(SEED_TEXTS)
    one = [next(text) for _ in range(16)]
    train, held = names(heldout=False), names(heldout=True)
    known: list[Known] = []

    put(folder, "a.txt", one[0].replace("\n", "\r\n") + "\x07\x07\u200b")
    known.append(Known("a.txt", "a.txt", one[0] + "\x07\x07\u200b", one[0], "a"))
    put(folder, "b.md", f"# Caf\u0065\u0301\n\n{one[1]}\n")
    known.append(Known("b.md", "b.md", f"# Cafe\u0301\n\n{one[1]}\n", f"# Caf\u00e9\n\n{one[1]}\n", "b"))
    put(folder, "broken.pdf", pdf([MANUAL])[:400])
    for name, body in (("c.htm", one[2]), ("c.html", one[3])):
        put(folder, name, a_page(f"Title of {name}", body))
        known.append(Known(name, name, body.replace("\n\n", "\n"), title=f"Title of {name}"))
    put(folder, "d.docx", docx([*one[4].split("\n\n"), "Limits"], ["steel", "210"]))
    known.append(Known("d.docx", "d.docx", "\n".join([*one[4].split("\n\n"), "Limits", "steel\t210"]), title="d"))
    put(folder, "deep/er/e.txt.gz", gzip.compress(one[5].encode()))
    known.append(Known("deep/er/e.txt.gz", "deep/er/e.txt.gz", one[5], title="e"))
    put(folder, "deep/f.md.zst", zstandard.compress(GERMAN.encode()))
    known.append(Known("deep/f.md.zst", "deep/f.md.zst", GERMAN, title="f", language="de"))
    put(folder, "empty.txt", "")

    rows = [Known(next(train), "g.jsonl", one[n]) for n in (6, 7)]
    rows += [Known(next(train), "g.jsonl", one[6], dropped="exact duplicate")]
    rows += [Known(next(train), "g.jsonl", one[7].rsplit(" ", 1)[0] + " again.", dropped="near-duplicate")]
    rows += [Known(next(held), "elsewhere", one[8])]
    leak = one[8].rsplit(" ", 1)[0] + " indeed."
    rows += [Known(next(train), "g.jsonl", leak, dropped="near-duplicate of a held-out document")]
    rows += [Known(next(train), "g.jsonl", "Figure 3", dropped="quality: number of words")]
    rows += [Known(next(train), "g.jsonl", f"{one[9]} Write to jane.doe@example.org or to sam@example.net.")]
    lines = [
        json.dumps({"id": k.id, "text": k.raw} | ({"source": k.source} if k.source == "elsewhere" else {}))
        for k in rows
    ]
    put(folder, "g.jsonl", "\n".join([*lines[:2], '{"title": "no text"}', *lines[2:]]))
    known += rows

    put(
        folder,
        "h.csv",
        "id,text\n"
        + "".join(f'{i},"{t}"\n' for i, t in zip("xy", (one[10], one[11]), strict=True)).replace("\n\n", "\n"),
    )
    known += [Known(i, "h.csv", t.replace("\n\n", "\n")) for i, t in zip("xy", (one[10], one[11]), strict=True)]
    put(folder, "i.tsv", f"title\ttext\nA table\t{one[12]!r}\n".replace("'", "").replace("\\n", " "))
    flat = repr(one[12]).replace("'", "").replace("\\n", " ")
    known += [Known(short(flat), "i.tsv", flat, title="A table")]
    put(folder, "j.parquet", parquet({"text": [one[13], one[14]]}))
    known += [Known(short(t), "j.parquet", t) for t in (one[13], one[14])]
    pages = [["City Hospital Ward Manual", line, f"Page {n} of 5"] for n, line in enumerate(MANUAL, start=1)]
    put(folder, "manual.pdf", pdf(pages, title="Doses"))
    raw = "\f".join("\n".join(page) for page in pages)
    known += [Known("manual.pdf", "manual.pdf", raw, "\n\n".join(MANUAL), "Doses")]
    put(folder, "scan.pdf", pdf([[], []]))
    put(folder, "tool.exe", b"MZ")
    return known


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Expected:
    """Every number of the card, from what was written."""

    def __init__(self, known: Sequence[Known], tokenizer: Tokenizer, rate: float) -> None:
        self.known, self.tokenizer, self.rate = known, tokenizer, rate

    def ids(self, known: Known) -> list[int]:
        return [*self.tokenizer.encode(known.text, add_special_tokens=False).ids, 0]

    @cached_property
    def kept(self) -> list[Known]:
        return [k for k in self.known if not k.dropped]

    @cached_property
    def train(self) -> list[Known]:
        return [k for k in self.kept if not k.is_heldout]

    @cached_property
    def heldout(self) -> list[Known]:
        return sorted((k for k in self.kept if k.is_heldout), key=lambda k: unit(k.id))

    def part(self, side: Sequence[Known]) -> dict[str, int]:
        num_tokens, num_bytes = sum(len(self.ids(k)) for k in side), sum(len(k.text.encode()) for k in side)
        return {"num_documents": len(side), "num_tokens": num_tokens, "num_bytes": num_bytes}

    def lengths(self) -> dict[str, list[int]]:
        found = sorted(len(self.ids(k)) for k in self.kept)
        powers = Counter(n.bit_length() - 1 for n in found)
        at = [round((len(found) - 1) * p / 100) for p in (0, 5, 25, 50, 75, 95, 100)]
        return {"percentiles": [found[i] for i in at], "counts": [powers[i] for i in range(max(powers) + 1)]}

    def dropped(self) -> dict[str, dict[str, int]]:
        reasons = sorted({k.dropped for k in self.known} - {""})
        sizes = {r: [len(k.raw.encode()) for k in self.known if k.dropped == r] for r in reasons}
        return {r: {"num_documents": len(s), "num_bytes": sum(s)} for r, s in sizes.items()}

    def sha256(self) -> str:
        digest, ends, end = hashlib.sha256(), b"", 0
        for known in self.train:
            ids = self.ids(known)
            digest.update(struct.pack(f"<{len(ids)}i", *ids))
            end += len(ids)
            ends += struct.pack("<q", end)
        digest.update(ends)
        for k in self.heldout:
            values = {"id": k.id, "title": k.title, "text": k.text, "source": k.source}
            digest.update((json.dumps(values, ensure_ascii=False) + "\n").encode())
        return digest.hexdigest()


def words(text: str) -> int:
    return len(re.findall(r"\w+", text))


OPTIONS = ("--heldout-frac", FRAC, "--set", "data.near_duplicate_jaccard=0.75")
TRAIN = ("train.sequence_length=48", "train.batch_size=2", "train.rank=5", 'train.target_modules=["mlp"]')
SET = [word for setting in (*TRAIN, "train.tokens_per_round=100") for word in ("--set", setting)]


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[Known]]:
    folder = tmp_path / "corpus"
    return folder, write(folder)


def cost_of(base: Base, adapter: Path, rate: float, epoch_tokens: int) -> dict[str, float]:
    """3 blocks of 48; rank 5 of gate, up and down, 80 in- and outputs each, in 2 layers; memory by the formula."""
    import torch

    whole = (adapter / "adapter_model.safetensors").read_bytes()
    adapter_bytes = len(whole) - 8 - int.from_bytes(whole[:8], "little")
    assert adapter_bytes == 4 * 5 * 80 * 3 * 2
    is_half = base.model.dtype == torch.bfloat16
    values = 2 * (2 * 64 + 2 * 48 + 3 * 80)
    activations = (4.0 if is_half else 6.5) * 48 * values  # fast layers keep one block a thread: tests have one thread
    linear = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
    weights = 512 * 32 + linear + 2 * 2 * 32 + 32
    held = weights * (2 if is_half else 4) + 2 * linear
    return {
        "num_tokens": 3 * 48,
        "tokens_per_second": rate,
        "minutes": 3 * 48 / rate / 60,
        "epoch_minutes": epoch_tokens / rate / 60,
        "peak_memory_mb": round(600e6 + held + 4 * adapter_bytes + activations) / 1e6,
        "adapter_mb": adapter_bytes / 1e6,
    }


def skipped(folder: Path) -> list[tuple[str, str]]:
    exe = "one of .txt, .md, .html, .htm, .pdf, .docx, .jsonl, .csv, .tsv, .parquet, alone or with .gz or .zst"
    return [
        (f"{folder}/broken.pdf", "expected a whole PDF, got "),
        (f"{folder}/empty.txt", "it is empty"),
        (
            f"{folder}/g.jsonl, line 3",
            "expected an object with a non-empty string `text`, got an object with keys title",
        ),
        (f"{folder}/scan.pdf", "expected text, got 2 pages without a text layer"),
        (f"{folder}/tool.exe", f".exe is not {exe}"),
    ]


def unpacked_bytes(folder: Path) -> tuple[int, int]:
    """Of all files, and of those and the line of which no document is made."""
    import zstandard

    unpack = {".gz": gzip.decompress, ".zst": zstandard.decompress}
    sizes = {p.name: len(unpack.get(p.suffix, bytes)(p.read_bytes())) for p in folder.rglob("*") if p.is_file()}
    lost = sum(sizes[name] for name in ("broken.pdf", "scan.pdf", "tool.exe")) + len('{"title": "no text"}\n')
    return sum(sizes.values()), lost


def test_every_number_of_the_card(cogen: Cogen, corpus: tuple[Path, list[Known]], tiny_folder: Path) -> None:
    """Red: among others EOS not counted; bytes after cleaning in `read`; characters for bytes; a page's header kept."""
    folder, known = corpus
    code, out, err = cogen("data", folder, "--base", tiny_folder, "--json", *OPTIONS, *SET)
    assert code == 0, err
    found = json.loads(out)
    card_folder = Path(found.pop("out"))
    assert json.loads((card_folder / "card.json").read_text()) == found
    given = ("--base", tiny_folder, "--data", folder, "--domain", "d", "--out", "adapter", "--json")
    code, _, err = cogen("train", *given, *OPTIONS, *SET)
    assert code == 0, err

    expected = Expected(
        known, Tokenizer.from_file(str(tiny_folder / "tokenizer.json")), found["cost"]["tokens_per_second"]
    )
    assert len(expected.heldout) > 2 and len(expected.train) > 8
    general = len(expected.tokenizer.encode(GENERAL_SAMPLE, add_special_tokens=False).ids) / words(GENERAL_SAMPLE)
    train = expected.part(expected.train)
    want: dict[str, Any] = {
        "source": str(folder),
        "base": str(tiny_folder),
        "settings": Data(near_duplicate_jaccard=0.75).model_dump(),
        "heldout_frac": FRAC,
        "num_files": 15,
        "read": {"num_documents": len(known), "num_bytes": sum(len(k.raw.encode()) for k in known)},
        "train": train,
        "heldout": expected.part(expected.heldout),
        "num_words": sum(words(k.text) for k in expected.kept),
        "general_tokens_per_word": general,
        "lengths": expected.lengths(),
        "sha256": expected.sha256(),
        "num_skipped": 5,
        "num_file_bytes": unpacked_bytes(folder)[0],
        "num_lost_bytes": unpacked_bytes(folder)[1],
        "dropped": expected.dropped(),
        "num_control_characters": 3,
        "num_boilerplate_lines": 10,
        "num_boilerplate_bytes": 5 * len("City Hospital Ward ManualPage 1 of 5") + 6,  # 14 line and page ends become 8
        "scripts": {"Latin": len(known)},
        "languages": dict(Counter(k.language for k in expected.kept).most_common()),
        "personal_data": {"email": 2},
        "num_leaked": 1,
        "special_per_document": 1,
        "cost": cost_of(load_base(str(tiny_folder)), Path("adapter"), expected.rate, train["num_tokens"]),
        "format_version": 3,
    }
    for left, (file, reason) in zip(found["skipped"], skipped(folder), strict=True):
        assert left["file"] == file and left["reason"].startswith(reason)
    assert {key: found[key] for key in want} == want
    assert {*want, "skipped", "notes"} == set(DataCard.model_fields) == set(found), "no number is missed"
    assert set(want["cost"]) == {f.name for f in fields(CardCost)}
    look_at_page((card_folder / "card.html").read_text(), want, found["skipped"])


def look_at_page(page: str, want: dict[str, Any], left: list[dict[str, str]]) -> None:
    """The same numbers on the page: overview, plots, tables."""
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    read, cost = want["read"], want["cost"]
    tokens = want["train"]["num_tokens"] + want["heldout"]["num_tokens"]
    documents = want["train"]["num_documents"] + want["heldout"]["num_documents"]
    per_word = (
        f"{(tokens - documents) / want['num_words']:.2f} (everyday English {want['general_tokens_per_word']:.2f})"
    )
    assert {
        key: value
        for key, value in shown.items()
        if "round" not in key and key not in ("rate", "every document once", "text lost, in bytes")
    } == {
        "files": "15",
        "skipped": "5",
        "documents read": f"{read['num_documents']}, {kilobytes(read['num_bytes'])}",
        "words": f"{want['num_words']:,}",
        "tokens per word": per_word,
        "control characters removed": "3",
        "boilerplate lines removed": "10",
        "memory at the peak": f"about {cost['peak_memory_mb']:.0f} MB",
        "adapter": kilobytes(1e6 * cost["adapter_mb"]),
    }
    assert shown["rate"] == f"{cost['tokens_per_second']:.0f} tokens/s"
    for name, minutes in (
        (f"a round of {cost['num_tokens']:,} tokens", cost["minutes"]),
        ("every document once", cost["epoch_minutes"]),
    ):
        assert shown[name] == f"about {60 * minutes:.1f} s" if 60 * minutes < 9.9 else shown[name].startswith("about ")
    fates = [("training", want["train"]["num_documents"]), ("held out", want["heldout"]["num_documents"])]
    fates += [(reason, amount["num_documents"]) for reason, amount in want["dropped"].items()]
    fate, lengths, languages = plots(page)
    assert fate == sorted_bars(fates, read["num_documents"])
    counts = want["lengths"]["counts"]
    first = next(i for i, count in enumerate(counts) if count)
    assert lengths == [(str(2**i), count) for i, count in enumerate(counts)][first:]
    assert languages == sorted_bars(list(want["languages"].items()), documents)
    for name, part in (("training", want["train"]), ("held out", want["heldout"])):
        cells = (
            f"<td>{part['num_documents']:,}</td><td>{part['num_tokens']:,}</td><td>{kilobytes(part['num_bytes'])}</td>"
        )
        assert f'<tr><th scope="row">{name}</th>{cells}</tr>' in page
    shares = "".join(f"<td>{value:,}</td>" for value in want["lengths"]["percentiles"])
    assert f'<th scope="row">tokens, at most</th>{shares}</tr>' in page
    assert (
        '<tr><th scope="row">email</th><td>2</td></tr>' in page
        and "1 document nearly repeats a held-out document" in page
    )
    for file in left:
        row = f'<th scope="row">{html.escape(file["file"])}</th><td class="text reason">'
        assert row in page and html.escape(file["reason"]).replace("&#x27;", "&#39;") in page
    for key, value in want["settings"].items():
        assert f"{key} = {json.dumps(value)}\n" in page
    assert f"sha256 {want['sha256']}" in page and "The target is 30.0%." in page
    assert html.escape(f"Data card of {want['source']}, for {want['base']}") in page
    assert "jane.doe" not in page and "sam@" not in page


def plots(page: str) -> tuple[list[tuple[str, str]], list[tuple[str, int]], list[tuple[str, str]]]:
    """What the three wide plots say: bars with their labels, columns with their hints."""
    drawings = [re.findall(r'<div class="wide">(<svg.*?</svg>)</div>', page, re.S)][0]
    assert len(drawings) == 3 and len(re.findall('<div class="narrow"><svg', page)) == 3
    found = []
    for drawing in (drawings[0], drawings[2]):
        labels = re.findall(r"<text[^>]*>([^<]*)(?:<title>(.*?)</title>)?</text>", drawing)
        texts = [html.unescape(full or short) for short, full in labels]
        found.append(list(zip(texts[::2], texts[1::2], strict=True)))
    columns = re.findall(r"<title>(\d+): ([\d,]+)</title>", drawings[1])
    return found[0], [(name, int(count.replace(",", ""))) for name, count in columns], found[1]


def sorted_bars(bars: list[tuple[str, int]], total: int) -> list[tuple[str, str]]:
    """As they stand: the first two, or the largest, first; equal ones in their order."""
    kept, rest = (bars[:2], bars[2:]) if bars[0][0] == "training" else ([], bars)
    return [(name, f"{n:,} · {100 * n / total:.1f}%") for name, n in [*kept, *sorted(rest, key=lambda b: -b[1])]]


def kilobytes(size: float) -> str:
    """Three digits, in kB: all sizes here are between 1 and 999 of them."""
    number = size / 1000
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f} kB"
