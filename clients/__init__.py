"""The Flower ClientApp: what runs at a domain."""
