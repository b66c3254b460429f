"""Device profiles: what was measured, where, and what it predicts."""
