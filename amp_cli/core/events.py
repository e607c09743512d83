"""What a worker process tells the command that started it: one JSON line an event, on its stdout."""

import json
import sys
from typing import Any

MARK = "amp-event "


def report(**event: Any) -> None:
    """Tell the parent; it stops the worker, by a broken pipe, when the parent is gone."""
    sys.stdout.write(MARK + json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event of a line, or None when the line is ordinary output."""
    if not line.startswith(MARK):
        return None
    try:
        event = json.loads(line.removeprefix(MARK))
    except json.JSONDecodeError:  # two processes wrote into one line
        return None
    return event if isinstance(event, dict) else None
