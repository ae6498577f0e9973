"""The routed model: a common adapter, an expert for each domain, and a gate that chooses by the text of a prompt."""
