"""Documents, their split, and the token blocks made of them."""

from cogen.data.document import Document, Skipped
from cogen.data.pack import Batch, PackedStream, Window, heldout_windows, tokenize, window_batch
from cogen.data.read import Corpus, iter_corpus, read_corpus
from cogen.data.split import Split, split_documents
from cogen.data.store import Prepared

__all__ = [
    "Batch",
    "Corpus",
    "Document",
    "PackedStream",
    "Prepared",
    "Skipped",
    "Split",
    "Window",
    "heldout_windows",
    "iter_corpus",
    "read_corpus",
    "split_documents",
    "tokenize",
    "window_batch",
]
