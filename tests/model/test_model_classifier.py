from __future__ import annotations

import torch
import torch.nn.functional as F

from clipft.model.classifier import Classifier


def features(rows: int, width: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_plain_logits_are_a_linear_layers() -> None:
    head = Classifier(3, 8, cosine=False, bias=True)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = features(5, 8)
    assert torch.equal(head(x), F.linear(x, head.weight) + head.bias)
    assert list(head.state_dict()) == ["weight", "bias"]


def test_it_starts_as_torchs_linear_with_a_zero_bias() -> None:
    torch.manual_seed(3)
    linear = torch.nn.Linear(8, 3)
    torch.manual_seed(3)
    head = Classifier(3, 8, cosine=False, bias=True)
    assert torch.equal(head.weight, linear.weight)
    assert torch.equal(head.bias, torch.zeros(3))


def test_started_from_prompts_it_is_the_zero_shot_classifier() -> None:
    prompts, x = torch.randn(3, 8), features(5, 8)
    for cosine in (False, True):
        head = Classifier(3, 8, cosine=cosine, bias=True)
        head.start_from(prompts, 30.0)
        torch.testing.assert_close(head(x), 30.0 * x @ F.normalize(prompts, dim=-1).T)


def test_cosine_logits_do_not_depend_on_the_length_of_the_weights() -> None:
    head, x = Classifier(3, 8, cosine=True, bias=False, scale=20.0), features(5, 8)
    before = head(x)
    with torch.no_grad():
        head.weight.mul_(7.0)
    torch.testing.assert_close(head(x), before)
    assert head(x).abs().max() <= 20.0
    assert list(head.state_dict()) == ["weight", "scale"]
    assert [name for name, _ in head.named_parameters()] == ["weight"]
