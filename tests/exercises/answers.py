"""Tests of answers, made from tables: `test_a_mistake_is_recognised = recognised(SEEN)`; and what several files use.

An answer that is written here, none of which stands in the lists of the exercises, is one test.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout

import pytest
import torch
import torch.nn.functional as F

import dgm_exercises as exercises
from dgm_exercises import Verdict, find, judge

Table = Sequence[tuple]


def accepted(right: Mapping[str, Sequence]) -> Callable:
    """A test of right answers, {name of the exercise: answers}."""

    @pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in right for answer in right[name]])
    def test(name, answer):
        verdict = judge(name, answer)
        assert verdict.status == "right", verdict.message

    return test


def recognised(seen: Table) -> Callable:
    """A test of wrong answers, (name of the exercise, answer, words of the hint that it must get)."""

    @pytest.mark.parametrize(("name", "answer", "words"), seen)
    def test(name, answer, words):
        verdict = judge(name, answer)
        assert verdict.status == "wrong", verdict.message
        assert words in plain(verdict.message)
        assert is_readable(verdict), verdict.message

    return test


def cut_off(held: Table) -> Callable:
    """A test of right values without the right gradients, (name of the exercise, answer, words of the hint)."""

    @pytest.mark.parametrize(("name", "answer", "words"), held)
    def test(name, answer, words):
        verdict = judge(name, answer)
        assert verdict.status == "wrong", verdict.message
        assert re.search(r"[Tt]he (values are|value is) right, but on input 1 of", plain(verdict.message))
        assert words in plain(verdict.message)

    return test


def refused(wrong: Table) -> Callable:
    """A test of answers that are right on easy inputs only, (name of the exercise, answer)."""

    @pytest.mark.parametrize(("name", "answer"), wrong)
    def test(name, answer):
        assert judge(name, answer).status == "wrong"

    return test


def plain(message: str) -> str:
    """The words of a message, without its line breaks."""
    return " ".join(message.split())


def is_readable(verdict: Verdict) -> bool:
    """Whether what `check` prints of it is a few short lines, without an address or a traceback."""
    with redirect_stdout(io.StringIO()) as printed:
        exercises._print(verdict.message)
    text = printed.getvalue()
    short = 1 <= text.count("\n") <= 6 and max(map(len, text.splitlines())) <= 110
    return short and "0x" not in text and "Traceback" not in text


def reference(name: str) -> Callable:
    """The reference of an exercise."""
    return find(name).reference


def detached(name: str, *places: int) -> Callable:
    """The reference, where the arguments at these places are held fast."""

    def answer(*arguments):
        return reference(name)(*(a.detach() if i in places else a for i, a in enumerate(arguments)))

    return answer


# ---- ways to write an answer that several files use ------------------------------------------------------------------
def gradient_by_autograd(logits, labels):
    logits = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    return gradient


def kl_by_torch(p, q):
    terms = F.kl_div(q.log(), p, reduction="none")
    return torch.where(p > 0, terms, torch.zeros(())).sum(-1)


def loss_gradient_by_backward(theta, x, chains, step_size, eps, *, parameter=lambda theta: theta):
    theta = parameter(theta)
    x_negative = chains - step_size * theta * chains + math.sqrt(2 * step_size) * eps
    loss = (theta * x**2 / 2).mean() - (theta * x_negative.detach() ** 2 / 2).mean()
    loss.backward()
    return theta.grad


def penalty_by_backward(critic, real, fake, alpha, *, create_graph=True, image=lambda alpha: alpha.view(-1, 1, 1, 1)):
    x = fake + image(alpha) * (real - fake)
    x.requires_grad_()
    scores = critic(x)
    (gradient,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=create_graph)
    return (gradient.view(len(x), -1).norm(2, dim=1) - 1) ** 2


def normalised_naively(weights):
    return weights / weights.sum(-1, keepdim=True)


def draw_with_new_tensors(mu, log_var, eps):
    sigma = torch.tensor([[math.exp(v / 2) for v in row] for row in log_var.tolist()])
    return mu + sigma * eps


def total(x):
    return x.sum()


def softplus_by_cases(a):
    """max(a, 0) + log(1 + exp(−|a|)), with a kink in either part at a = 0."""
    return a.clamp(min=0) + torch.log1p((-a.abs()).exp())
