"""Replace: latents of your own. Here the embedding of a word, and of the token that holds the slots (a pause token)."""

# %% The model, and questions to ask
import torch
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Replace, intervene, slot_vector

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% The word "12" instead of latent 1
backbone = model.method.backbone
word = backbone.embed(torch.tensor([backbone.encode("12")[0]], device=backbone.device))[0].detach()
done = intervene(model, QUESTIONS, Replace(vectors=word, latents=[1]), **how)
show(done)

# %% Pause tokens in place of all thoughts: the control "pause tokens"
pauses = intervene(model, QUESTIONS, Replace(vectors=slot_vector(model, QUESTIONS[0])), **how)
show(pauses)

# %% A vector per place: the latents of question 2, scaled down
table = 0.5 * done.plain_traces[2].latents_BKD[0]
scaled = intervene(model, QUESTIONS, Replace(vectors=table, questions=[2]), **how)
show(scaled)
