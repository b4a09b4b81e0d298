"""Swap: does the order of the thoughts matter?"""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Swap, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% Latents 0 and 1 change places, as the unmodified run made them. `hold` keeps those behind them as they were.
done = intervene(model, QUESTIONS, Swap(latents=(0, 1)), hold=True, **how)
show(done)
before, after = done.plain_traces[0].latents_BKD[0], done.traces[0].latents_BKD[0]
print("crossed:", bool((after[0] - before[1]).abs().max() < 1e-5 and (after[1] - before[0]).abs().max() < 1e-5))

# %% Without `hold` the latents behind are thought anew, from the swapped ones
anew = intervene(model, QUESTIONS, Swap(latents=(0, 1)), **how)
show(anew)
