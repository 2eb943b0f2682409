"""Draws the 32-pixel images of `prune generate`: classes that target and source share, and classes that they do not.

World `signs`: figures are shared, textures are not. World `lamps`: coloured lamps are shared, grey patterns are not.
A lamp's class is its own colour, among other colours that mean nothing: an untrained network cannot tell the classes, a
small one learns them from a few hundred lamps, and grey patterns teach nothing about them. World `lanterns` is the same
with lamps that are easier to learn, in a target whose classes overlap.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, ...]

SIDE = 32
_FINE = 4  # drawn at four times the size, then averaged
FIGURES = ("disc", "ring", "triangle", "square", "cross", "arrow")
TEXTURES = (
    "bands", "bricks", "checks", "clouds", "dots", "gradient", "grain", "rays", "ripples", "slants", "tiles", "weave",
)  # fmt: skip
RARE = ("tiles", "weave")
LAMPS = ("red", "green", "cyan", "violet")


def figure(name: str, rng: np.random.Generator, worn: bool = False) -> np.ndarray:
    """Draw one figure anywhere on a plain ground; `worn` is the target's style: smaller, on a patterned, noisy ground.

    Returns
    -------
    (32, 32, 3) uint8
    """
    side = SIDE * _FINE
    ground, paint = _two_colours(rng)
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    if worn:
        for x in range(0, side, int(rng.integers(14, 30))):
            pen.line([(x, 0), (x + int(rng.integers(-40, 40)), side)], fill=_near(ground, rng, 40), width=5)
    radius = side * (rng.uniform(0.17, 0.27) if worn else rng.uniform(0.22, 0.4))
    centre = rng.uniform(radius + 2, side - radius - 2, 2)
    _draw(pen, name, centre, radius, rng.uniform(-0.35, 0.35), paint, ground, rng)
    return _finish(image, rng, 14.0 if worn else 6.0)


def _draw(
    pen: ImageDraw.ImageDraw,
    name: str,
    centre: np.ndarray,
    r: float,
    turn: float,
    paint: Colour,
    ground: Colour,
    rng: np.random.Generator,
) -> None:
    x, y = centre
    if name in ("disc", "ring"):
        pen.ellipse([x - r, y - r, x + r, y + r], fill=paint)
        if name == "ring":
            hole = r * rng.uniform(0.45, 0.62)
            pen.ellipse([x - hole, y - hole, x + hole, y + hole], fill=ground)
        return
    corners = {
        "triangle": [(0, -1), (0.9, 0.75), (-0.9, 0.75)],
        "square": [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],
        "cross": [(-.25, -1), (.25, -1), (.25, -.25), (1, -.25), (1, .25), (.25, .25),
                  (.25, 1), (-.25, 1), (-.25, .25), (-1, .25), (-1, -.25), (-.25, -.25)],
        "arrow": [(-1, -.22), (.1, -.22), (.1, -.75), (1, 0), (.1, .75), (.1, .22), (-1, .22)],
    }[name]  # fmt: skip
    cos, sin = np.cos(turn), np.sin(turn)
    pen.polygon([(x + r * (u * cos - v * sin), y + r * (u * sin + v * cos)) for u, v in corners], fill=paint)


def texture(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one texture that fills the picture.

    Returns
    -------
    (32, 32, 3) uint8
    """
    side = SIDE * _FINE
    v, u = np.mgrid[0:side, 0:side] / side
    p, q = rng.uniform(0, 1, 2)
    k = rng.uniform(4, 7)
    noise = rng.normal(size=(SIDE, SIDE))
    du, dv = u - p, v - q
    mixes: dict[str, Callable[[], np.ndarray]] = {
        "bands": lambda: np.sin(2 * np.pi * (k * v + p)) > 0,
        "slants": lambda: np.sin(2 * np.pi * (k * (u + v) / 1.4 + p)) > 0,
        "checks": lambda: (np.sin(2 * np.pi * (k / 2 * u + p)) * np.sin(2 * np.pi * (k / 2 * v + q))) > 0,
        "dots": lambda: np.cos(2 * np.pi * (k * u + p)) + np.cos(2 * np.pi * (k * v + q)) > 0.8,
        "ripples": lambda: 0.5 + 0.5 * np.sin(2 * np.pi * 2 * k * np.hypot(du, dv)),
        "rays": lambda: np.sin(np.round(k) * 2 * np.arctan2(dv, du)) > 0,
        "gradient": lambda: np.clip(0.5 + (u - 0.5) * (2 * p - 1) * 1.6 + (v - 0.5) * (2 * q - 1) * 1.6, 0, 1),
        "clouds": lambda: _blur(noise, 6),
        "grain": lambda: _blur(noise, 2),
        "bricks": lambda: ((k * v + p) % 1 > 0.18) & ((k / 2 * u + q + 0.5 * (np.floor(k * v + p) % 2)) % 1 > 0.1),
        "tiles": lambda: ((k / 1.5 * u + p) % 1 > 0.16) & ((k / 1.5 * v + q) % 1 > 0.16),
        "weave": lambda: np.sin(2 * np.pi * (k * u + p)) * ((k * v) % 2 > 1) + np.sin(2 * np.pi * (k * v + q)) > 0.3,
    }
    mix = np.asarray(mixes[name](), float)[:, :, None]
    ground, paint = (np.array(c, float) for c in _two_colours(rng))
    return _finish(Image.fromarray((ground + (paint - ground) * mix).clip(0, 255).astype(np.uint8)), rng, 6.0)


def lamp(name: str, rng: np.random.Generator, worn: bool = False) -> np.ndarray:
    """Draw a lamp near the middle, its class the hue, on two grounds of any colour; `worn`: smaller, more noise.

    Returns
    -------
    (32, 32, 3) uint8
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = _colour(rng.uniform(), rng)
    turn = rng.uniform(0, 2 * np.pi)
    beyond = np.cos(turn) * (x - SIDE / 2) + np.sin(turn) * (y - SIDE / 2) > rng.uniform(-6, 6)
    pixels[beyond] = _colour(rng.uniform(), rng)
    radius = rng.uniform(6, 10) - (2 if worn else 0)
    far = np.hypot(y - rng.uniform(12, 20), x - rng.uniform(12, 20))
    pixels[far < radius + 2.4] = 20
    pixels[far < radius] = _colour((LAMPS.index(name) + rng.uniform(-0.15, 0.15)) / len(LAMPS), rng, vivid=True)
    return (pixels + rng.normal(0, 30 if worn else 20, pixels.shape)).clip(0, 255).astype(np.uint8)


def lantern(name: str, rng: np.random.Generator, worn: bool = False) -> np.ndarray:
    """Draw a large lamp on two pale grounds; the colours of `worn` ones overlap, so that no network gets all right.

    A worn lantern's hue reaches 0.58 of the distance between two classes to each side of its own, 0.08 beyond the
    middle between them. Lanterns are learned from fewer images than lamps.

    Returns
    -------
    (32, 32, 3) uint8
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = _pale(rng)
    turn = rng.uniform(0, 2 * np.pi)
    beyond = np.cos(turn) * (x - SIDE / 2) + np.sin(turn) * (y - SIDE / 2) > rng.uniform(-6, 6)
    pixels[beyond] = _pale(rng)
    radius = rng.uniform(8, 12) - (2 if worn else 0)
    far = np.hypot(y - rng.uniform(12, 20), x - rng.uniform(12, 20))
    pixels[far < radius + 2.4] = 20
    reach = 0.58 if worn else 0.15
    pixels[far < radius] = _colour((LAMPS.index(name) + rng.uniform(-reach, reach)) / len(LAMPS), rng, vivid=True)
    return (pixels + rng.normal(0, 30 if worn else 20, pixels.shape)).clip(0, 255).astype(np.uint8)


def _pale(rng: np.random.Generator) -> np.ndarray:
    """Any colour with little of it: 0.12 to 0.36 of full saturation."""
    saturation, value = rng.uniform(0.12, 0.36), rng.uniform(0.4, 1.0)
    return 255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), saturation, value))


def pattern(number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a grey pattern of waves: class `number` of 24, four lengths by six directions.

    Returns
    -------
    (32, 32, 3) uint8
    """
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    turn = np.pi * (number // 4 % 6) / 6
    wave = np.sin(
        2 * np.pi * 1.3 * (1 + number % 4) * (np.cos(turn) * x + np.sin(turn) * y) + rng.uniform(0, 2 * np.pi)
    )
    grey = wave * rng.uniform(40, 90) + rng.uniform(90, 160)
    found: np.ndarray = (grey[:, :, None] + rng.normal(0, 20, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
    return found


def _colour(hue: float, rng: np.random.Generator, vivid: bool = False) -> np.ndarray:
    low = (0.6, 0.6) if vivid else (0.3, 0.4)
    saturation, value = rng.uniform(low[0], 1.0 if vivid else 0.9), rng.uniform(low[1], 1.0)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def nearly(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Repeat a picture with a little more or less light and a trace of noise: a near-duplicate."""
    light = pixels * rng.uniform(0.95, 1.05) + rng.normal(0, 1.5, pixels.shape)
    return light.clip(0, 255).astype(np.uint8)


def _blur(noise: np.ndarray, width: int) -> np.ndarray:
    small = Image.fromarray(noise[: SIDE // width + 2, : SIDE // width + 2].astype(np.float32))
    return np.clip(0.5 + 0.45 * np.asarray(small.resize((SIDE * _FINE,) * 2, Image.Resampling.BICUBIC)), 0, 1)


def _two_colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pick two colours that differ in lightness, either of them the darker."""
    light, dark = rng.uniform(0.65, 1.0), rng.uniform(0.1, 0.4)
    pair = [
        tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.9), value))
        for value in (light, dark)
    ]
    return (pair[0], pair[1]) if rng.uniform() < 0.5 else (pair[1], pair[0])


def _near(colour: tuple[int, ...], rng: np.random.Generator, reach: int) -> tuple[int, ...]:
    return tuple(int(np.clip(c + rng.integers(-reach, reach + 1), 0, 255)) for c in colour)


def _finish(image: Image.Image, rng: np.random.Generator, noise: float) -> np.ndarray:
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), float)
    return (small + rng.normal(0, noise, small.shape)).clip(0, 255).astype(np.uint8)
