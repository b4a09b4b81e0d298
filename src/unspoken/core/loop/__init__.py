"""Think and speak, with gradients: the loop, where latents come from, edits, traces. Imports core.lm and what that
may import.
"""
