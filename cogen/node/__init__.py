"""The resident trainer of a domain: holds base, data and optimiser state between rounds."""
