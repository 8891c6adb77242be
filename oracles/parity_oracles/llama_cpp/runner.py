"""What does llama.cpp compute? A GGUF file, or a folder converted to one, run on the CPU with every stage shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from parity.errors import UsageError
from parity.preview import RunnerPreview
from parity.records import Rows
from parity.runner import CapturePlan, ComputedGraft, Generation, Graft, Request, RunnerInfo, Schedule
from parity.sampling import Sampling
from parity.trace import Trace, lineage_of
from parity_oracles.checkpoint import read_checkpoint
from parity_oracles.checkpoint.text import TextDecoder
from parity_oracles.feeding import Feeder
from parity_oracles.llama_cpp.convert import TYPES, convert, refuse_unlike
from parity_oracles.llama_cpp.gguf_file import GgufFile, read_gguf
from parity_oracles.llama_cpp.library import Context, Model, Node, See, installed_version, llama
from parity_oracles.llama_cpp.tap import Tap, match_nodes
from parity_oracles.preview import preview
from parity_oracles.recipes.ggml import ggml_recipe, recipe_name
from parity_oracles.stagemap import Found, StageMap, load_map, sizes_of

KV = ("f16", "f32")
ROOM = 256
"""Positions of a context are a multiple of this: llama.cpp pads its cache to it anyway."""


class LlamaCppRunner(Feeder):
    """A model in llama.cpp on the CPU, its graph as the library builds it; sampling is the lab's own.

    One request at a time, each in a context of its own. A prompt goes through in chunks of at most `ubatch` ids, one
    graph each, as llama.cpp itself cuts it; they are the chunks of the trace. Grafts are written into a node's memory
    before the next one is computed. Cache slots, padding, poison and relabelling cannot be turned.
    """

    name = "llama_cpp"
    can = frozenset({"forward", "generate", "sample", "graft", "chunk", "parameters"})

    def __init__(
        self, file: GgufFile, *, source: Path | None, flash: bool, kv: str, threads: int, ubatch: int,
        stage_map: StageMap | None = None,
    ) -> None:  # fmt: skip
        hyper, self._more = file.hyper()
        self.file, self.kv, self.flash, self.threads, self.ubatch = file, kv, flash, threads, ubatch
        lineage = lineage_of(source) if source is not None else file.lineage
        recipe = ggml_recipe(file.weight_type, kv, flash=flash)
        decoder = None if source is None else TextDecoder.beside(source, vocab=hyper.vocab)
        super().__init__(str(source or file.path), hyper, recipe, lineage, decoder=decoder)
        self.stage_map = stage_map or load_map(self.name, hyper.family)
        self.model = Model(file.path)
        self._tap: Tap | None = None
        self._room = ROOM

    def describe(self) -> RunnerInfo:
        """As every oracle does; the cache's dtype, flash attention and the size of a micro-batch can be turned."""
        small = "16" if self.ubatch != 16 else "32"
        knobs = {
            "kv": tuple(one for one in KV if one != self.kv),
            "flash_attn": (str(not self.flash).lower(),),
            "ubatch": (small,),
        }
        return replace(super().describe(), knobs=knobs)

    def effective(self) -> dict[str, Any]:
        """What llama.cpp read of the file."""
        return {**self.hyper.implied(), **self._more}

    def flags(self) -> dict[str, Any]:
        return {
            "llama_cpp_python": installed_version(), "flash_attn": self.flash, "kv": self.kv, "ubatch": self.ubatch,
            "threads": self.threads, "gguf": self.file.path.name, "system": llama().llama_print_system_info().decode(),
        }  # fmt: skip

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Every tensor of the file that is loaded, by the checkpoint's names, dequantized."""
        return dict(self.file.parameters())

    @cached_property
    def found(self) -> Found:
        """The stage map held against the graph, which one id is sent through. Raises ProbeError where they disagree."""
        seen: Counter[tuple[str, str]] = Counter()

        def wants(node: Node) -> bool:
            seen[node.name, node.op] += 1
            return False

        context = self._context(See(wants, lambda node: None), ROOM, 1)
        context.decode([0], 0, last_only=False)
        context.close()
        return match_nodes(self.stage_map, seen, layers=self.hyper.layers)

    @contextmanager
    def tapped(self) -> Iterator[Tap]:
        self._tap = Tap(self.found, sizes_of(self.hyper.implied()))
        try:
            yield self._tap
        finally:
            self._tap = None

    def new_cache(self) -> Context:
        return self._context(None if self._tap is None else self._tap.see, self._room, self.ubatch)

    def _context(self, see: See | None, length: int, ubatch: int) -> Context:
        return self.model.context(
            length=length, ubatch=min(ubatch, length), flash=self.flash, kv=self.kv, threads=self.threads, see=see
        )

    def step(
        self, ids: torch.Tensor, start: int, cache: Context, probe: Any, rows: Rows, *, last_only: bool
    ) -> torch.Tensor:
        if self._tap is not None:
            self._tap.begin(probe, rows)
        return cache.decode(ids.tolist(), start, last_only=last_only)

    def forward(
        self,
        requests: Sequence[Request],
        *,
        schedule: Schedule = Schedule(),
        capture: CapturePlan | None = None,
        graft: Sequence[Graft | ComputedGraft] = (),
    ) -> Trace:
        """Run the requests teacher-forced and return what the probes saw; see Feeder."""
        return super().forward(requests, schedule=self._cut(schedule), capture=capture, graft=graft)

    def logits(self, requests: Sequence[Request], *, schedule: Schedule = Schedule()) -> torch.Tensor:
        """Logits without a callback, [rows of all steps, V]."""
        return super().logits(requests, schedule=self._cut(schedule))

    def generate(
        self,
        request: Request,
        *,
        max_new_tokens: int,
        schedule: Schedule = Schedule(),
        graft: Sequence[Graft | ComputedGraft] = (),
        sampling: Sampling | None = None,
    ) -> Generation:
        """Continue one request; end-of-text ids do not stop it. The choice of a token is the lab's, not llama.cpp's."""
        cut = self._cut(schedule)
        return super().generate(request, max_new_tokens=max_new_tokens, schedule=cut, graft=graft, sampling=sampling)

    def _cut(self, schedule: Schedule) -> Schedule:
        if schedule.chunk is not None and (type(schedule.chunk) is not int or schedule.chunk < 1):
            return schedule  # to be refused with the rest
        return replace(schedule, chunk=min(schedule.chunk or self.ubatch, self.ubatch))

    def _check(self, requests: Sequence[Request], schedule: Schedule, new_tokens: int = 0) -> None:
        super()._check(requests, schedule, new_tokens)
        longest = max((len(request.ids) for request in requests), default=0) + new_tokens
        self._room = -(-max(longest, 1) // ROOM) * ROOM


def open_runner(
    model: str,
    *,
    dtype: str = "f32",
    flash_attn: bool = False,
    kv: str = "f16",
    threads: int = 1,
    ubatch: int = 512,
    folder: str | None = None,
    cache: str | None = None,
) -> LlamaCppRunner:
    """llama.cpp on `model`, a `.gguf` file or a Hugging Face folder, which is converted first.

    dtype: of the conversion, `f32`, `bf16` or `q8_0`; a file has its own. kv: of the KV cache, `f16` or `f32`.
    flash_attn: the fused attention, which reads the cache as F16 whatever it is. ubatch: most ids of a prompt at once.
    folder: the Hugging Face folder that a file was converted from, for its lineage and tokenizer; our own conversion
    writes the lineage into the file. cache: where converted files are kept.
    Raises UsageError for other options, RunnerError where llama-cpp-python is not installed.
    """
    _check_options(dtype, kv, threads, ubatch)
    llama()
    if model.endswith(".gguf"):
        file, source = read_gguf(model), None if folder is None else Path(folder)
    else:
        file, source = read_gguf(convert(model, dtype=dtype, cache=cache)), Path(model)
    return LlamaCppRunner(file, source=source, flash=flash_attn, kv=kv, threads=threads, ubatch=ubatch)


def preview_runner(
    model: str,
    *,
    dtype: str = "f32",
    flash_attn: bool = False,
    kv: str = "f16",
    threads: int = 1,
    ubatch: int = 512,
    folder: str | None = None,
    cache: str | None = None,
) -> RunnerPreview:
    """What `open_runner` would give, from config.json and headers; nothing is converted, and no engine needed."""
    _check_options(dtype, kv, threads, ubatch)
    dtypes = {"": "float32", "moe.topk_ids": "int32"}
    if not model.endswith(".gguf"):
        checkpoint = read_checkpoint(model)
        refuse_unlike(checkpoint.hyper, dtype)
        name = recipe_name(dtype, kv, flash=flash_attn)
        return preview(checkpoint, name="llama_cpp", recipe=name, dtypes=dtypes, held="float32")
    file = read_gguf(model)
    hyper, _ = file.hyper()
    stages = tuple(stage for _, stage in load_map("llama_cpp", hyper.family).sites(1))
    parameters, size = file.sizes
    return RunnerPreview(
        name="llama_cpp", family=hyper.family, recipe=recipe_name(file.weight_type, kv, flash=flash_attn),
        layers=hyper.layers, axes=sizes_of(hyper.implied()), stages=stages,
        dtypes={stage: dtypes.get(stage, dtypes[""]) for stage in stages}, vocab=hyper.vocab,
        max_positions=hyper.max_positions, parameters=parameters, weight_bytes=size,
    )  # fmt: skip


def _check_options(dtype: str, kv: str, threads: int, ubatch: int) -> None:
    if dtype not in TYPES or kv not in KV or threads < 1 or ubatch < 1:
        raise UsageError(
            place="runner llama_cpp",
            expected=f"dtype one of {', '.join(TYPES)}, kv one of {', '.join(KV)}, threads and ubatch at least 1",
            found=f"dtype {dtype!r}, kv {kv!r}, threads {threads}, ubatch {ubatch}",
            next_step="Correct the option; a .gguf file of another type is opened by its own name.",
        )
