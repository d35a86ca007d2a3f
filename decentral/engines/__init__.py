"""Engines: how workers are started."""
