"""What holding attacks against PyTorch needs: the score function `tiny_score` there, and one NCHW image at a time."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def torch_score(tiny_score):
    kernel = torch.from_numpy(np.array(tiny_score.args[0]).transpose(3, 2, 0, 1).copy())
    weights = torch.tensor([1.0, -2.0, 3.0, -1.0])

    def score(x):
        below, right = x.shape[2] % 2 ^ 1, x.shape[3] % 2 ^ 1  # "SAME" padding of a 3x3 window at stride 2
        x = torch.nn.functional.pad(x, (1 - right, 1, 1 - below, 1))
        return 50.0 + 10.0 * torch.tanh(torch.nn.functional.conv2d(x, kernel, stride=2)).mean((2, 3)) @ weights

    return score


def torch_share(tiny_score):
    """The loss of raising the score, in units of a score range from 0 to 100."""
    score = torch_score(tiny_score)
    return lambda x: -score(x) / 100


class Counted:
    """A loss that counts how often it is asked: the steps of an attack that may stop early."""

    def __init__(self, loss):
        self.loss, self.calls = loss, 0

    def __call__(self, x):
        self.calls += 1
        return self.loss(x)


def each(attack, images, *others):
    """Run ``attack(x0 [1, 3, H, W], *others)`` for each image of a NHWC batch."""
    batches = [torch.from_numpy(np.array(a).transpose(0, 3, 1, 2).copy()) for a in (images, *others)]
    found = [attack(*(batch[i : i + 1] for batch in batches)) for i in range(len(images))]
    return torch.cat(found).detach().numpy().transpose(0, 2, 3, 1)


def agreement(found, expected, atol=1e-6):
    """Share of pixel values that are equal."""
    assert found.shape == expected.shape
    return np.mean(np.abs(np.asarray(found) - expected) <= atol)
