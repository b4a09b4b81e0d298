"""Export a run with precomputed thoughts as a folder that turns questions into prompt embeddings without the base model.

    prompt_embeds.json        the method, what the engine must serve, how to speak
    embeddings.safetensors    the base model's input embeddings
    method.safetensors        what the method adds: the projection, ...
    tokenizer/                the base model's
    assistant/                the assistant, an ordinary Hugging Face folder
    README.md                 how to serve it

An engine that accepts prompt embeddings (vLLM: `--enable-prompt-embeds`) then serves the unmodified base model: the
thoughts are in the embeddings. This works only for methods whose thoughts are known before the first pass.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unspoken.core.checks import latents_asked, samples_differ, spoken, whole
from unspoken.core.config import build, dump
from unspoken.core.files import check_new, expanded, parse_json, write_folder
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import resolve
from unspoken.core.lm.pretrained import adapter_base
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.rows.batch import collate
from unspoken.core.tensors import load_tensors, save_tensors
from unspoken.errors import ConfigError, RunError
from unspoken.methods import make_method
from unspoken.methods.base import Method, parts_of
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir
from unspoken.runs.earlier import updated_method
from unspoken.runs.model import Model
from unspoken.runs.saved import own_state, placed, save_models

FORMAT = 1
"""Version of the folder."""

_ABOUT, _TABLE, _METHOD = "prompt_embeds.json", "embeddings.safetensors", "method.safetensors"


class Embeddings(nn.Module):
    """The parts of a base model that prompts need: tokenizer and input embeddings. It cannot run.

    Args:
        table_VD: the input embedding of every token, including the model's scaling.
        tokenizer: the base model's.
    """

    def __init__(self, table_VD: Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.lm: Any = nn.Embedding.from_pretrained(table_VD)
        self.tokenizer = tokenizer

    context = None  # of the base model: the engine knows

    @property
    def width(self) -> int:
        """D."""
        return int(self.lm.weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.lm.weight.device

    def freeze(self) -> None:
        """Does nothing: there is nothing to train."""

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """See `Backbone.encode`."""
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def embed(self, ids: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        return self.lm(ids)


@dataclass(kw_only=True)
class PromptEmbedder:
    """Turns questions into prompt embeddings.

    Attributes:
        method: built on `Embeddings`.
        model: the engine's name of the base model.
        speaking: the run's sampling settings.
        eos_ids: tokens that end an answer.
    """

    method: Method
    model: str
    speaking: SamplingParams
    eos_ids: tuple[int, ...]

    @classmethod
    def load(cls, folder: str | Path) -> PromptEmbedder:
        """Read what `export_prompt_embeds` wrote.

        Raises:
            RunError: something is missing, truncated or of another format.
        """
        folder = Path(folder)
        try:
            about = parse_json((folder / _ABOUT).read_bytes())
            if about.get("format") != FORMAT:
                raise RunError(f"{folder}: expected prompt embeddings of format {FORMAT}, got {about.get('format')!r}")
            table = load_tensors(folder / _TABLE)["embeddings"]
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise RunError(
                f"{folder} is no folder of `unspoken export --prompt-embeds`, or not a whole one: {error}; export again"
            ) from error
        data, _ = updated_method(about["method"])
        for inside in folder.glob("*/"):
            if (inside / "config.json").is_file():
                placed(data, inside.name, inside)
        method = make_method(data, Embeddings(table, tokenizer))  # pyright: ignore[reportArgumentType]
        wanted, found = own_state(method), load_tensors(folder / _METHOD)
        if {name: t.shape for name, t in wanted.items()} != {name: t.shape for name, t in found.items()}:
            raise RunError(f"{folder / _METHOD} does not fit the method; export again")
        for name, tensor in wanted.items():
            tensor.data.copy_(found[name])
        method.eval()
        for module in method.modules():
            if isinstance(module, Backbone):
                module.remembered = 0  # no question comes twice
        return cls(
            method=method,
            model=about["model"],
            speaking=build(SamplingParams, about["speaking"]),
            eos_ids=tuple(about["eos_ids"]),
        )

    @classmethod
    def of_run(cls, model: Model) -> PromptEmbedder:
        """An embedder for a loaded run, without exporting a folder.

        Raises:
            RunError: it was not loaded from a run.
        """
        run = RunDir(str(model.path))
        name, _ = _engine_model(run, run.config(), model.method)
        return cls(method=model.method, model=name, speaking=model.speaking, eos_ids=model.method.backbone.eos_ids)

    @property
    def _source(self) -> PrecomputedThoughts:
        return cast("PrecomputedThoughts", self.method.source())

    @property
    def chains(self) -> int:
        """Number of sets of thoughts for one question."""
        return self._source.chains

    @property
    def _context(self) -> int | None:
        """The most positions that all models beside the base model take; None if unknown."""
        found = (part.lm.context for part in parts_of(self.method).values() if part.lm is not None)
        return min((most for most in found if most is not None), default=None)

    @torch.inference_mode()
    def embeds(self, question: str, *, latents: int | None = None, chains: int = 1) -> list[Tensor]:
        """The prompt as embeddings [L, D] in the base model's type, one per set of thoughts.

        Raises:
            ConfigError: an impossible number of latents or sets.
            DataError: the question is empty or contains a special token.
        """
        question = spoken(question, "the question")
        latents = latents_asked(latents, self._context)
        chains = whole(chains, "chains", least=1, most=self.chains)
        row = self.method.prompt(question, latents, "the question")
        at = self.method.backbone.device
        given_LD = self.method.backbone.embed(torch.tensor(row.ids, device=at))
        if not row.latents:
            return [given_LD] * chains
        thoughts_CKD = self._source.vectors(collate([row]).to(at), chains)[:, : row.latents]
        made = []
        for thoughts_KD in thoughts_CKD:
            made.append(given_LD.clone())
            made[-1][row.start : row.start + row.latents] = thoughts_KD.to(given_LD.dtype)
        return made

    def request(
        self, question: str, *, latents: int | None = None, chains: int = 1, samples: int = 1, **more: object
    ) -> dict[str, Any]:
        """The body of one request to vLLM's completions API (`POST /v1/completions`).

        With several sets of thoughts it contains all their prompts, and answers come in that order, `samples` of each. An
        engine samples every set with the same seed; see `requests`.

        Args:
            question: plain text.
            latents: how many; None = as trained.
            chains: sets of thoughts.
            samples: answers per set.
            more: other fields of the API, which override the run's.

        Raises:
            ConfigError: fields that the embeddings replace, numbers out of range, or several answers that would all be the
                same.
            DataError: the question is invalid.
        """
        encoded = [encode(embeds_LD) for embeds_LD in self._embeds(question, latents, chains, more)]
        return self._body(encoded[0] if len(encoded) == 1 else encoded, samples, more)

    def requests(
        self, question: str, *, latents: int | None = None, chains: int = 1, samples: int = 1, **more: object
    ) -> list[dict[str, Any]]:
        """Bodies of requests in which every answer is sampled independently; see `request`.

        A single request if greedy, or with one set of thoughts; otherwise one per set. vLLM samples the answers of a
        request with seed, seed + 1, ..., so the sets' seeds are `samples` apart.
        """
        body = self.request(question, latents=latents, chains=chains, samples=samples, **more)
        if chains == 1 or body["temperature"] == 0:
            return [body]
        first = body["seed"]
        return [
            {**body, "prompt_embeds": one, **({} if first is None else {"seed": first + number * samples})}
            for number, one in enumerate(body["prompt_embeds"])
        ]

    def _embeds(self, question: str, latents: int | None, chains: int, more: Mapping[str, object]) -> list[Tensor]:
        if odd := {"prompt", "prompt_embeds"} & set(more):
            raise ConfigError(f"{sorted(odd)[0]!r} is what this makes; give the question, and other fields of the API only")
        if "n" in more:
            raise ConfigError("'n' is called 'samples' here: answers per set of thoughts")
        return self.embeds(question, latents=latents, chains=chains)

    def _body(self, embeds: str | list[str], samples: int, more: Mapping[str, object]) -> dict[str, Any]:
        s = self.speaking
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": "",  # clients of the API refuse none
            "max_tokens": s.max_new_tokens,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "top_k": s.top_k,  # 0: all, there as here
            "seed": s.seed,
            "stop_token_ids": list(self.eos_ids),
            "n": whole(samples, "samples", least=1),
            "prompt_embeds": embeds,
        }
        temperature = more.get("temperature", s.temperature)
        if temperature == 0:  # greedy: nothing is drawn
            samples_differ(samples, 0.0)
            for name in ("top_p", "top_k", "seed"):
                del body[name]
        return {**body, **more}


def encode(embeds_LD: Tensor) -> str:
    """Encode a tensor for the API: base64 of what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(embeds_LD.detach().cpu().contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def export_prompt_embeds(path: str | Path, out: str | Path) -> None:
    """Write a run as such a folder.

    Raises:
        ConfigError: the run's thoughts are not all known before the first pass.
        RunError: `path` is no run, or `out` exists and is not empty.
    """
    check_new(out)
    run = RunDir(path)
    config = run.config()
    method = run.load_method(at_inference=True)
    if not isinstance(method.source(), PrecomputedThoughts):
        raise ConfigError(
            f"method {method.config.name!r} cannot be served as prompt embeddings: its thoughts come out of the base model "
            "itself; use --format hf or run"
        )
    name, unmodified = _engine_model(run, config, method)
    about = {
        "format": FORMAT,
        "model": name,
        "unmodified": unmodified,
        "method": dump(method.answering_config()),
        "speaking": dump(config.speaking),
        "eos_ids": list(method.backbone.eos_ids),
    }

    def write(folder: Path) -> None:
        folder.mkdir()
        with torch.no_grad():
            table_VD = method.backbone.embed(torch.arange(method.backbone.vocabulary))
        save_tensors(folder / _TABLE, {"embeddings": table_VD.clone()})
        save_tensors(folder / _METHOD, own_state(method, answering=True))
        method.backbone.tokenizer.save_pretrained(folder / "tokenizer")
        save_models(method, folder, answering=True, elsewhere=True)
        (folder / _ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_readme(about["model"]), encoding="utf-8")

    write_folder(out, write, then="export again")


def is_prompt_embeds(path: str | Path) -> bool:
    """Whether a folder is one that `export_prompt_embeds` wrote."""
    return (Path(path) / _ABOUT).is_file()


def _engine_model(run: RunDir, config: RunConfig, method: Method) -> tuple[str, bool]:
    """The model that an engine must serve, and whether it is the unmodified base model."""
    trained = any(p.requires_grad for p in method.backbone.parameters())
    unmodified = not trained and config.backbone.path is not None and _is_unmodified(config.backbone)
    return str(config.backbone.path if unmodified else run.path.resolve() / "model"), unmodified


def _is_unmodified(base: BackboneConfig) -> bool:
    """Whether an engine can serve the base model from its original place. Not if it was trained or merged with an adapter,
    or if only unspoken knows the place (a run, a built-in model); then the run's own folder is served.
    """
    if base.path is None or base.lora is not None:
        return False
    where = resolve(base.path)
    return adapter_base(where) is None and Path(where) == expanded(base.path)


def _readme(model: str) -> str:
    return f"""# Prompt embeddings with soft thoughts

The base model is served as it is; this folder turns a question into the vectors of its prompt, thoughts included.

    vllm serve {model} --enable-prompt-embeds
    unspoken serve . --engine http://localhost:8000/v1

    curl localhost:8100/v1/completions -H 'Content-Type: application/json' -d '{{"prompt": "..."}}'

The fields of vLLM's completions API are passed on; `latents`, `chains` and `samples` (its `n`) are unspoken's. Without
`--engine` the service only answers `POST /v1/prompt_embeds`, with the body to send to an engine; where answers are drawn
from several sets of thoughts, with a list of bodies, one per set, each with a seed of its own. `UNSPOKEN_API_KEY`
is a key that clients must send. Whoever may send prompt embeddings to an engine can crash it: keep it behind this service.
"""
