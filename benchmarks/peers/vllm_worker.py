"""Run the works of the engine benchmark with vLLM in its own environment: one JSON line for each line.

`engine.py` starts it as `.venv-vllm/bin/python benchmarks/peers/vllm_worker.py SETTINGS`. An input line names
a work; the answer gives its seconds and sampled tokens.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine_works import Works
from forkpoint.policies import LAB_POLICY
from forkpoint.policies.vllm import VLLMPolicy


def main() -> None:
    settings = json.loads(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print to standard output
    policy = VLLMPolicy.load(LAB_POLICY, dtype="float32")
    works = Works(policy, **settings)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        policy.reset_cache()
        started = time.perf_counter()
        num_tokens = works.run(line.strip())
        print(
            json.dumps({"seconds": time.perf_counter() - started, "tokens": num_tokens}), file=out, flush=True
        )


if __name__ == "__main__":
    main()
