"""The shared machinery: rows, backbones, latents, the one loop, losses. Imports no method."""
