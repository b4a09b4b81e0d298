"""What latents are and do: nearest words, stability, probes, interventions, and the page that shows them."""
