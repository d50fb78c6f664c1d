"""Angiograms from a CSV: checking it, reading one frame and its labels, augmenting, and the Dataset."""
