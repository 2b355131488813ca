"""Check whether a tokenizer and a model belong together."""

from __future__ import annotations

from typing import Any

from forkpoint.doctor.finding import Finding, ok, problem


def num_embeddings(model: Any) -> int:
    """Return the number of rows of a model's input embeddings; for an implicit PRM, those of its policy."""
    return int(getattr(model, "policy", model).get_input_embeddings().num_embeddings)


def check_vocabulary(num_tokens: int, num_rows: int) -> Finding:
    """Check that the model has an embedding for every token of the tokenizer."""
    if num_tokens > num_rows:
        return problem(
            "vocabulary",
            f"the tokenizer knows {num_tokens} tokens and the model {num_rows}: "
            "they do not belong together, or tokens were added without resizing the model",
        )
    return ok("vocabulary", f"the tokenizer knows {num_tokens} tokens, the model {num_rows}")
