"""The real programs with other limits of time: `python -m tests.serving.quick exporter|receiver FLAGS`."""

import importlib
import os
import sys

from serving import guessing, protocol

if __name__ == "__main__":
    protocol.REQUEST_SECONDS = float(os.environ.get("QUICK_REQUEST_SECONDS", protocol.REQUEST_SECONDS))
    protocol.ANSWER_SECONDS = float(os.environ.get("QUICK_ANSWER_SECONDS", protocol.ANSWER_SECONDS))
    protocol.HANDSHAKE_SECONDS = float(os.environ.get("QUICK_HANDSHAKE_SECONDS", protocol.HANDSHAKE_SECONDS))
    guessing.FIRST_SECONDS = float(os.environ.get("QUICK_FIRST_GUESS_SECONDS", guessing.FIRST_SECONDS))
    guessing.LONGEST_SECONDS = max(guessing.FIRST_SECONDS, guessing.LONGEST_SECONDS)
    sys.exit(importlib.import_module(f"{sys.argv[1]}.__main__").main(sys.argv[2:]))
