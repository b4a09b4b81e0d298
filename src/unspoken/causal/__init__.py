"""Changing latents and seeing what that does: interventions, controls, scaling. Imports evaluation, inspector, pages."""
