"""The same numbers sooner: packing, shared gradients, chunked losses, caches. Imports core.rows; imported by the
rest of core.
"""
