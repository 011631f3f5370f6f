"""How good a restoration is: metrics, classical methods to beat, before/after sheets and tables."""
