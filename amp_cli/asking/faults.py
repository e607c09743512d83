"""What can go wrong with a request to an endpoint: worth another try, this item's own fault, or the end of the run."""

import random
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

from amp_cli.addresses import shown_address
from amp_cli.asking.wire import proxy_of
from amp_cli.errors import AmpError

RETRIED = (408, 409, 425, 429)
"""Besides all of 5xx: the server asks to come again."""


class TransientFault(Exception):
    """Worth another try; after `retry_after` seconds where the server said so. It may still have been charged.

    Attributes:
        kind: tells one like another from a different one. is_a_reply: the server replied, with no answer in it.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        may_be_charged: bool = False,
        kind: str = "",
        is_a_reply: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.may_be_charged = may_be_charged
        self.kind = kind or reason
        self.is_a_reply = is_a_reply


class UnheardFault(TransientFault):
    """No reply, or not all of one: the server may have gone."""


class UnreachableError(AmpError):
    """Nobody is at the address."""


def unusable_reply(reason: str, *, kind: str) -> TransientFault:
    """Return the fault of a reply with status 200 and no answer in it."""
    return TransientFault(reason, may_be_charged=True, kind=kind, is_a_reply=True)


class EnoughError(AmpError):
    """Whoever takes the replies wants no more; what is on its way is still taken, since it is paid for."""


class ItemRejectedError(Exception):
    """This request will never be answered; the others may be."""


@dataclass(frozen=True, kw_only=True)
class FaultWording:
    """How messages speak of an endpoint.

    Attributes:
        who: `judge` or `model`. kept: what a stopped run has kept. option: what names the address.
        check: the options to look at when a model is not known.
        doubt: what to ask oneself when every item is refused.
    """

    who: str
    kept: str
    option: str
    check: str
    doubt: str


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how long to wait for an endpoint that fails; seconds."""

    attempts: int = 6
    first_delay: float = 2.0
    longest_delay: float = 60.0
    longest_retry_after: float = 600.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Return the pause after a failed attempt (from 1): what the server asked for, else doubling; with jitter."""
        jitter = random.uniform(0.5, 1.0)
        if retry_after is not None:
            return retry_after + jitter * min(1.0, self.first_delay)  # never earlier, and not all at once
        return min(self.longest_delay, self.first_delay * 2.0 ** (attempt - 1)) * jitter


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, in seconds or as a date, or OpenAI's retry-after-ms; None where there is none."""
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if text is None else max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def explain_status(
    status: int,
    said: str,
    code: str | None,
    headers: Mapping[str, str],
    *,
    model: str,
    url: str,
    patience: Patience,
    wording: FaultWording,
) -> Exception:
    """Return what a reply with an error status means.

    Args:
        said: the server's own words. code: its error code, as in `insufficient_quota`.
    """
    words, who, kept = f": {said}" if said else "", wording.who, wording.kept
    if 300 <= status < 400:
        to = shown_address(urljoin(f"{url}/", headers.get("location", "")))
        return AmpError(
            f"The {who} at '{url}' redirects to '{to}' ({status}), where nothing is sent",
            hint=f"If that is the right place, give it as {wording.option} itself; {kept} so far are kept",
        )
    if status == 407:
        return AmpError(
            f"A proxy before the {who} at '{url}' wants a user name and a password ({status}){words}",
            hint="Put them into HTTPS_PROXY, or name the host in NO_PROXY",
        )
    if status in (401, 403):
        return AmpError(
            f"The {who} at '{url}' refuses the key ({status}){words}",
            hint=f"Set OPENAI_API_KEY to a key that may use this model; {kept} so far are kept",
        )
    if status == 402 or code == "insufficient_quota":
        return AmpError(
            f"The account at '{url}' has no credit left ({status}){words}",
            hint=f"Top it up and give the same command again; {kept} so far are kept",
        )
    if status in (404, 405):
        return AmpError(
            f"'{url}' does not know the model '{model}' ({status}){words}",
            hint=f"Check {wording.check} is the address before /chat/completions, often ending in /v1",
        )
    if status in RETRIED or status >= 500:
        wait = retry_after_seconds(headers)
        if wait is not None and wait > patience.longest_retry_after:
            return AmpError(
                f"The {who} at '{url}' asks to wait {wait:,.0f} s ({status}){words}",
                hint=f"Give the same command again later; {kept} so far are kept",
            )
        return TransientFault(f"the {who} is busy or broken ({status}){words}", retry_after=wait)
    return ItemRejectedError(f"the {who} refused the request ({status}){words}")


def explain_connection(error: BaseException, url: str, timeout: float, wording: FaultWording) -> Exception:
    """Return what a request without any reply means: refused at the door, too slow, or cut off."""
    import httpx2

    causes = list(_causes(error))
    shown, kept = shown_address(url), f"{wording.kept.capitalize()} so far are kept"
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _untrusted(cause, shown, wording)
    proxy = proxy_of(url)
    for cause in causes:
        if isinstance(cause, httpx2.ConnectTimeout):
            return UnheardFault(f"'{shown}' took longer than {timeout:g} s to be reached")
        if isinstance(cause, httpx2.ConnectError | httpx2.UnsupportedProtocol | httpx2.ProxyError):
            way = f" through the proxy {proxy}" if proxy else ""
            ask = "Does that proxy work? NO_PROXY names hosts that need none" if proxy else "Is the server running"
            return UnreachableError(
                f"Cannot reach the {wording.who} at '{shown}'{way}: {_one_line(str(cause)) or type(cause).__name__}",
                hint=f"{ask}{'.' if proxy else ','} {'Is' if proxy else 'and is'} {wording.option} right? {kept}",
            )
        if isinstance(cause, TimeoutError | httpx2.TimeoutException):
            return UnheardFault(f"no reply within {timeout:g} s", may_be_charged=True)
    return UnheardFault(f"the connection was cut ({type(error.__cause__ or error).__name__})", may_be_charged=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on; a library may not say `from` where it wraps another's error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _untrusted(error: ssl.SSLError, shown: str, wording: FaultWording) -> AmpError:
    """Return the end of a run whose endpoint cannot prove who it is, or does not speak TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AmpError(
            f"The certificate of the {wording.who} at '{shown}' is not trusted: {error.verify_message}",
            hint="SSL_CERT_FILE names a file with the certificate of its authority, where that is your own",
        )
    return AmpError(
        f"No secure connection to the {wording.who} at '{shown}': {_one_line(error.reason or str(error))}",
        hint=f"Does {wording.option} begin with https:// where the server speaks plain http://?",
    )


def words_of(body: Any) -> tuple[str, str | None]:
    """Return message and code of an error's body, in whatever shape the server sends it."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            message = inner.get("message") or inner.get("detail") or ""
            code = inner.get("code") or inner.get("type")
            return _one_line(_as_text(message)), None if code is None else _as_text(code)
        return _one_line(_as_text(inner)), None
    return _one_line("" if body is None else _as_text(body)), None


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return "(words that cannot be read)"


def _one_line(text: str) -> str:
    """Return the beginning of a text without line breaks and what is no character to be shown or stored."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:3000])
    return " ".join(shown.split())[:300]
