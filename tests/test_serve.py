"""A served PRM: local scores, refusals with reasons, recovery after overload, nothing lost at the end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from forkpoint.errors import LayoutError, ServerError
from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.remote import RemotePRM
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor
from forkpoint.select import AGGREGATES, Aggregate, aggregate
from forkpoint.serve.batching import ServedPRM
from forkpoint.serve.config import ServeConfig
from forkpoint.serve.server import Server
from forkpoint.steps import AnchorRule, newline_steps
from forkpoint.trees.grow import TreeConfig
from test_prms import make_prm, solutions

ONE = {"problem": "1+1?", "steps": ["1+1=2\n", "The answer is 2"]}
HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class HeldPRM:
    """Scores a step with a hundredth of its length, after waiting for `may_score`; records its batches."""

    name = "held"

    def __init__(self, prm_format: PRMFormat | None = None) -> None:
        self.format = prm_format or PRMFormat()
        self.batches: list[list[str]] = []
        self.may_score = threading.Event()

    def num_tokens(self, question: str, steps: Sequence[str]) -> int:
        if question == "unreadable":
            raise LayoutError("this cannot be read")
        if question == "tokenizer fails":
            raise RuntimeError("a secret of the tokenizer")
        return len(question) + sum(len(step) for step in steps)

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        self.batches.append(list(questions))
        assert self.may_score.wait(60), "nobody let go"
        if "model fails" in questions:
            raise RuntimeError("a secret of the model")
        return [
            [float("nan") if question == "nan" else len(step) / 100 for step in steps_of_item][
                : 1 if question == "one short" else None
            ]
            for question, steps_of_item in zip(questions, steps, strict=True)
        ]


@contextmanager
def running(
    prm: ServedPRM, config: ServeConfig | None = None, token: str | None = None
) -> Iterator[tuple[httpx2.Client, Server]]:
    """A server on a free port, in a thread; a `HeldPRM` is let go at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(prm, config or ServeConfig(), token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60
            ) as client:
                yield client, server
        finally:
            if isinstance(prm, HeldPRM):
                prm.may_score.set()
            server.should_exit = True
            thread.join()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def ask(client: httpx2.Client, problem: str, *steps: str) -> httpx2.Response:
    return client.post("/score", json={"problem": problem, "steps": steps or ("a",)})


def address(client: httpx2.Client) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> ServedPRM:
    return load_prm(make_prm(tmp_path_factory.mktemp("served") / "prm"))


@pytest.fixture(scope="module")
def served(prm: ServedPRM) -> Iterator[httpx2.Client]:
    with running(prm) as (client, _):
        yield client


@pytest.mark.parametrize("how", AGGREGATES)
def test_scores_over_http_are_the_local_scores_to_the_bit(
    how: Aggregate, prm: ServedPRM, served: httpx2.Client
) -> None:
    questions, steps = solutions(12)
    items = [
        {"problem": question, "steps": steps_of_item}
        for question, steps_of_item in zip(questions, steps, strict=True)
    ]
    answer = served.post("/score", json={"items": items, "aggregate": how}).json()
    scores = prm.score(questions, steps)
    assert [item["step_scores"] for item in answer["items"]] == scores
    assert [item["score"] for item in answer["items"]] == [
        aggregate(scores_of_item, how) for scores_of_item in scores
    ]
    one = served.post("/score", json={**items[0], "aggregate": how}).json()
    (alone,) = prm.score(questions[:1], steps[:1])
    expected = {
        "steps": steps[0],
        "step_scores": alone,
        "score": aggregate(alone, how),
        "aggregate": how,
        "model": prm.name,
    }
    assert one == expected


def test_a_solution_is_cut_at_line_ends_and_the_saved_aggregate_is_the_default(served: httpx2.Client) -> None:
    text = "1+1=2\n\nThe answer is 2"
    whole = served.post("/score", json={"problem": "1+1?", "solution": text}).json()
    assert (
        whole
        == served.post(
            "/score", json={"problem": "1+1?", "steps": list(newline_steps(text)), "aggregate": "min"}
        ).json()
    )
    assert whole["steps"] == ["1+1=2\n\n", "The answer is 2"]


def test_reranking_orders_solutions_by_their_aggregate(prm: ServedPRM, served: httpx2.Client) -> None:
    documents = ["1+1=3\nso 3", "1+1=2\nso 2", "who knows", "1+1=3\nso 3"]
    scores = [
        aggregate(scores_of_item, "prod")
        for scores_of_item in prm.score(["1+1?"] * 4, [newline_steps(text) for text in documents])
    ]
    asked = {"model": prm.name, "query": "1+1?", "documents": documents, "aggregate": "prod"}
    answer = served.post("/v1/rerank", json=asked).json()
    order = sorted(range(4), key=lambda idx: -scores[idx])
    assert answer["results"] == [{"index": idx, "relevance_score": scores[idx]} for idx in order]
    assert answer["usage"]["total_tokens"] == sum(
        prm.num_tokens("1+1?", newline_steps(text)) for text in documents
    )
    best = served.post("/v1/rerank", json={**asked, "top_n": 1, "return_documents": True}).json()["results"]
    assert best == [
        {"index": order[0], "relevance_score": scores[order[0]], "document": {"text": documents[order[0]]}}
    ]


def test_what_is_cut_otherwise_than_at_line_ends_is_cut_so_or_refused() -> None:
    whole, entropic = HeldPRM(PRMFormat(segmentation="solution")), HeldPRM(PRMFormat(segmentation="entropy"))
    with running(whole) as (client, _):
        whole.may_score.set()
        assert client.post("/score", json={"problem": "q", "solution": "a\nb"}).json()["steps"] == ["a\nb"]
    with running(entropic) as (client, _):
        for path, body in (
            ("/score", {"problem": "q", "solution": "a"}),
            ("/v1/rerank", {"query": "q", "documents": ["a"]}),
        ):
            refusal = client.post(path, json=body)
            assert refusal.status_code == 422 and "entropy steps" in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"problem": "q"}, 422, "body.steps: Field required"),
        ({"problem": "q", "steps": []}, 422, "at least 1 item"),
        ({"problem": "q", "steps": ["a"] * 1025}, 422, "at most 1024"),
        ({"problem": "q", "solution": "a\n" * 1025}, 422, "1025 lines"),
        ({"problem": "q", "solution": "\n" * 800_000}, 422, "800000 line ends; 32768 are taken at most"),
        ({"problem": "q", "steps": [1]}, 422, "body.steps.0: Input should be a valid string"),
        ({"problem": "q", "steps": ["a"], "solution": "a"}, 422, "body.steps: Extra inputs"),
        ({"problem": "q", "steps": ["a"], "agregate": "min"}, 422, "body.agregate: Extra inputs"),
        ({"problem": "q", "steps": ["a"], "aggregate": "max"}, 422, "'last', 'min', 'prod' or 'mean'"),
        ({"problem": "q", "steps": ["a"], "model": "other"}, 404, "'other' is not served here"),
        ({"items": []}, 422, "at least 1 item"),
        ({"items": [ONE] * 257}, 422, "at most 256"),
        ({"items": [ONE, {"problem": "q"}]}, 422, "body.items.1.steps: Field required"),
        (
            {"items": [ONE, {"problem": "q", "steps": ["a" * 3000]}]},
            422,
            "items.1: the solution takes 3003 tokens",
        ),
        ({"problem": "\ud800", "steps": ["a"]}, 422, "body.problem: Value error, half of a surrogate pair"),
        (
            {"problem": "q", "steps": ["a", "\udc00"]},
            422,
            "body.steps.1: Value error, half of a surrogate pair",
        ),
        ({"problem": "q", "steps": ["a"], "\ud800" * 999: 1}, 422, "unicode"),
        ([], 422, "valid dictionary"),
        (None, 422, "body: Field required"),
        ("{", 422, "JSON decode error"),
        ("[" * 100_000, 400, "parsing the body"),
        ("9" * 10_000, 400, "parsing the body"),
        (b"\xff\xfe\xfd", 400, "parsing the body"),
    ],
)
def test_bad_input_is_refused_with_the_reason(
    body: Any, status: int, message: str, served: httpx2.Client
) -> None:
    content = body if isinstance(body, str | bytes) else b"" if body is None else json.dumps(body)
    refusal = served.post("/score", content=content, headers={"Content-Type": "application/json"})
    assert refusal.status_code == status, refusal.text
    assert message in refusal.json()["detail"]
    assert ask(served, "still", "answers").status_code == 200


def test_solutions_are_cut_off_the_event_loop(served: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def cut(text: str) -> tuple[str, ...]:
        try:
            asyncio.get_running_loop()
            seen.append(True)
        except RuntimeError:
            seen.append(False)
        return newline_steps(text)

    monkeypatch.setattr("forkpoint.serve.app.newline_steps", cut)
    given = {"problem": "1+1?", "solution": "1+1=2\nThe answer is 2"}
    for path, body in [
        ("/score", given),
        ("/score", {"items": [given]}),
        ("/v1/rerank", {"query": "1+1?", "documents": [given["solution"]]}),
    ]:
        assert served.post(path, json=body).status_code == 200
    assert seen == [False] * 3


def test_concurrent_clients_get_their_own_scores(prm: ServedPRM, served: httpx2.Client) -> None:
    questions, steps = solutions(40)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda pair: ask(served, pair[0], *pair[1]).json(), zip(questions, steps, strict=True))
        )
    for answer, steps_of_item, scores_of_item in zip(
        answers, steps, prm.score(questions, steps), strict=True
    ):
        assert answer["steps"] == steps_of_item
        assert answer["step_scores"] == pytest.approx(scores_of_item, abs=1e-5)


def test_what_waits_is_scored_together_within_the_bounds_in_the_order_of_arrival() -> None:
    prm = HeldPRM()
    config = ServeConfig(batch_items=4, batch_tokens=10, batch_wait_s=0)
    with running(prm, config) as (client, server), ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(ask, client, "first")]
        eventually(lambda: prm.batches == [["first"]])
        for num_waiting, (problem, step) in enumerate(
            [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "1" * 8), ("g", "1" * 99)]
        ):
            answers.append(pool.submit(ask, client, problem, step))
            eventually(lambda num=num_waiting + 1: server.batcher.num_waiting == num)  # type: ignore[misc]
        prm.may_score.set()
        assert [answer.result().status_code for answer in answers] == [200] * 8
        assert prm.batches == [["first"], ["a", "b", "c", "d"], ["e"], ["f"], ["g"]]
        assert answers[6].result().json()["step_scores"] == [0.08]


def test_overload_is_refused_with_a_time_to_come_back_and_passes() -> None:
    prm = HeldPRM()
    with running(prm, ServeConfig(max_queue=2)) as (client, server), ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, client, "running")]
        eventually(lambda: len(prm.batches) == 1)
        answers += [pool.submit(ask, client, "waiting") for _ in range(2)]
        eventually(lambda: server.batcher.num_waiting == 2)
        refusal = ask(client, "too many")
        assert refusal.status_code == 429 and int(refusal.headers["Retry-After"]) > 0
        assert "2 solutions wait" in refusal.json()["detail"]
        prm.may_score.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
        assert ask(client, "later").status_code == 200
        assert prm.batches == [["running"], ["waiting", "waiting"], ["later"]]


def test_overload_in_bytes_is_refused_and_shown_by_the_metrics() -> None:
    prm = HeldPRM()
    long = "q" * 5000

    def metric(client: httpx2.Client) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return next(family.samples[0].value for family in families if family.name == "forkpoint_queue_bytes")

    with running(prm, ServeConfig(max_queue_bytes=10_000)) as (client, server), ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, client, long)]
        eventually(lambda: len(prm.batches) == 1)
        assert metric(client) == 0
        for num_waiting in (1, 2):
            answers.append(pool.submit(ask, client, long))
            eventually(lambda num=num_waiting: server.batcher.num_waiting == num)  # type: ignore[misc]
        assert 10_000 < metric(client) < 11_000
        refusal = ask(client, "too many")
        assert refusal.status_code == 429 and int(refusal.headers["Retry-After"]) > 0
        assert "bytes wait already" in refusal.json()["detail"]
        prm.may_score.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
        assert metric(client) == 0
        assert ask(client, "later").status_code == 200


def test_what_takes_too_long_is_given_up_and_leaves_the_queue() -> None:
    prm = HeldPRM()
    with running(prm, ServeConfig(timeout_s=0.3)) as (client, server), ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, client, "running")]
        eventually(lambda: len(prm.batches) == 1)
        answers.append(pool.submit(ask, client, "waiting"))
        for answer in answers:
            assert answer.result().status_code == 504
            assert "0.3 s" in answer.result().json()["detail"]
        assert server.batcher.num_waiting == 0
        prm.may_score.set()
        assert ask(client, "later").status_code == 200
        assert prm.batches == [["running"], ["later"]]


def test_the_work_of_a_client_that_left_is_dropped() -> None:
    prm = HeldPRM()
    with running(prm) as (client, server), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, client, "running")
        eventually(lambda: len(prm.batches) == 1)
        body = json.dumps(ONE).encode()
        with socket.create_connection(address(client)) as connection:
            connection.sendall(HEAD % len(body) + body)
            eventually(lambda: server.batcher.num_waiting == 1)
        eventually(lambda: server.batcher.num_waiting == 0)
        prm.may_score.set()
        assert answer.result().status_code == 200
        assert prm.batches == [["running"]]


def test_a_body_over_the_limit_is_refused_and_one_at_it_is_not() -> None:
    prm = HeldPRM()
    prm.may_score.set()
    body = json.dumps({"problem": "q", "steps": ["a" * 50]}).encode()
    with running(prm, ServeConfig(max_body_bytes=len(body))) as (client, _):
        headers = {"Content-Type": "application/json"}
        assert client.post("/score", content=body, headers=headers).status_code == 200
        for too_long in (body + b" ", iter([body, b" "]), body * 100_000):
            refusal = client.post("/score", content=too_long, headers=headers)
            assert refusal.status_code == 413
            assert f"more than the {len(body)} that are taken" in refusal.json()["detail"]
        assert ask(client, "q").status_code == 200


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    with (
        running(HeldPRM(), ServeConfig(timeout_s=0.1)) as (client, _),
        socket.create_connection(address(client)) as connection,
    ):
        connection.sendall(HEAD % 100 + b'{"problem')
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def closed_after(connection: socket.socket, drip: bytes = b"") -> float:
    """Seconds until the server closes the connection; a byte of `drip` is sent every 50 ms until then."""
    started = time.monotonic()
    connection.settimeout(0.05)
    pending = list(drip)
    while time.monotonic() < started + 60:
        try:
            if not connection.recv(1000):
                break
        except TimeoutError:
            if pending:
                connection.sendall(bytes([pending.pop(0)]))
        except ConnectionError:
            break
    else:
        pytest.fail("the connection was not closed")
    return time.monotonic() - started


def test_a_head_that_does_not_arrive_is_not_waited_for() -> None:
    with running(HeldPRM(), ServeConfig(timeout_s=0.6)) as (client, _):
        with socket.create_connection(address(client)) as silent:
            assert closed_after(silent) > 0.4
        with socket.create_connection(address(client)) as half:
            half.sendall(b"POST /score HTTP/1.1\r\nHost:")
            assert closed_after(half, drip=b"x" * 200) < 5


def test_a_second_head_that_does_not_arrive_is_not_waited_for_either() -> None:
    with (
        running(HeldPRM(), ServeConfig(timeout_s=0.6)) as (client, _),
        socket.create_connection(address(client)) as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        assert closed_after(connection, drip=b"l" * 200) < 5


def test_a_body_that_drips_after_its_refusal_does_not_hold_the_connection() -> None:
    with (
        running(HeldPRM(), ServeConfig(timeout_s=0.3)) as (client, _),
        socket.create_connection(address(client)) as connection,
    ):
        connection.sendall(HEAD % 1000 + b'{"problem')
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert closed_after(connection, drip=b"x" * 500) < 5


def test_a_slow_answer_on_a_kept_connection_is_not_cut() -> None:
    prm = HeldPRM()
    with running(prm, ServeConfig(timeout_s=1.0)) as (client, _), ThreadPoolExecutor(1) as pool:
        for number in range(3):
            prm.may_score.clear()
            answer = pool.submit(ask, client, f"q{number}")
            eventually(lambda number=number: len(prm.batches) == number + 1)  # type: ignore[misc]
            time.sleep(0.5)  # together more than the limit
            prm.may_score.set()
            assert answer.result().status_code == 200


def test_a_token_is_needed_everywhere_but_for_health() -> None:
    prm = HeldPRM()
    prm.may_score.set()
    with running(prm, token="s3cret") as (client, _):
        assert client.get("/health").json() == {"status": "ready", "model": "held"}
        for sent in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": "Bearer s3cret2"},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                assert client.get(path, headers=sent).status_code == 401
            refusal = client.post("/score", content=b"{", headers=sent)
            assert refusal.status_code == 401 and refusal.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/score", json=ONE, headers={"Authorization": "bearer s3cret"}).status_code == 200
        with pytest.raises(ServerError, match="401"):
            RemotePRM(str(client.base_url), token="wrong")
        assert RemotePRM(str(client.base_url), token="s3cret").score(["q"], [["a"]]) == [[0.01]]


def test_the_token_comes_from_the_environment_or_a_file_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.setenv("SERVE_TOKEN", "from-env")
    assert ServeConfig(token_env="SERVE_TOKEN").read_token() == "from-env"
    assert ServeConfig(token_file=file).read_token() == "from-file"
    assert ServeConfig().read_token() is None
    monkeypatch.setenv("SERVE_TOKEN", " ")
    file.write_text("two words")
    for config, place in (
        (ServeConfig(token_env="SERVE_TOKEN"), "SERVE_TOKEN"),
        (ServeConfig(token_file=file), str(file)),
    ):
        with pytest.raises(ValueError, match=f"{place} holds no token"):
            config.read_token()
    file.write_bytes(b"tok\xffen")  # not UTF-8
    with pytest.raises(ValueError, match=f"{file} holds no token"):
        ServeConfig(token_file=file).read_token()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_queue": 0}, "max_queue must be at least 1"),
        ({"max_queue_bytes": 0}, "max_queue_bytes must be at least 1"),
        ({"port": 65536}, "port"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"batch_wait_s": 60.0}, "below timeout_s"),
        ({"token_env": "A", "token_file": Path("b")}, "one place"),
    ],
)
def test_impossible_configurations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServeConfig(**arguments)


@pytest.mark.parametrize("problem", ["model fails", "nan", "one short", "tokenizer fails"])
def test_a_failure_of_the_model_is_an_id_for_its_request_and_nothing_for_the_others(
    problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    prm = HeldPRM()
    with running(prm) as (client, server), ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(ask, client, "running")]
        eventually(lambda: len(prm.batches) == 1)
        for num_waiting, name in enumerate(["before", problem, "unreadable", "after"], start=1):
            answers.append(pool.submit(ask, client, name, "a", "b"))
            eventually(lambda num=num_waiting: server.batcher.num_waiting == num)  # type: ignore[misc]
        prm.may_score.set()
        _, before, failed, unreadable, after = (answer.result() for answer in answers)
        assert before.json()["step_scores"] == after.json()["step_scores"] == [0.01, 0.01]
        assert unreadable.status_code == 422 and unreadable.json() == {"detail": "this cannot be read"}
        assert failed.status_code == 500
        assert failed.json()["detail"].startswith("the PRM failed") and "secret" not in failed.text
        assert failed.json()["id"] in caplog.text
        assert ask(client, "later").status_code == 200


def test_metrics_count_what_happened() -> None:
    prm = HeldPRM()
    prm.may_score.set()
    with running(prm) as (client, _):
        client.post("/score", json={"items": [ONE, ONE, ONE]})
        ask(client, "unreadable")
        client.get("/secret-path")
        exposition = client.get("/metrics")
        assert exposition.headers["Content-Type"].startswith("text/plain; version=")
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(exposition.text)
            for sample in family.samples
        }
        assert samples["forkpoint_requests_total", "/score", "200"] == 1
        assert samples["forkpoint_requests_total", "/score", "422"] == 1
        assert samples["forkpoint_requests_total", "404", "other"] == 1
        assert (
            samples["forkpoint_request_seconds_count", "/score"]
            == samples["forkpoint_request_seconds_bucket", "+Inf", "/score"]
            == 2
        )
        assert (samples["forkpoint_batch_solutions_count",], samples["forkpoint_batch_solutions_sum",]) == (
            1,
            3,
        )
        assert (samples["forkpoint_scored_solutions_total",], samples["forkpoint_scored_steps_total",]) == (
            3,
            6,
        )
        assert samples["forkpoint_scored_tokens_total",] == 3 * prm.num_tokens(ONE["problem"], ONE["steps"])  # type: ignore[arg-type]
        assert samples["forkpoint_queue_solutions",] == 0
        assert "secret-path" not in exposition.text


def test_a_stopping_server_answers_what_it_accepted_and_refuses_the_rest() -> None:
    prm = HeldPRM()
    with running(prm) as (client, server), ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, client, "running")]
        eventually(lambda: len(prm.batches) == 1)
        answers.append(pool.submit(ask, client, "waiting"))
        eventually(lambda: server.batcher.num_waiting == 1)
        server.batcher.stop_accepting()  # what `shutdown` does first
        for refusal in (ask(client, "new"), client.get("/health")):
            assert refusal.status_code == 503 and int(refusal.headers["Retry-After"]) > 0
        server.should_exit = True
        eventually(lambda: not any(listener.is_serving() for listener in server.servers))
        prm.may_score.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert prm.batches == [["running"], ["waiting"]]


@pytest.mark.slow
def test_a_terminated_process_has_told_its_address_and_goes_quietly(prm: ServedPRM, tmp_path: Path) -> None:
    path = make_prm(tmp_path / "prm")
    code = (
        "import sys; from forkpoint.serve import *; "
        "serve(sys.argv[1], ServeConfig(port=0), on_ready=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().strip()
    questions, steps = solutions(3)
    assert RemotePRM(url).score(questions, steps) == prm.score(questions, steps)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in errors


def test_a_remote_prm_is_the_local_one(tmp_path: Path) -> None:
    saved = PRMFormat(
        tag="#",
        segmentation="entropy",
        rule=AnchorRule(tau=0.7, min_gap=2),
        aggregate="prod",
        template="Q: {question} A: ",
    )
    local = load_prm(make_prm(tmp_path, saved))
    questions, steps = solutions(20)
    with running(local) as (client, _):
        remote = RemotePRM(str(client.base_url))
        assert (remote.name, remote.format) == (local.name, saved)
        assert remote.score(questions, steps) == local.score(questions, steps)
        assert remote.score([], []) == []
        with pytest.raises(LayoutError, match=r"items\.1: the solution takes .* more than max_length"):
            remote.score(["q", "q"], [["a"], ["a" * 9999]])


def test_a_remote_prm_cuts_its_requests_to_the_limits(prm: ServedPRM) -> None:
    questions, steps = solutions(20)
    longest = max(
        len(json.dumps({"items": [{"problem": q, "steps": s}]}))
        for q, s in zip(questions, steps, strict=True)
    )
    with running(prm, ServeConfig(max_body_bytes=longest)) as (client, _):
        found = RemotePRM(str(client.base_url)).score(questions, steps)
        for scores_of_item, expected in zip(found, prm.score(questions, steps), strict=True):
            assert scores_of_item == pytest.approx(expected, abs=1e-5)
        with pytest.raises(ServerError, match="413"):
            RemotePRM(str(client.base_url)).score(["q"], [["a" * longest]])
    held = HeldPRM()
    held.may_score.set()
    with running(held) as (client, _):
        RemotePRM(str(client.base_url), batch_items=8).score(questions, steps)
        assert sorted(itertools.chain(*held.batches)) == sorted(questions)
        assert 'path="/score",status="200"} 3.0' in client.get("/metrics").text


def test_a_remote_prm_comes_back_to_a_busy_server() -> None:
    prm = HeldPRM()
    with running(prm, ServeConfig(max_queue=1)) as (client, server), ThreadPoolExecutor(3) as pool:
        remote, impatient = (RemotePRM(str(client.base_url), retry_s=retry_s) for retry_s in (60, 0))
        answers = [pool.submit(ask, client, "running")]
        eventually(lambda: len(prm.batches) == 1)
        answers.append(pool.submit(ask, client, "waiting"))
        eventually(lambda: server.batcher.num_waiting == 1)
        with pytest.raises(ServerError, match=r"status 429.*1 solutions wait"):
            impatient.score(["q"], [["a"]])
        patient = pool.submit(remote.score, ["q"], [["abc"]])
        eventually(lambda: 'path="/score",status="429"} 1.0' not in client.get("/metrics").text)
        prm.may_score.set()
        assert patient.result() == [[0.03]]
        assert [answer.result().status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    ("reply", "message"),
    [(b"<html>", "not JSON"), (b"{}", "does not say"), (b'{"data": [{"id": "gpt"}]}', "does not say")],
)
def test_what_is_no_forkpoint_is_told_from_one(reply: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply
                )

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServerError, match=message):
            RemotePRM(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


def test_an_evaluation_finds_the_same_with_a_remote_prm(
    prm: ServedPRM, served: httpx2.Client, tmp_path: Path
) -> None:
    script = {
        "": {"one\n": 0.6, "two\n": 0.4},
        "one\n": {"The answer is 1": 0.55, "The answer is 2": 0.45},
        "two\n": {"The answer is 3": 1.0},
    }
    problems = [Problem(f"p{idx}", f"question {idx}", "3") for idx in range(4)]
    sources = SolutionSources(EvaluateConfig(num_samples=4), TreeConfig(tau=0.5, num_leaves=4))
    evaluations = [
        evaluate_policy(
            problems, ScriptedPolicy(script), tmp_path / name, sources, LocalExecutor(progress=False),
            Judge(scorer, scorer.format),
        )
        for name, scorer in (("local", prm), ("remote", RemotePRM(str(served.base_url))))
    ]  # fmt: skip
    assert evaluations[0] == evaluations[1]


def test_serving_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; "
        "from forkpoint.serve import *; serve(sys.argv[1], ServeConfig())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (
        "MissingPackageError: serving needs uvicorn, which is not installed: pip install 'forkpoint[serve]'"
        in done.stderr
    )


def test_importing_the_package_for_its_configuration_loads_no_web_framework() -> None:
    code = (
        "import sys, forkpoint.serve; print(sorted("
        "{'fastapi', 'uvicorn', 'httpx2', 'torch', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
