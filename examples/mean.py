"""Mean: latents that are typical, but know nothing of their question."""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Mean, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% At each place the mean over all questions of the call; give it many, for a mean of many
done = intervene(model, QUESTIONS, Mean(), **how)
show(done)

# %% Every question is fed the same now
same = all(bool((trace.latents_BKD == done.traces[0].latents_BKD).all()) for trace in done.traces)
print("the same latents for every question:", same)

# %% Place by place: which latent carries what this question needs?
for k in range(done.traces[0].latents_BKD.shape[1]):
    print(f"latent {k}: answers changed", len(intervene(model, QUESTIONS, Mean(latents=[k]), **how).changed))
