"""LoRA continual pretraining: attachment, loss, schedule, the one loop, its saved state."""
