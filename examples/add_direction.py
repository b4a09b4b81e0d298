"""Add a direction: does moving a latent along a line move the answer?"""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Add, Zero, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% A direction: from the latents of question 0 to those of question 1, at place 0. (With many questions: between the
# means of two groups that differ in one thing.)
plain = intervene(model, QUESTIONS, Zero(latents=[0]), **how).plain_traces
direction = (plain[1].latents_BKD - plain[0].latents_BKD)[0, 0]

# %% Question 0 is moved along it, step by step
found = {}
for scale in (0.0, 0.5, 1.0, 2.0):
    found[scale] = intervene(model, QUESTIONS[:1], Add(direction=direction, scale=scale, latents=[0]), **how)
    print(f"{scale:g} x direction:", repr(found[scale].answers[0].text))

# %% At 0 nothing changes; interventions follow each other, so zero and then add puts the direction itself there
show(intervene(model, QUESTIONS[:1], Zero(latents=[0]), Add(direction=direction, latents=[0]), **how))
