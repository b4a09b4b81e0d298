"""Change latents and measure the effect: interventions, controls, scaling. Imports evaluation, inspector, pages."""
