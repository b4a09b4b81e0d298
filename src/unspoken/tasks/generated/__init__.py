"""Tasks with generated problems: arithmetic, logic, coin flips."""
