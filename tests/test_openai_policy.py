"""The policy over HTTP, with a server that answers from a script and misbehaves on purpose."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import make_checkpoint
from forkpoint import http_client
from forkpoint.errors import ServerError
from forkpoint.http_client import HTTPClient
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_problems
from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.openai import OpenAIPolicy, ServedModel
from forkpoint.policies.scripted import END, ScriptedPolicy
from forkpoint.policies.text import Checkpoint, PolicyText
from forkpoint.records import Completion, Policy, Problem, Request
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig, grow_trees

VOCAB_SIZE = 2_000_000
NUM_TOP = 6
KEY = "sk-not-to-be-seen"

Answer = dict[str, Any]


def story(question: str, text: str) -> dict[str, float]:
    """Four tokens with different probabilities, in an order that any earlier character changes."""
    turn = hashlib.blake2b(f"{question}|{text}".encode()).digest()[0] % 3
    a, b, c = "abcabc"[turn], "abcabc"[turn + 1], "abcabc"[turn + 2]
    return {a: 0.4, b: 0.3, c: 0.2, END: 0.1} if len(text) < 6 else {END: 0.4, a: 0.3, b: 0.2, c: 0.1}


def completion_answer(policy: ScriptedPolicy, body: Answer) -> Answer:
    """What vLLM would answer if its model followed the script of `policy`."""
    request = Request(
        tuple(body["prompt"]), body["max_tokens"], body["temperature"], body["top_p"], body["seed"]
    )
    (completion,) = policy.generate([request])
    rows = []
    for position, token_id in enumerate(completion.token_ids):
        probs = policy.next_token(request.prefix_ids + completion.token_ids[:position])
        logprobs = {policy.encode([token])[0]: math.log(p) for token, p in probs.items()}
        logprobs |= {VOCAB_SIZE - 1 - idx: -9999.0 for idx in range(body["logprobs"] - len(logprobs))}
        row = {token_id: logprobs[token_id], **logprobs}  # vLLM puts the token that was taken first
        rows.append({f"token_id:{token_id}": logprob for token_id, logprob in row.items()})
    choice = {
        "index": 0,
        "text": policy.decode(completion.token_ids),
        "finish_reason": completion.finish,
        "prompt_token_ids": body["prompt"],
        "token_ids": list(completion.token_ids),
        "logprobs": {"top_logprobs": rows},
    }
    return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}


class QuietServer(ThreadingHTTPServer):
    """Does not print what connections die of."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""


class ScriptedServer:
    """An HTTP server that uses up one of `faults` per completion, and answers properly after that."""

    def __init__(self, policy: ScriptedPolicy) -> None:
        self.policy = policy
        self.models: list[dict[str, Any]] = [{"id": "story", "max_model_len": 64}]
        self.faults: deque[str] = deque()
        self.distort: Callable[[Answer], Answer] = lambda answer: answer
        self.before_answer: Callable[[], object] = lambda: None
        self.refusal: tuple[int, str] | None = None
        self.bodies: list[Answer] = []
        self.addresses: set[tuple[str, int]] = set()
        self.num_open = self.max_open = 0
        self.late = threading.Event()
        self.gone = threading.Semaphore(0)
        self.lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at the same port as before if this is not the first time."""
        self._http = QuietServer(("127.0.0.1", self._port), type("Bound", (Handler,), {"scripted": self}))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def kill(self) -> None:
        """Stop listening and break all connections off."""
        self._http.shutdown()
        self._http.socket.close()
        with self.lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._connections.clear()

    def connected(self, connection: socket.socket, address: tuple[str, int]) -> None:
        with self.lock:
            self._connections.add(connection)
            self.addresses.add(address)

    @contextmanager
    def opened(self, body: Answer) -> Iterator[str]:
        """Count a request while it is open; the fault that befalls it, or nothing."""
        with self.lock:
            self.bodies.append(body)
            self.num_open += 1
            self.max_open = max(self.max_open, self.num_open)
            fault = self.faults.popleft() if self.faults else ""
        try:
            yield fault
        finally:
            with self.lock:
                self.num_open -= 1


class Handler(BaseHTTPRequestHandler):
    """One connection to a `ScriptedServer`."""

    scripted: ScriptedServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.scripted.connected(self.connection, self.client_address)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        if not self.refuse():
            self.reply(200 if self.path == "/v1/models" else 404, {"data": self.scripted.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.scripted.opened(body) as fault, suppress(OSError):
            self.scripted.before_answer()
            if not self.refuse():
                getattr(self, fault or "answer")(completion_answer(self.scripted.policy, body))

    def refuse(self) -> bool:
        if self.scripted.refusal:
            status, message = self.scripted.refusal
            self.reply(status, {"error": {"message": message + self.headers.get("Authorization", "")}})
        return self.scripted.refusal is not None

    def reply(
        self, status: int, answer: Any, headers: dict[str, str] | None = None, num_cut: int = 0
    ) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) - num_cut])
        self.wfile.flush()
        self.close_connection = self.close_connection or num_cut > 0

    def answer(self, answer: Answer) -> None:
        self.reply(200, self.scripted.distort(answer))

    def busy(self, answer: Answer) -> None:
        self.reply(429, {"error": {"message": "too many"}}, {"Retry-After": "0"})

    def busy_until(self, answer: Answer) -> None:
        self.reply(503, "loading", {"Retry-After": formatdate(time.time() - 5, usegmt=True)})

    def broken(self, answer: Answer) -> None:
        self.reply(500, {"error": {"message": "EngineCore died"}})

    def dropped(self, answer: Answer) -> None:
        self.close_connection = True

    def reset(self, answer: Answer) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True

    def truncated(self, answer: Answer) -> None:
        self.reply(200, answer, num_cut=40)

    def shortened(self, answer: Answer) -> None:
        """Cut short by something between that believes that it is all."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode()[:-40])
        self.close_connection = True

    def aborted(self, answer: Answer) -> None:
        answer["choices"][0] |= {"finish_reason": "abort", "token_ids": [], "logprobs": None}
        self.reply(200, answer)

    def held(self, answer: Answer) -> None:
        """No answer; the client goes away at some time."""
        if self.connection.recv(1) == b"":
            self.scripted.gone.release()

    def slow(self, answer: Answer) -> None:
        """An answer that comes when it has been answered again already."""
        self.scripted.late.wait(timeout=15)
        self.reply(200, answer)


FAULTS = ["busy", "busy_until", "broken", "dropped", "reset", "truncated", "shortened", "aborted"]


@pytest.fixture(scope="module", autouse=True)
def _short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_client, "FIRST_PAUSE_S", 0.01)
        patch.setattr(http_client, "LONGEST_PAUSE_S", 0.05)
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@contextmanager
def running_server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer(ScriptedPolicy(story, name="story"))
    yield scripted
    scripted.late.set()
    scripted.kill()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with running_server() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[ScriptedServer, OpenAIPolicy]]:
    """One server and policy for all examples of a property."""
    with running_server() as scripted:
        yield scripted, policy_of(scripted)


def policy_of(server: ScriptedServer, **options: Any) -> OpenAIPolicy:
    """A policy over the server, with the script's own characters as the text side."""
    checkpoint = Checkpoint(
        Path("story"), Path("story"), cast(PolicyText, server.policy), VOCAB_SIZE, None, None
    )
    client = HTTPClient(
        server.url + "/v1", **{"max_in_flight": 4, "timeout_s": 20.0, "retry_s": 20.0, **options}
    )
    return OpenAIPolicy(checkpoint, client, ServedModel("story", 64), "story", top_logprobs=NUM_TOP)


def mixed_requests(policy: ScriptedPolicy, num: int) -> list[Request]:
    """Greedy ones, samples, nuclei, short limits, and prefixes that have ended."""
    requests = []
    for idx in range(num):
        ids = policy.encode_question(f"q{idx}") + policy.encode(["a"] * (idx % 3))
        ids += tuple(policy.eos_ids) if idx % 7 == 6 else ()
        requests.append(
            Request(ids, 3 + idx % 9, (0.0, 1.0, 0.7)[idx % 3], (1.0, 0.8)[idx % 2], seed=idx - 2)
        )
    return requests


def assert_same(completions: list[Completion], expected: list[Completion]) -> None:
    """All fields equal; entropies to rounding, since they are sums in another order."""
    for got, want in zip(completions, expected, strict=True):
        assert (got.token_ids, got.logprobs, got.runner_up_ids) == (
            want.token_ids,
            want.logprobs,
            want.runner_up_ids,
        )
        assert (got.runner_up_logprobs, got.finish) == (want.runner_up_logprobs, want.finish)
        assert got.entropies == pytest.approx(want.entropies, abs=1e-12)


def reference(policy: ScriptedPolicy, requests: list[Request]) -> list[Completion]:
    """What the script itself says; a negative seed is replaced by the one that is sent for it."""
    return policy.generate(
        [Request(r.prefix_ids, r.max_tokens, r.temperature, r.top_p, r.seed % 2**63) for r in requests]
    )


def test_completions_are_those_of_the_model_behind_the_server(server: ScriptedServer) -> None:
    requests = mixed_requests(server.policy, 30)
    completions = policy_of(server).generate(requests)
    assert_same(completions, reference(server.policy, requests))
    assert completions[6] == Completion((), (), (), (), (), "stop")
    assert len(server.bodies) == sum(
        request.prefix_ids[-1] not in server.policy.eos_ids for request in requests
    )


def test_trees_are_those_of_the_model_behind_the_server(server: ScriptedServer) -> None:
    config = TreeConfig(num_leaves=6, tau=1.0, max_tokens=12)
    prompts = [server.policy.encode_question(f"q{idx}") for idx in range(3)]
    for (tree, cost), (expected, expected_cost) in zip(
        grow_trees(policy_of(server), prompts, config),
        grow_trees(server.policy, prompts, config),
        strict=True,
    ):
        assert [branch.fork for branch in tree.branches] == [branch.fork for branch in expected.branches]
        assert_same(
            [branch.completion for branch in tree.branches],
            [branch.completion for branch in expected.branches],
        )
        assert cost == expected_cost


@settings(max_examples=25, deadline=None)
@given(faults=st.lists(st.sampled_from(["", *FAULTS]), max_size=25))
def test_no_failure_of_the_world_changes_loses_or_doubles_a_completion(
    shared: tuple[ScriptedServer, OpenAIPolicy], faults: list[str]
) -> None:
    server, policy = shared
    requests = mixed_requests(server.policy, 9)
    server.faults, server.bodies = deque(faults), []
    completions = policy.generate(requests)
    assert_same(completions, reference(server.policy, requests))
    num_taken = len(faults) - len(server.faults)
    num_failed = sum(fault != "" for fault in faults[:num_taken])
    assert len(server.bodies) == 8 + num_failed, (
        "every attempt was needed: one per open request and one per failure"
    )


def test_answers_that_come_after_the_time_out_are_not_taken_for_others(server: ScriptedServer) -> None:
    server.faults.extend(["slow"] * 3)
    requests = mixed_requests(server.policy, 12)
    policy = policy_of(server, timeout_s=0.5)
    first = policy.generate(requests)
    server.late.set()
    assert_same(first, reference(server.policy, requests))
    assert len(server.bodies) >= 11 + 3, "what was late was asked for again"
    assert policy.generate(requests) == first


@pytest.mark.parametrize("bound", [1, 4])
def test_as_many_requests_are_open_as_allowed_and_no_more_whoever_asks(
    server: ScriptedServer, bound: int
) -> None:
    together = threading.Barrier(bound)  # holds every request until `bound` are open
    server.before_answer = lambda: together.wait(timeout=20)
    policy = policy_of(server, max_in_flight=bound)
    requests = [Request(server.policy.encode_question(f"q{idx}"), 5) for idx in range(8)]
    answers: list[list[Completion]] = [[], []]

    def ask(idx: int) -> None:
        answers[idx] = policy.generate(requests)

    threads = [threading.Thread(target=ask, args=(idx,)) for idx in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for completions in answers:
        assert_same(completions, reference(server.policy, requests))
    assert server.max_open == bound
    assert len(server.addresses) <= bound, "connections are kept and used again"


@pytest.mark.parametrize("end", ["refusal", "Ctrl-C"])
def test_a_call_that_ends_early_leaves_no_request_open(server: ScriptedServer, end: str) -> None:
    server.faults.extend(["held"] * 4)
    policy, requests = policy_of(server, max_in_flight=5), mixed_requests(server.policy, 5)
    if end == "refusal":
        server.distort = lambda answer: {}
        with pytest.raises(ServerError, match="lacks"):
            policy.generate(requests)
    else:

        def interrupt() -> None:
            if len(server.bodies) == 5:
                os.kill(os.getpid(), signal.SIGINT)

        server.before_answer = interrupt
        with pytest.raises(KeyboardInterrupt):
            policy.generate(requests)
    assert all(server.gone.acquire(timeout=10) for _ in range(4))


def test_a_server_that_is_killed_and_started_again_is_waited_for(server: ScriptedServer) -> None:
    requests = mixed_requests(server.policy, 40)
    fifth = threading.Event()

    def count() -> None:
        if len(server.bodies) >= 5:
            fifth.set()
            time.sleep(0.02)

    def restart() -> None:
        fifth.wait()
        server.kill()
        time.sleep(0.3)
        server.start()

    server.before_answer = count
    killer = threading.Thread(target=restart)
    killer.start()
    completions = policy_of(server).generate(requests)
    killer.join()
    assert_same(completions, reference(server.policy, requests))


def test_a_server_that_stays_away_is_given_up_after_the_time_allowed_and_said_so(
    server: ScriptedServer,
) -> None:
    policy = policy_of(server, retry_s=0.2)
    server.kill()
    with pytest.raises(ServerError, match=r"no answer in \d+ attempts.*0\.2 s are allowed.*ConnectError"):
        policy.generate(mixed_requests(server.policy, 5))
    server.start()
    requests = mixed_requests(server.policy, 5)
    assert_same(policy.generate(requests), reference(server.policy, requests))


def test_a_wait_that_the_server_asks_for_is_not_cut_short(server: ScriptedServer) -> None:
    server.faults.append("busy")
    policy = policy_of(server, retry_s=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "busy", lambda self, answer: self.reply(429, "later", {"Retry-After": "3600"}))
        with pytest.raises(ServerError, match="status 429"):
            policy.generate(mixed_requests(server.policy, 1))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [301, 400, 404, 422])
def test_what_the_server_refuses_is_not_sent_again_and_stops_the_others(
    server: ScriptedServer, status: int
) -> None:
    server.refusal = (status, "max_tokens is too large")
    with pytest.raises(ServerError, match=f"status {status}: max_tokens is too large"):
        policy_of(server, max_in_flight=1).generate(mixed_requests(server.policy, 20))
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert len(prompts) == len(set(prompts)) <= 2, "at most one more was under way"


def test_a_key_is_sent_and_shown_nowhere(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path / "model")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    policy = OpenAIPolicy.load(path, server=server.url)
    server.refusal = (401, "wrong: ")  # the server quotes the header
    with pytest.raises(ServerError, match=r"status 401: wrong: Bearer \*\*\*") as caught:
        policy.generate([Request((5,), 3)])
    pickled = pickle.dumps(
        OpenAIPolicy.load(path, server=server.url, api_key=KEY, model=ServedModel("story", 64))
    )
    for text in (
        str(caught.value),
        repr(caught.value),
        repr(policy),
        policy.name,
        pickled.decode(errors="replace"),
    ):
        assert KEY not in text
    with pytest.raises(ServerError, match="401"):
        pickle.loads(pickled).generate([Request((5,), 3)])
    for bad in (KEY + "\n", "sk-ключ"):
        with pytest.raises(ValueError, match="cannot be sent") as refused:
            OpenAIPolicy.load(path, server=server.url, api_key=bad)
        assert bad not in str(refused.value)
    with pytest.raises(ValueError, match="user name or password") as refused:
        OpenAIPolicy.load(path, server=f"http://me:{KEY}@127.0.0.1:1")
    assert KEY not in str(refused.value)


def test_the_model_is_the_only_one_or_the_one_named(server: ScriptedServer, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model")
    assert OpenAIPolicy.load(path, server=server.url).max_length == 64
    assert OpenAIPolicy.load(path, server=server.url + "/v1/", model="story").max_length == 64
    with pytest.raises(ValueError, match="'tale' was asked for, and the server has 'story'"):
        OpenAIPolicy.load(path, server=server.url, model="tale")
    server.models.append({"id": "tale"})
    with pytest.raises(ValueError, match="no model was named, and the server has 'story', 'tale'"):
        OpenAIPolicy.load(path, server=server.url)
    assert OpenAIPolicy.load(path, server=server.url, model="tale").max_length == 256
    server.kill()
    with pytest.raises(ServerError, match=r"/v1/models gives no answer.*is this its address"):
        OpenAIPolicy.load(path, server=server.url)
    with pytest.raises(ValueError, match="'localhost:8000/v1' is no address"):
        OpenAIPolicy.load(path, server="localhost:8000")


def test_a_name_tells_models_templates_and_entropies_apart_but_not_addresses(
    server: ScriptedServer, tmp_path: Path
) -> None:
    path, other_path = (
        make_checkpoint(tmp_path / "model"),
        make_checkpoint(tmp_path / "other" / "model", seed=1),
    )
    changes: list[dict[str, Any]] = [
        {},
        {"path_or_id": other_path},
        {"template": "{question} "},
        {"top_logprobs": 5},
        {"entropy_bound": "upper"},
        {"model": ServedModel("tale", 64)},
    ]
    usual: dict[str, Any] = {"path_or_id": path, "server": server.url}
    names = [OpenAIPolicy.load(**(usual | change)).name for change in changes]
    assert len(set(names)) == len(names)
    assert names[0].startswith("model-")
    assert names[0].endswith("-openai-top20-lower")
    same = OpenAIPolicy.load(
        path, server="http://elsewhere:1", model=ServedModel("story", None), max_in_flight=2, api_key=KEY
    )
    assert same.name == names[0]


def test_a_policy_travels_as_how_it_was_loaded_even_while_the_server_is_down(
    server: ScriptedServer, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path / "model")
    policy = OpenAIPolicy.load(
        path, server=server.url, entropy_bound="upper", top_logprobs=7, template="{question}?"
    )
    server.kill()
    twin = pickle.loads(pickle.dumps(policy))
    assert (twin.name, twin.max_length, twin.entropy_bound) == (policy.name, 64, "upper")
    assert twin.encode_question("1") == policy.encode_question("1")
    server.start()
    server.refusal = (400, "reached")
    with pytest.raises(ServerError, match="reached"):
        twin.generate([Request((5,), 3)])
    make_checkpoint(path, seed=1)
    with pytest.raises(ValueError, match="load the policy again"):
        pickle.loads(pickle.dumps(policy))
    with pytest.raises(TypeError, match="put together in memory"):
        pickle.dumps(policy_of(server))


def test_requests_that_do_not_fit_are_refused_as_by_a_local_policy(
    server: ScriptedServer, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path / "model")
    server.models = [{"id": "story", "max_model_len": 1000}]
    policies: list[Policy] = [
        OpenAIPolicy.load(path, server=server.url),
        LocalPolicy.load(path, device="cpu"),
    ]
    messages = []
    for policy in policies:
        with pytest.raises(ValueError) as caught:
            policy.generate([Request((5,) * 200, 57)])
        messages.append(str(caught.value).replace(policy.name, "NAME"))
    assert messages[0] == messages[1]
    assert server.bodies == []


def _with(**changes: Any) -> Callable[[Answer], Answer]:
    return lambda answer: answer | {"choices": [answer["choices"][0] | changes]}


def _rows(change: Callable[[dict[str, float]], object]) -> Callable[[Answer], Answer]:
    return lambda answer: _with(
        logprobs={"top_logprobs": [change(row) for row in answer["choices"][0]["logprobs"]["top_logprobs"]]}
    )(answer)


@pytest.mark.parametrize(
    ("distort", "message"),
    [
        (
            _rows(lambda row: {chr(97 + idx): logprob for idx, logprob in enumerate(row.values())}),
            "token 'a' is no id",
        ),
        (
            _rows(lambda row: {key.removeprefix("token_id:"): logprob for key, logprob in row.items()}),
            "is no id",
        ),
        (_rows(lambda row: dict(list(row.items())[: NUM_TOP - 1])), f"the top {NUM_TOP} of"),
        (_rows(lambda row: None), "return_tokens_as_token_ids"),
        (_with(logprobs=None), "log-probabilities of 6 tokens by id"),
        (_with(token_ids=None), "return_token_ids"),
        (_with(token_ids=[]), "lacks"),
        (_with(token_ids=[], logprobs={"top_logprobs": []}), "after 0 of 4 tokens"),
        (_with(prompt_token_ids=[1, 2]), "changed the prompt"),
        (lambda answer: answer | {"choices": answer["choices"] * 2}, "lacks"),
        (lambda answer: ["no completion"], "lacks"),
    ],
)
def test_answers_without_what_is_needed_are_refused(
    server: ScriptedServer, distort: Callable[[Answer], Answer], message: str
) -> None:
    server.distort = distort
    with pytest.raises(ServerError, match=message):
        policy_of(server).generate([Request(server.policy.encode_question("q"), 4)])
    assert len(server.bodies) == 1


@pytest.mark.parametrize("change", ["limit", "end"])
def test_a_completion_that_ends_at_another_limit_or_token_is_refused(
    server: ScriptedServer, change: str
) -> None:
    prompt = server.policy.encode_question("q")
    body = {"prompt": prompt, "temperature": 0, "top_p": 1, "seed": 0, "logprobs": NUM_TOP}
    if change == "limit":  # the server's own limit is lower than the one asked for
        other = completion_answer(server.policy, body | {"max_tokens": 2})
    else:  # an end token in the middle: the server does not know it for one
        other = completion_answer(server.policy, body | {"max_tokens": 12})
        choice = other["choices"][0]
        assert choice["token_ids"].pop() in server.policy.eos_ids
        choice["token_ids"] += [0, server.policy.encode(["a"])[0]]
        choice["logprobs"]["top_logprobs"] += [choice["logprobs"]["top_logprobs"][-1]]
    server.distort = lambda answer: other
    with pytest.raises(ServerError, match=r"ended a completion .* with end tokens \[0\] at"):
        policy_of(server).generate([Request(prompt, 12)])


def test_an_end_token_at_the_limit_is_a_stop(server: ScriptedServer) -> None:
    prompt = server.policy.encode_question("q")
    (whole,) = server.policy.generate([Request(prompt, 50)])
    server.distort = _with(finish_reason="length")
    (completion,) = policy_of(server).generate([Request(prompt, len(whole))])
    assert completion.finish == "stop"


def test_entropies_are_the_end_of_the_interval_that_is_asked_for(server: ScriptedServer) -> None:
    request = Request(server.policy.encode_question("q"), 1)
    checkpoint = Checkpoint(Path("story"), Path("story"), cast(PolicyText, server.policy), 4, None, None)
    client = HTTPClient(server.url + "/v1")
    ends = []
    for bound in ("lower", "upper"):
        policy = OpenAIPolicy(
            checkpoint, client, ServedModel("story", None), "story", top_logprobs=2, entropy_bound=bound
        )
        server.distort = _rows(lambda row: dict(sorted(row.items(), key=lambda item: -item[1])[:2]))
        ends.append(policy.generate([request])[0].entropies[0])
    two = -sum(p * math.log(p) for p in (0.4, 0.3))
    assert ends == pytest.approx([two - 0.3 * math.log(0.3), two - 0.3 * math.log(0.15)])


def test_tokens_that_the_server_did_not_compute_are_counted_where_it_says_so(server: ScriptedServer) -> None:
    request = Request(server.policy.encode_question("question"), 3)
    policy = policy_of(server)
    assert policy.generate([request])[0].num_reused_tokens == 0
    for details, num in [({"cached_tokens": 5}, 5), ({"cached_tokens": None}, 0), (None, 0)]:
        server.distort = lambda answer, details=details: (
            answer | {"usage": {"prompt_tokens_details": details}}
        )  # type: ignore[misc]
        assert policy.generate([request])[0].num_reused_tokens == num


def test_a_chunk_that_the_server_refuses_is_owed_again_and_the_labels_are_those_of_an_undisturbed_run(
    server: ScriptedServer, tmp_path: Path
) -> None:
    problems = [Problem(str(idx), f"q{idx}", "1") for idx in range(4)]
    tree_config, executor = (
        TreeConfig(num_leaves=4, tau=1.0, max_tokens=12),
        LocalExecutor(chunk_size=2, progress=False),
    )

    def labels(name: str) -> tuple[int, str]:
        out = tmp_path / name
        summary = label_problems(
            problems,
            policy_of(server, retry_s=0.0),
            out,
            tree_config,
            LabelConfig(segmentation="entropy"),
            executor,
        )
        return summary.num_failed, (out / "labels.jsonl").read_text()

    num_failed, expected = labels("undisturbed")
    assert num_failed == 0
    server.faults.append("broken")
    assert labels("disturbed")[0] == 2
    assert labels("disturbed") == (0, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"retry_s": -1.0}, "retry_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HTTPClient("http://localhost:8000/v1", **options)


def test_evidence_that_cannot_be_is_refused(server: ScriptedServer) -> None:
    checkpoint, client = (
        Checkpoint(Path("story"), Path("story"), cast(PolicyText, server.policy), 4, None, None),
        HTTPClient(server.url),
    )
    with pytest.raises(ValueError, match="at least 2"):
        OpenAIPolicy(checkpoint, client, ServedModel("story", None), "story", top_logprobs=1)
    with pytest.raises(ValueError, match="choose from lower, upper"):
        OpenAIPolicy(
            checkpoint, client, ServedModel("story", None), "story", entropy_bound=cast(Any, "middle")
        )
