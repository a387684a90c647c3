"""Every kind of input that is fuzzed."""

from __future__ import annotations

from fuzz.checkpoints import Safetensors, TorchCheckpoints
from fuzz.converted_folders import ConvertedFolders, Reports
from fuzz.images import Images
from fuzz.kind import Kind
from fuzz.model_files import InterpretedModelFiles, ModelFiles
from fuzz.recipes import Recipes

KINDS: tuple[Kind, ...] = (
    TorchCheckpoints(),
    Safetensors(),
    ConvertedFolders(),
    Recipes(),
    Reports(),
    Images(),
    ModelFiles(),
    InterpretedModelFiles(),
)
