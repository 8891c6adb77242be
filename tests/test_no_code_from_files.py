"""Does anything here run what lies in a file? No pickle in any disguise, and no model's own code unless asked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("parity", "kernels", "oracles", "fixtures", "benchmarks", "notebooks")

# Modules whose loaders run what they read, and those made to call them.
MODULES = {
    "pickle", "_pickle", "cPickle", "pickle5", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle",
    "klepto", "copyreg", "pickletools",
}  # fmt: skip
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.jit.save", "torch.hub.load", "torch.package.PackageImporter",
    "torch.hub.load_state_dict_from_url", "torch.export.load", "numpy.lib.format.read_array", "numpy.lib.npyio.load",
    "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
# By their last word, whatever object they are called on.
METHODS = {"read_pickle", "to_pickle", "load_model_from_pickle"}
PREFIXES = ("torch.serialization",)
# Keywords that open a door when they are anything but False.
DOORS = {"allow_pickle", "trust_remote_code"}


def dangers(source: str) -> list[str]:
    """Each way in which a file of Python loads code from data, as `line: what`."""
    tree = ast.parse(source)
    names = _names(tree)
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        found += [f"{line}: {what}" for what in _of(node, names)]
    return found


def _names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `import numpy as np` makes np numpy."""
    names = {"eval": "builtins.eval", "exec": "builtins.exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def _bad(name: str) -> bool:
    return name.split(".")[0] in MODULES or name in CALLS or name.startswith(PREFIXES)


def _of(node: ast.AST, names: dict[str, str]) -> list[str]:
    found = []
    if isinstance(node, ast.Import):
        found += [alias.name for alias in node.names if _bad(alias.name)]
    elif isinstance(node, ast.ImportFrom) and node.module:
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [name for name in whole if _bad(name) or name.rsplit(".", 1)[-1] in METHODS]
    elif isinstance(node, (ast.Attribute, ast.Name)):
        name = _dotted(node, names)
        if _bad(name) or name.rsplit(".", 1)[-1] in METHODS:
            found.append(name)
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            shut = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in DOORS and not shut:
                found.append(f"{keyword.arg} is not False")
        called = _dotted(node.func, names).rsplit(".", 1)[-1]
        texts = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if called in {"import_module", "__import__"}:
            found += [f"{called}({text!r})" for text in texts if _bad(text)]
        if called in {"getattr", "attrgetter"}:
            whole = [f"{_dotted(node.args[0], names)}.{text}" for text in texts] + texts
            found += [f"{called} of {name}" for name in whole if _bad(name) or name in METHODS]
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            shut = isinstance(value, ast.Constant) and value.value is False
            if isinstance(key, ast.Constant) and key.value == "allow_pickle" and not shut:
                found.append("allow_pickle in a dict of options")
    return found


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_nothing_is_run_that_lies_in_a_file() -> None:
    assert len(sources()) > 100
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in sources()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import _pickle",
        "import dill",
        "from joblib import load",
        "import shelve",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "from torch import load as read\nread('x')",
        "from torch.serialization import load",
        "import torch.serialization",
        "import torch\nf = torch.save",
        "import torch\ntorch.serialization.load('x')",
        "import torch\ngetattr(torch, 'load')('x')",
        "import torch\ntorch.jit.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nopen_ = True\nnp.load('x', allow_pickle=open_)",
        "import numpy as np\nnp.load('x', **{'allow_pickle': True})",
        "import pandas as pd\npd.read_pickle('x')",
        "from pandas import read_pickle",
        "frame.to_pickle('x')",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('pickle')",
        "eval('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=trust)",
    ],
)
def test_each_disguise_is_seen(line: str) -> None:
    assert dangers(line)


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import json\njson.load(open('x'))",
        "from safetensors.torch import load_file, save_file",
        "AutoModel.from_config(c, trust_remote_code=False)",
        "model.eval()",
        "import multiprocessing",
    ],
)
def test_what_is_harmless_is_left_alone(line: str) -> None:
    assert dangers(line) == []
