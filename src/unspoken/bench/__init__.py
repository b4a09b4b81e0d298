"""Measure passes, positions, memory and time, and compare with baselines."""
