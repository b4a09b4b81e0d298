"""Inspect latents: nearest words, stability, attention, probes. Imports evaluation."""
