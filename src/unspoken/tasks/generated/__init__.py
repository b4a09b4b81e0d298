"""Tasks whose problems a seed writes: arithmetic, logic, coin flips."""
