"""Training: one loop, its checkpoints, and how a network is judged."""
