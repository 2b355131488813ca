"""Compare the local engine with the bare forward passes of its model, and with other engines.

    python benchmarks/engine.py

This measures sampled tokens per second for EDU trees and for independent samples of the same lab problems,
with the same weights in float32. The engines are ours, `generate` of transformers, and vLLM on the CPU if
`make test-vllm` has set up its environment. The limit is the time of the bare forward passes with exactly the
batch sizes and lengths of our engine, both with the cache of transformers and with our rows of keys and
values.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from engine_works import NAMES, Works
from forkpoint.policies import LAB_POLICY
from forkpoint.policies.kv_rows import KVRows
from forkpoint.policies.local import LocalPolicy
from peers.generate_policy import GeneratePolicy
from record import ROOT, Ratio, add_arguments, interleaved, write

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=200)
    parser.add_argument("--num-leaves", type=int, default=16, help="of a tree, and samples per problem")
    parser.add_argument("--tau", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--no-vllm", action="store_true")
    add_arguments(parser, num_rounds=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = partial(
        LocalPolicy.load, LAB_POLICY, device=args.device, dtype="float32", batch_size=args.batch_size
    )
    settings = {"num_problems": args.num_problems, "num_leaves": args.num_leaves, "tau": args.tau}
    local = load()
    peer = GeneratePolicy.load(LAB_POLICY, device=args.device, dtype="float32", batch_size=args.batch_size)
    ours, theirs = Works(local, **settings), Works(peer, **settings)
    vllm = None if args.no_vllm or not VLLM_PYTHON.exists() else Worker(settings, args.threads)
    ratios: dict[str, Ratio] = {}
    runs: list[dict[str, Any]] = []
    notes = [] if vllm else ["vLLM was not measured: its environment is not set up (make test-vllm)"]
    for name in NAMES:
        tokens: dict[str, int] = {}

        def of_ours(name: str = name, tokens: dict[str, int] = tokens) -> None:
            local.reset_cache()
            tokens["ours"] = ours.run(name)

        def of_generate(name: str = name, tokens: dict[str, int] = tokens) -> None:
            tokens["generate"] = theirs.run(name)

        def of_vllm(name: str = name, tokens: dict[str, int] = tokens) -> None:
            assert vllm is not None, "vLLM is in the works only where it runs"
            tokens["vllm"] = vllm.run(name)

        passes = Passes(local)
        of_ours()
        passes.stop()
        works = {
            "ours": of_ours,
            "rows": passes.run_rows,
            "transformers": passes.run_transformers,
            "generate": of_generate,
        }
        rounds = interleaved(works | ({"vllm": of_vllm} if vllm else {}), args.num_rounds)
        for seconds in rounds:  # preparing a pass is not part of it
            seconds["rows"], seconds["transformers"] = (
                passes.seconds["rows"].pop(0),
                passes.seconds["transformers"].pop(0),
            )
            runs.append({"work": name, "seconds": seconds, "tokens": dict(tokens)})
        rates = [{engine: tokens[engine] / seconds[engine] for engine in tokens} for seconds in rounds]
        ratios[f"{name}: bare forward / ours, time, cache of transformers"] = Ratio(
            [s["transformers"] / s["ours"] for s in rounds], 0.9
        )
        ratios[f"{name}: bare forward / ours, time, our rows"] = Ratio(
            [s["rows"] / s["ours"] for s in rounds], 0.9
        )
        ratios[f"{name}: ours / generate, tokens per second"] = Ratio(
            [rate["ours"] / rate["generate"] for rate in rates], 3.0 if name == "trees" else None
        )
        if vllm:
            ratios[f"{name}: ours / vLLM, tokens per second"] = Ratio(
                [rate["ours"] / rate["vllm"] for rate in rates], 1.0
            )
        notes.append(
            f"{name}: {', '.join(f'{engine} {num:,} tokens' for engine, num in tokens.items())}; "
            f"{len(passes.shapes)} forward passes"
        )
    if vllm:
        vllm.end()
    write("engine", ratios, runs, notes, args)


class Passes:
    """Record the forward passes of a policy until `stop`, so that they can be repeated."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.shapes: list[tuple[int, int, int]] = []
        """The rows, new tokens and columns of each pass."""
        self.seconds: dict[str, list[float]] = {"rows": [], "transformers": []}
        self._policy = policy
        self._forward = KVRows.forward
        shapes, forward = self.shapes, self._forward

        def noting(
            rows: KVRows, first_row: int, ids_B_Q: torch.Tensor, positions_B_Q: torch.Tensor
        ) -> torch.Tensor:
            shapes.append((*ids_B_Q.shape, int(positions_B_Q.max()) + 1))
            return forward(rows, first_row, ids_B_Q, positions_B_Q)

        KVRows.forward = noting  # type: ignore[method-assign]

    def stop(self) -> None:
        KVRows.forward = self._forward  # type: ignore[method-assign]

    @torch.inference_mode()
    def run_rows(self) -> None:
        """Repeat the passes with our rows."""
        assert self._policy._probed is not None, "the lab policy keeps plain keys and values"
        rows = KVRows(self._policy.model, *self._policy._probed)
        total = 0.0
        for num_rows, num_new, width in self.shapes:
            rows.fit(num_rows, width, len(rows.keys[0]))
            ids_B_Q = torch.ones((num_rows, num_new), dtype=torch.long, device=self._policy.model.device)
            positions_B_Q = torch.arange(width - num_new, width, device=ids_B_Q.device).repeat(num_rows, 1)
            total += timed(partial(rows.forward, 0, ids_B_Q, positions_B_Q))
        self._note("rows", total)

    @torch.inference_mode()
    def run_transformers(self) -> None:
        """Repeat the passes with the cache that transformers makes for the model."""
        model = self._policy.model
        implementation = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        longest, widest = max(rows for rows, _, _ in self.shapes), max(width for _, _, width in self.shapes)
        assert self._policy._probed is not None, "the lab policy keeps plain keys and values"
        keys = [
            torch.randn(longest, layer.shape[1], widest, layer.shape[3], device=model.device)
            for layer in self._policy._probed[0]
        ]
        total = 0.0
        for num_rows, num_new, width in self.shapes:
            cache = DynamicCache(config=model.config)
            for layer_idx, layer in enumerate(keys):
                past = layer[:num_rows, :, : width - num_new]
                cache.update(past, past, layer_idx)
            ids_B_Q = torch.ones((num_rows, num_new), dtype=torch.long, device=model.device)
            total += timed(
                partial(model, input_ids=ids_B_Q, past_key_values=cache, use_cache=True, logits_to_keep=1)
            )
        model.set_attn_implementation(implementation)
        self._note("transformers", total)

    def _note(self, way: str, total: float) -> None:
        self.seconds[way].append(total)


def timed(work: partial[Any]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


class Worker:
    """vLLM in its own environment, doing works on demand."""

    def __init__(self, settings: dict[str, Any], num_threads: int) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(num_threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = [
            str(VLLM_PYTHON),
            str(Path(__file__).parent / "peers" / "vllm_worker.py"),
            json.dumps(settings),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def run(self, name: str) -> int:
        """Return the number of tokens that the work sampled."""
        assert self._process.stdin is not None, "it was started with a pipe"
        print(name, file=self._process.stdin, flush=True)
        tokens: int = self._read()["tokens"]
        return tokens

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("vLLM ended; see its output above")
        answer: dict[str, Any] = json.loads(line)
        return answer


if __name__ == "__main__":
    main()
