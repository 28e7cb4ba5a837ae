"""What an action-conditioned world model learns, phase by phase: hand, touch, joints, arm, scene."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.data.clips import EpisodeStore, draw
from vidvla.data.dreams import DreamBatch, DreamWindows, Moment, MoveBatch
from vidvla.data.record import UNSEEN
from vidvla.families.base import Context
from vidvla.foundation.dreamer import Dreamer, DynamicsConfig, rounded
from vidvla.foundation.pose import KINDS, POSE, Seen, is_deep, unit_height, unit_place, unit_pose, unit_things
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.nn.arm import HandNet
from vidvla.nn.dynamics import DynamicsNet
from vidvla.nn.touch import FIRST, SECOND, THINGS, TURN, TouchNet
from vidvla.pixels import to_float, to_uint8
from vidvla.worlds.base import Frame

HAND, TOUCH, JOINTS, ARM, DREAM = "wma.hand", "wma.touch", "wma.joints", "wma.arm", "wma.dream"
HORIZON = 16
"""Control steps that a request without actions is dreamed for."""
MOVED, MOVED_WEIGHT = 0.06, 5.0
"""A pixel whose colour changes by more than this share of the range has moved, and counts so many times."""
MISREAD = 0.04
"""Deviation, in unit scale, of how robot and things are misread: they are read from a picture where dreams begin."""
STOPPED = 0.1
"""Decimetres that a hand goes elsewhere in a control step when it is stopped, or let go, and that things go."""
ABSOLUTE = 0.3
"""Weight of the absolute error beside the squared one: blur costs more."""

EDGE = 0.016
"""Of a picture's side: how far around the arm colours are mixed with its own."""
PRICE = 0.02
"""Of a pixel that is drawn where the arm is not, in absolute error: half the range of a pixel is one."""


class FeedConfig(BaseModel):
    """How training meets the model's own mistakes.

    Attributes:
        steps: following frames of a window that are learned from; from the second on they are predicted from predicted
            ones.
        noise: largest deviation of noise in given frames, of half the range; half of the windows have none.
        more: up to so many frames are dreamed between those: what a step leaks of one thing into another is little, and
            adds up over a long dream.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=2, gt=0)
    noise: float = Field(default=0.1, ge=0)
    more: int = Field(default=0, ge=0)


class DreamNet(nn.Module):
    """A net with its loss over several steps as ``forward`` (one call for every parallel wrapper)."""

    def __init__(self, net: DynamicsNet, feed: FeedConfig) -> None:
        super().__init__()
        self.net, self.feed = net, feed

    def forward(self, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Errors of the frames that follow, each fed back as a picture: rounded to uint8, without a gradient."""
        true, anchor = to_float(batch.frames), to_float(batch.anchor)
        count, history, device = len(true), self.net.history, true.device
        noisy = torch.rand(count, generator=generator) < 0.5
        level = (self.feed.noise * noisy * torch.rand(count, generator=generator)).to(device)
        where = unit_pose(batch.poses)
        off = MISREAD * (level > 0)[:, None] * torch.randn((count, POSE + THINGS), generator=generator).to(device)
        seen, pose, led = true[:, :history], where[:, history - 1] + off[:, :POSE], batch.actions
        # what is misread of things where a dream begins stays misread
        started, things = (unit_things(v) for v in (batch.anchor_things, batch.things))
        started, things = started + off[:, POSE:], things + off[:, None, POSE:]
        covered = self.net.covers(pose)
        backdrop = self.net.behind(anchor, self.net.covers(unit_pose(batch.anchor_pose)))
        losses, errors, steps = [], [], led.shape[1]
        learned = self._learned(steps, generator)
        for step in range(steps):
            noise = torch.randn(seen.shape, generator=generator).to(device)
            given = seen + level[:, None, None, None, None] * noise
            goes, stand = where[:, history + step], things[:, history + step - 1 : history + step + 1]
            # frames are fed back without a gradient: each learned step has its own
            with torch.set_grad_enabled(torch.is_grad_enabled() and step in learned):
                after = self.net(
                    given, anchor, backdrop.detach(), covered, pose, goes, torch.cat([started[:, None], stand], dim=1),
                    led[:, step], level,
                )  # fmt: skip
            backdrop, covered, shown = after.backdrop, after.covered, true[:, history + step]
            if step in learned:
                before = true[:, history + step - 1]
                changed = torch.maximum((shown - before).abs(), (seen[:, -1] - shown).abs())
                weight = 1 + (MOVED_WEIGHT - 1) * (changed.amax(dim=1, keepdim=True) > 2 * MOVED)
                error = after.frame - shown
                losses.append((weight * (error.square() + ABSOLUTE * error.abs())).mean())
                errors.append(error.detach().square().mean())
            seen = torch.cat([seen[:, 1:], rounded(after.frame)[:, None]], dim=1)
            pose = goes
        return {"loss": torch.stack(losses).mean(), "mse_first": errors[0], "mse_last": errors[-1]}

    def _learned(self, steps: int, generator: torch.Generator) -> set[int]:
        """Which of ``steps`` are learned from: all, or as many as configured, one of each equal part."""
        count = min(self.feed.steps, steps)
        within = torch.arange(count) + torch.rand(count, generator=generator)
        return set((within * steps / count).long().tolist())


class TouchWalk(nn.Module):
    """A net that says what the hand and things do to each other, with its error over its own steps as ``forward``."""

    def __init__(self, net: TouchNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: MoveBatch, hand: HandNet, off: Tensor) -> tuple[Tensor, Tensor]:
        """How far the hand is from where it went, (B, T), decimetres, and by how much things are elsewhere, (B, T,
        THINGS), unit scale.

        Args:
            off: (B, POSE + THINGS) by how much what stands where is misread.
        """
        place_off = off[:, None, :3]
        true, targets = (unit_place(v) + place_off for v in (batch.poses[..., :3], batch.targets))
        stand, kinds = unit_things(batch.things) + off[:, None, POSE:], F.one_hot(batch.kind, len(KINDS)).to(off)
        lowest, steps = unit_height(is_deep(kinds)), batch.actions.shape[1]
        history = true.shape[1] - steps
        things, places = stand[:, history - 1], true[:, :history]
        memory = self.net.begin(unit_pose(batch.poses[:, history - 1]) + off[:, :POSE], things, kinds)
        missed, moved = [], []
        for step in range(steps):
            goal, led = targets[:, step : step + 2], batch.actions[:, step]
            met = self.net(memory, things, kinds, hand(places, goal, led), places, goal, lowest, led)
            missed.append((met.place - true[:, history + step]).norm(dim=1))
            moved.append(met.things - stand[:, history + step])
            # what it remembers has a gradient through all steps; through where things are it would be chaos
            memory, things = met.memory, met.things.detach()
            places = torch.cat([places[:, 1:], met.place[:, None].detach()], dim=1)
        return torch.stack(missed, dim=1), torch.stack(moved, dim=1)


class WindowStage:
    """What all of them share: they learn from windows of the robot world's recorded episodes.

    Args:
        steps: following frames of a window.

    Attributes:
        blind: it needs no pictures, and learns from episodes without such as well.
    """

    blind = False

    def __init__(self, context: Context, config: DynamicsConfig, steps: int = 1) -> None:
        self.context, self.config, self.steps = context, config, steps

    @functools.cached_property
    def windows(self) -> DreamWindows:
        return dream_windows(self.context, self.config, blind=self.blind)

    def data_used(self) -> dict[str, int]:
        episodes = self.windows.store.episodes
        unseen = sum(not e.frames.size for e in episodes)
        used = {f"episodes of {WORLD}": len(episodes) - unseen, f"episodes of {WORLD}, without pictures": unseen}
        return {what: count for what, count in used.items() if count}

    def preview(self, model: nn.Module) -> NDArray[np.uint8] | None:
        """Nothing, where there is no picture to show."""
        return None


def begun(net: nn.Module, own: Path | None) -> nn.Module:
    """``net``, with the weights of an earlier run where there are some."""
    if own is not None:
        checkpoint.load(own).fill(net, "net")
    return net


class HandStage(WindowStage):
    """Learn where the hand goes, without a picture: the net that draws it then knows from its first step on."""

    name, blind = HAND, True

    def build(self, own: Path | None = None) -> nn.Module:
        return begun(self.config.hand(len(unit_actions().low)), own)

    def batch(self, size: int, generator: torch.Generator) -> MoveBatch:
        return self.windows.moved(size, self.steps, generator)

    def loss(self, model: nn.Module, batch: MoveBatch, generator: torch.Generator) -> dict[str, Tensor]:
        true, targets, history = unit_place(batch.poses[..., :3]), unit_place(batch.targets), self.config.history
        off = MISREAD * torch.randn((len(true), 1, 3), generator=generator).to(true.device)
        true, targets = true + off, targets + off
        places, missed = true[:, :history], []
        for step in range(self.steps):
            place = model(places, targets[:, step : step + 2], batch.actions[:, step])
            missed.append((place - true[:, history + step]).norm(dim=1).mean())
            places = torch.cat([places[:, 1:], place[:, None]], dim=1)
        error = torch.stack(missed).mean()
        return {"loss": error, "first_cm": 10 * missed[0], "last_cm": 10 * missed[-1]}


class TouchStage(WindowStage):
    """Learn what stops the hand and what that moves, on top of what the hand's net has it do, over its own steps.

    Things are seldom met: half of the windows are drawn around moments where that net is wrong, or things move.
    """

    name, blind = TOUCH, True

    @functools.cached_property
    def hand(self) -> HandNet:
        net = self.config.hand(len(unit_actions().low))
        checkpoint.load(self.context.weights(HAND)).fill(net, "net")
        return net.requires_grad_(False)

    @functools.cached_property
    def stopped(self) -> list[Moment]:
        """Where the hand went elsewhere than its net has it go, or took something along."""
        found: list[Moment] = []
        for episode in self.windows.store.episodes:
            moves = self.windows.moves(episode)
            true, targets = unit_place(moves.poses[..., :3]), unit_place(moves.targets)
            place = self.hand(true[:, :-1], targets, moves.actions[:, 0])
            stand = unit_things(moves.things[:, -2:])
            taken = (stand[:, 1] - stand[:, 0]).abs().amax(dim=1) > STOPPED
            missed = ((place - true[:, -1]).norm(dim=1) > STOPPED) | taken
            found += [(episode, now + 1) for now in missed.nonzero()[:, 0].tolist()]
        return found

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.touch(len(unit_actions().low))
        begun(net, own)
        return TouchWalk(net)

    def batch(self, size: int, generator: torch.Generator) -> MoveBatch:
        return self.windows.moved(size, self.steps, generator, self.stopped)

    def loss(self, model: nn.Module, batch: MoveBatch, generator: torch.Generator) -> dict[str, Tensor]:
        off = MISREAD * torch.randn((len(batch.poses), POSE + THINGS), generator=generator).to(batch.poses.device)
        missed, moved = model(batch, self.hand.to(off.device), off)

        def mean(values: Tensor) -> Tensor:
            return (values * batch.within).sum() / batch.within.sum()

        hand, first, second = mean(missed), *(mean(moved[..., part].norm(dim=2)) for part in (FIRST, SECOND))
        turn = mean(moved[..., TURN].abs().mean(dim=2))
        return {
            "loss": hand + first + second + turn, "mean_cm": 10 * hand.detach(),
            "last_cm": 10 * missed[:, -1].mean().detach(), "things_cm": 10 * first.detach(), "turn": turn.detach(),
        }  # fmt: skip


class JointStage(WindowStage):
    """Learn how the joints follow the hand, without a picture, over several of its own steps."""

    name, blind = JOINTS, True

    def build(self, own: Path | None = None) -> nn.Module:
        return begun(self.config.joints(), own)

    def batch(self, size: int, generator: torch.Generator) -> MoveBatch:
        return self.windows.moved(size, self.steps, generator)

    def loss(self, model: nn.Module, batch: MoveBatch, generator: torch.Generator) -> dict[str, Tensor]:
        true, history = unit_pose(batch.poses), self.config.history
        off = MISREAD * torch.randn((len(true), 1, true.shape[-1]), generator=generator).to(true.device)
        poses, missed = true[:, :history] + off, []
        for step in range(self.steps):
            goes = true[:, history + step]
            joints = model(poses, goes[:, :3] + off[:, 0, :3], batch.actions[:, step])
            missed.append((joints - goes[:, 3:]).abs().mean())
            poses = torch.cat([poses[:, 1:], torch.cat([goes[:, :3] + off[:, 0, :3], joints], dim=1)[:, None]], dim=1)
        error = torch.stack(missed).mean()
        return {"loss": error, "first": missed[0], "last": missed[-1]}


class ArmStage(WindowStage):
    """Learn how the arm looks, from single frames: what differs from the episode's scene without it is the arm's.

    With the absolute error edges are sharp where the pose leaves them a little open; what is drawn where nothing has
    the arm's colours has a price, so that nothing is drawn without a need. Where the frame differs there it says
    nothing: a door that moved, or a wall that the arm hides in the scene, would be drawn too.
    """

    name = ARM

    def build(self, own: Path | None = None) -> nn.Module:
        return begun(self.config.arm(), own)

    def batch(self, size: int, generator: torch.Generator) -> DreamBatch:
        return self.windows.batch(size, self.steps, generator, plates=True)

    def loss(self, model: nn.Module, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        true, behind = to_float(batch.frames[:, -1]), to_float(batch.anchor)
        colours, covers = model(unit_pose(batch.poses[:, -1]))
        shape = covers.sigmoid()
        differs, free = (true - behind).abs().amax(dim=1, keepdim=True) > 2 * MOVED, 1 - _near_arm(true)
        counts = 1 - differs.float() * free
        error = counts * (shape * colours + (1 - shape) * behind - true)
        drawn, mse = (free * shape).mean(), error.detach().square().mean()
        return {"loss": error.abs().mean() + PRICE * drawn, "mse": mse, "drawn_beside": drawn.detach()}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        """Eight frames above, and below them the arms alone."""
        batch = self.batch(8, torch.Generator().manual_seed(0))
        colours, covers = model(unit_pose(batch.poses[:, -1]).to(next(model.parameters()).device))
        shape = covers.sigmoid()
        arms = to_uint8(shape * colours + (1 - shape))
        rows: NDArray[np.uint8] = np.concatenate([batch.frames[:, -1].numpy(), arms], axis=1)
        return np.concatenate(list(rows), axis=1)


def dream_windows(context: Context, config: DynamicsConfig, *, blind: bool) -> DreamWindows:
    """Windows of the robot world's recorded episodes, with those that have no pictures where that is all the same."""
    unseen = context.data / (WORLD + UNSEEN)
    store = EpisodeStore(context.data / WORLD, *([unseen] if blind and unseen.is_dir() else []))
    return DreamWindows(store, unit_actions().to_unit, config.history, config.told)


class DreamStage(WindowStage):
    """Learn the frames that follow from what the robot does, on episodes of every kind.

    Args:
        parent: phase whose weights the stage begins with, or None to begin anew, with hand, joints and arm alone.
    """

    def __init__(
        self, name: str, context: Context, config: DynamicsConfig, feed: FeedConfig, parent: str | None = None
    ) -> None:
        super().__init__(context, config, feed.steps)
        self.name, self.feed, self.parent = name, feed, parent

    def build(self, own: Path | None = None) -> nn.Module:
        start = own or (None if self.parent is None else self.context.weights(self.parent))
        net = load_dynamics(start, self.config)
        net.room.copy_(to_float(self.windows.room()[None])[0])
        checkpoint.load(self.context.weights(HAND)).fill(net.hand, "net")
        checkpoint.load(self.context.weights(JOINTS)).fill(net.joints, "net")
        checkpoint.load(self.context.weights(ARM)).fill(net.arm, "net")
        # They are as good as they get, the arm would be half of a step's time, and what few windows say of the hand
        # ruins what many said.
        net.arm.requires_grad_(False)
        net.hand.requires_grad_(False)
        net.joints.requires_grad_(False)
        return DreamNet(net, self.feed)

    def batch(self, size: int, generator: torch.Generator) -> DreamBatch:
        return self.windows.batch(size, self.steps + draw(generator, self.feed.more + 1), generator)

    def loss(self, model: nn.Module, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        values: dict[str, Tensor] = model(batch, generator)
        return values

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        """Six episodes: true frames above, dreamed ones below, every fourth of 16 control steps."""
        assert isinstance(model, DreamNet)
        none = np.zeros((0, len(unit_actions().low)), np.float32)
        long = [e for e in self.windows.store.episodes if e.entry.steps >= HORIZON]
        rows = []
        for episode in long[:: max(len(long) // 6, 1)][:6]:
            unit = unit_actions().to_unit(episode.actions[:HORIZON])
            pose = torch.from_numpy(np.append(episode.hands[0], episode.joints[0]))
            things = unit_things(torch.from_numpy(episode.things[:1]))
            dreamer = Dreamer(model.net, None, next(model.parameters()).device, _told(unit_pose(pose)[None], things))
            film, _ = dreamer.film(dreamer.begin(np.asarray(episode.frames[:1]), none), unit)
            times = range(3, HORIZON, 4)
            rows.append(np.concatenate([episode.frames[0], *(episode.frames[t + 1] for t in times)], axis=1))
            rows.append(np.concatenate([episode.frames[0], *(film[t] for t in times)], axis=1))
        return np.concatenate(rows)


def _near_arm(pixels: Tensor) -> Tensor:
    """1 where pixels (B, 3, H, W) in [-1, 1] have the arm's red, cyan, white or black, or are next to such; else 0.

    Wall, floor and wood are never twice as red as green, nor as bright or dark as fingers and joints are.
    """
    red, green, blue = (0.5 + 0.5 * pixels).unbind(dim=1)
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    found = (red > 2 * high) | (low > 2 * red) | (torch.minimum(red, low) > 0.75) | (torch.maximum(red, high) < 0.08)
    edge = round(EDGE * pixels.shape[-1])
    return F.max_pool2d(found[:, None].float(), 2 * edge + 1, stride=1, padding=edge)


def _told(poses: Tensor, things: Tensor) -> Callable[[Frame], Seen]:
    """A reader of frames that has been told how robot and things stand, but not in which kind of scene."""
    kinds = torch.zeros(1, len(KINDS))
    return lambda frames: Seen(*(v.expand(len(frames), -1) for v in (poses, things, kinds)))


def load_touch(folder: Path, config: DynamicsConfig, part: str = "net") -> TouchNet:
    """The net of a checkpoint folder that says what stops the hand."""
    net = config.touch(len(unit_actions().low))
    checkpoint.load(folder).fill(net, part)
    return net


def load_dynamics(folder: Path | None, config: DynamicsConfig) -> DynamicsNet:
    """The net of a checkpoint folder, or a fresh one."""
    net = config.net(len(unit_actions().low))
    if folder is not None:
        checkpoint.load(folder).fill(net, "net")
    return net
