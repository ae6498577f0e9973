"""Cloze probes made from text: which term of the domain continues a sentence."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cogen.data.document import Document
from cogen.errors import DataError
from cogen.evaluate.probes import Probe
from cogen.evaluate.terms import TermPosition, candidates, common_words, domain_terms, sentences

NUM_CHOICES = 4
NEAREST = 12
MIN_CONTEXT_WORDS = 6
MAX_PROBES_A_TERM = 2
STEM_LETTERS = 5


@dataclass(frozen=True)
class Blank:
    """One occurrence of a term in a sentence of a document."""

    document: str
    place: TermPosition

    @property
    def term(self) -> str:
        return self.place.text[self.place.start : self.place.end]

    @property
    def context(self) -> str:
        return self.place.text[: self.place.start].rstrip()


def make_probes(
    documents: Sequence[Document], general: Sequence[Document], num_probes: int, max_terms: int, seed: int
) -> list[Probe]:
    """Cloze probes of a domain: a sentence up to one of its terms, that term, and three distractors.

    A distractor is a term of the same domain with the same form (capitals, plural ending, number of words). It is
    among the twelve terms nearest in frequency, does not occur in the sentence, and has another stem. The right term
    does not occur earlier in the sentence. Each sentence gives at most one probe, each term at most two. No model and
    no person checks the probes, so a distractor may fit, too: compare models with each other, not with 100%.

    Args:
        documents: documents of the domain, best held-out ones.
        general: general documents, for the inverse document frequency.
    Returns: up to `num_probes` in the order of the text; the same for the same input and seed.
    Raises:
        DataError: the text gives no probe.
    """
    terms = domain_terms([d.text for d in documents], [d.text for d in general], max_terms)
    blanks = list(_blanks(documents, terms, common_words(d.text for d in general)))
    order = list(range(len(blanks)))
    random.Random(seed).shuffle(order)
    made: dict[int, Probe] = {}
    used_sentences: set[str] = set()
    uses: dict[str, int] = {}
    for i in order:
        blank, key = blanks[i], blanks[i].term.casefold()
        if len(made) == num_probes:
            break
        if blank.place.text in used_sentences or uses.get(key, 0) == MAX_PROBES_A_TERM:
            continue
        probe = _probe(blank, blanks, terms, random.Random(f"{seed}\0{blank.document}\0{blank.place.text}"), i)
        if probe is not None:
            made[i] = probe
            used_sentences.add(blank.place.text)
            uses[key] = uses.get(key, 0) + 1
    if not made:
        raise _no_probes(len(terms), len(documents))
    return [made[i] for i in sorted(made)]


def _no_probes(num_terms: int, num_documents: int) -> DataError:
    return DataError(
        "cannot make probes",
        expected="terms that occur three times or more in the text and rarely in general text",
        got=f"{num_terms} terms in {num_documents} documents, none with three distractors",
        fix="Use more text of the domain, or other general text.",
    )


def _blanks(documents: Sequence[Document], terms: Mapping[str, int], common: frozenset[str]) -> Iterator[Blank]:
    """Occurrences of terms after enough words and a space, if the term does not occur earlier in the sentence."""
    for document in documents:
        for sentence in sentences(document.text):
            for place in candidates(sentence, common):
                blank = Blank(document.id, place)
                if (
                    blank.term.casefold() in terms
                    and len(blank.context.split()) >= MIN_CONTEXT_WORDS
                    and place.text[place.start - 1] == " "
                    and blank.term.casefold() not in blank.context.casefold()
                ):
                    yield blank


def _probe(
    blank: Blank, blanks: Sequence[Blank], terms: Mapping[str, int], rng: random.Random, index: int
) -> Probe | None:
    """The probe of a blank; None if the domain has too few distractors for it."""
    count = terms[blank.term.casefold()]
    others = {b.term: abs(math.log(terms[b.term.casefold()] / count)) for b in blanks if _is_distractor(b.term, blank)}
    nearest = sorted(others, key=lambda t: (others[t], t))[:NEAREST]
    picked: list[str] = []
    for term in rng.sample(nearest, len(nearest)):
        if not any(_same_stem(term, other) for other in picked):
            picked.append(term)
    if len(picked) < NUM_CHOICES - 1:
        return None
    choices = [blank.term, *picked[: NUM_CHOICES - 1]]
    rng.shuffle(choices)
    answer = choices.index(blank.term)
    return Probe(f"cloze-{index:05d}", blank.context, tuple(choices), answer, blank.document)


def _is_distractor(term: str, blank: Blank) -> bool:
    sentence = blank.place.text.casefold()
    return _kind(term) == _kind(blank.term) and term.casefold() not in sentence and not _same_stem(term, blank.term)


def _kind(term: str) -> tuple[str, bool, int]:
    """The form of a term: capitals, plural ending, number of words."""
    capitals = "upper" if term.isupper() else "title" if term[0].isupper() else "lower"
    return capitals, term.endswith("s") and not term.endswith("ss"), len(term.split())


def _same_stem(one: str, other: str) -> bool:
    """Whether two of their words have the same first letters: transformer, transformers, transforming."""
    stems = [{word[:STEM_LETTERS] for word in term.casefold().split()} for term in (one, other)]
    return bool(stems[0] & stems[1])


def probes_jsonl(probes: Sequence[Probe]) -> str:
    """The text of a file that `read_probes` reads."""
    rows = [
        {"id": p.id, "context": p.context, "choices": p.choices, "answer": p.answer, "document": p.document}
        for p in probes
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
