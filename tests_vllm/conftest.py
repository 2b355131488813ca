"""Settings and tiny checkpoints for all tests that run vLLM on a CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling takes longer than all tests
os.environ.setdefault(
    "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
)  # runs the engine in this process; a server overrides it
sys.path.append(str(Path(__file__).parent.parent / "tests"))

from checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random qwen2 with grouped heads.

    On a CPU, vLLM's attention only supports heads of 32 and some larger sizes.
    """
    return make_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "tiny", "qwen2", hidden_size=128, initializer_range=0.2
    )
