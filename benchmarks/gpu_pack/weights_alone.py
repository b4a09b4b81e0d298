"""A GGUF file without its tokenizer: python -m benchmarks.gpu_pack.weights_alone FILE OUT. Needs the package gguf."""

from __future__ import annotations

import sys
from pathlib import Path


def write(file: Path, out: Path) -> None:
    """Copy the tensors as they are stored, and what describes the model."""
    import gguf

    read = gguf.GGUFReader(file)
    new = gguf.GGUFWriter(out, read.fields["general.architecture"].contents())
    for name, value in read.fields.items():
        if not name.startswith(("GGUF.", "tokenizer.")) and name != "general.architecture":
            new.add_key_value(name, value.contents(), *value.types[:2])
    for tensor in read.tensors:
        new.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    new.write_header_to_file()
    new.write_kv_data_to_file()
    new.write_tensors_to_file()
    new.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
