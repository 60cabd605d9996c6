"""The empirical audit: the production step, asked by experiment whether it keeps its promise."""
