"""What can be checked of a page without a browser: its outline, names, and the contrast of its colours."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"))


class Outline(HTMLParser):
    """The elements of a page in order, each with its attributes and the tags that it stands in."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements with one of these tags."""
        return [attributes for tag, attributes, _ in self.elements if tag in tags]

    @property
    def headings(self) -> list[int]:
        """The levels of the headings in reading order."""
        return [int(tag[1]) for tag, _, _ in self.elements if re.fullmatch(r"h[1-6]", tag)]


def problems(page: Path) -> list[str]:
    """Return what a reader by ear or by keyboard would miss; nothing where all is well."""
    outline = Outline(page)
    found = [f"no {tag}" for tag in ("main", "title") if len(outline.of(tag)) != 1]
    levels = outline.headings
    if levels.count(1) != 1 or levels[:1] != [1]:
        found.append(f"the headings begin with {levels[:3]}, not with the one h1")
    found += [f"an h{low} is followed by an h{high}" for low, high in pairwise(levels) if high > low + 1]
    found += ["an img has no alt" for one in outline.of("img") if not one.get("alt")]
    found += [
        f"an svg has neither name nor aria-hidden: {one}" for one in _outer_drawings(outline) if not _is_named(one)
    ]
    found += ["a th has no scope" for one in outline.of("th") if one.get("scope") not in ("col", "row")]
    found += [f"an inline handler: {name}" for _, one, _ in outline.elements for name in one if name.startswith("on")]
    ids = [one["id"] for _, one, _ in outline.elements if "id" in one]
    found += [f"the id {name} stands twice" for name in set(ids) if ids.count(name) > 1]
    links = [str(one["href"]) for one in outline.of("a") if "href" in one]
    found += [f"the link {link} leads nowhere" for link in links if link.removeprefix("#") not in ids]
    if not links or outline.elements[_body(outline) + 1][0] != "a":
        found.append("the page does not begin with a link past its head")
    addresses = [one.get(name) for _, one, _ in outline.elements for name in ("src", "srcset", "href", "action")]
    found += [f"it fetches {one:.40}" for one in addresses if one and not one.startswith(("#", "data:"))]
    policy = [one.get("content") for one in outline.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    if not policy or "default-src 'none'" not in str(policy[0]):
        found.append("nothing forbids to fetch")
    return found


def _outer_drawings(outline: Outline) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes, above in outline.elements if tag == "svg" and "svg" not in above]


def _is_named(drawing: dict[str, str | None]) -> bool:
    return drawing.get("aria-hidden") == "true" or (drawing.get("role") == "img" and bool(drawing.get("aria-label")))


def _body(outline: Outline) -> int:
    return next(place for place, (tag, _, _) in enumerate(outline.elements) if tag == "body")


def colours(style: Path) -> dict[str, dict[str, str]]:
    """Return the colours of a style sheet by name, of the `light` and the `dark` page."""
    blocks = re.findall(r":root \{([^}]*)\}", style.read_text(encoding="utf-8"))[:2]
    named = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]
    return {"light": named[0], "dark": named[1]}


def contrast(one: str, other: str) -> float:
    """Return WCAG 2's contrast ratio of two colours `#rrggbb`, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
