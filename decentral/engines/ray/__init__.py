"""The Ray engine: a driver that coordinates, and actors that each host a block of
nodes.

``engines.local.require_ray`` comes before the first module of this package that
imports Ray.
"""
