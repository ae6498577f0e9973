"""Looking at adapters rather than combining them: diagnosis, search, contributions."""
