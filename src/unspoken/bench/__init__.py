"""Measuring: what a step costs in passes, positions, memory and time, and baselines to hold it against."""
