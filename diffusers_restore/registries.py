"""The registries: an entry-point group for each kind of object, built-ins included. Imports no torch."""

from __future__ import annotations

from .registry import Registry

OPERATORS = Registry("diffusers_restore.operators", "operator")
"""Linear operators: name -> class."""

TASKS = Registry("diffusers_restore.tasks", "task")
"""Restoration tasks, which build an operator: name -> `operators.Task`."""

METHODS = Registry("diffusers_restore.methods", "method")
"""Zero-shot methods: name -> scheduler class."""

DEGRADATIONS = Registry("diffusers_restore.degradations", "degradation")
"""Degradations by severity: name -> class."""

RECIPES = Registry("diffusers_restore.recipes", "recipe")
"""Recipes of random damage: name -> class."""
