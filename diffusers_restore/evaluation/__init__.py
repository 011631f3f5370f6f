"""Measuring restorations: metrics, classical methods to compare with, before/after sheets and tables."""
