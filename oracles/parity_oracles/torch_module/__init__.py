"""Any PyTorch module as a runner: eager, compiled whole, in CUDA graphs, seen through a stage map.

    runner = TorchRunner(TorchModel(module, "llama", hyper={...}, stage_map=load_map("torch", "llama")))
    trace = runner.forward([Request("prompt", ids)], capture=CapturePlan())

A module whose forward pass has no submodule at a stage shows it with `show(self, "query", tensor)`.
"""

from __future__ import annotations

from parity_oracles.torch_module.compiling import Compilation
from parity_oracles.torch_module.model import TorchModel
from parity_oracles.torch_module.runner import TorchRunner
from parity_oracles.torch_module.showing import show

__all__ = ["Compilation", "TorchModel", "TorchRunner", "show"]
