"""Theory that computes: numpy and scipy only, and nothing of a run."""
