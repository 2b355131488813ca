"""Settings for all tests: one thread, since two on a busy core are many times slower than one, and a Ctrl-C that is heard.

A shell that starts the tests in the background has them, and the processes that they start, ignore it.
"""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
