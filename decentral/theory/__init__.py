"""Theory that computes: numpy only, and nothing of a run."""
