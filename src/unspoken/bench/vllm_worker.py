"""The side "vLLM" of `unspoken bench generate`, run by the interpreter of vLLM's own environment.

    python vllm_worker.py FOLDER DTYPE

A JSON line in, a JSON line out: prompts as token ids and a number of tokens; the tokens said. Imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Answer until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # vLLM prints to standard output
    folder, dtype = sys.argv[1:]
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    engine = LLM(model=folder, dtype=dtype, skip_tokenizer_init=True, enable_prefix_caching=False, max_num_seqs=256)
    for line in sys.stdin:
        asked = json.loads(line)
        how = SamplingParams(max_tokens=asked["tokens"], temperature=0, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in asked["ids"]]
        found = engine.generate(prompts, how, use_tqdm=False)
        said = [list(one.outputs[0].token_ids) for one in found]
        os.write(answers, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
