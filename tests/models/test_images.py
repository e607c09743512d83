"""Images of every odd kind: opened right, or refused with the reason."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amp_cli.errors import AmpError
from amp_cli.models import images
from amp_cli.models.images import find_image, image_content, image_size, look_at_image, open_image


def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    with pytest.raises(AmpError, match="leaves the folder"):
        find_image("../secret.png", tmp_path / "data")


def test_an_absolute_path_means_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    assert find_image(str(tmp_path / "a.png"), tmp_path / "elsewhere") == tmp_path / "a.png"


def test_a_link_below_the_root_must_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "all").symlink_to(tmp_path)
    for name in ("a.png", "all/secret.png", "b/../a.png"):
        with pytest.raises(AmpError, match="leaves the folder"):
            find_image(name, tmp_path / "data")
    (tmp_path / "data" / "b.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "data")  # the root may be one
    assert find_image("b.png", tmp_path / "link").samefile(tmp_path / "data" / "b.png")


def test_files_of_the_hubs_cache_are_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "datasets--a--b" / "snapshots" / "1f", tmp_path / "datasets--a--b" / "blobs"
    for folder in (snapshot, blobs, tmp_path / "blobs"):
        folder.mkdir(parents=True)
    for folder, name in ((blobs, "a.png"), (tmp_path / "blobs", "b.png")):
        (folder / "00").write_bytes(b"x")
        (snapshot / name).symlink_to(folder / "00")
    assert find_image("a.png", snapshot) == snapshot / "a.png"
    with pytest.raises(AmpError, match="leaves the folder"):
        find_image("b.png", snapshot)


def test_a_zero_byte_in_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="not the path of an image"):
        find_image("a\0.png", tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.eps"])
def test_an_eps_starts_no_program_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(AmpError, match="it is none of AVIF, BMP"):
        open_image(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_the_usual_formats_are_read_by_content(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.dat", format=kind)
    assert open_image(tmp_path / "a.dat").size == (6, 4)
    assert image_content(tmp_path / "a.dat") == ((tmp_path / "a.dat").read_bytes(), kind)


def test_nothing_but_an_image_is_copied(tmp_path: Path) -> None:
    (tmp_path / "passwd.png").write_text("root:x:0:0")
    with pytest.raises(AmpError, match="cannot be read"):
        image_content(tmp_path / "passwd.png")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"No image at '.*b\.jpg'"):
        find_image("b.jpg", tmp_path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_every_common_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = open_image(path)
    assert image.mode == "RGB"
    assert image.size == (5, 4)
    assert image.getpixel((2, 2)) == (255, 255, 255)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 10, 20, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (200, 10, 20)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


def test_one_pixel_is_a_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (1, 2, 3)


def test_empty_broken_and_truncated_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes(b"not an image at all")
    Image.effect_noise((200, 200), 50).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(content[: len(content) // 2])
    for name, reason in [
        ("empty.png", "0 bytes"),
        ("broken.png", "cannot be read"),
        ("truncated.jpg", "cannot be read"),
    ]:
        with pytest.raises(AmpError, match=reason):
            open_image(tmp_path / name)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(AmpError, match="animated"):
        open_image(tmp_path / "a.gif")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG header that announces 20,000 x 20,000 pixels, with hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = (20_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(AmpError, match="too large"):
        open_image(tmp_path / "bomb.png")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(AmpError, match="floating-point"):
        open_image(tmp_path / "a.tif")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        Image.fromarray(noise).save(tmp_path / name)
    return tmp_path


def test_the_size_is_read_from_the_header(whole: Path) -> None:
    assert {image_size(path) for path in whole.iterdir()} == {(48, 64)}


def test_a_look_decodes_no_whole_png_or_jpeg(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(images, "check_image", lambda path: decoded.append(path.name))
    for path in sorted(whole.iterdir()):
        look_at_image(path)
    assert decoded == ["a.bmp", "a.webp"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.98])
def test_a_look_refuses_an_image_that_is_cut_short(whole: Path, name: str, kept: float) -> None:
    content = (whole / name).read_bytes()
    (whole / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(AmpError):
        look_at_image(whole / name)


def test_a_look_takes_an_image_with_something_behind_its_end(whole: Path) -> None:
    for name in ("a.png", "a.jpg"):
        with (whole / name).open("ab") as file:
            file.write(b"\0\0 left by a camera")
        look_at_image(whole / name)
        open_image(whole / name)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "loop.png", "https://example.invalid/a.png"])
def test_a_name_that_leads_nowhere_is_refused_as_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(AmpError) as raised:
        find_image(name, tmp_path)
    assert raised.value.hint
