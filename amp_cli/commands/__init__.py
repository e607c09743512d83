"""One thin file per command: parse, check, call, show."""
