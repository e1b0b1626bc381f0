"""Scores, confidence intervals and comparisons of systems."""
