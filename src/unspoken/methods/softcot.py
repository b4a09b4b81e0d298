"""SoftCoT: a small frozen assistant reads the question, and its states, projected, stand as soft thoughts in the prompt.

Paper: Xu et al., "SoftCoT: Soft Chain-of-Thought for Efficient Reasoning with LLMs", arXiv 2502.12134, section 3.
Idea: a large model keeps what it knows if it is not trained. An assistant is asked for hints; at N placeholder tokens of
    its answer its last states (after the final norm) are taken, one linear layer maps them to the large model's width, and
    there they replace the embeddings of N placeholders in its prompt. Then it reasons in words, as it always does.
Row:    instruction, question, hint: | begin | latent x N | end | (rest of the prompt) | step 1 ... | answer eos
        labels behind the prompt, the chat template's generation header included in the prompt
        the assistant's row:   instruction, question | opening | slot x N
Trains: the projection. Freezes: base model and assistant; `backbone.lora`, `base_trains`, `assistant.lora` train those.
Reference code: xuyige/SoftCoT fa7f537 (llm_model.py, utils.py, train_softcot.py, evaluate_softcot.py). Its licence allows
    no reuse: this was written from the paper, from facts about the code, and from recorded tensors.
Relations: `softcot_pp` draws several sets of thoughts from it; `sim_cot` wraps it.
Departures:
    - The projection and its optimizer are fp32. The released code holds both in bf16, where an update of 2e-5 is lost on
      every weight above 2^-7: two thirds of them never move.
    - Prompts end with the generation header (released, Llama and Qwen2.5: the model has to write its own header, and is
      trained on it); `generation_header=False` is the released way, but for the line end that closes the user's turn of
      Qwen: it stands in the prompt, and is no target (released: it is).
    - The end of the answer is trained. The released code cuts off every row's last token; with Llama that is the end.
    - Slots are where the placeholder stands, whatever the tokenizer (released: counted from the end by fixed offsets).
    - As many slots in evaluation as in training, unless asked otherwise (released: 32 and 4).
    - Dates that chat templates write are pinned (released: today's, so that states change overnight).
    - The assistant runs once per prompt and not in every epoch, reads nothing behind its slots, and has no head run; what
      stands before the slots in a frozen base model is forwarded without gradient.
    - The steps are the data's, the answer line is no step of its own, and the wording of prompts is ours: `texts` takes any.

Shapes: A width of the assistant, D of the base model.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from unspoken.core.auxiliary.assistant import Assistant
from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import Row
from unspoken.core.text.chat import SlotMarkers, placeholder_id, slot_markers_for
from unspoken.core.text.example import Example
from unspoken.methods.soft_prompt import SoftPrompt, SoftPromptConfig


@config_class
class SoftCotConfig(SoftPromptConfig):
    """Settings of `SoftCot`; defaults are the published ones (README of xuyige/SoftCoT), the texts excepted."""

    name: Literal["softcot"] = "softcot"
    latents: int = 32  # N
    base_trains: bool = False  # all of its weights; `backbone.lora` trains adapters instead
    steps: bool = True  # write the steps; False: the answer at once
    slots: SlotMarkers | None = None  # of the base model; None = its family's (core/text/chat.py)
    assistant_slots: SlotMarkers | None = None  # of the assistant; None = its family's; only `hold` is used
    generation_header: bool = True  # the prompt ends with it


class SoftCot(SoftPrompt):
    """Soft thoughts of an assistant. See the module's card."""

    Config = SoftCotConfig
    config: SoftCotConfig

    def __init__(self, config: SoftCotConfig, backbone: Backbone) -> None:
        if not config.base_trains:
            backbone.freeze()
        super().__init__(config, backbone, Assistant(config.assistant), slot_markers_for(backbone, config.slots))
        other = self.assistant.backbone
        self.hold = placeholder_id(other, slot_markers_for(other, config.assistant_slots))

    @property
    def uses_steps(self) -> bool:
        """Whether steps are written."""
        return self.config.steps

    @property
    def ends_in_header(self) -> bool:
        """See `SoftCotConfig.generation_header`."""
        return self.config.generation_header

    def curriculum(self) -> Curriculum:
        """One stage."""
        removed = 0 if self.config.steps else None
        return single(Stage(removed=removed, groups=self.config.latents // self.latents_per_group))

    def _header(self, question: str) -> str:
        """The text between the user's turn and the model's answer."""
        bare, ended = (self.rendered([("user", question)], prompt=prompt) for prompt in (False, True))
        return ended.removeprefix(bare)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """prompt | what is written | eos; see the card."""
        header = "" if self.config.generation_header else self._header(example.question)
        return self.answered(example, header + self.config.texts.written(example, steps=stage.removed is not None))
