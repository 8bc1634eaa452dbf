"""The weights of a GGUF file in another precision, for llama.cpp: what it holds is dequantised and written again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# The writer begins every file with these.
WRITTEN = ("GGUF.", "general.architecture", "general.file_type")


def rewrite(source: Path, target: Path, precision: str) -> None:
    """Write a GGUF file with the same settings, tokenizer and weights.

    Args:
        source: the file to read.
        target: the file to write.
        precision: "F32", exact, or "Q8_0", 8 bits and a scale for 32 weights; vectors stay float32.
    """
    import gguf

    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), reader.fields["general.architecture"].contents())
    types = gguf.LlamaFileType
    writer.add_file_type(types.ALL_F32 if precision == "F32" else types.MOSTLY_Q8_0)
    for name, entry in reader.fields.items():
        if not name.startswith(WRITTEN):
            of = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], of)
    kind = gguf.GGMLQuantizationType[precision]
    for tensor in reader.tensors:
        weights = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if weights.ndim == 1:
            writer.add_tensor(tensor.name, weights)
        else:
            writer.add_tensor(tensor.name, gguf.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
