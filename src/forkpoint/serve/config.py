"""The configuration of a server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from forkpoint.checks import check_above, check_at_least, check_within


@dataclass(frozen=True)
class ServeConfig:
    """The address of the server, its access token and its limits."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 stands for all addresses of this machine."""
    port: int = 8000
    """The port to listen on; 0 stands for any free port."""
    token_env: str | None = None
    """The environment variable that holds the bearer token that requests must carry. Without this and without
    a token file, anyone may send requests."""
    token_file: Path | None = None
    """A file that holds the bearer token."""
    max_body_bytes: int = 4 << 20
    """The longest request body; a longer one is refused (413)."""
    max_queue: int = 1024
    """The number of waiting solutions from which on requests are refused (429)."""
    max_queue_bytes: int = 64 << 20
    """The memory of the texts of waiting solutions from which on requests are refused (429)."""
    timeout_s: float = 60.0
    """The time after which a request without an answer is given up (504), and also one whose body has not
    arrived (408); a connection on which the head of a request has not arrived by then is closed."""
    batch_items: int = 64
    """The most solutions that are scored together."""
    batch_tokens: int = 32768
    """The most tokens of solutions that are scored together; a single solution may have more."""
    batch_wait_s: float = 0.005
    """How long a solution waits for others to be scored with it."""

    def __post_init__(self) -> None:
        check_at_least(
            1,
            max_body_bytes=self.max_body_bytes,
            max_queue=self.max_queue,
            max_queue_bytes=self.max_queue_bytes,
            batch_items=self.batch_items,
            batch_tokens=self.batch_tokens,
        )
        check_within("[0, 65535]", port=self.port)
        check_above(0, timeout_s=self.timeout_s)
        if not 0 <= self.batch_wait_s < self.timeout_s:
            raise ValueError(
                f"batch_wait_s must be 0 or above, and below timeout_s; {self.batch_wait_s} was given"
            )
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env and token_file were both given; the token has one place")

    def read_token(self) -> str | None:
        """The token that requests must carry; None if no token was configured.

        Raises ValueError if a token was configured and is missing.
        """
        if self.token_env is not None:
            place, text = f"the environment variable {self.token_env}", os.environ.get(self.token_env, "")
        elif self.token_file is not None:
            # what is not UTF-8 is replaced by a character that no token may have
            place, text = str(self.token_file), self.token_file.read_text(encoding="utf-8", errors="replace")
        else:
            return None
        token = text.strip()
        if not token or not all("!" <= character <= "~" for character in token):
            raise ValueError(
                f"{place} holds no token; put one there: at least one visible ASCII character, and no spaces"
            )
        return token
