"""How an address on the web is shown and stored: without user name, password, and whatever else may be a key.

https://me:pass@host:8000/t0ken/v1?key=1#llava  ->  https://***@host:8000/***/v1?key=***#llava
Several addresses of one model have commas between them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

HIDDEN = "***"
_ADDRESS = re.compile(
    r"\b(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<rest>(?:(?!,https?://)[^\s'\"<>`|{}\\])*[^\s'\"<>`|{}\\.,:;!?)\]])",
    re.I,
)
_HARMLESS = re.compile(
    r"v\d+[a-z0-9.]{0,8}|api|openai|openai-compatible|compatible-mode|compatible|inference|llm|llms|ai|rest|paas|azure"
    r"|gateway|proxy|serving-endpoints|models?|engines|deployments|chat|completions|hub|hf|hf-mirror|huggingface"
    r"|mirrors?|datasets?|resolve|main|files?|vllm|sglang|ollama|litellm|llama|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,6}",
    re.I,
)
"""Parts of a path that are no key: what servers call their places, and the names of hosts and files."""
_PLAIN_QUERY = ("api-version", "download", "revision")
_KEY = re.compile(
    r"""(?:sk|pk|rk|hf|gh[opsur]|glpat|xox[a-z]|key|token|secret|tok|pat|api)[-_=][\w.-]{6,}   # as providers begin them
        | AKIA\w{8,} | AIza[\w-]{10,} | eyJ[\w.-]{10,}
        | [\w.~-]*(?:secret|passw|apikey|api[-_]key)[\w.~-]*""",
    re.I | re.X,
)
_RUN = re.compile(r"(?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{20,}")
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BEFORE_A_KEY = re.compile(r"keys?|tokens?|auth|secrets?|api[-_]?keys?|bearer|k|t", re.I)


def shown_address(address: str) -> str:
    """Return the address of a user's endpoint or mirror as it may be shown: of its path only well-known parts."""
    return _ADDRESS.sub(lambda found: _masked(found, _of_a_user), address)


def masked(text: str) -> str:
    """Return a text with the addresses in it shown so: no user name or password, and no part that looks like a key."""
    return _ADDRESS.sub(lambda found: _masked(found, _in_a_text), text) if "://" in text else text


def is_api_version(text: str | None) -> bool:
    """Tell whether a text may be an API version, as in `2024-10-21` or `2025-01-01-preview`."""
    return text is not None and re.fullmatch(r"[\w.-]{1,40}", text) is not None


def masked_values(value: Any, mask: Callable[[str], str] = masked) -> Any:
    """Return JSON's values with the addresses in all their texts masked, by `mask`."""
    if isinstance(value, Mapping):
        return {key: masked_values(inner, mask) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(inner, mask) for inner in value]
    return mask(value) if isinstance(value, str) and "://" in value else value


def stored(value: Any) -> Any:
    """Return JSON's values as a run folder keeps them: addresses that are all of a text are a user's own."""
    return masked_values(value, lambda text: (shown_address if _is_of_addresses(text) else masked)(text))


def _is_of_addresses(text: str) -> bool:
    """Tell whether a text is one address, or several with commas between them, and nothing else."""
    return all(map(_ADDRESS.fullmatch, re.split(r",(?=https?://)", text, flags=re.I)))


def _masked(found: re.Match[str], path: Callable[[str], str]) -> str:
    rest, sharp, fragment = found["rest"].partition("#")
    rest, mark, query = rest.partition("?")
    host, slash, parts = rest.partition("/")
    if "@" in parts and "@" not in host and ":" in host and not host.rpartition(":")[2].isdigit():
        host, slash, parts = _host_behind_a_password(rest)  # a password with a slash in it
    if "@" in host:
        host = f"{HIDDEN}@{host.rpartition('@')[2]}"
    is_web = found["scheme"].lower().startswith("http")
    shown = f"{found['scheme']}://{host}{slash}{path(parts) if is_web else parts}"
    return shown + (f"?{_masked_query(query)}" if mark else "") + sharp + fragment


def _host_behind_a_password(rest: str) -> tuple[str, str, str]:
    secret, _, behind = rest.rpartition("@")
    host, slash, parts = behind.partition("/")
    return f"{secret.replace('/', '')}@{host}", slash, parts


def _masked_query(query: str) -> str:
    shown = []
    for one in query.split("&"):
        name, equals, _ = one.partition("=")
        shown.append(one if name.lower() in _PLAIN_QUERY else f"{name}={HIDDEN}" if equals else HIDDEN)
    return "&".join(shown)


def _of_a_user(path: str) -> str:
    parts = path.split("/")
    before = ["", *parts]
    return "/".join(
        part if not part or part == HIDDEN or _HARMLESS.fullmatch(part) or one == "deployments" else HIDDEN
        for one, part in zip(before, parts, strict=False)
    )


def _in_a_text(path: str) -> str:
    parts = path.split("/")
    return "/".join(
        HIDDEN if part and _looks_like_a_key(part, before) else part
        for before, part in zip(["", *parts], parts, strict=False)
    )


def _looks_like_a_key(part: str, before: str) -> bool:
    bare = part.rstrip(".,:;)]")
    if _KEY.fullmatch(bare) or (_BEFORE_A_KEY.fullmatch(before) and len(bare) >= 8):
        return True
    return bool(_RUN.search(bare)) and not _HEX.fullmatch(bare)
