"""vLLM beside our engine: a process of its own environment, since it pins other versions of what we stand on."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from unspoken.core.lm.backbone import Backbone
from unspoken.errors import ConfigError


class VllmSide:
    """vLLM with a model's weights, inside a `with`.

    Args:
        python: the interpreter of an environment with vLLM.
        backbone: the model, given to it as a folder.
        dtype: float32 or bfloat16.

    Raises:
        ConfigError: on entering or asking: no such interpreter, or vLLM does not start or answer; with what it said last.
    """

    def __init__(self, python: str | Path, backbone: Backbone, dtype: str) -> None:
        self.python, self.backbone, self.dtype = str(python), backbone, dtype

    def __enter__(self) -> VllmSide:
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        self.backbone.save(place / "model")
        self._log = open(place / "log", "w+")
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        worker = Path(__file__).with_name("vllm_worker.py")
        try:
            self._process = subprocess.Popen(
                [self.python, str(worker), str(place / "model"), self.dtype],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
                env={**environment, **threads, **alone},
            )  # fmt: skip
        except OSError as error:
            self._leave()
            raise ConfigError(f"{self.python} does not run: {error.strerror}; name an environment's python") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._leave()

    def _leave(self) -> None:
        self._log.close()
        self._folder.cleanup()

    def ask(self, ids: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Greedy continuations of prompts, each of so many tokens."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"ids": [list(row) for row in ids], "tokens": tokens}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            last = " ".join(self._log.read().split())[-600:]
            raise ConfigError(f"vLLM in {self.python} gave no answer; it said last: {last}")
        return json.loads(line)
