"""Scenes of the light 2-D physics clips: objects, ropes and moved tools in a pymunk space.

World coordinates: x to the right and y down, 0 to 100 across the picture whatever its size in pixels.
Side views have gravity and a surface to land on; top views look down on a table, without gravity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pymunk
from PIL import Image

from vidvla.worlds.base import Frame
from vidvla.worlds.physics_drawing import RGB, Item, Point, Rope, background, box, mix, paint

COLOURS: dict[str, RGB] = {
    "red": (205, 42, 40),
    "orange": (240, 132, 28),
    "yellow": (242, 210, 50),
    "green": (50, 155, 70),
    "cyan": (50, 195, 205),
    "blue": (42, 88, 205),
    "purple": (132, 62, 172),
    "pink": (238, 120, 172),
    "white": (242, 242, 240),
    "black": (34, 34, 40),
    "brown": (122, 72, 36),
    "grey": (128, 132, 138),
}
"""Colour words of captions; a clip draws each up to 10 levels a channel away from the value here."""

_GRAVITY = 400.0  # units/s^2: falls and half swings last most of a second
_SUBSTEPS_PER_SECOND = 240.0
_WALLS: tuple[RGB, ...] = (
    (206, 208, 210), (150, 154, 160), (96, 100, 108), (226, 218, 200), (170, 190, 206), (182, 200, 178),
    (210, 186, 176), (60, 66, 80), (236, 236, 232), (120, 140, 150),
)  # fmt: skip
_TABLES: tuple[RGB, ...] = (
    (186, 140, 92), (150, 104, 62), (214, 182, 136), (120, 122, 126), (72, 74, 80), (224, 222, 216),
    (104, 78, 58), (160, 170, 176), (92, 122, 104),
)  # fmt: skip


def with_article(name: str) -> str:
    """``name`` after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _corners(rng: np.random.Generator, form: str, size: float) -> list[Point]:
    """Corners of a box, triangle or capsule about as large as a ball of radius ``size``."""
    if form == "box":
        return box(2 * size * rng.uniform(0.75, 1.15), 2 * size * rng.uniform(0.75, 1.15))
    if form == "triangle":
        reach = 1.25 * size
        return [(reach * math.sin(a), -reach * math.cos(a)) for a in (0.0, math.tau / 3, 2 * math.tau / 3)]
    half, r = size * rng.uniform(0.6, 0.9), size * rng.uniform(0.5, 0.65)
    turns = [math.pi * (i / 8 - 0.5) for i in range(9)]
    right = [(half + r * math.cos(a), r * math.sin(a)) for a in turns]
    return right + [(-x, -y) for x, y in right]


class Scene:
    """A pymunk space with what is drawn of it and the words for its caption."""

    def __init__(self, rng: np.random.Generator, top: bool = False) -> None:
        self.rng, self.top, self.time = rng, top, 0.0
        self.space = pymunk.Space()
        self.space.iterations = 20
        self.space.gravity = (0.0, 0.0 if top else _GRAVITY)
        self.items: list[Item] = []  # back to front
        self.ropes: list[Rope] = []
        # Kinematic bodies with their velocity in x and y, units/s, and spin, rad/s.
        self.moves: list[tuple[pymunk.Body, float, float, float]] = []
        self.stop = 1.2  # s: when they have come to rest
        self.wall = _WALLS[int(rng.integers(len(_WALLS)))]
        self.table = _TABLES[int(rng.integers(len(_TABLES)))]
        self.floor = float(rng.uniform(78, 90))
        self.surface = str(rng.choice(["table", "floor"]))
        backs = [self.table] if top else [self.wall, self.table]
        seen = [n for n, c in COLOURS.items() if all(math.dist(c, back) > 85 for back in backs)]
        self.colours = [str(n) for n in rng.permutation(seen)]
        self.words: dict[str, str] = {}
        if not top:
            # The surface is a thick slab, so that nothing fast gets through it.
            middle = self.floor + 50
            ground = pymunk.Segment(self.space.static_body, (-300, middle), (400, middle), 50)
            ground.friction = ground.elasticity = 1.0
            self.space.add(ground)

    def sided(self) -> tuple[int, str]:
        """A random direction: (+1, "right") or (-1, "left")."""
        return (1, "right") if self.rng.random() < 0.5 else (-1, "left")

    def take(self) -> tuple[str, RGB]:
        """A colour that stands out, not taken before while any is left."""
        name = self.colours.pop(0)
        self.colours.append(name)
        r, g, b = (int(np.clip(c + self.rng.integers(-10, 11), 0, 255)) for c in COLOURS[name])
        return name, (r, g, b)

    def add(
        self,
        form: str,
        x: float,
        y: float | None = None,
        *,
        size: float | None = None,
        points: list[Point] | None = None,
        angle: float = 0.0,
        bounce: float | None = None,
        friction: float | None = None,
        body: pymunk.Body | None = None,
        weight: float = 1.0,
        fixed: bool = False,
        ghost: bool = False,
        muted: bool = False,
    ) -> Item:
        """Add an object of word ``form``: at rest, standing on the surface without ``y``.

        ``fixed`` makes it kinematic; ``ghost`` drawn only; ``muted`` a shade of the background, which no
        caption names; ``body`` a further part of that body, coloured as the item before it; ``weight``
        scales its mass, ``bounce`` and ``friction`` are random without a value.
        """
        rng = self.rng
        radius = (size or float(rng.uniform(5.5, 9.5))) if points is None else 0.0
        if form != "ball":
            points, radius = points or _corners(rng, form, radius), 0.0
        shape_points = points or []
        rubber = form == "ball" and (bounce is None and rng.random() < 0.4)
        if body is not None:
            name, colour = "", self.items[-1].colour
        elif muted:
            # A shade nearer to white on a dark background, nearer to black on a light one.
            back = self.table if self.top or rng.random() < 0.5 else self.wall
            dark = sum(back) < 330
            name = ""
            colour = mix(back, (255, 255, 255) if dark else (0, 0, 0), float(rng.uniform(0.35, 0.6)))
        else:
            name, colour = self.take()
        item = Item(
            body or pymunk.Body(body_type=pymunk.Body.KINEMATIC if fixed or ghost else pymunk.Body.DYNAMIC),
            shape_points, radius, colour, f"{name} {'rubber ' * rubber}{form}",
            2 if rubber else 0 if fixed or ghost else int(rng.integers(5)), not ghost,
        )  # fmt: skip
        self.items.append(item)
        if body is None:
            item.body.position = (x, self.floor - item.below if y is None else y)
            item.body.angle = angle
            self.space.add(item.body)
        if not ghost:
            shape: pymunk.Shape = (
                pymunk.Poly(item.body, shape_points, radius=0.1) if shape_points else (pymunk.Circle(item.body, radius))
            )
            shape.density = 0.01 * weight
            shape.friction = float(rng.uniform(0.5, 0.9)) if friction is None else friction
            shape.elasticity = bounce if bounce is not None else 0.8 if rubber else float(rng.uniform(0.1, 0.35))
            self.space.add(shape)
        return item

    def any_form(self, *forms: str) -> str:
        """One of ``forms``, or of all shapes of objects."""
        return str(self.rng.choice(forms or ("ball", "box", "triangle", "capsule")))

    def rope(self, points: Sequence[Point], colour: RGB) -> list[pymunk.Body]:
        """Add a rope through ``points``: a chain of short rods that do not hit each other."""
        rods: list[pymunk.Body] = []
        knots: list[tuple[pymunk.Body, Point]] = []
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            body = pymunk.Body()
            body.position = ((x0 + x1) / 2, (y0 + y1) / 2)
            half = ((x1 - x0) / 2, (y1 - y0) / 2)
            rod = pymunk.Segment(body, (-half[0], -half[1]), half, 0.8)
            rod.density, rod.friction, rod.elasticity = 0.006, 0.8, 0.1
            rod.filter = pymunk.ShapeFilter(group=1)
            self.space.add(body, rod)
            if rods:
                self.space.add(pymunk.PivotJoint(rods[-1], body, (x0, y0)))
            rods.append(body)
            knots.append((body, rod.a))
        knots.append((body, rod.b))
        self.space.damping = 0.8  # a chain of rods would otherwise quiver
        self.space.iterations = 40
        self.ropes.append(Rope(knots, colour, float(self.rng.uniform(1.8, 2.8))))
        return rods

    def tie(self, rod: pymunk.Body, to: pymunk.Body | None, at: Point) -> None:
        """Tie ``rod`` at the point ``at`` to a body, or to the world."""
        self.space.add(pymunk.PivotJoint(rod, to or self.space.static_body, at))

    def advance(self, seconds: float) -> None:
        """Simulate ``seconds`` at a fixed substep near 1/240 s."""
        count = max(1, round(seconds * _SUBSTEPS_PER_SECOND))
        for _ in range(count):
            # Tools start and stop softly; a hard stop would throw what they carry.
            pace = min(1.0, max(0.0, min((self.time + 0.01) / 0.15, (self.stop - self.time) / 0.4)))
            for body, vx, vy, spin in self.moves:
                body.velocity, body.angular_velocity = (vx * pace, vy * pace), spin * pace
            self.space.step(seconds / count)
            self.time += seconds / count

    def background(self, side: int) -> Image.Image:
        """The still part of the picture, (side, side) RGB."""
        return background(self.rng, side, self.wall, self.table, None if self.top else self.floor)

    def frame(self, still: Image.Image, size: int) -> Frame:
        """The picture now, (size, size, 3), over a background that is a whole multiple of ``size``."""
        picture = still.copy()
        paint(picture, self.items, self.ropes, None if self.top else self.floor)
        return np.asarray(picture.reduce(still.width // size))
