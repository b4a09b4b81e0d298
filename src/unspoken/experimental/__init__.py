"""Experimental features: a learned step finder, rules that stop thinking early, inference in 8 bits.

They work and are tested, but have not proved useful enough to stay (figures: docs/decisions/023), and may be removed
without notice. No other room imports this one; lower rooms call it by names registered in `unspoken/__init__.py`.
"""
