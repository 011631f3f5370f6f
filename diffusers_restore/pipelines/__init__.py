"""Pipelines, each with a scheduler and a network."""
