"""Renders a foreign chat template once, in a process with little time and memory, before it is used in ours.

This file is also the script that the process runs, so it imports nothing of ours at its top.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

SECONDS = 3
"""CPU time for all dialogues of the trial; a real template takes milliseconds."""
WAIT = 120
"""Seconds until we no longer wait for the process, its start included."""
MEMORY = 512 << 20
"""Bytes beyond what the process starts with."""
LONGEST = 1 << 20
"""Characters that a few words may become, and bytes that a template may have."""
OUT_OF_TIME = 124
"""The status of a process that has ended itself, where the system does not count its time."""
QUESTION = "Is there a dog in this image?"


def fault_of(template: str, tokens: Mapping[str, str]) -> str | None:
    """Return what is wrong with a template, or None. The same template is tried once in a process.

    Args:
        tokens: the tokenizer's special tokens by name, which templates may use.
    """
    return _fault(template, json.dumps({name: str(token) for name, token in tokens.items()}))


@lru_cache(maxsize=64)
def _fault(template: str, tokens: str) -> str | None:
    import psutil

    if len(template) > LONGEST:
        return f"it has {len(template):,} characters; at most {LONGEST:,} are read"
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as told:
        asked.write(json.dumps({"template": template, "tokens": json.loads(tokens)}).encode())
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=asked, stdout=told, stderr=subprocess.DEVNULL
        )
        try:
            started = time.monotonic()
            while process.poll() is None:
                with suppress(psutil.Error):  # not every system holds a process to its memory
                    if psutil.Process(process.pid).memory_info().rss > 2 * MEMORY:
                        return "it takes too much memory"
                if time.monotonic() - started > WAIT:
                    return "it takes too long"
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        told.seek(0)
        answer = told.read().decode("utf-8", "replace")
    if process.returncode == 0 and answer:
        fault: str | None = json.loads(answer)
        return fault
    if process.returncode in _SAY_OUT_OF_TIME:
        return "it takes too long"
    return f"the process that tries it ended with status {process.returncode}"


if sys.platform == "win32":
    _SAY_OUT_OF_TIME = (OUT_OF_TIME,)
else:
    _SAY_OUT_OF_TIME = (OUT_OF_TIME, -signal.SIGXCPU)


def _main() -> None:
    """Read a template, try it, write its fault (or null) as JSON."""
    asked = json.load(sys.stdin.buffer)
    from transformers.utils import chat_template_utils  # noqa: F401 - what it takes is not the template's

    _limit_self()
    sys.stdout.write(json.dumps(try_rendering(asked["template"], asked["tokens"])))


def try_rendering(template: str, tokens: Mapping[str, str]) -> str | None:
    """Render a few dialogues in this process; return the fault, or None where one of them shows its question."""
    from transformers.utils.chat_template_utils import render_jinja_template

    faults = []
    shows_question = False
    for messages, is_open in _dialogues():
        try:
            (text,), _ = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=is_open, **tokens
            )
        except MemoryError:
            return "it takes too much memory"
        except Exception as error:  # whatever a stranger's program raises
            faults.append(f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]:.200}")
            continue
        if len(text) > LONGEST:
            return f"it makes {len(text):,} characters of a short question"
        shows_question = shows_question or QUESTION in text
    if shows_question:
        return None  # not every template takes every dialogue
    return faults[0] if faults else "it has no place for the question"


def _limit_self() -> None:
    """Limit time and memory by the system; under Windows a thread sees to the time, and who waits to the memory."""
    import psutil

    if sys.platform == "win32":
        threading.Thread(target=_end_after_seconds, daemon=True).start()
    else:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + SECONDS
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with suppress(ValueError, OSError):
            limit = psutil.Process().memory_info().vms + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _end_after_seconds() -> None:
    """End this process when it has taken `SECONDS` of CPU time from now on."""
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        time.sleep(0.05)
    os._exit(OUT_OF_TIME)


def _dialogues() -> list[tuple[list[dict[str, Any]], bool]]:
    """Return dialogues as a model with images gets them, and as a plain language model does; open and closed."""
    found: list[tuple[list[dict[str, Any]], bool]] = []
    for has_image, has_system, rounds in ((True, False, 1), (False, False, 1), (True, False, 3), (True, True, 2)):
        said: list[tuple[str, list[dict[str, str]]]] = [("system", _text("Be brief."))] if has_system else []
        for number in range(rounds):
            image = [{"type": "image"}] if has_image and number == 0 else []
            said += [("user", [*image, *_text(QUESTION)]), ("assistant", _text("Yes, there is a brown dog."))]
        listed = [{"role": role, "content": content} for role, content in said]
        plain = [{"role": role, "content": content[-1]["text"]} for role, content in said]
        found += [(listed[:-1], True), (listed, False), (plain[:-1], True)]
    return found


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


if __name__ == "__main__":
    _main()
