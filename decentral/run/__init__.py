"""A run folder: a run that explains itself."""

from __future__ import annotations
