"""The policy over HTTP with a real vLLM server, which is killed and restarted during a run.

The server is started twice, and takes about a minute each time.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.errors import ServerError
from forkpoint.lab.problem_set import lab_problems
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import LabelSummary, label_problems
from forkpoint.policies import LAB_POLICY
from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.openai import OpenAIPolicy
from forkpoint.records import Completion, Policy, Request
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig, grow_trees

START_S = 300
TIE = 1e-4
"""Tokens whose log-probabilities differ by less may change places, because engines round sums differently."""


class Server:
    """A vLLM server in a process group of its own, always on the same port."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.num_starts = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server; `wait` returns when it is ready."""
        flags = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--model",
            str(LAB_POLICY),
            "--served-model-name",
            "lab",
        ]
        flags += [
            "--dtype",
            "float32",
            "--enforce-eager",
            "--block-size",
            "32",
            "--max-num-seqs",
            "16",
            "--enable-prompt-tokens-details",
        ]
        flags += ["--no-enable-chunked-prefill"]
        env = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        self.num_starts += 1

    def wait(self) -> None:
        """Wait until the server answers."""
        for _ in range(START_S):
            try:
                OpenAIPolicy.load(LAB_POLICY, server=self.url)
                return
            except ServerError:
                assert self._process.poll() is None, f"the server ended:\n{self._log.read_text()[-3000:]}"
                time.sleep(1)
        raise TimeoutError(f"the server did not start:\n{self._log.read_text()[-3000:]}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and to its engine, which is a separate process."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    return LocalPolicy.load(LAB_POLICY, device="cpu", dtype="float32")


def prompts_of(policy: Policy, num: int) -> list[tuple[int, ...]]:
    return [policy.encode_question(problem.question) for problem in lab_problems("test", num=num)]


def num_equal(served: Completion, exact: Completion) -> int:
    """Return how many leading positions agree; at the first difference the two tokens must tie."""
    for idx, (got, want) in enumerate(zip(served.token_ids, exact.token_ids, strict=False)):
        if got != want:
            assert exact.logprobs[idx] - exact.runner_up_logprobs[idx] < TIE, (
                f"the engines part at {idx} without a tie"
            )
            return idx
    assert (len(served), served.finish) == (len(exact), exact.finish)
    return len(exact)


def test_greedy_completions_and_their_evidence_are_those_of_the_local_policy(
    server: Server, local: LocalPolicy
) -> None:
    policies = {
        bound: OpenAIPolicy.load(LAB_POLICY, server=server.url, entropy_bound=bound)
        for bound in ("lower", "upper")
    }
    requests = [Request(prompt, 120) for prompt in prompts_of(local, 24)]
    requests += [Request(requests[0].prefix_ids, 5), Request((*requests[0].prefix_ids, *local.eos_ids), 5)]
    exact = local.generate(requests)
    assert {completion.finish for completion in exact} == {"stop", "length"}
    lower, upper = (policy.generate(requests) for policy in policies.values())
    num_compared = num_ties = 0
    for low, high, want in zip(lower, upper, exact, strict=True):
        num = min(num_equal(low, want), num_equal(high, want))
        num_compared, num_ties = num_compared + num, num_ties + (num < len(want))
        assert low.logprobs[:num] == pytest.approx(want.logprobs[:num], abs=TIE)
        assert low.runner_up_logprobs[:num] == pytest.approx(want.runner_up_logprobs[:num], abs=TIE)
        for idx in range(num):
            assert low.entropies[idx] - TIE <= want.entropies[idx] <= high.entropies[idx] + TIE
    assert num_compared > 500
    assert num_ties <= 1


def test_the_tree_is_that_of_the_local_policy_and_cost_counts_what_the_server_kept(
    server: Server, local: LocalPolicy
) -> None:
    served = OpenAIPolicy.load(LAB_POLICY, server=server.url)
    config = TreeConfig(num_leaves=6, tau=0.5, max_tokens=160)
    grown = [grow_trees(policy, prompts_of(policy, 3), config) for policy in (served, local)]
    for (tree, cost), (expected, expected_cost) in zip(*grown, strict=True):
        assert tree.num_leaves > 1
        assert [
            (branch.parent_idx, branch.fork, branch.completion.token_ids) for branch in tree.branches
        ] == [(branch.parent_idx, branch.fork, branch.completion.token_ids) for branch in expected.branches]
        assert (cost.requests, cost.prompt_tokens, cost.sampled_tokens) == (
            expected_cost.requests,
            expected_cost.prompt_tokens,
            expected_cost.sampled_tokens,
        )
        assert 0 < cost.reused_tokens < cost.prompt_tokens


def test_samples_depend_on_their_seed_alone(server: Server) -> None:
    policy = OpenAIPolicy.load(LAB_POLICY, server=server.url)
    (prompt,) = prompts_of(policy, 1)
    requests = [Request(prompt, 60, temperature=1.0, top_p=0.95, seed=seed) for seed in (-1, 0, 1, 2**63 + 5)]
    together = [completion.token_ids for completion in policy.generate(requests)]
    assert len(set(together)) == len(together)
    assert [policy.generate([request])[0].token_ids for request in requests] == together


def test_what_the_server_refuses_is_said_in_its_words(server: Server) -> None:
    policy = OpenAIPolicy.load(LAB_POLICY, server=server.url, top_logprobs=21)
    with pytest.raises(ServerError, match=r"status 400: .*21.*20"):
        policy.generate([Request((5, 6), 2)])


class StruckPolicy(OpenAIPolicy):
    """A policy whose server is killed and restarted during the requests of its third or a later call."""

    server: Server
    num_calls = 0
    is_asking = was_struck = False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.num_calls += 1
        self.is_asking = True
        killer = (
            threading.Thread(target=self._strike) if self.num_calls >= 3 and not self.was_struck else None
        )
        if killer:
            killer.start()
        completions = super().generate(requests)
        self.is_asking = False
        if killer:
            killer.join()
        return completions

    def _strike(self) -> None:
        """Freeze the server a little later, and kill it if it has not answered everything by then."""
        time.sleep(0.05)
        self.server.send(signal.SIGSTOP)
        time.sleep(1.0)  # the answers that it had already sent arrive
        if not self.is_asking:
            self.server.send(signal.SIGCONT)
            return
        self.was_struck = True
        self.server.kill()
        self.server.start()


def test_a_label_run_whose_server_is_killed_and_started_again_is_that_of_an_undisturbed_one(
    server: Server, tmp_path: Path
) -> None:
    problems = lab_problems("test", num=6)
    tree_config, executor = (
        TreeConfig(num_leaves=4, tau=0.5, max_tokens=160),
        LocalExecutor(chunk_size=2, progress=False),
    )

    def label(policy: Policy, out: Path) -> LabelSummary:
        return label_problems(problems, policy, out, tree_config, LabelConfig(), executor)

    undisturbed = label(OpenAIPolicy.load(LAB_POLICY, server=server.url), tmp_path / "undisturbed")
    struck = StruckPolicy.load(LAB_POLICY, server=server.url)
    struck.server = server
    disturbed = label(struck, tmp_path / "disturbed")
    assert struck.was_struck
    assert server.num_starts == 2
    assert (disturbed.num_failed, disturbed.num_solved) == (0, len(problems))
    assert (tmp_path / "disturbed" / "labels.jsonl").read_text() == (
        tmp_path / "undisturbed" / "labels.jsonl"
    ).read_text()
    assert replace(disturbed.cost, reused_tokens=0) == replace(undisturbed.cost, reused_tokens=0)
    assert not (tmp_path / "disturbed" / "failures.jsonl").exists()
