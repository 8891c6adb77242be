"""Model folders read with our own dequantizers: which tensors there are, what they are worth, that all are used."""

from __future__ import annotations

from parity_oracles.checkpoint.block_fp8 import dequantize_block_fp8
from parity_oracles.checkpoint.checkpoint import Checkpoint, read_checkpoint
from parity_oracles.checkpoint.hyper import Hyper, read_hyper
from parity_oracles.checkpoint.text import TextDecoder

__all__ = ["Checkpoint", "Hyper", "TextDecoder", "dequantize_block_fp8", "read_checkpoint", "read_hyper"]
