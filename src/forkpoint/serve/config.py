"""How a PRM is served."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServeConfig:
    """Where the server listens, who may ask, and how much it takes on."""

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 is every one of this machine."""
    port: int = 8000
    """0 is any free one."""
    token_env: str | None = None
    """The environment variable with the bearer token that requests must carry; without it, and without a file, anyone may ask."""
    token_file: Path | None = None
    """A file with that token."""
    max_body_bytes: int = 4 << 20
    """A longer request body is refused (413)."""
    max_queue: int = 1024
    """While so many solutions wait, requests are refused (429)."""
    timeout_s: float = 60.0
    """A request that is not answered by then is given up (504), and so is a body that has not arrived by then (408)."""
    batch_items: int = 64
    """Solutions that are scored together at most."""
    batch_tokens: int = 32768
    """Their tokens at most; a single solution may have more."""
    batch_wait_s: float = 0.005
    """How long a solution that could be scored waits for others."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_queue", "batch_items", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; {getattr(self, name)} was given")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be in 0..65535; {self.port} was given")
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s must be above 0; {self.timeout_s} was given")
        if not 0 <= self.batch_wait_s < self.timeout_s:
            raise ValueError(
                f"batch_wait_s must be 0 or above, and below timeout_s; {self.batch_wait_s} was given"
            )
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env and token_file were both given; the token has one place")

    def read_token(self) -> str | None:
        """The token that requests must carry; None where there is none. ValueError where it was promised and is missing."""
        if self.token_env is not None:
            place, text = f"the environment variable {self.token_env}", os.environ.get(self.token_env, "")
        elif self.token_file is not None:
            place, text = str(self.token_file), self.token_file.read_text(encoding="utf-8")
        else:
            return None
        token = text.strip()
        if not token or not all("!" <= character <= "~" for character in token):
            raise ValueError(
                f"{place} holds no token; put one there: at least one visible ASCII character, and no spaces"
            )
        return token
