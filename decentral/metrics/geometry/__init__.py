"""The geometry of trained models: pure functions over rows, features and losses.

Nothing here knows a run: what is evaluated, and on which samples, is the caller's.
"""
