"""The registries: an entry-point group for each kind of object, built-ins included. Imports no torch."""

from __future__ import annotations

from .registry import Registry

OPERATORS = Registry("diffusers_restore.operators", "operator", "diffusers_restore.operators.base:Operator")
"""Operators: name -> class."""

TASKS = Registry("diffusers_restore.tasks", "task", "diffusers_restore.operators.tasks:Task", instances=True)
"""Restoration tasks, which build an operator: name -> `operators.Task`."""

METHODS = Registry("diffusers_restore.methods", "method", "diffusers_restore.schedulers.zero_shot:ZeroShotScheduler")
"""Zero-shot methods: name -> scheduler class."""

DEGRADATIONS = Registry(
    "diffusers_restore.degradations", "degradation", "diffusers_restore.degradations.base:Degradation"
)
"""Degradations by severity: name -> class."""

RECIPES = Registry("diffusers_restore.recipes", "recipe", "diffusers_restore.degradations.recipes.base:Recipe")
"""Recipes of random damage: name -> class."""
