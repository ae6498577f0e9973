"""One domain: its node, trainer, policy, receipts and doctor; the same in a simulation and in a real federation."""
