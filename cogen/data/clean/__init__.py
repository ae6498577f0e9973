"""The cleaning steps, each a function of a text; `docs/data.md` has the numbers and their sources."""

from cogen.data.clean.boilerplate import BoilerplateCounter, join_pages, strip_boilerplate
from cogen.data.clean.duplicates import DuplicateIndex, exact_key, leaked, signature
from cogen.data.clean.language import detect_language
from cogen.data.clean.personal import personal_data, redact
from cogen.data.clean.quality import Fault, quality_fault
from cogen.data.clean.scripts import script_of, writing_of
from cogen.data.clean.words import normalise, split_words

__all__ = [
    "BoilerplateCounter",
    "DuplicateIndex",
    "Fault",
    "detect_language",
    "exact_key",
    "join_pages",
    "leaked",
    "normalise",
    "personal_data",
    "quality_fault",
    "redact",
    "script_of",
    "signature",
    "split_words",
    "strip_boilerplate",
    "writing_of",
]
