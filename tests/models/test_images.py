"""Images of every odd kind: opened right, or refused with the reason."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amp_cli.errors import AmpError
from amp_cli.models.images import find_image, open_image


def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    with pytest.raises(AmpError, match="leaves the folder"):
        find_image("../secret.png", tmp_path / "data")


def test_an_absolute_path_means_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    assert find_image(str(tmp_path / "a.png"), tmp_path / "elsewhere") == tmp_path / "a.png"


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


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "loop.png", "https://example.invalid/a.png"])
def test_a_name_that_leads_nowhere_is_refused_as_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(AmpError) as raised:
        find_image(name, tmp_path)
    assert raised.value.hint
