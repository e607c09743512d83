"""The connection to an endpoint: no redirect is followed, replies are bounded, proxies named."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from amp_cli.addresses import shown_address
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    import httpx2

LARGEST_REPLY = 4 << 20
"""Bytes. No reply of a model is longer; what goes on is not read."""


class ReplyTooLargeError(Exception):
    """A reply went on past `LARGEST_REPLY`, or was packed so that its size is not known."""


def open_wire(url: str, timeout: float) -> "httpx2.AsyncClient":
    """Return a client for an endpoint: prompts and keys go to it alone, whatever it redirects to.

    Raises:
        AmpError: a proxy or a certificate file of the environment cannot be used.
    """
    import openai

    try:
        return openai.DefaultAsyncHttpxClient(
            timeout=timeout,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},  # a packed reply may unpack to anything
            event_hooks={"response": [_bound]},
        )
    except (ValueError, ImportError, OSError) as error:  # before anything is sent: what the environment says is wrong
        proxy = proxy_of(url)
        what = f"the proxy {proxy}" if proxy else "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names"
        raise AmpError(
            f"No connection to '{shown_address(url)}' can be made with {what}: {shown_address(str(error)):.200}",
            hint="Mend or unset that variable of the environment; NO_PROXY names hosts that need no proxy",
        ) from None


async def _bound(response: "httpx2.Response") -> None:
    """Have a response's body end with an error where it grows past the bound."""
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise ReplyTooLargeError("the reply is packed, though that was not asked for")
    response.stream = _bounded(response.stream)


def _bounded(stream: object) -> "httpx2.AsyncByteStream":
    import httpx2

    assert isinstance(stream, httpx2.AsyncByteStream)
    inner = stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for block in inner:
                size += len(block)
                if size > LARGEST_REPLY:
                    raise ReplyTooLargeError(f"the reply is longer than {LARGEST_REPLY >> 20} MiB")
                yield block

        async def aclose(self) -> None:
            await inner.aclose()

    return Bounded()


def proxy_of(url: str) -> str:
    """Return the proxy that the environment names for an address, and by which variable; "" where there is none."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return ""
    proxies: Mapping[str, str] = getproxies()
    for kind in (parts.scheme, "all"):
        if proxy := proxies.get(kind):
            shown = shown_address(proxy if "://" in proxy else f"http://{proxy}")
            return f"'{shown}' of {kind.upper()}_PROXY"
    return ""
