"""A turn computed alone is what the whole latent, computed and masked, has at its entries."""

import pytest
import torch
from rdcodec.entropy_models.channel_context import (
    GROUPS,
    STEPS,
    LevelContext,
    MeanContext,
    TurnLevelContext,
    active_mask,
    gathered,
    of_turns,
    scattered,
    turn_of,
)
from rdcodec.entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from rdcodec.training.quantisation import FloatDepthwise, FloatLinear, ShadowDepthwise, ShadowLinear
from torch import Tensor

LATENT, WIDTH, KNOTS = 8, 6, 3
SIZES = (1, 1), (1, 4), (3, 5), (16, 12)
CPU = torch.device("cpu")
LAYERS = (IntegerLinear, IntegerDepthwise), (ShadowLinear, ShadowDepthwise), (FloatLinear, FloatDepthwise)
each_size = pytest.mark.parametrize("size", SIZES)


def whole_numbers(*shape: int, below: int = 256) -> Tensor:
    return torch.randint(0, below, shape).float()


def level_contexts(linear, depthwise) -> tuple[LevelContext, TurnLevelContext]:
    """Both, with the same random weights."""
    dense, turns = (kind(LATENT, WIDTH, KNOTS, linear, depthwise) for kind in (LevelContext, TurnLevelContext))
    if linear is IntegerLinear:
        for name, buffer in dense.named_buffers():
            low, high = {"weight": (-127, 128), "bias": (-20000, 20000), "shift": (5, 11)}[name.split(".")[-1]]
            buffer.copy_(torch.randint(low, high, buffer.shape))
    turns.load_state_dict(dense.state_dict())
    return dense, turns


@each_size
def test_every_entry_is_coded_in_one_step(size):
    masks = [active_mask(*size, LATENT, step, CPU) for step in range(STEPS)]
    assert torch.stack(masks).sum(0).eq(1).all()


@each_size
def test_what_is_gathered_can_be_put_back(size):
    torch.manual_seed(1)
    x = torch.randn(2, *size, LATENT)
    parts = [gathered(x, step) for step in range(STEPS)]
    for step, part in enumerate(parts):
        assert part.shape == (2, *size, LATENT // GROUPS)
        assert torch.equal(scattered(part, step), x * active_mask(*size, LATENT, step, CPU))
        whole = gathered(x, step, whole_turn=True)
        assert torch.equal(scattered(whole, step), scattered(part, step))
        assert torch.equal(whole, parts[0] + parts[1] if step < 2 else part)
    assert torch.equal(of_turns([parts[0] + parts[1], *parts[2:]]), x)


@torch.inference_mode()
@each_size
def test_means(size):
    """Large ones by way of oneDNN, which takes no gaps between a layer's values for what they are."""
    torch.manual_seed(1)
    network, context, values = MeanContext(LATENT, WIDTH), torch.randn(2, *size, WIDTH), torch.randn(2, *size, LATENT)
    for step in range(STEPS):
        active = active_mask(*size, LATENT, step, CPU)
        found = scattered(network.means(context, step), step)
        torch.testing.assert_close(found, network.mean[step](context) * active)
        if step + 1 < STEPS:
            found = network.update(context, gathered(values, step), step)
            torch.testing.assert_close(found, context + network.add[step](values * active))


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: layers[0].__name__)
@each_size
@pytest.mark.parametrize("gradients", [False, True])
def test_levels(size, layers, gradients):
    torch.manual_seed(1)
    dense, turns = level_contexts(*layers)
    context, knots = whole_numbers(2, *size, WIDTH), whole_numbers(2, KNOTS)
    symbols = (whole_numbers(2, *size, LATENT, below=9) - 4).square() - 4
    known: Tensor | None = None
    losses = [torch.zeros(()), torch.zeros(())]
    with torch.set_grad_enabled(gradients):
        for step in range(STEPS):
            before = None if step == 0 else sum(symbols * active_mask(*size, LATENT, s, CPU) for s in earlier(step))
            wanted = dense.refine(context, before, knots, step)
            found = turns.refine(context, known, knots, step)
            assert equal(found, wanted)
            levels = dense.levels(wanted, step) * active_mask(*size, LATENT, step, CPU)
            mine = scattered(turns.levels(found, step), step)
            assert equal(mine, levels)
            new = gathered(symbols, step)
            known = known + new if step == 1 else new
            losses = [total + x.square().sum() for total, x in zip(losses, (levels, mine), strict=True)]
        assert losses[0] > 0
    if gradients and layers[0] is ShadowLinear:  # exact, so that the same entries are clamped
        for (name, a), b in zip(dense.named_parameters(), turns.parameters(), strict=True):
            a, b = (torch.autograd.grad(loss, x, retain_graph=True)[0] for loss, x in zip(losses, (a, b), strict=True))
            torch.testing.assert_close(a, b, msg=name)


def earlier(step: int) -> list[int]:
    """The steps whose symbols a step's levels see as new."""
    return [s for s in range(step) if turn_of(s) == turn_of(step - 1)]


def equal(a: Tensor, b: Tensor) -> bool:
    """Integers: the same; others, of the ablation: nearly."""
    return torch.allclose(a, b, atol=1e-3) if b.frac().any() else torch.equal(a, b)
