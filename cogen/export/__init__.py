"""A base with an adapter in it, in the form of another program: so far that of transformers."""
