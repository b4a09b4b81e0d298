"""Networks beside the base model: SIM-CoT's step decoder, SoftCoT's assistant, SemCoT's sentence encoder. Imports
all of core.
"""
