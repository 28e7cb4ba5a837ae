"""The public building blocks keep their signatures, defaults, shapes, ranges, and learn what they are for."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from inspect import Parameter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import vidvla
from vidvla.nn.attention import SelfAttention, capture_attention
from vidvla.nn.dit import AdaLayerNorm, DiTBlock
from vidvla.nn.predictor import InverseDynamics, VideoPredictor, VideoToActionPipeline
from vidvla.nn.video_dit import VideoActionDiT

REQUIRED = Parameter.empty

CONSTRUCTORS: dict[str, dict[str, object]] = {
    "VideoPredictor": {"img_channels": 3, "hidden_dim": 256, "n_future": 4},
    "InverseDynamics": {"img_channels": 3, "action_dim": 7, "hidden": 256},
    "VideoToActionPipeline": {"action_dim": 7, "n_future": 4},
    "AdaLayerNorm": {"d_model": REQUIRED, "cond_dim": REQUIRED},
    "DiTBlock": {"d_model": REQUIRED, "n_heads": REQUIRED, "cond_dim": REQUIRED},
    "VideoActionDiT": {
        "img_size": 64,
        "patch_size": 8,
        "n_future": 4,
        "d_model": 256,
        "n_heads": 8,
        "n_layers": 6,
        "lang_dim": 128,
        "action_dim": 7,
    },
}

CALLS: dict[str, dict[str, object]] = {
    "VideoPredictor": {"current_frame": REQUIRED, "lang_embed": REQUIRED},
    "InverseDynamics": {"current": REQUIRED, "next_frame": REQUIRED},
    "VideoToActionPipeline": {
        "current_frame": REQUIRED,
        "lang_embed": REQUIRED,
        "gt_futures": None,
        "gt_actions": None,
    },
    "AdaLayerNorm": {"x": REQUIRED, "cond": REQUIRED},
    "DiTBlock": {"x": REQUIRED, "cond": REQUIRED},
    "VideoActionDiT": {
        "cond_frame": REQUIRED,
        "noisy_futures": REQUIRED,
        "timestep": REQUIRED,
        "lang": REQUIRED,
        "target_actions": None,
    },
}


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """One thread and one seed inside each test, nothing of it outside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@torch.no_grad()
def perturb(net: nn.Module) -> None:
    """Move every parameter a little, since those at zero hide what comes before them."""
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))


def squares(centres: Tensor, size: int, half: float = 3.0) -> Tensor:
    """centres (B, 2), row and column in pixels -> (B, 3, size, size) in [0, 1]: a bright square each."""
    line = torch.arange(size, dtype=torch.float32)
    inside: Tensor = (half + 0.5 - (line - centres[..., None]).abs()).clamp(0, 1)  # (B, 2, size), mixed at edges
    shape = inside[:, 0, :, None] * inside[:, 1, None, :]
    return (0.3 + 0.6 * shape)[:, None].expand(-1, 3, -1, -1)


# --- names and signatures


def test_public_names_are_locked() -> None:
    assert sorted(vidvla.__all__) == sorted(CONSTRUCTORS)
    assert set(vidvla.__all__) <= set(dir(vidvla))


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_names_import_from_the_package(name: str) -> None:
    block = getattr(vidvla, name)
    assert block.__name__ == name
    assert block.__module__.startswith("vidvla.nn.")


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="no_such_block"):
        vidvla.no_such_block  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    code = "import vidvla, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructor_signature_is_frozen(name: str) -> None:
    parameters = list(inspect.signature(getattr(vidvla, name)).parameters.values())
    promised = [p for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in promised] == list(CONSTRUCTORS[name].items())
    extras = [p for p in parameters if p not in promised]
    assert all(p.kind is Parameter.KEYWORD_ONLY and p.default is not REQUIRED for p in extras)


@pytest.mark.parametrize("name", CALLS)
def test_call_signature_is_frozen(name: str) -> None:
    parameters = list(inspect.signature(getattr(vidvla, name).forward).parameters.values())[1:]
    count = len(CALLS[name])
    assert [(p.name, p.default) for p in parameters[:count]] == list(CALLS[name].items())
    assert all(p.default is not REQUIRED for p in parameters[count:])


# --- VideoPredictor


def test_video_predictor_default_shape_and_range() -> None:
    film = VideoPredictor()(torch.rand(2, 3, 32, 32), torch.randn(2, 256))
    assert film.shape == (2, 4, 3, 32, 32)
    assert film.min() >= 0 and film.max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (8, 64)])
def test_video_predictor_takes_multiples_of_eight(size: tuple[int, int]) -> None:
    net = VideoPredictor(img_channels=1, hidden_dim=32, n_future=2, lang_dim=5)
    perturb(net)
    film = net(100 * torch.randn(2, 1, *size), 100 * torch.randn(2, 5))
    assert film.shape == (2, 2, 1, *size)
    assert film.min() >= 0 and film.max() <= 1


def test_video_predictor_refuses_other_sizes() -> None:
    net = VideoPredictor(hidden_dim=32)
    with pytest.raises(ValueError, match="multiples of 8, got 20 x 16"):
        net(torch.rand(1, 3, 20, 16), torch.randn(1, 256))
    with pytest.raises(ValueError, match="multiple of 32, got 40"):
        VideoPredictor(hidden_dim=40)


def test_video_predictor_hears_the_language_everywhere() -> None:
    net = VideoPredictor(hidden_dim=32, n_future=1)
    frame = torch.rand(1, 3, 32, 32)
    one, other = net(frame, torch.randn(1, 256)), net(frame, torch.randn(1, 256))
    cells = (one - other).abs()[0, 0].amax(dim=0).unflatten(0, (4, 8)).unflatten(2, (4, 8))
    assert (cells.amax(dim=(1, 3)) > 0).all()


# --- InverseDynamics


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (64, 48), (128, 128)])
def test_inverse_dynamics_shape(size: tuple[int, int]) -> None:
    net = InverseDynamics(base=8)
    assert net(torch.rand(2, 3, *size), torch.rand(2, 3, *size)).shape == (2, 7)


def test_inverse_dynamics_default_shape() -> None:
    assert InverseDynamics()(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)).shape == (1, 7)
    net = InverseDynamics(1, 4, 16)
    assert net(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)).shape == (1, 4)


def test_inverse_dynamics_refuses_what_it_cannot_read() -> None:
    net = InverseDynamics(base=8)
    with pytest.raises(ValueError, match="one shape"):
        net(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"at least 16 x 16 pixels, got \(8, 32\)"):
        net(torch.rand(1, 3, 8, 32), torch.rand(1, 3, 8, 32))
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        InverseDynamics(base=12)


def test_inverse_dynamics_keeps_where_things_are() -> None:
    net = InverseDynamics(base=8)
    features = net.features(torch.randn(1, 9, 64, 64))
    assert features.shape[-2:] == (8, 8)


def test_inverse_dynamics_learns_a_displacement() -> None:
    def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
        move = 8 * torch.rand(count, 2) - 4
        centres = 9 + 14 * torch.rand(count, 2)
        return squares(centres, 32), squares(centres + move, 32), move / 4

    net = InverseDynamics(action_dim=2, hidden=64, base=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(200):
        before, after, move = batch(32)
        loss = F.mse_loss(net(before, after), move)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after, move = batch(128)  # squares that it has not seen
    with torch.no_grad():
        error = F.mse_loss(net(before, after), move)
    assert error < 0.05 * move.var(dim=0).mean()  # the error of the best constant


# --- VideoToActionPipeline


def test_pipeline_default_shapes() -> None:
    net = VideoToActionPipeline()
    frame, words = torch.rand(1, 3, 16, 16), torch.randn(1, 256)
    losses = net(frame, words, torch.rand(1, 4, 3, 16, 16), torch.randn(1, 4, 7))
    assert set(losses) == {"video", "action"}
    assert all(loss.shape == () and loss > 0 for loss in losses.values())
    actions = net.predict(frame, words)
    assert actions.shape == (1, 4, 7)
    assert not actions.requires_grad


def tiny_pipeline() -> VideoToActionPipeline:
    return VideoToActionPipeline(2, 3, lang_dim=6, hidden_dim=32, hidden=32, base=8)


def test_pipeline_gives_the_losses_whose_targets_are_given() -> None:
    net = tiny_pipeline()
    frame, words, futures = torch.rand(2, 3, 16, 16), torch.randn(2, 6), torch.rand(2, 3, 3, 16, 16)
    assert net(frame, words) == {}
    assert set(net(frame, words, futures)) == {"video"}
    with pytest.raises(ValueError, match="gt_actions alone"):
        net(frame, words, gt_actions=torch.randn(2, 3, 2))
    with pytest.raises(ValueError, match="expected gt_futures of shape"):
        net(frame, words, futures[:, :2])
    with pytest.raises(ValueError, match="expected gt_actions of shape"):
        net(frame, words, futures, torch.randn(2, 3, 1))


def test_pipeline_learns_actions_on_true_frames_only() -> None:
    net = tiny_pipeline()
    frame, words, futures = torch.rand(2, 3, 16, 16), torch.randn(2, 6), torch.rand(2, 3, 3, 16, 16)
    net(frame, words, futures, torch.randn(2, 3, 2))["action"].backward()
    assert all(p.grad is None for p in net.video.parameters())
    assert all(p.grad is not None for p in net.inverse_dynamics.parameters())


def test_pipeline_predicts_along_the_chain() -> None:
    net = tiny_pipeline()
    frame, words = torch.rand(2, 3, 16, 16), torch.randn(2, 6)
    with torch.no_grad():
        frames = [frame, *net.video(frame, words).unbind(dim=1)]
        expected = torch.stack([net.inverse_dynamics(a, b) for a, b in pairwise(frames)], dim=1)
    torch.testing.assert_close(net.predict(frame, words), expected)


def test_pipeline_overfits() -> None:
    net = tiny_pipeline()
    words = torch.eye(4, 6)
    # Pixels a frame, one direction an instruction.
    moves = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    centres = torch.full((4, 2), 12.0)
    frame = squares(centres, 24)
    futures = torch.stack([squares(centres + k * moves, 24) for k in (1, 2, 3)], dim=1)
    actions = (moves / 2)[:, None].expand(-1, 3, -1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    history: list[dict[str, float]] = []
    for _ in range(80):
        losses = net(frame, words, futures, actions)
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        (losses["video"] + losses["action"]).backward()
        optimizer.step()
    assert history[-1]["video"] < 0.1 * history[0]["video"]
    assert history[-1]["action"] < 0.1 * history[0]["action"]
    # The start is the same in all four: only the words tell where the square goes.
    assert F.mse_loss(net.predict(frame, words), actions) < 0.3 * actions.var()


# --- AdaLayerNorm, DiTBlock


@pytest.mark.parametrize("block", [AdaLayerNorm(16, 6), DiTBlock(16, 4, 6)], ids=["AdaLayerNorm", "DiTBlock"])
def test_one_condition_for_all_is_the_same_condition_for_each(block: nn.Module) -> None:
    perturb(block)
    x, cond = torch.randn(2, 5, 16), torch.randn(2, 6)
    for_all, for_each = block(x, cond), block(x, cond[:, None].expand(-1, 5, -1))
    assert for_all.shape == x.shape
    torch.testing.assert_close(for_all, for_each, rtol=1e-5, atol=1e-5)
    by_rows = block(x, cond[:, None], torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(for_all, by_rows, rtol=1e-5, atol=1e-5)
    different = block(x, torch.randn(2, 5, 6))
    assert (different - for_all).abs().max() > 1e-3


def test_ada_layer_norm_normalises_without_an_affine_of_its_own() -> None:
    net = AdaLayerNorm(16, 6)
    assert {name for name, _ in net.named_parameters()} == {"modulation.weight", "modulation.bias"}
    x, cond = 3 + 5 * torch.randn(2, 5, 16), torch.randn(2, 6)
    plain = net(x, cond)  # the modulation starts at zero
    torch.testing.assert_close(plain.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.var(dim=-1, unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-4)
    perturb(net)
    scale, shift = net.modulation(cond)[:, None].chunk(2, dim=-1)
    torch.testing.assert_close(net(x, cond), plain * (1 + scale) + shift)
    torch.testing.assert_close(net(7 * x - 2, cond), net(x, cond), rtol=1e-4, atol=1e-4)


# --- VideoActionDiT

EVERY_OPTION = {
    "fine_dim": 32,
    "fine_layers": 1,
    "action_chunk": 2,
    "action_tokens": True,
    "pixel_stem": True,
}


def test_video_action_dit_default_shapes() -> None:
    net = VideoActionDiT()
    frame, noisy = torch.randn(1, 3, 64, 64), torch.randn(1, 4, 3, 64, 64)
    call = (frame, noisy, torch.tensor([500.0]), torch.randn(1, 128))
    with torch.no_grad():
        film, actions = net(*call)
        assert film.shape == (1, 4 * 64, 3 * 8 * 8)
        assert actions is None
        film_again, actions = net(*call, torch.zeros(1, 4, 7))
    assert torch.equal(film, film_again)
    assert actions is not None and actions.shape == (1, 4, 7)


def test_patchify_and_unpatchify_invert_each_other() -> None:
    net = VideoActionDiT(d_model=32, n_heads=2, n_layers=1)
    frames = torch.randn(2, 4, 3, 64, 64)
    patches = net.patchify(frames)
    assert patches.shape == (2, 4 * 64, 3 * 8 * 8)
    assert torch.equal(net.unpatchify(patches), frames)
    anything = torch.randn(2, 4 * 64, 3 * 8 * 8)
    assert torch.equal(net.patchify(net.unpatchify(anything)), anything)
    corner = patches[:, 64 + 1].reshape(2, 3, 8, 8)  # second frame, first row, second column
    assert torch.equal(corner, frames[:, 1, :, :8, 8:16])


def tiny_dit(**options: int | bool) -> VideoActionDiT:
    net = VideoActionDiT(16, 4, 2, 32, 2, 2, 6, 3, **options)  # type: ignore[arg-type]
    perturb(net)
    return net


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["defaults", "every option"])
def test_joint_loss_reaches_every_parameter(options: dict[str, int | bool]) -> None:
    net = tiny_dit(**options)
    futures = torch.randn(2, 2, 3, 16, 16)
    film, actions = net(
        torch.randn(2, 3, 16, 16),
        torch.randn(2, 2, 3, 16, 16),
        torch.tensor([100.0, 900.0]),
        torch.randn(2, 6),
        torch.zeros(2, 2, 3),
        pixels=torch.randn(2, 3, 64, 64) if options else None,
    )
    assert actions is not None
    loss = F.mse_loss(film, net.patchify(futures)) + F.mse_loss(actions, torch.randn_like(actions))
    loss.backward()
    unreached = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert unreached == []


def test_action_loss_alone_reaches_the_transformer() -> None:
    net = tiny_dit()
    _, actions = net(
        torch.randn(1, 3, 16, 16),
        torch.randn(1, 2, 3, 16, 16),
        torch.zeros(1),
        torch.randn(1, 6),
        torch.zeros(1, 2, 3),
    )
    assert actions is not None
    actions.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.blocks.parameters())
    assert net.film_head.weight.grad is None


def test_action_head_pools_each_future_frame() -> None:
    net = tiny_dit()
    hidden, _ = net.hidden(torch.randn(1, 3, 16, 16), torch.randn(1, 2, 3, 16, 16), torch.zeros(1), torch.randn(1, 6))
    torch.testing.assert_close(hidden.frames, hidden.patches.mean(dim=2))
    assert net.action_head is not None
    torch.testing.assert_close(net.act(hidden), net.action_head(hidden.frames))


def test_video_action_dit_refuses_another_number_of_frames() -> None:
    with pytest.raises(ValueError, match="expected 2 future frames, got 3"):
        tiny_dit()(torch.randn(1, 3, 16, 16), torch.randn(1, 3, 3, 16, 16), torch.zeros(1), torch.randn(1, 6))


# --- looking at attention


def attention_and_tokens() -> tuple[SelfAttention, Tensor, Tensor]:
    visible = torch.tensor([[True, True, False, True, True], [True, False, False, False, True]])
    net = SelfAttention(16, 4, "seen")
    perturb(net)
    return net, torch.randn(2, 5, 16), visible


@pytest.mark.parametrize("masked", [False, True])
def test_captured_maps_are_the_attention(masked: bool) -> None:
    net, x, visible = attention_and_tokens()
    mask = visible if masked else None
    with capture_attention() as trace:
        answer = net(x, mask)
    assert trace.layers == ["seen"]
    (weights,) = trace.maps
    assert weights.shape == (2, 4, 5, 5) and weights.dtype == torch.float32
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 5))
    if masked:
        assert (weights.transpose(1, 3)[~visible] == 0).all()
    values = rearrange(net.qkv(x), "b n (three h d) -> three b h n d", three=3, h=4)[2]
    torch.testing.assert_close(net.out(rearrange(weights @ values, "b h n d -> b n (h d)")), answer)


@pytest.mark.parametrize("masked", [False, True])
def test_capturing_changes_no_bit(masked: bool) -> None:
    net, x, visible = attention_and_tokens()
    mask = visible if masked else None
    before = net(x, mask)
    with capture_attention():
        during = net(x, mask)
    assert torch.equal(before, during)
    assert torch.equal(before, net(x, mask))


def test_capture_follows_the_layers_of_a_net() -> None:
    net = tiny_dit(**EVERY_OPTION)
    call = (torch.randn(1, 3, 16, 16), torch.randn(1, 2, 3, 16, 16), torch.zeros(1), torch.randn(1, 3, 6))
    mask, pixels = torch.tensor([[True, True, False]]), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, _ = net(*call, lang_mask=mask, pixels=pixels)
        with capture_attention() as trace:
            seen, _ = net(*call, lang_mask=mask, pixels=pixels)
    assert torch.equal(plain, seen)
    assert trace.layers == ["fine in 1", "wide 1", "wide 2", "fine out 1"]
    layouts = net.layouts(text_tokens=1 + 3)
    assert [m.shape[-1] for m in trace.maps] == [len(layout) for layout in layouts]
    for weights in trace.maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert (weights[..., 3] == 0).all()  # the masked word


def test_nothing_is_recorded_outside_the_block() -> None:
    net, x, _ = attention_and_tokens()
    net(x)
    with capture_attention() as trace:
        net(x)
    net(x)
    assert len(trace.maps) == len(trace.layers) == 1


def test_nothing_remains_after_an_exception() -> None:
    net, x, _ = attention_and_tokens()
    with capture_attention() as outer:
        with pytest.raises(RuntimeError, match="inside"), capture_attention() as inner:
            net(x)
            raise RuntimeError("inside")
        net(x)
    with pytest.raises(RuntimeError, match="outermost"), capture_attention() as last:
        raise RuntimeError("outermost")
    net(x)
    assert (len(inner.maps), len(outer.maps), len(last.maps)) == (1, 1, 0)


def test_another_thread_is_not_recorded() -> None:
    net, x, _ = attention_and_tokens()
    answers: list[Tensor] = []
    with capture_attention() as trace:
        thread = threading.Thread(target=lambda: answers.append(net(x)))
        thread.start()
        thread.join()
        assert len(answers) == 1
        assert trace.maps == []
        net(x)
    assert len(trace.maps) == 1
