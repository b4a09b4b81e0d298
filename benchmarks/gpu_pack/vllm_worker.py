"""vLLM's side of `benchmarks/gpu_pack/vllm_call.py`, run by an interpreter that has vLLM.

    python vllm_worker.py CASES.json SAID.json eager|graphs [--tiny]

Imports nothing of ours; vLLM finds the plugin itself.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer every case; what was said so far is written after each."""
    cases, said, kind, *more = sys.argv[1:]
    about, tiny = json.loads(Path(cases).read_text(encoding="utf-8")), "--tiny" in more
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    graphs = kind == "graphs"
    # A CPU has no graphs, and its own asynchronous scheduling is off: the trial goes through the same lines.
    settings: dict[str, Any] = {"enforce_eager": not graphs or tiny, "async_scheduling": graphs and not tiny}
    if not tiny:
        settings |= {"gpu_memory_utilization": 0.6, "attention_backend": "TRITON_ATTN"}
    engine = LLM(
        model=about["folder"], dtype=about["dtype"], max_model_len=about["length"], max_num_seqs=about["at_once"],
        enable_prefix_caching=False, disable_log_stats=True, **settings,
    )  # fmt: skip
    done: list[dict[str, Any]] = []
    for case in about["cases"]:
        params = [
            SamplingParams(
                max_tokens=latents + case["after"] + case["tokens"], temperature=0, ignore_eos=case["ignore_eos"],
                extra_args={"latents": latents}, detokenize=False,
            )
            for latents in case["latents"]
        ]  # fmt: skip
        prompts = [{"prompt_token_ids": ids} for ids in case["prompts"]]
        if case["warm"]:
            engine.generate(prompts, params, use_tqdm=False)
        begun = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begun
        answers = [
            list(output.outputs[0].token_ids)[latents + case["after"] :]
            for output, latents in zip(outputs, case["latents"], strict=True)
        ]
        done.append(
            {"name": case["name"], "seconds": seconds, "questions": len(prompts), "answers": answers,
             "tokens_said": sum(map(len, answers))}
        )  # fmt: skip
        Path(said).write_text(json.dumps(done) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
