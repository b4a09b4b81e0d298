"""Latents inside an unmodified vLLM: the plugin that serves what `unspoken export --format vllm` writes.

vLLM calls `register` in `plugin.py` in each of its processes (entry point `vllm.general_plugins`). Nothing else of unspoken
imports this package, and of unspoken it imports only what needs no more than torch, transformers and safetensors. One
process serves one such model at a time, as vLLM's own do.
"""
