"""Pipelines: what a user calls, on top of a scheduler and a network."""
