"""What does a GGUF file say of its model? Hyper-parameters as llama.cpp reads them, lineage, types, tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from parity.errors import CheckpointError, ConfigError
from parity.records import Lineage
from parity_oracles.checkpoint import Hyper
from parity_oracles.llama_cpp.convert import ARCHITECTURES, LAYER, LINEAGE, OUTSIDE

FAMILIES = {arch: family for family, arch in ARCHITECTURES.items()}
ROPE_BASE = 10000.0
"""What llama.cpp takes where a file names no base (llama_hparams.rope_freq_base_train)."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, its header read. Raises CheckpointError for one that is none."""

    path: Path
    fields: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @cached_property
    def _reader(self) -> gguf.GGUFReader:
        return gguf.GGUFReader(self.path)

    @property
    def lineage(self) -> Lineage:
        """Which weights: as our converter wrote it, else unknown."""
        known = self.fields.get(LINEAGE)
        return Lineage(known[0], tuple(known[1:])) if isinstance(known, list) and known else Lineage("unknown")

    @cached_property
    def weight_type(self) -> str:
        """The ggml type of the layers' matrices, in small letters; several joined by `+`, the most frequent first."""
        kinds = Counter(
            one.tensor_type.name.lower()
            for one in self._reader.tensors
            if len(one.shape) > 1 and "norm" not in one.name and "gate_inp" not in one.name
        )
        return "+".join(name for name, _ in kinds.most_common())

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Elements and bytes of all tensors."""
        return sum(int(t.n_elements) for t in self._reader.tensors), sum(int(t.n_bytes) for t in self._reader.tensors)

    def hyper(self) -> tuple[Hyper, dict[str, Any]]:
        """Hyper-parameters as llama.cpp takes them of this file, and values besides that a family fixes otherwise.

        Raises ConfigError for an architecture that is not mapped and for a value that is missing.
        """
        arch = self.fields.get("general.architecture")
        if arch not in FAMILIES:
            raise self._wrong(f"architecture {', '.join(FAMILIES)}", repr(arch))

        def value(key: str, default: Any = None) -> Any:
            found = self.fields.get(f"{arch}.{key}", default)
            if found is None:
                raise self._wrong(f"{arch}.{key}", "none")
            return found

        names = {tensor.name for tensor in self._reader.tensors}
        heads, hidden = int(value("attention.head_count")), int(value("embedding_length"))
        experts = int(value("expert_count", 0))
        head_dim = int(value("attention.key_length", hidden // heads))
        width = value("expert_feed_forward_length") if experts else value("feed_forward_length")
        vocab = next(int(t.shape[1]) for t in self._reader.tensors if t.name == "token_embd.weight")
        hyper = Hyper(
            family=FAMILIES[arch],
            vocab=vocab,
            hidden=hidden,
            layers=int(value("block_count")),
            heads=heads,
            kv_heads=int(value("attention.head_count_kv", heads)),
            head_dim=head_dim,
            experts=experts,
            top_k=int(value("expert_used_count")) if experts else 0,
            expert_width=int(width),
            norm_topk_prob=bool(experts),  # llama.cpp's qwen3moe always divides by the sum
            rms_eps=_plain(value("attention.layer_norm_rms_epsilon")),
            rope_theta=_plain(value("rope.freq_base", ROPE_BASE)),
            tied_embeddings="output.weight" not in names,
            max_positions=int(value("context_length")),
            quantization=None,
        )
        scaling = self.fields.get(f"{arch}.rope.scaling.type")
        more = {"rotary_dim": int(value("rope.dimension_count", head_dim))}
        return hyper, more | ({"rope_scaling": scaling} if scaling not in (None, "none") else {})

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by the name and in the shape that Hugging Face has it, dequantized to fp32.

        Rows of q and k of arch `llama` are put back into halves, as a rope over neighbouring pairs reads them.
        """
        hyper, _ = self.hyper()
        parts = {ours: theirs for theirs, ours in {**LAYER, **OUTSIDE}.items()}
        heads = {"attn_q": hyper.heads, "attn_k": hyper.kv_heads} if hyper.family == "llama" else {}
        for tensor in self._reader.tensors:
            values = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
            name = tensor.name.removesuffix(".weight")
            where, _, part = name.rpartition(".")
            layer = where.removeprefix("blk.")
            if part.endswith("_exps"):
                kind = part.removeprefix("ffn_").removesuffix("_exps")
                for number, one in enumerate(values):
                    yield f"model.layers.{layer}.mlp.experts.{number}.{kind}_proj.weight", one
                continue
            known = parts.get(part)
            if known is None:
                yield tensor.name, values
                continue
            if part in heads:
                values = values.view(heads[part], -1, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
            yield (f"model.layers.{layer}.{known}.weight" if where else f"{known}.weight"), values

    def _wrong(self, expected: str, found: str) -> ConfigError:
        return ConfigError(
            place=str(self.path), expected=expected, found=found,
            next_step="Convert the model with an architecture that the lab maps, or add a stage map for this one.",
        )  # fmt: skip


def read_gguf(path: str | Path) -> GgufFile:
    """Open a GGUF file. Raises CheckpointError for one that cannot be read."""
    try:
        reader = gguf.GGUFReader(Path(path))
        fields = {name: one.contents() for name, one in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            place=str(path), expected="a readable GGUF file", found=f"{type(error).__name__}: {error}"[:200],
            next_step="Name a .gguf file, or the Hugging Face folder to convert.",
        ) from error  # fmt: skip
    return GgufFile(Path(path), fields)


def _plain(value: Any) -> float:
    """A number that the file holds in fp32, as the decimal that it is the nearest fp32 number of."""
    return float(np.format_float_positional(np.float32(value), unique=True))
