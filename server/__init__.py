"""The Flower ServerApp: rounds, checks of replies, checkpoints."""
