"""Documents, their split, and the token blocks made of them."""

from cogen.data.pack import Batch, PackedStream, Window, heldout_windows, tokenize, window_batch
from cogen.data.read import Corpus, Document, read_corpus
from cogen.data.split import Split, split_documents

__all__ = [
    "Batch",
    "Corpus",
    "Document",
    "PackedStream",
    "Split",
    "Window",
    "heldout_windows",
    "read_corpus",
    "split_documents",
    "tokenize",
    "window_batch",
]
