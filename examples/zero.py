"""Zero: what is left of an answer when a latent is taken away?"""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Zero, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% Zeros instead of every latent of every question
done = intervene(model, QUESTIONS, Zero(), **how)
show(done)

# %% The last latent of question 0 alone. What comes before it is as it was, the trace says so.
last = intervene(model, QUESTIONS, Zero(latents=[-1], questions=[0]), **how)
show(last)
moved = (last.traces[0].latents_BKD - last.plain_traces[0].latents_BKD).norm(dim=2)[0]
print("how far each latent of question 0 moved:", [round(float(d), 2) for d in moved])

# %% A recurrent method thinks everything behind a changed latent anew. `hold=True` feeds it the old latents instead.
first = intervene(model, QUESTIONS, Zero(latents=[0]), **how)
held = intervene(model, QUESTIONS, Zero(latents=[0]), hold=True, **how)
print("answers changed: thought anew", len(first.changed), "- held", len(held.changed))
