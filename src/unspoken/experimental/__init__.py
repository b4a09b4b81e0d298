"""What is tried out: a learned finder of steps, rules that stop thinking early, answers in 8 bits.

It works and is tested, but nothing here has earned its place (docs/decisions/023 has the figures), and it may go without
notice. No other room imports this one; rooms below call what is here by names that `unspoken/__init__.py` gives.
"""
