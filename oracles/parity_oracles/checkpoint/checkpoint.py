"""What is each weight of a model folder worth, and was every tensor of it used exactly as its format says?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from parity.errors import CheckpointError, ConfigError
from parity_oracles.checkpoint import layout
from parity_oracles.checkpoint.block_fp8 import E4M3, SCALE_DTYPES, dequantize_block_fp8, scale_grid
from parity_oracles.checkpoint.files import TensorFiles
from parity_oracles.checkpoint.hyper import Hyper, read_hyper
from parity_oracles.checkpoint.text import TextDecoder

SCALE = "_scale_inv"
PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Checkpoint:
    """A model folder that was checked against its configuration. Tensors are memory-mapped and read when asked for.

    config: `config.json` as it is. hyper: what it says. decoder: ids to text, None without a tokenizer. block: rows and
    columns of an FP8 scale's block.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], hyper: Hyper, files: TensorFiles) -> None:
        self.folder = folder
        self.config = config
        self.hyper = hyper
        self.block = (128, 128)
        self._files = files
        self._used: set[str] = set()
        self._verify()
        self.decoder = TextDecoder.beside(folder, vocab=hyper.vocab)

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor stored, scales included."""
        return tuple(self._files.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header alone."""
        return self._files.entries[name].shape

    def dtype(self, name: str) -> torch.dtype | None:
        """A tensor's dtype as stored, from the header alone."""
        return self._files.entries[name].dtype

    def is_fp8(self, name: str) -> bool:
        """True when weight `name` is stored as E4M3 with block scales."""
        return self._files.entries[name].dtype == E4M3

    def weight(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weight `name` as numbers in `dtype`: dequantized in fp32 when FP8, then rounded once to nearest even."""
        if self.is_fp8(name):
            values, scales = self.quantized(name)
            return dequantize_block_fp8(values, scales, block=self.block, dtype=dtype, name=name)
        self._used.add(name)
        return self._files.read(name).to(dtype)

    def quantized(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """An FP8 weight as stored: values [N, K] e4m3, scales [ceil(N/128), ceil(K/128)] in fp32."""
        self._used |= {name, name + SCALE}
        return self._files.read(name), self._files.read(name + SCALE).float()

    def finish(self) -> None:
        """Raise CheckpointError unless every tensor, scales included, was taken since the folder was read."""
        left = sorted(set(self.names) - self._used)
        if left:
            raise self._wrong("every tensor of the checkpoint used", _some(left) + " never read")

    def _verify(self) -> None:
        """Names, shapes and dtypes against what the configuration implies, before any number is read."""
        entries = self._files.entries
        implied = layout.weights(self.hyper)
        # More than twice too many is another model; it may be a billion, and is not listed.
        if implied > 2 * len(entries) + 1000:
            sizes = f"{self.hyper.layers} layers of {self.hyper.experts} experts"
            last = f"model.layers.{self.hyper.layers - 1}.mlp.gate.weight"
            raise self._wrong(
                f"{implied} weights ({sizes}), the last router being {last}", f"{len(entries)} tensors, missing: {last}"
            )
        linears, others = layout.quantizable(self.hyper), layout.plain(self.hyper)
        shapes = {**linears, **others}
        self._verify_tied_head(shapes)
        missing = sorted(shapes.keys() - entries.keys())
        if missing:
            raise self._wrong(f"{len(shapes)} weights", f"missing: {_some(missing)}")
        for name, shape in shapes.items():
            if entries[name].shape != shape:
                raise self._wrong(f"{name} of shape {list(shape)}", str(list(entries[name].shape)))
        scaled = {name for name in linears if entries[name].dtype == E4M3}
        for name in shapes:
            allowed = (*PLAIN_DTYPES, E4M3) if name in linears else PLAIN_DTYPES
            if entries[name].dtype not in allowed:
                raise self._wrong(f"{name} in one of {_dtypes(allowed)}", entries[name].dtype_name)
        self._verify_scales(scaled, shapes)
        extra = sorted(entries.keys() - shapes.keys() - {name + SCALE for name in scaled})
        if extra:
            raise self._wrong("no tensor besides those the configuration implies", f"also: {_some(extra)}")

    def _verify_scales(self, scaled: set[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        entries = self._files.entries
        if bool(scaled) != (self.hyper.quantization is not None):
            raise self._wrong(
                "E4M3 weights exactly when config.json has a quantization_config",
                f"{len(scaled)} E4M3 weights with quantization {self.hyper.quantization}",
            )
        for name in sorted(scaled):
            scale = entries.get(name + SCALE)
            if scale is None:
                raise self._wrong(f"{name}{SCALE} beside the E4M3 weight", "no such tensor")
            grid = scale_grid(shapes[name], self.block)
            if scale.shape != grid:
                raise self._wrong(f"{name}{SCALE} of shape {list(grid)}", str(list(scale.shape)))
            if scale.dtype not in SCALE_DTYPES:
                raise self._wrong(f"{name}{SCALE} in one of {_dtypes(SCALE_DTYPES)}", scale.dtype_name)
            self._verify_scale_values(name)

    def _verify_scale_values(self, name: str) -> None:
        """Each scale finite and above 0. Zero passes where the block's codes are zeros too: nothing is lost there."""
        scale = self._files.read(name + SCALE).float()
        if bool((scale.isfinite() & (scale > 0)).all()):
            return
        codes = self._files.read(name).float().ne(0)  # NaN codes are unequal to 0 as well
        rows, columns = self.block
        for i, j in (~(scale.isfinite() & (scale > 0))).nonzero().tolist():
            block = codes[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            if float(scale[i, j]) != 0 or bool(block.any()):
                raise self._wrong(f"{name}{SCALE} finite and above 0", f"{float(scale[i, j])} at block [{i}, {j}]")

    def _verify_tied_head(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """A tied model may store the head all the same; then it must be the embedding, bit for bit."""
        if not self.hyper.tied_embeddings or "lm_head.weight" not in self._files.entries:
            return
        head, embedding = self._files.read("lm_head.weight"), self._files.read("model.embed_tokens.weight")
        if head.dtype != embedding.dtype or not torch.equal(head, embedding):
            raise self._wrong("lm_head.weight equal to the embedding, since tie_word_embeddings is set", "another one")
        shapes["lm_head.weight"] = tuple(embedding.shape)
        self._used.add("lm_head.weight")

    def _wrong(self, expected: str, found: str) -> CheckpointError:
        return CheckpointError(
            place=str(self.folder),
            expected=expected,
            found=found,
            next_step="Compare the checkpoint with config.json; one of them is of another model or another conversion.",
        )


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Open the HF model folder `folder` and check names, shapes, dtypes and scale grids against its configuration.

    Nothing but headers, scales, the tokenizer and a tied head that is stored all the same is read here. Raises
    ConfigError for config.json, CheckpointError for the tensors and the tokenizer.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"a JSON {type(config).__name__} instead of an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            place=str(path),
            expected="a readable HF config.json",
            found="no such file" if isinstance(error, FileNotFoundError) else str(error),
            next_step="Point at the folder that holds config.json and the safetensors files.",
        ) from error
    return Checkpoint(folder, config, read_hyper(config, place=str(path)), TensorFiles(folder))


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _dtypes(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
