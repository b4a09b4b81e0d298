"""Patch: one question thinks another question's thoughts. If they carry the reasoning, the answer goes with them."""

# %% The model, and questions to ask
from _model import QUESTIONS, model_from_command_line, show

from unspoken.causal.interventions import Patch, intervene

model = model_from_command_line()
how = {"explain": model.explains, "batch_size": 2}

# %% Question 0 with all latents of question 1; the others stay as they are
done = intervene(model, QUESTIONS, Patch(donors=1, questions=[0]), **how)
show(done)
print("question 0 now says what question 1 said:", done.answers[0].text == done.plain[1].text)

# %% Everyone from a neighbour: what the control "shuffled" does
ring = intervene(model, QUESTIONS, Patch(donors=[1, 2, 0]), **how)
follow = [ring.answers[i].text == ring.plain[donor].text for i, donor in enumerate([1, 2, 0])]
print("answers that follow the donor:", sum(follow), "of", len(follow))

# %% One latent only: the donor's latent 0 at place 1
one = intervene(model, QUESTIONS, Patch(donors=2, place=0, latents=[1], questions=[0]), **how)
show(one)
