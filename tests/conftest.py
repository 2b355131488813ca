"""Settings for all tests: a single thread, and a Ctrl-C that is not ignored.

Two threads on a busy core are many times slower than one. A shell that starts the tests in the background
makes them, and the processes that they start, ignore Ctrl-C.
"""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
