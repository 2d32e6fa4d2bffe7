"""Parse-path layers: exact in any order of summation and dtype, equal to their trainable shadows."""

from __future__ import annotations

import pytest
import torch
from rdcodec.entropy_models import integer_net
from rdcodec.entropy_models.integer_net import ACTIVATION_MAX, IntegerDepthwise, IntegerLinear
from rdcodec.training.quantisation import FloatLinear, ShadowDepthwise, ShadowLinear


def frozen_pair(shadow, layer):
    layer.load_state_dict(shadow.frozen_state())
    layer.check()
    return shadow, layer


def activations(*shape: int) -> torch.Tensor:
    return torch.randint(0, ACTIVATION_MAX + 1, shape).float()


@pytest.mark.parametrize("ceiling", [63, ACTIVATION_MAX])
def test_frozen_linear_equals_its_shadow(ceiling):
    shadow, layer = frozen_pair(ShadowLinear(397, 128, ceiling=ceiling), IntegerLinear(397, 128, ceiling=ceiling))
    x = activations(3, 5, 397)
    assert torch.equal(shadow(x).detach(), layer(x)) and layer(x).std() > 1


def test_a_layer_of_the_ablation_freezes_to_nearly_what_it_computes():
    """Its validation codes with that."""
    ablation, layer = frozen_pair(FloatLinear(397, 128), IntegerLinear(397, 128))
    x = activations(3, 5, 397)
    assert (ablation(x) - layer(x)).abs().mean() <= 1 and layer(x).std() > 10


def test_frozen_depthwise_equals_its_shadow():
    shadow, layer = frozen_pair(ShadowDepthwise(24), IntegerDepthwise(24))
    x = activations(2, 6, 5, 24)
    assert torch.equal(shadow(x).detach(), layer(x)) and layer(x).std() > 1


def test_linear_is_integer_arithmetic(monkeypatch):
    """Against int64, in float32 with shuffled summation order and in float64."""
    _, layer = frozen_pair(ShadowLinear(397, 64), IntegerLinear(397, 64))
    x = activations(50, 397)
    total = x.long() @ layer.weight.long().T + layer.bias.long()
    half = torch.where(layer.shift > 0, 2 ** (layer.shift.long() - 1), torch.zeros_like(layer.bias.long()))
    expected = ((total + half) >> layer.shift.long()).clamp(0, ACTIVATION_MAX)
    assert torch.equal(layer(x).long(), expected)
    order = torch.randperm(397)
    layer.weight = layer.weight[:, order]
    assert torch.equal(layer(x[:, order]).long(), expected)
    monkeypatch.setattr(integer_net, "exact_dtype", lambda x: torch.float64)
    assert torch.equal(layer(x[:, order]).long(), expected)


def test_a_layer_that_could_overflow_is_refused():
    layer = IntegerLinear(600, 4)
    layer.weight.fill_(127)
    with pytest.raises(ValueError, match="product sum"):
        layer.check()


def test_gradients_reach_every_weight():
    layer = ShadowLinear(32, 16)
    layer(activations(64, 32)).sum().backward()
    assert (layer.weight.grad != 0).float().mean() > 0.5


def test_a_saturated_level_can_return():
    layer = ShadowLinear(4, 2, ceiling=63)
    with torch.no_grad():
        layer.bias.fill_(-100.0)
    out = layer(activations(8, 4))
    assert (out == 0).all()
    (-out).sum().backward()  # wants higher levels
    assert (layer.bias.grad < 0).all()
