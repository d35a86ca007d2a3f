"""What members of a kind declare about themselves."""

from __future__ import annotations

from decentral.traits.values import Expectation, Kept, Sizes, Wire

__all__ = ["Expectation", "Kept", "Sizes", "Wire"]
