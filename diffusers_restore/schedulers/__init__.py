"""Schedulers: one file per paper, a pure function with the update and a thin class around it."""
