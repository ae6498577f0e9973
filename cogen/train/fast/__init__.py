"""Training on the CPU with fewer passes over memory and cheaper products; see docs/training.md."""
