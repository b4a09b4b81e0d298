"""Answer many rows without gradients: the scheduler, its requests and KV slots, stop rules. Imports core.loop."""
