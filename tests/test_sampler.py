"""The sampler in closed form, and the film loss's promises."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vidvla.foundation import backbone
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise, noise_levels
from vidvla.nn.video_dit import Hidden, VideoActionDiT
from vidvla.text import TextTokens


def _scene(batch: int = 1, channels: int = 2) -> Scene:
    text = TextTokens(torch.zeros(batch, 3, 384), torch.ones(batch, 3, dtype=torch.bool))
    return Scene(torch.zeros(batch, 3, 16, 16), torch.zeros(batch, channels, 4, 4), text)


def _gaussian_posterior(mean: float, deviation: float):  # type: ignore[no-untyped-def]
    """The exact denoiser of data N(mean, deviation^2) under z_s = (1 - s) z + s n."""

    def predict(net: object, scene: Scene, noisy: Tensor, level: Tensor, times: Tensor) -> tuple[Tensor, Hidden]:
        s = level[:, :, None, None, None]
        gain = (1 - s) * deviation**2 / ((1 - s) ** 2 * deviation**2 + s**2)
        clean = mean + gain * (noisy - (1 - s) * mean)
        return clean, SimpleNamespace()  # type: ignore[return-value]

    return predict


def _sample(steps: int, count: int = 400) -> Tensor:
    scene, times = _scene(count), torch.ones(count, 1, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    *_, last = denoise(None, scene, times, steps=steps, generator=generator)  # type: ignore[arg-type]
    return last.clean


def test_many_steps_sample_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "predict_clean", _gaussian_posterior(2.0, 0.5))
    films = _sample(steps=64)
    assert films.mean().item() == pytest.approx(2.0, abs=0.02)
    assert films.std().item() == pytest.approx(0.5, abs=0.03)


def test_one_step_gives_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "predict_clean", _gaussian_posterior(2.0, 0.5))
    films = _sample(steps=1)
    assert torch.allclose(films, torch.full_like(films, 2.0))


def test_given_frames_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "predict_clean", _gaussian_posterior(0.0, 1.0))
    known = torch.tensor([[False, True]])
    given = torch.full((1, 2, 2, 4, 4), 7.0)
    steps = list(
        denoise(
            None,
            _scene(),
            torch.tensor([[1, 2]]),
            steps=3,
            known=known,
            given=given,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert len(steps) == 3
    for step in steps:
        assert (step.clean[:, 1] == 7).all() and (step.clean[:, 0] != 7).all()


def test_guidance_of_one_is_plain_and_guidance_moves_away_from_silence() -> None:
    net = _perturbed(BackboneConfig(latent_channels=2, grid=4, d_model=32).net())
    scene, times = _scene(), torch.tensor([[4, 8, 12, 16]])
    scene.text.tokens.normal_(generator=torch.Generator().manual_seed(1))

    def film(guidance: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        (step,) = denoise(net, scene, times, steps=1, guidance=guidance, generator=generator)
        return step.clean

    plain, silent, strong = film(1.0), film(0.0), film(3.0)
    assert not torch.allclose(plain, silent)
    assert torch.allclose(strong, silent + 3 * (plain - silent), atol=1e-4)


def _perturbed(net: VideoActionDiT) -> VideoActionDiT:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def test_masked_words_change_nothing() -> None:
    net = _perturbed(BackboneConfig(latent_channels=2, grid=4).net(4))
    scene, times = _scene(), torch.tensor([[4, 8, 12, 16]])
    noisy = torch.randn(1, 4, 2, 4, 4)
    tokens = torch.randn(1, 3, 384)
    mask = torch.tensor([[True, True, False]])
    answers = []
    for last in (0.0, 5.0):
        tokens[0, 2] = last
        hidden, cond = net.hidden(
            scene.latents, noisy, torch.tensor([500.0]), tokens, lang_mask=mask, times=times, pixels=scene.pixels
        )
        answers.append((net.film(hidden, cond), net.act(hidden)))
    assert torch.allclose(answers[0][0], answers[1][0], atol=1e-5)
    assert torch.allclose(answers[0][1], answers[1][1], atol=1e-5)


def test_noise_levels_are_in_range_and_often_full() -> None:
    levels = noise_levels(5000, 0.4, torch.Generator().manual_seed(0))
    assert levels.min() > 0 and levels.max() == 1
    assert (levels == 1).float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(denoise(None, _scene(), torch.ones(1, 1), steps=0, generator=torch.Generator()))  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.0, 0.2, 0.6, 1.0])
def test_preconditioning_is_the_gaussian_posterior(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    change = backbone.CHANGE_DEVIATION * torch.randn(200_000, generator=generator, dtype=torch.float64)
    noisy = (1 - level) * change + level * torch.randn(200_000, generator=generator, dtype=torch.float64)
    skip, out = backbone.precondition(torch.tensor(level, dtype=torch.float64))
    rest = change - skip * noisy
    assert rest.std().item() == pytest.approx(out.item(), abs=5e-3)
    assert (rest * noisy).mean().item() == pytest.approx(0, abs=5e-3)
