"""A policy written by hand, for examples and tests: a table of the tokens that follow each text.

    ScriptedPolicy({"": {"a": 0.6, "b": 0.4}, "a": {"x": 0.9, "y": 0.1}})

Keys are the text after the prompt; a text that is not in the table is followed by the end token. Tokens are
single characters, and the longer words that occur in the table. A function (question, text) -> probabilities
may take the place of the table.
Invariant: log-probabilities, entropies and runner-ups are exact, in double precision, and a sample is a
function of its request alone. The policy needs neither torch nor a tokenizer. It does not model cost: nothing
is ever reused.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from forkpoint.policies.stream import ListSource, in_order
from forkpoint.records import Completion, EntropyBound, Finish, Request, RequestSource

END = "<end>"
"""The end token in a table; a text without an entry is followed by it with probability 1."""
IMPOSSIBLE_LOGPROB = math.log(sys.float_info.min)
"""Stands for log 0, which JSON cannot represent."""

_END_ID, _PROMPT_ID, _FIRST_CHARACTER_ID = 0, 1, 2
_FIRST_WORD_ID = _FIRST_CHARACTER_ID + sys.maxunicode + 1
_PROMPT = "<prompt>"

Distribution = Mapping[str, float]


class ScriptedPolicy:
    """A `Policy` that follows a script.

    It records all requests in `requests` and the number of those that it pulled together in `batch_sizes`.
    Like an engine, it works on `num_rows` requests at a time and takes one step per token: a completion comes
    back when its row is done, and the row is filled again at once. `num_steps` counts the steps, and
    `num_row_steps` the rows that were in use in them.
    """

    def __init__(
        self,
        script: Mapping[str, Distribution] | Callable[[str, str], Distribution],
        *,
        words: Iterable[str] = (),
        name: str | None = None,
        num_rows: int = 64,
    ) -> None:
        """A policy with the given table or function.

        `words` are the tokens of more than one character that a function may use; those of a table are found
        in the table. `name` should be given for a function; the default is a hash of the table. Raises
        ValueError if the probabilities after a text of the table are no distribution.
        """
        table = script if isinstance(script, Mapping) else {}
        for text, probs in table.items():
            _check(text, probs)
        tokens = dict.fromkeys([*words, *(token for probs in table.values() for token in probs)])
        self._words = [token for token in tokens if len(token) > 1 and token != END]
        self._word_ids = {word: _FIRST_WORD_ID + idx for idx, word in enumerate(self._words)}
        self._script = script
        digest = hashlib.blake2b(repr(script if table else words).encode(), digest_size=4).hexdigest()
        self._name = name or f"scripted-{digest}"
        self._spare_token = next((token for token in tokens if token != END), "\n")
        self._num_rows = num_rows
        self.requests: list[Request] = []
        self.batch_sizes: list[int] = []
        self.num_steps = self.num_row_steps = 0

    @property
    def name(self) -> str:
        """The given name, else a hash of the table."""
        return self._name

    @property
    def eos_ids(self) -> frozenset[int]:
        return frozenset([_END_ID])

    @property
    def entropy_bound(self) -> EntropyBound:
        return "exact"

    @property
    def max_length(self) -> None:
        return None

    @property
    def num_parameters(self) -> None:
        return None

    def reset_cache(self) -> None:
        """Do nothing: no state is kept."""

    def encode_question(self, question: str) -> tuple[int, ...]:
        """The characters of the question, and a mark after which the text of the table begins."""
        return (*(_FIRST_CHARACTER_ID + ord(character) for character in question), _PROMPT_ID)

    def encode(self, tokens: Iterable[str]) -> tuple[int, ...]:
        """The ids of tokens; the tokens of a string are its characters."""
        return tuple(self._token_id(token) for token in tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(
            self._token(token_id) for token_id in token_ids if token_id not in (_END_ID, _PROMPT_ID)
        )

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return ["" if token_id in (_END_ID, _PROMPT_ID) else self._token(token_id) for token_id in token_ids]

    def next_token(self, prefix_ids: Sequence[int]) -> dict[str, float]:
        """The distribution after a prefix, most probable token first, equals in the order of the script."""
        ids = list(prefix_ids)
        start = ids.index(_PROMPT_ID) + 1 if _PROMPT_ID in ids else 0
        question, text = self.decode(ids[:start]), self.decode(ids[start:])
        if isinstance(self._script, Mapping):
            probs = self._script.get(text, {END: 1.0})
        else:
            probs = self._script(question, text)
            _check(text, probs)
        return dict(sorted(probs.items(), key=lambda item: -item[1]))

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in the same order; after the end token it is empty."""
        return in_order(requests, self.stream(ListSource(requests)))

    def stream(self, source: RequestSource) -> Iterator[tuple[Request, Completion]]:
        """The completions of the requests of `source`, the one with the fewest steps left first."""
        rows: list[tuple[int, int, Request, Completion]] = []
        numbers, step = itertools.count(), 0
        while True:
            if requests := source.next(self._num_rows - len(rows)):
                self.batch_sizes.append(len(requests))
            for request in requests:
                completion = self._complete(request)
                heapq.heappush(rows, (step + len(completion), next(numbers), request, completion))
                self.requests.append(request)
            if not rows:
                return
            self.num_steps += rows[0][0] - step
            self.num_row_steps += (rows[0][0] - step) * len(rows)
            step = rows[0][0]
            while rows and rows[0][0] == step:
                _, _, request, completion = heapq.heappop(rows)
                yield request, completion

    def _complete(self, request: Request) -> Completion:
        rng = random.Random(f"{request.seed}:{request.prefix_ids}")
        prefix_ids = request.prefix_ids
        seen: list[tuple[int, float, float, int, float]] = []
        while len(seen) < request.max_tokens and prefix_ids[-1] != _END_ID:
            probs = self.next_token(prefix_ids)
            token = _draw(probs, request.temperature, request.top_p, rng.random())
            runner_up = next(
                (other for other in probs if other != token), self._spare_token if token == END else END
            )
            entropy = -sum(p * math.log(p) for p in probs.values() if p > 0)
            seen.append(
                (
                    self._token_id(token),
                    _log(probs[token]),
                    entropy,
                    self._token_id(runner_up),
                    _log(probs.get(runner_up, 0.0)),
                )
            )
            prefix_ids = (*prefix_ids, seen[-1][0])
        token_ids, logprobs, entropies, runner_up_ids, runner_up_logprobs = (
            zip(*seen, strict=True) if seen else ((),) * 5
        )
        finish: Finish = "stop" if prefix_ids[-1] == _END_ID else "length"
        return Completion(token_ids, logprobs, entropies, runner_up_ids, runner_up_logprobs, finish)

    def _token_id(self, token: str) -> int:
        if token == END:
            return _END_ID
        if len(token) == 1:
            return _FIRST_CHARACTER_ID + ord(token)
        if token not in self._word_ids:
            raise ValueError(
                f"token {token!r} has more than one character and is not among the words {self._words}"
            )
        return self._word_ids[token]

    def _token(self, token_id: int) -> str:
        if token_id < _FIRST_CHARACTER_ID:
            return (END, _PROMPT)[token_id]
        if token_id < _FIRST_WORD_ID:
            return chr(token_id - _FIRST_CHARACTER_ID)
        return self._words[token_id - _FIRST_WORD_ID]


def _check(text: str, probs: Distribution) -> None:
    total = sum(probs.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6) or any(p < 0 for p in probs.values()):
        raise ValueError(
            f"the probabilities after {text!r} must be at least 0 and add up to 1; "
            f"{dict(probs)} add up to {total}"
        )
    if "" in probs:
        raise ValueError(f"an empty token cannot follow {text!r}; the end token is {END!r}")


def _draw(probs: Distribution, temperature: float, top_p: float, uniform: float) -> str:
    """A token of a distribution sorted by probability: the first one if greedy, else by inverse CDF."""
    tokens = list(probs)
    if temperature == 0:
        return tokens[0]
    weights = [(p / probs[tokens[0]]) ** (1 / temperature) for p in probs.values()]
    cdf = list(itertools.accumulate(weights))
    last = bisect.bisect_left(cdf, top_p * cdf[-1], hi=len(cdf) - 1)
    return tokens[bisect.bisect_right(cdf, uniform * cdf[last], hi=last)]


def _log(p: float) -> float:
    return math.log(p) if p > 0 else IMPOSSIBLE_LOGPROB
