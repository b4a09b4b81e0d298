"""Noise: how exact must a latent be?"""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Drop, Noise, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% Gaussian noise, in standard deviations of the latents' own entries. Which noise a latent gets depends on its question,
# its place and the seed, never on the batch.
runs = {}
for scale in (0.1, 0.5, 1.0, 2.0):
    runs[scale] = intervene(model, QUESTIONS, Noise(scale=scale), **how)
    print(f"noise {scale:g}: answers changed", len(runs[scale].changed))
show(runs[2.0])

# %% Another seed, other noise: the spread of answers says how near they were to changing
said = {intervene(model, QUESTIONS[:1], Noise(scale=1.0, seed=seed), **how).answers[0].text for seed in range(5)}
print("answers to question 0 under 5 seeds:", sorted(said))

# %% Dropout of the latent's entries instead
show(intervene(model, QUESTIONS, Drop(share=0.3), **how))
