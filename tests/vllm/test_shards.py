"""Two processes that share a model's matrices think alike. Slow: each starts a vLLM of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from support.vllm_engine import Said, load, ours, questions, same
from support.vllm_runs import FAMILIES, METHODS, random_run

from unspoken.exporters.vllm_folder import export_vllm

WORKER = """
import json, sys
from vllm import LLM, SamplingParams

def main():
    job = json.load(open(sys.argv[1]))
    llm = LLM(job["folder"], dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=32,
              tensor_parallel_size=2, disable_log_stats=True)
    params = [SamplingParams(temperature=0, max_tokens=7 + k, extra_args={"latents": k}) for k in job["latents"]]
    chats = [[{"role": "user", "content": question}] for question in job["questions"]]
    outputs = llm.chat(chats, params, use_tqdm=False)
    json.dump([list(output.outputs[0].token_ids) for output in outputs], open(sys.argv[2], "w"))

if __name__ == "__main__":
    main()
"""


def test_two_processes_answer_as_one(tmp_path: Path):
    run = random_run(tmp_path / "run", METHODS["codi"], FAMILIES["llama"])
    export_vllm(run, tmp_path / "out")
    asked = questions(40)
    numbers = list(itertools.islice(itertools.cycle([0, 1, 6, 12]), len(asked)))
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    job = {"folder": str(tmp_path / "out"), "questions": asked, "latents": numbers}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    around = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    done = subprocess.run(
        [sys.executable, tmp_path / "worker.py", tmp_path / "job.json", tmp_path / "said.json"],
        env=around, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    want: list[Said] = ours(load(run), asked, numbers, 6)
    alike = [same(w, tuple(tokens[k + 1 :])) for w, tokens, k in zip(want, said, numbers, strict=True)]
    assert alike.count(False) == 0
    assert alike.count(None) <= 1
