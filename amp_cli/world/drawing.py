"""Draws a scene: the same scene always gives the same picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from amp_cli.world.scenes import PICTURE_SIZE, Instance, Scene

_Colour = tuple[int, int, int]
_COLOURS: dict[str, _Colour] = {
    "red": (214, 40, 40),
    "green": (30, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 205, 30),
    "purple": (130, 45, 175),
    "pink": (250, 130, 190),
}
_BACKGROUNDS: dict[str, _Colour] = {
    "street": (190, 190, 195),
    "sea": (170, 215, 235),
    "kitchen": (235, 220, 195),
    "park": (195, 230, 180),
}
_BLACK, _BROWN, _WHITE, _SKIN, _STEM = (30, 30, 30), (120, 75, 30), (250, 250, 250), (240, 200, 160), (20, 110, 30)
_SCALE = 2  # drawn twice as large and reduced, for soft edges
_GRAIN = 18.0  # standard deviation of the pixel noise, of 255


class _Pen:
    """Draws shapes given in fractions of an object's box."""

    def __init__(self, draw: ImageDraw.ImageDraw, instance: Instance) -> None:
        self._draw = draw
        self._x, self._y, self._size = instance.x * _SCALE, instance.y * _SCALE, instance.size * _SCALE

    def _points(self, fractions: tuple[float, ...]) -> list[tuple[float, float]]:
        pairs = zip(fractions[::2], fractions[1::2], strict=True)
        return [(self._x + self._size * x, self._y + self._size * y) for x, y in pairs]

    def box(self, colour: _Colour, *corners: float) -> None:
        self._draw.rectangle(self._points(corners), fill=colour)

    def oval(self, colour: _Colour, *corners: float) -> None:
        self._draw.ellipse(self._points(corners), fill=colour)

    def ring(self, colour: _Colour, *corners: float) -> None:
        self._draw.ellipse(self._points(corners), outline=colour, width=max(2, int(self._size * 0.08)))

    def arc(self, colour: _Colour, start: int, end: int, *corners: float) -> None:
        self._draw.arc(self._points(corners), start, end, fill=colour, width=2)

    def shape(self, colour: _Colour, *points: float) -> None:
        self._draw.polygon(self._points(points), fill=colour)

    def line(self, colour: _Colour, *points: float) -> None:
        self._draw.line(self._points(points), fill=colour, width=2)


def draw(scene: Scene) -> Image.Image:
    """The scene's picture, RGB, 96 x 96."""
    random_state = np.random.RandomState(scene.noise_seed)  # the legacy generator: its stream never changes
    background = np.array(_BACKGROUNDS[scene.theme]) + random_state.randint(-15, 16, 3)
    picture = Image.new("RGB", (PICTURE_SIZE * _SCALE, PICTURE_SIZE * _SCALE), _to_colour(background))
    for thing in scene.objects:
        for instance in thing.instances:
            colour = _to_colour(np.array(_COLOURS[thing.colour]) + random_state.randint(-22, 23, 3))
            with_object = picture.copy()
            _draw_object(_Pen(ImageDraw.Draw(with_object), instance), thing.category, colour)
            picture = Image.blend(picture, with_object, thing.visibility)
    small = picture.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small).astype(np.float32)  # (height, width, 3)
    pixels += random_state.randn(*pixels.shape).astype(np.float32) * _GRAIN
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _to_colour(values: np.ndarray) -> _Colour:
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue


def _draw_object(pen: _Pen, category: str, colour: _Colour) -> None:
    dark: _Colour = (int(colour[0] * 0.55), int(colour[1] * 0.55), int(colour[2] * 0.55))
    if category in ("car", "house", "lamp", "person"):
        _draw_street_object(pen, category, colour, dark)
    elif category in ("boat", "fish", "bird", "kite"):
        _draw_sea_object(pen, category, colour, dark)
    elif category in ("cup", "table", "bottle", "clock"):
        _draw_kitchen_object(pen, category, colour, dark)
    else:
        _draw_park_object(pen, category, colour, dark)


def _draw_street_object(pen: _Pen, category: str, colour: _Colour, dark: _Colour) -> None:
    if category == "car":
        pen.shape(dark, 0.2, 0.5, 0.32, 0.25, 0.7, 0.25, 0.82, 0.5)
        pen.box(colour, 0, 0.48, 1, 0.76)
        pen.oval(_BLACK, 0.1, 0.64, 0.36, 0.92)
        pen.oval(_BLACK, 0.64, 0.64, 0.9, 0.92)
    elif category == "house":
        pen.box(colour, 0.12, 0.42, 0.88, 1)
        pen.shape(dark, 0, 0.45, 0.5, 0.02, 1, 0.45)
        pen.box(_BLACK, 0.42, 0.66, 0.6, 1)
    elif category == "lamp":
        pen.box(_BLACK, 0.45, 0.35, 0.55, 1)
        pen.oval(colour, 0.26, 0, 0.74, 0.46)
        pen.box(_BLACK, 0.3, 0.93, 0.7, 1)
    else:
        pen.oval(_SKIN, 0.35, 0, 0.65, 0.3)
        pen.shape(colour, 0.5, 0.25, 0.85, 0.8, 0.15, 0.8)
        pen.box(_BLACK, 0.33, 0.8, 0.43, 1)
        pen.box(_BLACK, 0.57, 0.8, 0.67, 1)


def _draw_sea_object(pen: _Pen, category: str, colour: _Colour, dark: _Colour) -> None:
    if category == "boat":
        pen.shape(_BROWN, 0, 0.65, 1, 0.65, 0.8, 0.95, 0.2, 0.95)
        pen.shape(colour, 0.48, 0.05, 0.48, 0.6, 0.05, 0.6)
        pen.shape(colour, 0.55, 0.15, 0.55, 0.6, 0.9, 0.6)
    elif category == "fish":
        pen.oval(colour, 0, 0.25, 0.75, 0.75)
        pen.shape(dark, 0.65, 0.5, 1, 0.22, 1, 0.78)
        pen.oval(_WHITE, 0.15, 0.4, 0.25, 0.5)
    elif category == "bird":
        pen.shape(colour, 0, 0.2, 0.5, 0.55, 0.45, 0.75)
        pen.shape(colour, 1, 0.2, 0.5, 0.55, 0.55, 0.75)
        pen.oval(dark, 0.38, 0.45, 0.62, 0.8)
    else:
        pen.shape(colour, 0.5, 0, 0.88, 0.38, 0.5, 0.76, 0.12, 0.38)
        pen.line(_BLACK, 0.5, 0.76, 0.4, 0.85, 0.55, 0.92, 0.45, 1)
        pen.line(dark, 0.5, 0, 0.5, 0.76)


def _draw_kitchen_object(pen: _Pen, category: str, colour: _Colour, dark: _Colour) -> None:
    if category == "cup":
        pen.box(colour, 0.1, 0.25, 0.68, 0.9)
        pen.ring(dark, 0.6, 0.35, 0.98, 0.75)
        pen.box(dark, 0.1, 0.25, 0.68, 0.35)
    elif category == "table":
        pen.box(colour, 0, 0.3, 1, 0.46)
        pen.box(_BROWN, 0.08, 0.46, 0.2, 1)
        pen.box(_BROWN, 0.8, 0.46, 0.92, 1)
    elif category == "bottle":
        pen.box(colour, 0.3, 0.38, 0.7, 1)
        pen.box(dark, 0.42, 0.05, 0.58, 0.4)
        pen.box(_WHITE, 0.3, 0.6, 0.7, 0.78)
    else:
        pen.oval(colour, 0.04, 0.04, 0.96, 0.96)
        pen.oval(_WHITE, 0.18, 0.18, 0.82, 0.82)
        pen.line(_BLACK, 0.5, 0.5, 0.5, 0.24)
        pen.line(_BLACK, 0.5, 0.5, 0.7, 0.5)


def _draw_park_object(pen: _Pen, category: str, colour: _Colour, dark: _Colour) -> None:
    if category == "tree":
        pen.box(_BROWN, 0.42, 0.55, 0.58, 1)
        pen.oval(colour, 0.08, 0, 0.92, 0.66)
    elif category == "flower":
        pen.line(_STEM, 0.5, 0.5, 0.5, 1)
        for petal in range(5):
            angle = 2 * math.pi * petal / 5 - math.pi / 2
            x, y = 0.5 + 0.24 * math.cos(angle), 0.34 + 0.24 * math.sin(angle)
            pen.oval(colour, x - 0.15, y - 0.15, x + 0.15, y + 0.15)
        pen.oval(_WHITE, 0.4, 0.24, 0.6, 0.44)
    elif category == "dog":
        pen.box(colour, 0.1, 0.42, 0.75, 0.72)
        pen.box(colour, 0.64, 0.15, 0.95, 0.5)
        pen.shape(dark, 0.64, 0.15, 0.72, 0.15, 0.66, 0.38)
        pen.box(dark, 0.14, 0.7, 0.24, 1)
        pen.box(dark, 0.6, 0.7, 0.7, 1)
        pen.line(dark, 0.1, 0.45, 0, 0.2)
    else:
        pen.oval(colour, 0.12, 0.12, 0.88, 0.88)
        pen.arc(_WHITE, -60, 60, -0.3, 0.12, 0.5, 0.88)
        pen.arc(_WHITE, 120, 240, 0.5, 0.12, 1.3, 0.88)
