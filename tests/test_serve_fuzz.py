"""The server keeps to its own OpenAPI description: every answer is declared, and none is a server error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.serve.config import ServeConfig
from test_prms import make_prm
from test_serve import running


@pytest.mark.slow
def test_every_answer_is_one_that_the_interface_declares(tmp_path: Path) -> None:
    """All checks of schemathesis.

    No solution is too long for the PRM, and none holds its tag: OpenAPI cannot express these limits.
    """
    prm = load_prm(make_prm(tmp_path / "prm", PRMFormat(tag="<user>", max_length=1 << 20)))
    with running(prm, ServeConfig(batch_wait_s=0), token="s3cret") as (client, _):
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{client.base_url}/openapi.json",
            "--header",
            "Authorization: Bearer s3cret",
        ]
        command += [
            "--checks",
            "all",
            "--max-examples",
            "20",
            "--generation-deterministic",
            "--suppress-health-check",
            "all",
            "--no-color",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and "Tested: 5" in done.stdout, done.stdout + done.stderr
