"""How each kind of light 2-D physics clip is laid out: objects, their first motion, the words of the caption.

The first frame and the caption together have to tell the future: what moves starts at rest, or in
the direction that its words name at a speed usual for the kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pymunk

from vidvla.worlds.physics_drawing import Item, box
from vidvla.worlds.physics_scene import Scene, with_article

_WAYS = (
    "to the right",
    "to the lower right",
    "down",
    "to the lower left",
    "to the left",
    "to the upper left",
    "up",
    "to the upper right",
)
"""Directions in the picture, 45 degrees apart, clockwise."""


def _launch(item: Item, vx: float, vy: float = 0.0) -> None:
    """Give ``item`` a velocity in units/s; a ball on the surface starts out rolling."""
    item.body.velocity = (vx, vy)
    if item.radius and not vy:
        item.body.angular_velocity = vx / item.radius


def _let_through(item: Item) -> None:
    """Let ropes pass through ``item``: the one that is tied to it must not push it away."""
    for shape in item.body.shapes:
        shape.filter = pymunk.ShapeFilter(group=1)


def _bounce(rng: np.random.Generator) -> Scene:
    """A ball thrown against a wall or dropped; or something sliding between the edges of a table."""
    if rng.random() < 0.4:
        return _bounce_from_above(rng)
    scene = Scene(rng)
    sign, side = scene.sided()
    width = float(rng.uniform(4, 9))
    muted = bool(rng.random() < 0.6)
    for x in (width / 2, 100 - width / 2):
        scene.add("wall", x, 20, points=box(width, 200), fixed=True, bounce=1.0, friction=0.2, muted=muted)
    scene.items[1].recolour(scene.items[0].colour)
    for x in (23, 77):
        if rng.random() < 0.5:
            scene.add(scene.any_form(), x + rng.uniform(-5, 5), size=float(rng.uniform(4.5, 7.5)))
    bounce = float(rng.uniform(0.8, 0.9))
    if rng.random() < 0.6:
        thing = scene.add("ball", 50 + sign * rng.uniform(-20, 0), rng.uniform(25, 50), bounce=bounce)
        _launch(thing, sign * rng.uniform(110, 150), -rng.uniform(20, 90))
        scene.words = {"thing": with_article(thing.name), "side": side}
    else:
        thing = scene.add("ball", 50 + rng.uniform(-8, 8), rng.uniform(12, 35), bounce=bounce)
        scene.words = {"thing": with_article(thing.name), "surface": scene.surface}
    return scene


def _bounce_from_above(rng: np.random.Generator) -> Scene:
    scene = Scene(rng, top=True)
    scene.space.damping = float(rng.uniform(0.6, 0.95))
    edge, muted = float(rng.uniform(4, 8)), bool(rng.random() < 0.7)
    rails = [
        scene.add("rail", x, y, points=box(w, h), fixed=True, bounce=1.0, friction=0.3, muted=muted)
        for x, y, w, h in (
            (50, edge / 2, 120, edge),
            (50, 100 - edge / 2, 120, edge),
            (edge / 2, 50, edge, 120),
            (100 - edge / 2, 50, edge, 120),
        )
    ]
    for rail in rails:
        rail.recolour(rails[0].colour)
    places = [(x, y) for x in (27, 50, 73) for y in (27, 50, 73)]
    order = rng.permutation(len(places))
    for index in order[: int(rng.integers(1, 5))]:
        x, y = (p + rng.uniform(-3, 3) for p in places[index])
        form = scene.any_form("ball", "ball", "box", "capsule")
        thing = scene.add(form, x, y, angle=rng.uniform(0, 3), bounce=float(rng.uniform(0.8, 0.95)))
    # The last one moves; the others lie still until something hits them.
    way = int(rng.integers(8))
    angle, speed = way * math.tau / 8 + rng.uniform(-0.15, 0.15), rng.uniform(110, 160)
    thing.body.velocity = (speed * math.cos(angle), speed * math.sin(angle))
    scene.words = {"thing": with_article(thing.name), "way": _WAYS[way]}
    return scene


def _fall(rng: np.random.Generator) -> Scene:
    """Objects at rest in the air that fall onto the surface, onto another object, or onto a ramp."""
    scene = Scene(rng)
    variant = rng.choice(["one", "two", "other", "ramp"])
    sign, side = scene.sided()
    if variant == "ramp":
        run, rise = float(rng.uniform(40, 60)), float(rng.uniform(18, 30))
        corners = [(-run / 2, rise / 2), (-run / 2, -rise / 2), (run / 2, rise / 2)]
        if sign < 0:
            corners = [(-x, y) for x, y in reversed(corners)]
        x = 50 - sign * rng.uniform(0, 15)
        muted = bool(rng.random() < 0.4)
        scene.add("ramp", x, points=corners, fixed=True, friction=0.4, bounce=0.6, muted=muted)
        form = scene.any_form("ball", "ball", "box", "capsule")
        thing = scene.add(form, x - sign * run * 0.25, rng.uniform(10, 25), friction=0.4)
        scene.words = {"thing": with_article(thing.name), "side": side}
        return scene
    columns = [50 + sign * (d + rng.uniform(-4, 4)) for d in (0, 28, -28)]
    if variant == "other":
        form = scene.any_form("box", "box", "capsule")
        other = scene.add(form, columns[0], size=float(rng.uniform(7, 11)), bounce=0.7)
    height = rng.uniform(10, 30)
    thing = scene.add(scene.any_form(), columns[0] + rng.uniform(-3, 3), height, angle=rng.uniform(-0.6, 0.6))
    scene.words = {"thing": with_article(thing.name)}
    if variant == "other":
        scene.words["other"] = with_article(other.name)
        return scene
    scene.words["surface"] = scene.surface
    if variant == "two":
        second = scene.add(scene.any_form(), columns[1], rng.uniform(10, 40), angle=rng.uniform(-0.6, 0.6))
        scene.words["things"] = f"{scene.words.pop('thing')} and {with_article(second.name)}"
    if rng.random() < 0.5:
        scene.add(scene.any_form("box", "triangle", "ball"), columns[2])
    return scene


def _stack(rng: np.random.Generator) -> Scene:
    """A stack of boxes that a ball rolls into, that something falls on, or that leans too far to stand."""
    scene = Scene(rng)
    variant = rng.choice(["hit", "drop", "lean"])
    sign, side = scene.sided()
    width, height = float(rng.uniform(10, 15)), float(rng.uniform(8, 12))
    lean = sign * width * rng.uniform(0.33, 0.42) if variant == "lean" else 0.0
    x = 50 + sign * rng.uniform(0, 14) - 1.5 * lean - (sign * 12 if variant == "lean" else 0)
    rows = [1] * int(rng.integers(4, 6) if variant == "lean" else rng.integers(2, 5))
    if variant == "hit":
        rows = [3, 2, 1] if rng.random() < 0.3 else [1] * int(rng.integers(4, 6))
    for level, count in enumerate(rows):
        for index in range(count):
            slip = lean * level + (0.0 if lean else rng.uniform(-0.8, 0.8))
            y = scene.floor - (level + 0.5) * height * 1.01
            top = scene.add(
                "box",
                x + slip + (index - (count - 1) / 2) * width * 1.15,
                y,
                points=box(width, height),
                bounce=0.2,
                friction=0.6,
            )
    if variant == "lean":
        scene.words = {"top": with_article(top.name), "side": side}
        return scene
    if variant == "hit":
        thing = scene.add("ball", 50 - sign * rng.uniform(34, 40), size=float(rng.uniform(8, 11)), weight=4.0)
        _launch(thing, sign * rng.uniform(150, 190))
        scene.words = {"thing": with_article(thing.name), "side": side}
        if len(rows) == 3:
            scene.words["pile"] = "a pile of boxes"
    else:
        thing = scene.add(scene.any_form(), x + rng.uniform(-4, 4), rng.uniform(9, 14), angle=rng.uniform(-0.5, 0.5))
        scene.words = {"thing": with_article(thing.name)}
    return scene


def _occlusion(rng: np.random.Generator) -> Scene:
    """Something that passes behind a panel in front, or a panel that passes in front of something."""
    scene = Scene(rng)
    variant = rng.choice(["pass", "fall", "cover"])
    sign, side = scene.sided()
    if variant == "fall":
        x, bounce = rng.uniform(30, 70), float(rng.uniform(0, 0.5))
        thing = scene.add(scene.any_form(), x, rng.uniform(11, 14), bounce=bounce)
        tall, wide = float(rng.uniform(20, 28)), float(rng.uniform(34, 60))
        x += rng.uniform(-5, 5)
        panel = scene.add("board", x, 27 + tall / 2, points=box(wide, tall), ghost=True)
        for cord in (x - 0.4 * wide, x + 0.4 * wide):
            scene.add("cord", cord, 12, points=box(1.2, 30), ghost=True, muted=True)
        scene.words = {"surface": scene.surface}
    else:
        if rng.random() < 0.5:
            # A bystander further back, which everything else passes in front of.
            away = 50 + sign * rng.uniform(22, 38)
            back = scene.add(scene.any_form(), away, size=float(rng.uniform(5, 9)), ghost=True)
            back.body.position = (back.body.position.x, back.body.position.y - 3)
        start = 50 - sign * rng.uniform(34, 38) if variant == "pass" else 50 + sign * rng.uniform(-4, 8)
        # Without friction a box slides on and a ball keeps rolling: the speed stays what it was.
        form = scene.any_form("ball", "ball", "box", "triangle", "capsule")
        thing = scene.add(form, start, friction=0.0)
        speed, wide, tall = sign * rng.uniform(76, 88), float(rng.uniform(13, 28)), float(rng.uniform(26, 60))
        x = 50 + sign * (rng.uniform(-6, 6) if variant == "pass" else -32)
        bottom = scene.floor + float(rng.uniform(2, 5))
        word = scene.any_form("panel", "screen")
        panel = scene.add(word, x, bottom - tall / 2, points=box(wide, tall), ghost=True)
        scene.words = {"side": side}
        if variant == "pass":
            _launch(thing, speed)
            scene.words["moves"] = "rolls" if form == "ball" else "slides"
        else:
            scene.moves.append((panel.body, speed, 0.0, 0.0))
    panel.mark = int(rng.integers(2)) * 2
    scene.words |= {"thing": with_article(thing.name), "cover": with_article(panel.name)}
    return scene


def _rope(rng: np.random.Generator) -> Scene:
    """A pendulum, a rope that comes loose, a rope that catches something, or a rope that pulls something."""
    scene = Scene(rng)
    variant = rng.choice(["swing", "swing", "loose", "catch", "pull"])
    sign, side = scene.sided()
    name, colour = scene.take()
    rope = f"{with_article(name)} rope"
    if variant == "swing":
        _swing(scene, sign, colour)
        scene.words["side"] = side
    elif variant == "pull":
        thing = scene.add("box", 50 - sign * rng.uniform(22, 30), friction=0.5)
        x, y = thing.body.position.x + sign * max(px for px, _ in thing.points), thing.body.position.y
        reach = float(rng.uniform(20, 28))
        points = [(x + sign * reach * i / 6, y) for i in range(7)]
        rods = scene.rope(points, colour)
        hand = scene.add("hook", *points[-1], points=box(4, 7), ghost=True)
        _let_through(thing)
        scene.tie(rods[0], thing.body, points[0])
        scene.tie(rods[-1], hand.body, points[-1])
        scene.moves.append((hand.body, sign * rng.uniform(40, 55), 0.0, 0.0))
        scene.stop = math.inf  # a hook that slowed down would slacken the rope
        scene.words = {
            "rope": rope,
            "thing": with_article(thing.name),
            "side": side,
            "surface": scene.surface,
        }
    else:
        half, sag, y = float(rng.uniform(17, 25)), float(rng.uniform(5, 12)), float(rng.uniform(12, 24))
        if variant == "catch":
            half, y = half + 9, y + 22
        steps = [i / 7 - 1 for i in range(15)]
        ends = (50 - half, 50 + half)
        post, muted = box(float(rng.uniform(2.5, 4.5)), scene.floor - y + 3), bool(rng.random() < 0.6)
        for x in ends:
            # The posts stand behind the rope; only the rope can be hit.
            scene.add("post", x, points=post, ghost=True, muted=muted)
        scene.items[-1].recolour(scene.items[-2].colour)
        rods = scene.rope([(50 + half * t, y + sag * (1 - t * t)) for t in steps], colour)
        for rod, x in ((rods[0], ends[0]), (rods[-1], ends[1])):
            if variant == "catch" or (x > 50) != (sign > 0):
                scene.tie(rod, None, (x, y))
        scene.words = {"rope": rope, "side": side}
        if variant == "catch":
            thing = scene.add(scene.any_form("ball", "ball", "box", "capsule"), 50 + rng.uniform(-8, 8), 12)
            scene.words = {"rope": rope, "thing": with_article(thing.name)}
    return scene


def _swing(scene: Scene, sign: int, colour: tuple[int, int, int]) -> None:
    """Hang something on a rope, drawn aside so that it swings towards ``sign``."""
    rng = scene.rng
    x, y, angle = 50 + rng.uniform(-8, 8), rng.uniform(5, 10), -sign * float(rng.uniform(0.7, 1.2))
    beam = box(float(rng.uniform(10, 60)), 3)
    scene.add("beam", x, y - 1.5, points=beam, ghost=True, muted=bool(rng.random() < 0.6))
    thing = scene.add(scene.any_form("ball", "ball", "box", "triangle"), 0, 0, angle=-angle)
    reach = thing.radius or -min(py for _, py in thing.points)
    length = float(rng.uniform(0.55, 0.95)) * (scene.floor - y - reach - thing.below - 3)
    length = min(length, (48 - abs(x - 50) - reach) / abs(math.sin(angle)) - reach)  # inside the picture
    dx, dy = math.sin(angle), math.cos(angle)
    thing.body.position = (x + dx * (length + reach), y + dy * (length + reach))
    rods = scene.rope([(x + dx * length * i / 7, y + dy * length * i / 7) for i in range(8)], colour)
    end = (x + dx * length, y + dy * length)
    scene.tie(rods[0], None, (x, y))
    scene.tie(rods[-1], thing.body, end)
    # Light rods under a heavy weight stretch; one limit on the whole length keeps the rope from it.
    tied = thing.body.world_to_local(end)
    scene.space.add(pymunk.SlideJoint(scene.space.static_body, thing.body, (x, y), tied, 0, length))
    _let_through(thing)
    scene.words = {"thing": with_article(thing.name)}
    low = y + length + reach + thing.below
    if rng.random() < 0.4:
        # A box tall enough to be in the way, just past the lowest point.
        tall = scene.floor - low + 2 * thing.below
        other = scene.add("box", x + sign * rng.uniform(11, 15), points=box(float(rng.uniform(9, 14)), tall))
        scene.words["other"] = with_article(other.name)


def _tool(rng: np.random.Generator) -> Scene:
    """A bar, stick, plate or wedge, moved from outside, that pushes, lifts or tips something."""
    variant = rng.choice(["push", "push", "lift", "tilt", "wedge", "above"])
    if variant == "above":
        return _push_from_above(rng)
    scene = Scene(rng)
    sign, side = scene.sided()
    if variant == "push":
        form = scene.any_form("box", "box", "triangle", "capsule")
        thing = scene.add(form, 50 - sign * rng.uniform(12, 22))
        half, gap = max(px for px, _ in thing.points), rng.uniform(1, 8)
        x, wide = thing.body.position.x - sign * (half + gap), float(rng.uniform(3, 6))
        if rng.random() < 0.5:
            # A long bar that comes down from above the picture.
            tool = scene.add("bar", x - sign * wide / 2, scene.floor - 61, points=box(wide, 120), fixed=True)
        else:
            y = thing.body.position.y + 0.3 * thing.below
            tool = scene.add("stick", x - sign * 40, y, points=box(80, wide), fixed=True)
        scene.moves.append((tool.body, sign * rng.uniform(48, 60), 0.0, 0.0))
        scene.words = {"side": side, "surface": scene.surface}
    elif variant == "wedge":
        return _wedge(scene, sign, side)
    else:
        tilt = variant == "tilt"
        thick, wide = float(rng.uniform(3, 5)), float(rng.uniform(30, 46))
        x, y = 50 + rng.uniform(-12, 12), scene.floor - thick / 2 - (rng.uniform(30, 45) if tilt else 0.5)
        if tilt:
            stand = box(3, scene.floor - y)
            scene.add("stand", x, points=stand, ghost=True, muted=True)
        word, points = scene.any_form("bar", "plate"), box(wide, thick)
        tool = scene.add(word, x, y, points=points, fixed=True, friction=0.6)
        if not tilt:
            # An arm from outside the picture holds it.
            arm = [(px + sign * (50 + wide / 2), py) for px, py in box(100, 0.6 * thick)]
            scene.add("arm", x, points=arm, body=tool.body, ghost=True)
        form = scene.any_form("ball", "ball", "capsule", "box") if tilt else scene.any_form()
        thing = scene.add(form, x - (sign * wide * 0.15 if tilt else 0), 0, friction=0.3 if tilt else 0.8, bounce=0.0)
        thing.body.position = (thing.body.position.x, y - thick / 2 - thing.below - 0.1)
        if tilt:
            scene.moves.append((tool.body, 0.0, 0.0, sign * rng.uniform(0.8, 1.0)))
            scene.words = {"side": side}
        else:
            scene.moves.append((tool.body, 0.0, -rng.uniform(38, 50), 0.0))
    scene.words |= {"thing": with_article(thing.name), "tool": with_article(tool.name)}
    return scene


def _wedge(scene: Scene, sign: int, side: str) -> Scene:
    """A wedge driven under something that a post keeps from moving on, so that it has to rise."""
    rng = scene.rng
    x = 50 + sign * rng.uniform(4, 14)
    wide = float(rng.uniform(4, 7))
    form, size = scene.any_form("ball", "box"), float(rng.uniform(8, 11))
    thing = scene.add(form, x, size=size, friction=0.1, bounce=0.0)
    half = thing.radius or max(px for px, _ in thing.points)
    side_of_post = x + sign * (half + 0.3 + wide / 2)
    post = scene.add("post", side_of_post, points=box(wide, 55), fixed=True, friction=0.0)
    run, rise = float(rng.uniform(34, 42)), float(rng.uniform(20, 28))
    corners = [(-run / 2, rise / 2), (-run / 2, -rise / 2), (run / 2, rise / 2)]
    if sign < 0:
        corners = [(-px, py) for px, py in reversed(corners)]
    start = x - sign * (half + run / 2 + 1)
    tool = scene.add("wedge", start, points=corners, fixed=True, friction=0.0)
    # Its tip comes to the post and no further.
    scene.moves.append((tool.body, sign * 2 * half / 0.92, 0.0, 0.0))
    scene.words = {"side": side, "post": with_article(post.name)}
    scene.words |= {"thing": with_article(thing.name), "tool": with_article(tool.name)}
    return scene


def _push_from_above(rng: np.random.Generator) -> Scene:
    scene = Scene(rng, top=True)
    scene.space.damping = 0.01  # friction of the table: what nothing pushes soon stops
    way = 2 * int(rng.integers(4))
    dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[way // 2]
    shift = rng.uniform(-18, 18)

    def place(along: float, across: float) -> tuple[float, float]:
        return 50 + along * dx - across * dy, 50 + along * dy + across * dx

    for across in (-30, 30):
        if rng.random() < 0.5:
            scene.add(scene.any_form(), *place(rng.uniform(-25, 25), shift + across), angle=rng.uniform(0, 3))
    thing = scene.add(scene.any_form(), *place(-rng.uniform(8, 16), shift), angle=rng.uniform(-0.4, 0.4))
    thick, wide = float(rng.uniform(4, 6)), float(rng.uniform(18, 26))
    turn = math.atan2(dy, dx)
    x, y = place(-rng.uniform(34, 38), shift + rng.uniform(-2, 2))
    tool = scene.add("bar", x, y, points=box(thick, wide), fixed=True, angle=turn)
    handle = [(px - 50, py) for px, py in box(100, 3)]
    scene.add("handle", x, y, points=handle, body=tool.body, ghost=True)
    scene.moves.append((tool.body, dx * rng.uniform(50, 60), dy * rng.uniform(50, 60), 0.0))
    scene.words = {"thing": with_article(thing.name), "tool": with_article(tool.name), "way": _WAYS[way]}
    return scene


LAYOUTS: dict[str, Callable[[np.random.Generator], Scene]] = {
    "bounce": _bounce,
    "fall": _fall,
    "stack": _stack,
    "occlusion": _occlusion,
    "rope": _rope,
    "tool": _tool,
}
"""The function that lays out each kind, from a generator."""
