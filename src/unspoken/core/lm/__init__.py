"""A causal language model behind few calls: loading, backbone, marker tokens. Imports core.fast, core.rows, core.text."""
