"""The inputs of a RAFT run (problems, base, PRM), which are checked before anything is sampled.

Invariant: no problem is both learned from and evaluated on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.errors import LayoutError
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.policies import load_policy
from forkpoint.policies.context import fits_context, room_after
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Policy, Problem, Request, Scorer
from forkpoint.solutions.outcomes import paths_of


@dataclass(frozen=True)
class RaftInputs:
    """The problems, the policy to start from, and the PRM that chooses."""

    problems: Sequence[Problem]
    """Problems to learn from."""
    eval_problems: Sequence[Problem]
    """Problems that every policy is measured on; they share no question with `problems`."""
    base: str
    """The policy to start from: `lab`, a model directory or a hub id."""
    prm: Scorer | None = None
    """The PRM that scores completions; None if the configuration selects by outcome."""
    prm_format: PRMFormat = field(default_factory=PRMFormat)
    """How solutions are cut into steps for the PRM."""
    load: Callable[[str], Policy] = load_policy
    """Loads the base and every new policy, for example `load_policy` with a template, device or batch
    size."""

    def identity(self, policy: Policy) -> dict[str, Any]:
        """The part of the run's configuration that depends on the inputs; `policy` is the loaded base."""
        return {
            "base": policy.name,
            "scorer": self.prm.name if self.prm else None,
            "prm_format": self.prm_format.to_row() if self.prm else None,
            "problems": content_key([asdict(problem) for problem in self.problems]),
            "num_problems": len(self.problems),
            "eval_problems": content_key([asdict(problem) for problem in self.eval_problems]),
            "num_eval_problems": len(self.eval_problems),
        }

    def check(self, config: RaftConfig) -> None:
        """ValueError unless the problems, the PRM and the configuration fit together."""
        if not self.problems or not self.eval_problems:
            raise ValueError(
                "problems to learn from and to evaluate on are needed; "
                f"{len(self.problems)} and {len(self.eval_problems)} were given"
            )
        if config.num_prompts > len(self.problems):
            raise ValueError(
                f"num_prompts {config.num_prompts} is more than the {len(self.problems)} problems; "
                "give 0 to take all of them"
            )
        if config.select == "prm" and self.prm is None:
            raise ValueError("select 'prm' needs a PRM; give one, or choose select 'outcome'")
        if config.select == "outcome" and self.prm is not None:
            raise ValueError(
                "select 'outcome' keeps right completions and asks no PRM; "
                "leave the PRM out, or choose select 'prm'"
            )
        questions = {problem.question for problem in self.problems}
        shared = [problem.id for problem in self.eval_problems if problem.question in questions]
        if shared:
            raise ValueError(
                f"{len(shared)} evaluation problems are also learned from (the first is {shared[0]}); "
                "leave them out on one side, because accuracy on them says nothing about new problems"
            )

    def check_policy(self, policy: Policy, max_tokens: int) -> None:
        """ValueError unless the prompts fit its context, LayoutError unless the PRM can read its text."""
        num_long = sum(not fits_context(policy, problem) for problem in self.eval_problems)
        if num_long:
            raise ValueError(
                f"{num_long} evaluation prompts do not fit the policy's context of {policy.max_length} "
                "tokens; leave them out"
            )
        fitting = next((problem for problem in self.problems if fits_context(policy, problem)), None)
        if fitting is None:
            raise ValueError(f"no prompt fits the policy's context of {policy.max_length} tokens")
        if self.prm is not None:
            check_prm(self.prm, self.prm_format, policy, fitting, max_tokens)


def check_prm(prm: Scorer, prm_format: PRMFormat, policy: Policy, problem: Problem, max_tokens: int) -> None:
    """LayoutError unless the PRM can read the policy's greedy solution of `problem`, which is sampled here.

    The PRM's tokenizer must decode the text to what it was, must find neither the step tag nor another
    special token in it, and the whole must fit the PRM's `max_length`. A scorer without `tokenizer` and
    `layout` is not checked.
    """
    tokenizer, layout = getattr(prm, "tokenizer", None), getattr(prm, "layout", None)
    if tokenizer is None or layout is None:
        return
    prompt_ids = policy.encode_question(problem.question)
    limit = room_after(policy, prompt_ids, max_tokens)
    path = paths_of(policy, policy.generate([Request(prompt_ids, limit)]))[0]
    prompt = prm_format.template.replace("{question}", problem.question)
    steps = path.steps(prm_format.segmentation, prm_format.rule)[0]
    reserved = {*tokenizer.all_special_ids, *([layout.tag_id] if layout.is_tag_reserved else [])}
    start = f"{prm.name} cannot read what {policy.name} says to problem {problem.id}"
    for piece in (prompt, *steps):
        ids = tokenizer.encode(piece, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != piece:
            raise LayoutError(
                f"{start}: its tokenizer makes {back!r} of {piece!r}; "
                "use a PRM that was trained on such texts"
            )
        found = reserved.intersection(ids)
        if found:
            token = tokenizer.decode([min(found)])
            raise LayoutError(
                f"{start}: {piece!r} holds its special token {token!r}; "
                "scores would be read at the wrong places"
            )
    try:
        layout.encode(problem.question, steps)
    except LayoutError as error:
        raise LayoutError(f"{start}: {error}") from error
