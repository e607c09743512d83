"""Files made to do harm, by hand: each with the command that meets it in a copy of the old folders."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.support.bad_inputs import POPE, PREFS

Make = Callable[[Path], None]
CHECK = f"prefs check {PREFS} --json"
VIEW = f"prefs view {PREFS} --out new.html"
EXPORT = f"prefs export {PREFS} --to trl --out new/a.parquet"
DRY = f"train --size tiny --prefs {PREFS} --dry-run --out new"
ASK = "eval pope --model tiny --data data/world --limit 2 --out new"
IMPORT = "prefs import big.{} --out new"
IMAGE, WORLD = "data/train/images/000000000001.png", "data/world/images/000000500001.png"
ACCELERATE = f"train --size tiny --accelerate-config bad.yaml --prefs {PREFS} --dry-run --out new"
RECIPE = f"train --size bad.yaml --prefs {PREFS} --dry-run --out new"
ARCHIVE = "eval mmhal --data test.zip --answers mmhal/answers.jsonl --verdicts mmhal/verdicts.jsonl --out new"


def content(name: str, what: bytes) -> Make:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(what)

    return make


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG that says it is so large, with these packed pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data or zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def image_bytes(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(file, kind)
    return file.getvalue()


def cut(kind: str, share: float) -> bytes:
    whole = image_bytes(kind)
    return whole[: int(len(whole) * share)]


IMAGES = {
    **{
        f"{kind} cut at {share:.0%}": cut(kind, share)
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")
        for share in (0.01, 0.2, 0.5, 0.9)
    },
    "empty": b"", "text": b"no image", "NUL bytes": b"\0" * 400, "brackets": b"[" * 200_000,
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "PDF": b"%PDF-1.4\n%%EOF",
    "pixel bomb 65535 x 65535": png(65535, 65535), "pixel bomb 20000 x 20000": png(20_000, 20_000),
    "no pixels": png(0, 0), "wide": png(2**31 - 1, 1), "no data": png(8, 8, b"\0"),
    "changed PNG": image_bytes("PNG")[:50] + b"\xff\xff\xff" + image_bytes("PNG")[53:],
    "JPEG without end": image_bytes("JPEG")[:-2], "header only": b"\x89PNG\r\n\x1a\n",
    "TIFF header": b"II*\0\xff\xff\xff\x7f",
    "ICO": b"\0\0\1\0\xff\xff" + b"\xff" * 100, "PSD": b"8BPS\0\1" + b"\xff" * 60,
}  # fmt: skip


def parquet(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> None:
        from tests.support.prefs_formats import EXAMPLES, write_parquet

        path = write_parquet(folder / "big.parquet", EXAMPLES["rlaif-v"])
        path.write_bytes(change(path.read_bytes()))

    return make


def _at(share: float, what: bytes) -> Callable[[bytes], bytes]:
    def change(whole: bytes) -> bytes:
        place = int(len(whole) * share)
        return whole[:place] + what + whole[place + len(what) :]

    return change


def _up_to(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share)]


PARQUET = {
    **{f"cut at {share:.0%}": _up_to(share) for share in (0.0, 0.1, 0.5, 0.9, 0.99)},
    **{
        f"{len(what)} bytes changed at {share:.1%}": _at(share, what)
        for share in (0.002, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
        for what in (b"\xff\xff", b"\0\0\0\0")
    },
    "text": lambda whole: b'{"a": 1}', "only its name": lambda whole: b"PAR1", "twice": lambda whole: whole * 2,
}  # fmt: skip


def archive(members: dict[str, bytes], change: Callable[[bytes], bytes] = lambda whole: whole) -> Make:
    def make(folder: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, what in members.items():
                packed.writestr(name, what)
        (folder / "test.zip").write_bytes(change(file.getvalue()))

    return make


def encrypted(whole: bytes) -> bytes:
    """Set the bit that says a member is encrypted, in its header and in the directory."""
    place = whole.index(b"PK\x01\x02")
    return _at(0, b"")(whole[:6] + b"\x01" + whole[7 : place + 8] + b"\x01" + whole[place + 9 :])


def strange_method(whole: bytes) -> bytes:
    place = whole.index(b"PK\x01\x02")
    return whole[:8] + b"\x63" + whole[9 : place + 10] + b"\x63" + whole[place + 11 :]


LIST = "response_template.json"
BOMB = b"[" + b" " * (1 << 28) + b"]"
ARCHIVES: dict[str, Make] = {
    "no list": archive({"a.txt": b"x"}),
    "empty list": archive({LIST: b""}),
    "list of numbers": archive({LIST: b"[1]"}),
    "brackets": archive({LIST: b"[" * 200_000}),
    "bomb": archive({LIST: BOMB}),
    "zip-slip": archive({f"../../../../tmp/{LIST}": b"[]", "../../evil.png": b"x"}),
    "absolute": archive({f"/tmp/{LIST}": b"[]"}),
    "not a zip": content("test.zip", b"PK\x03\x04 no"),
    "empty": content("test.zip", b""),
    "cut off": archive({LIST: b"[]" * 500}, lambda whole: whole[: len(whole) // 2]),
    "directory changed": archive({LIST: b"[]" * 500}, lambda whole: whole[:-30] + b"\xff" * 8 + whole[-22:]),
    "content changed": archive({LIST: b"[1, 2, 3]" * 500}, lambda whole: whole[:60] + b"\xff\xff\xff" + whole[63:]),
    "encrypted": archive({LIST: b"[]"}, encrypted),
    "unknown method": archive({LIST: b"[]"}, strange_method),
    "1,000 names": archive({f"{number}/{LIST}": b"[]" for number in range(1000)}),
}
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
YAML = {
    "empty": b"", "blank": b"  \n", "aliases": LAUGHS.encode(), "merge keys": MERGES.encode(),
    "brackets": b"[" * 200_000,
    "braces": b"{a: " * 100_000, "dashes": b"- " * 100_000, "tag": b"!!python/object/apply:os.system ['true']",
    "tag of a number": b"num_processes: !!int x", "digits": b"num_processes: " + b"9" * 5000, "date": b"a: 2024-13-45",
    "not UTF-8": b"a: \xff", "NUL": b"a: \0", "tab": b"a:\n\t- b", "list": b"[1, 2]", "text": b"hello", "number": b"7",
    "key twice": b"a: 1\na: 2", "complex key": b"? [1, 2]\n: 3", "two documents": b"a: 1\n---\nb: 2",
    "no number": b"distributed_type: 'NO'\nnum_processes: many", "minus": b"distributed_type: 'NO'\nnum_processes: -1",
    "true": b"distributed_type: 'NO'\nnum_processes: true", "NaN": b"distributed_type: 'NO'\nnum_processes: .nan",
    "a million": b"distributed_type: MULTI_CPU\nnum_processes: 1000000", "null": b"distributed_type:\nnum_processes:",
    "strange type": b"distributed_type: 7\nnum_processes: 1", "surrogate": b'a: "\\ud800"',
    "list for a number": b"distributed_type: 'NO'\nnum_processes: [1]", "2 MB": b"# " + b"x" * (2 << 20),
    "numbers for names": b"1: 2\n3: 4\ndistributed_type: 'NO'",
    "learning_rate is a list": b"learning_rate: [1]", "beta is NaN": b"beta: .nan", "lora_r is huge": b"lora_r: 1e999",
}  # fmt: skip


def line_of(size: int, ending: bytes) -> bytes:
    return b'{"id": "a", "text": "' + b"x" * size + b'"' + ending


BIG = {
    "50 MB line": ("jsonl", line_of(50 << 20, b"}\n")),
    "50 MB line without end": ("jsonl", line_of(50 << 20, b"")),
    "70 MB line": ("jsonl", line_of(70 << 20, b"}\n") + b'{"id": "b"}\n'),
    "70 MB entry": ("json", b"[" + line_of(70 << 20, b"}") + b', {"id": "b"}]'),
    "50 MB of numbers": ("json", b"[" + b"1," * (25 << 20) + b"1]"),
    "10 MB of quotes": ("json", b'["' + b'"' * (10 << 20)),
    "10 MB of backslashes": ("json", b'["' + b"\\" * (10 << 20)),
    "10 MB of commas": ("json", b"[" + b"," * (10 << 20)),
    "10 MB of line ends": ("jsonl", b"\n" * (10 << 20)),
    "1 MB of closing brackets": ("json", b"[" + b"]" * (1 << 20)),
}


def linked(name: str, target: str) -> Make:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def circle(folder: Path) -> None:
    for name in ("data/train/images", "data/world", "pope"):
        if (folder / name).is_dir():
            (folder / name / "again").symlink_to(folder, target_is_directory=True)


def strange_names(folder: Path) -> None:
    """Leave only files whose names are not UTF-8, hold a line break, or steer a terminal."""
    for name in (b"\xff\xfe.jsonl", b"a\nb.jsonl", b"\x1b[2J.json"):
        (folder / "mixed" / os.fsdecode(name)).write_bytes((folder / "mixed" / "held_out.jsonl").read_bytes())
    (folder / "mixed" / "preferences.jsonl").unlink()


Cases = dict[str, tuple[str, Make]]
HOSTILE: dict[str, Cases] = {
    "damaged images": {
        f"{name} ({line.split()[0]} {line.split()[1]})": (line, content(where, what))
        for name, what in IMAGES.items()
        for line, where in ((CHECK, IMAGE), (VIEW, IMAGE), (EXPORT, IMAGE), (DRY, IMAGE), (ASK, WORLD))
    },
    "damaged Parquet": {name: (IMPORT.format("parquet"), parquet(change)) for name, change in PARQUET.items()},
    "damaged Arrow": {name: (IMPORT.format("arrow"), content("big.arrow", what)) for name, what in IMAGES.items()},
    "archives": {name: (ARCHIVE, make) for name, make in ARCHIVES.items()},
    "accelerate configurations": {name: (ACCELERATE, content("bad.yaml", what)) for name, what in YAML.items()},
    "recipes": {name: (RECIPE, content("bad.yaml", what)) for name, what in YAML.items()},
    "large files": {name: (IMPORT.format(kind), content(f"big.{kind}", what)) for name, (kind, what) in BIG.items()},
    "links": {
        "folders in a circle (report)": ("report pope", circle),
        "folders in a circle (eval)": ("eval pope --data data/world --answers pope/answers.jsonl --out new", circle),
        "folders in a circle (import)": ("prefs import data/train/images --out new", circle),
        "labels link to themselves": (
            "eval pope --data data/world --answers pope/answers.jsonl --out new",
            linked(POPE, "coco_pope_random.json"),
        ),
        "image links to itself (check)": (CHECK, linked(IMAGE, "000000000001.png")),
        "image links to itself (view)": (VIEW, linked(IMAGE, "000000000001.png")),
        "image links to itself (eval)": (ASK, linked(WORLD, "000000500001.png")),
        "image is a device (check)": (CHECK, linked(IMAGE, "/dev/zero")),
        "image is a device (eval)": (ASK, linked(WORLD, "/dev/zero")),
        "out links to itself": (f"prefs import {PREFS} --out loop", linked("loop", "loop")),
        "run links to itself": ("report loop", linked("loop", "loop")),
        "run.json is a device": ("report pope", linked("pope/run.json", "/dev/zero")),
        "names that are not UTF-8": ("prefs check mixed --json", strange_names),
    },
}  # fmt: skip
