"""Coconut by hand: a whole method of latent reasoning in plain PyTorch, to be read from top to bottom.

python examples/coconut_by_hand.py             # three minutes on one free CPU core

A model with a chain of thought writes each step of its reasoning as text and reads it back. Coconut (Hao et al., arXiv
2412.06769) replaces steps by *latents*: the model's last hidden state is fed back as the next input, without ever being
turned into a token. In training, a curriculum takes the written steps away one at a time, first step first:

    stage 0   question <bot> <eot> step 1  step 2  answer         an ordinary chain of thought
    stage 1   question <bot> L <eot> step 2  answer               one latent in place of step 1
    stage 2   question <bot> L L <eot> answer                     nothing written but the answer

No latent has a target of its own. The loss is on what is still written, and its gradient flows back through the latents.

This file takes one problem at a time. `unspoken.methods.coconut` does the same in batches, padded and cached, with every
setting of the paper; tests/examples/test_coconut_by_hand.py holds both to the same loss and the same gradients.
This is a lesson, not a result: after 450 updates of 16 problems it answered 17 of 100 new ones (seed 0, one CPU core).

Shapes: T positions, D width of the model, V words of the vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import DynamicCache

BOT, EOT = "<|start-latent|>", "<|end-latent|>"  # thoughts begin and end here
LATENTS_PER_STEP = 1  # the paper's c; it uses 2 on GSM8K
MAX_STAGE = 2  # at most so many steps become latents


def add_markers(model, tokenizer) -> None:
    """Give model and tokenizer the two marker tokens. Their rows start as the mean of those of "<<", which opens a step."""
    if new := tokenizer.add_tokens([BOT, EOT]):
        opener = tokenizer.encode("<<", add_special_tokens=False)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table_VD in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
                table_VD[-new:] = table_VD[opener].mean(dim=0)


def prompt(tokenizer, question: str) -> list[int]:
    """What comes before the latents: the question and <bot>."""
    return [*tokenizer.encode(f"{question}\n"), tokenizer.convert_tokens_to_ids(BOT)]


def lay_out(tokenizer, problem, stage: int) -> tuple[list[int], int, list[int]]:
    """A problem at a stage: the token ids before the latents, how many latents, the token ids after them."""
    removed = min(stage, len(problem.steps)) if stage <= MAX_STAGE else len(problem.steps)
    latents = min(stage, MAX_STAGE) * LATENTS_PER_STEP
    texts = [f"{step}\n" for step in problem.steps[removed:]] + [f"### {problem.answer}"]
    written = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
    return (
        prompt(tokenizer, problem.question),
        latents,
        [tokenizer.convert_tokens_to_ids(EOT), *written, tokenizer.eos_token_id],
    )


def think(model, before: Sequence[int], latents: int, after: Sequence[int]):
    """Read the question, think, read what follows.

    Returns:
        The final hidden states of `after` [T, D], and the cache, with which the model can go on.
    """
    cache = DynamicCache(config=model.config)
    embed = model.get_input_embeddings()

    def step(inputs_1TD):
        """New inputs behind all earlier ones. States are those after the final norm, of which the head makes logits."""
        return model.base_model(inputs_embeds=inputs_1TD, past_key_values=cache, use_cache=True).last_hidden_state

    hidden_1TD = step(embed(torch.tensor([before])))
    for _ in range(latents):
        hidden_1TD = step(hidden_1TD[:, -1:])  # the whole idea: the state that would have become a word is the next input
    return step(embed(torch.tensor([after])))[0], cache


def loss_of(model, tokenizer, problems, stage: int) -> torch.Tensor:
    """Cross-entropy of everything written behind <eot>: a mean over the tokens of all problems, not over problems."""
    total, count = torch.zeros(()), 0
    for problem in problems:
        before, latents, after = lay_out(tokenizer, problem, stage)
        hidden_TD, _ = think(model, before, latents, after)
        logits_TV = model.get_output_embeddings()(hidden_TD[:-1])  # each state predicts the token after it; <eot> the first
        total = total + F.cross_entropy(logits_TV, torch.tensor(after[1:]), reduction="sum")
        count += len(after) - 1
    return total / count


@torch.no_grad()
def answer(model, tokenizer, question: str, max_new_tokens: int = 16) -> str:
    """Think as often as in the last stage, then speak: from <eot> on, ordinary greedy decoding."""
    eot = tokenizer.convert_tokens_to_ids(EOT)
    hidden_TD, cache = think(model, prompt(tokenizer, question), MAX_STAGE * LATENTS_PER_STEP, [eot])
    spoken: list[int] = []
    while len(spoken) < max_new_tokens:
        token = model.get_output_embeddings()(hidden_TD[-1]).argmax()
        if token == tokenizer.eos_token_id:
            break
        spoken.append(int(token))
        hidden_TD = model.base_model(token.view(1, 1), past_key_values=cache, use_cache=True).last_hidden_state[0]
    return tokenizer.decode(spoken)


def train(model, tokenizer, problems, *, steps_per_stage: int, batch_size: int = 16, lr: float = 2e-3, report=print) -> None:
    """The curriculum: stage 1, 2, ... and a last one in which nothing but the answer is written."""
    rng = random.Random(0)
    for stage in range(1, MAX_STAGE + 2):
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)  # each stage is a new task: no momentum of the old one
        for step in range(1, steps_per_stage + 1):
            loss = loss_of(model, tokenizer, rng.sample(problems, batch_size), stage)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / (steps_per_stage + 1))
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 0:
                report(f"stage {stage}  step {step:4d}  loss {loss.item():.3f}")


def main(steps_per_stage: int = 150, questions: int = 100) -> float:
    """Train the model inside the package, which writes its steps, on generated problems of two; return its accuracy."""
    import unspoken

    start = unspoken.load("builtin:tiny").method.backbone
    model, tokenizer = start.lm.train(), start.tokenizer
    task = unspoken.make_task({"name": "tiny", "min_steps": 2, "max_steps": 2, "train_size": 4000, "test_size": questions})
    torch.manual_seed(0)
    add_markers(model, tokenizer)
    train(model, tokenizer, task.examples("train"), steps_per_stage=steps_per_stage)
    model.eval()
    right = [answer(model, tokenizer, p.question) == f"### {p.answer}" for p in task.examples("test")]
    print(f"{sum(right)} of {len(right)} new problems right, without a written step")
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
