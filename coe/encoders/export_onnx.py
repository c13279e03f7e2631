"""Exports a sentence-transformer: `python -m coe.encoders.export_onnx OUT --weights DIR`.

Writes `model.onnx` (weights as int8 unless `--fp32`) and `tokenizer.json`, which is what
`OnnxEncoder` reads. Needs torch, transformers, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from coe.errors import ConfigError, install_hint


def export(out: Path, weights: Path, int8: bool = True) -> None:
    """Writes the encoder of the model in `weights` into the folder `out`."""
    try:
        import onnx  # noqa: F401  (torch and the quantiser need it, and name it badly)
    except ImportError:
        hint = install_hint("onnx", "local")
        raise ConfigError(f"exporting needs onnx: {hint}", key="encoder") from None
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        full = Path(scratch) / "model.onnx"
        _trace(full, weights)
        if int8:
            quantize_dynamic(full, out / "model.onnx", weight_type=QuantType.QInt8)
        else:
            shutil.copyfile(full, out / "model.onnx")
    shutil.copyfile(weights / "tokenizer.json", out / "tokenizer.json")


def _trace(file: Path, weights: Path) -> None:
    import torch
    from transformers import AutoModel

    class TokenVectors(torch.nn.Module):
        """The model with plain tensors in and out, which is what the exporter can trace."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(weights, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            return hidden

    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        TokenVectors().eval(),
        (ids, torch.ones_like(ids)),
        str(file),
        input_names=["input_ids", "attention_mask"],
        output_names=["token_vectors"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "token_vectors": axes},
        dynamo=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Export an ONNX encoder.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--weights", type=Path, required=True, help="the model's folder")
    parser.add_argument("--fp32", action="store_true", help="keep the weights as they are")
    arguments = parser.parse_args()
    export(arguments.out, arguments.weights, int8=not arguments.fp32)


if __name__ == "__main__":
    main()
