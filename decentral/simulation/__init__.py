"""Simulated time, event by event: what trains a block where no round does."""

from decentral.simulation.saving import Simulation

__all__ = ["Simulation"]
