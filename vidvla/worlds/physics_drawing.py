"""How the light 2-D physics clips are drawn: objects, ropes, shadows and the still background.

World coordinates: x to the right and y down, 0 to 100 across the picture whatever its size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymunk
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
RGB = tuple[int, int, int]

_WALL_PATTERNS = ("plain", "plain", "gradient", "stripes", "tiles", "cloth")
_TABLE_PATTERNS = ("plain", "wood", "wood", "tiles", "checks", "cloth", "stripes")


@dataclass
class Item:
    """Something drawn at its body's pose: a ball of ``radius``, or the convex polygon ``points``."""

    body: pymunk.Body
    points: list[Point]
    radius: float
    colour: RGB
    name: str
    mark: int
    shadow: bool
    inner: list[Point] = field(init=False)  # inside the dark edge
    core: list[Point] = field(init=False)  # inside a frame in the colour of the mark
    edge_colour: RGB = field(init=False)
    mark_colour: RGB = field(init=False)

    def __post_init__(self) -> None:
        self.inner, self.core = _inset(self.points, 0.7), _inset(self.points, 2.6)
        self.recolour(self.colour)

    def recolour(self, colour: RGB) -> None:
        """Draw the item in ``colour`` from now on."""
        light = sum(colour) < 480
        self.colour, self.edge_colour = colour, mix(colour, (0, 0, 0), 0.4)
        self.mark_colour = mix(colour, (255, 255, 255) if light else (0, 0, 0), 0.4 if light else 0.25)

    @property
    def below(self) -> float:
        """Distance from the origin to the lowest point, unrotated."""
        return self.radius or max(y for _, y in self.points)


@dataclass
class Rope:
    """A chain of rods, drawn as a line of ``width`` units through ``knots``: points in a body's own frame."""

    knots: list[tuple[pymunk.Body, Point]]
    colour: RGB
    width: float


def mix(colour: RGB, other: RGB, part: float) -> RGB:
    """``colour`` moved towards ``other`` by ``part`` of the way."""
    r, g, b = (round(c + (o - c) * part) for c, o in zip(colour, other, strict=True))
    return (r, g, b)


def box(width: float, height: float) -> list[Point]:
    """Corners of a box around the origin."""
    x, y = width / 2, height / 2
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _inset(points: Sequence[Point], edge: float) -> list[Point]:
    """The convex polygon ``points`` (clockwise on screen) with every side moved inwards by ``edge``."""
    normals = []
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], *points[:1]], strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        normals.append((-(y1 - y0) / length, (x1 - x0) / length))
    inner = []
    for i, (x, y) in enumerate(points):
        (ax, ay), (bx, by) = normals[i - 1], normals[i]
        part = edge / (1 + ax * bx + ay * by)
        inner.append((x + part * (ax + bx), y + part * (ay + by)))
    return inner


def background(rng: np.random.Generator, side: int, wall: RGB, table: RGB, floor: float | None) -> Image.Image:
    """The still part of the picture, (side, side) RGB: a wall and a table; things stand at y ``floor``.

    Without ``floor``, the whole picture is the table, seen from above.
    """
    axis = (np.arange(side, dtype=np.float32) + 0.5) * np.float32(100 / side)
    back = 0 if floor is None else round((floor - rng.uniform(4, 14)) * side / 100)
    front = side if floor is None else round((floor + rng.uniform(3, 9)) * side / 100)
    # Light falls off smoothly over the picture, as a lamp's does.
    angle, fall = rng.uniform(0, math.tau), rng.uniform(0, 0.15)
    u, v = axis[None, :], axis[:, None]
    light = 1 + fall * (math.cos(angle) * (u - 50) + math.sin(angle) * (v - 50)) / 50
    out = np.empty((side, side, 3), np.float32)
    for colour, first, last, styles in (
        (wall, 0, back, _WALL_PATTERNS),
        (table, back, front, _TABLE_PATTERNS),
        (mix(table, (0, 0, 0), 0.3), front, side, _WALL_PATTERNS),
    ):
        tint = _pattern(rng, str(rng.choice(styles)), u, v[first:last]) * light[first:last]
        out[first:last] = tint[..., None] * np.asarray(colour, np.float32)
    picture = Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))
    if floor is not None:
        draw, line = ImageDraw.Draw(picture), max(1, side // 128)
        draw.line([(0, front), (side, front)], mix(table, (255, 255, 255), 0.3), line)
        shade = mix(wall, (0, 0, 0) if sum(wall) > 380 else (255, 255, 255), 0.18)
        for _ in range(int(rng.integers(3)) if rng.random() < 0.4 else 0):
            # A picture or a board on the wall.
            x, y, w, h = (float(n) * side / 100 for n in rng.uniform((0, 4, 10, 8), (80, 25, 30, 30)))
            draw.rectangle([x, y, x + w, min(y + h, back - 4)], shade, mix(shade, (0, 0, 0), 0.25), line)
    return picture


def _pattern(
    rng: np.random.Generator, style: str, u: NDArray[np.float32], v: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Brightness factors about 1, (H, W), at world x ``u`` (1, W) and y ``v`` (H, 1)."""
    period, strength = float(rng.uniform(7, 18)), float(rng.uniform(0.04, 0.12))
    shift, noise = float(rng.uniform(0, 50)), rng.random((32, 32), dtype=np.float32)
    shape = (v.shape[0], u.shape[1])
    value: NDArray[np.floating[Any]] = np.zeros(shape, np.float32)
    if style == "gradient":
        value = (u - 50) / 50 if rng.random() < 0.5 else (v - 50) / 50
    elif style == "stripes":
        along = float(rng.choice([0.0, math.pi / 4, math.pi / 2]))
        value = np.tanh(4 * np.sin((u * math.cos(along) + v * math.sin(along) + shift) * (math.tau / period)))
    elif style == "checks":
        value = np.sign(np.sin((u + shift) * (math.pi / period)) * np.sin((v + shift) * (math.pi / period)))
    elif style == "tiles":
        across, down = (u + shift) / period, (v + shift) / period
        value = noise[down.astype(int) % 32, across.astype(int) % 32] - 0.5
        value[(np.minimum(across % 1, 1 - across % 1) < 0.04).repeat(shape[0], 0)] = -2
        value[(np.minimum(down % 1, 1 - down % 1) < 0.04).repeat(shape[1], 1)] = -2
    elif style == "wood":
        down = (v + shift) / (0.6 * period)
        plank = down.astype(int) % 32
        wave = np.sin(u * (0.05 + 0.06 * noise[plank, 0]) + 6 * noise[plank, 1])
        value = 0.5 * np.sin(v * 4 + 2.5 * wave) + 2.5 * (noise[plank, 2] - 0.5)
        value[(down % 1 < 0.07).repeat(shape[1], 1)] = -2
    elif style == "cloth":
        fine = Image.fromarray(noise).resize((shape[1], max(1, shape[0])), Image.Resampling.BICUBIC)
        value = (2 * np.asarray(fine) - 1)[: shape[0]]
    return (1 + strength * np.broadcast_to(value, shape)).astype(np.float32)


def _placed(item: Item, points: Sequence[Point], k: float) -> list[Point]:
    """``points`` of the item's own frame as pixels, ``k`` of them a unit."""
    (x, y), c, s = item.body.position, math.cos(item.body.angle) * k, math.sin(item.body.angle) * k
    return [(x * k + px * c - py * s, y * k + px * s + py * c) for px, py in points]


def _paint_ball(draw: ImageDraw.ImageDraw, item: Item, k: float) -> None:
    x, y, r = item.body.position.x * k, item.body.position.y * k, item.radius * k
    inner = r - 0.7 * k
    draw.ellipse([x - r, y - r, x + r, y + r], item.edge_colour)
    draw.ellipse([x - inner, y - inner, x + inner, y + inner], item.colour)
    if item.mark == 1:
        (px, py), d = _placed(item, [(0.5 * item.radius, 0.0)], k)[0], 0.22 * r
        draw.ellipse([px - d, py - d, px + d, py + d], item.mark_colour)
    elif item.mark == 2:
        reach = item.radius - 0.7
        draw.line(_placed(item, [(-reach, 0), (reach, 0)], k), item.mark_colour, max(1, round(0.35 * r)))
    elif item.mark == 3:
        turn = math.degrees(item.body.angle)
        for start in (turn, turn + 180):
            draw.pieslice([x - inner, y - inner, x + inner, y + inner], start, start + 60, item.mark_colour)
    # The gloss stays where the lamp is; the mark turns with the ball.
    gx, gy, d = x - 0.35 * r, y - 0.42 * r, 0.16 * r
    draw.ellipse([gx - d, gy - d, gx + d, gy + d], mix(item.colour, (255, 255, 255), 0.65))


def _paint_polygon(draw: ImageDraw.ImageDraw, item: Item, k: float) -> None:
    draw.polygon(_placed(item, item.points, k), item.edge_colour)
    draw.polygon(_placed(item, item.inner, k), item.colour)
    if item.mark == 2:
        draw.polygon(_placed(item, item.core, k), item.mark_colour)
    elif item.mark in (1, 3):
        ox, oy = item.points[0]
        near, far = _placed(item, [(0.55 * ox, 0.55 * oy), (-0.4 * ox, -0.4 * oy)], k)
        if item.mark == 3:
            draw.line([near, far], item.mark_colour, max(1, round(1.4 * k)))
        else:
            (x, y), d = near, 1.3 * k
            draw.ellipse([x - d, y - d, x + d, y + d], item.mark_colour)


def _paint_shadow(draw: ImageDraw.ImageDraw, item: Item, k: float, floor: float | None) -> None:
    x, y, r = item.body.position.x * k, item.body.position.y * k, item.radius * k
    corners = _placed(item, item.points, k) or [(x - r, y + r), (x + r, y + r)]
    if floor is None:
        shift = 1.2 * k
        if item.radius:
            draw.ellipse([x - r + shift, y - r + shift, x + r + shift, y + r + shift], (0, 0, 0, 70))
        else:
            draw.polygon([(px + shift, py + shift) for px, py in corners], (0, 0, 0, 70))
        return
    left, right = min(px for px, _ in corners), max(px for px, _ in corners)
    # The higher the object, the fainter and wider its shadow.
    height = max(0.0, 1 - max(py for _, py in corners) / (k * floor))
    alpha, spread = round(80 * (1 - min(1.0, height)) ** 2), (right - left) * 0.15 * height
    if alpha > 8 and right > 0 and left < 100 * k:
        ends = [left - spread, (floor - 1.2) * k, right + spread, (floor + 1.6) * k]
        draw.ellipse(ends, (0, 0, 0, alpha))


def paint(picture: Image.Image, items: Sequence[Item], ropes: Sequence[Rope], floor: float | None) -> None:
    """Draw shadows, ropes and objects as they are now onto a square ``picture``."""
    k = picture.width / 100
    soft, draw = ImageDraw.Draw(picture, "RGBA"), ImageDraw.Draw(picture)
    for item in items:
        if item.shadow:
            _paint_shadow(soft, item, k, floor)
    for rope in ropes:
        line = [body.local_to_world(knot) for body, knot in rope.knots]
        pixels = [(p.x * k, p.y * k) for p in line]
        draw.line(pixels, mix(rope.colour, (0, 0, 0), 0.35), round(k * rope.width), "curve")
        draw.line(pixels, rope.colour, max(1, round(k * rope.width * 0.65)), "curve")
    for item in items:
        if item.radius:
            _paint_ball(draw, item, k)
        else:
            _paint_polygon(draw, item, k)
