"""Engines: different ways to compute the same clipped sums."""
