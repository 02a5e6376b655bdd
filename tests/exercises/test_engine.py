"""The engine behind `check`: verdicts on right answers, on known mistakes, and on what nobody foresaw."""

import inspect
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import (
    draw_with_new_tensors,
    gradient_by_autograd,
    is_readable,
    loss_gradient_by_backward,
    normalised_naively,
    penalty_by_backward,
    plain,
    softplus_by_cases,
    total,
)
from torch import nn
from torch.distributions import Normal

from dgm_exercises import (
    Exercise,
    check,
    engine,
    find,
    judge,
    solution,
)
from dgm_exercises.engine.gradients import with_gradients
from dgm_exercises.engine.values import as_tensor, show, show_pair
from dgm_lib import runtime


def langevin_step_with_own_noise(x, score, step_size, temperature, eps):
    return x + step_size * score + math.sqrt(2 * step_size * temperature) * torch.randn_like(x)


def draw_with_own_noise(mu, log_var, eps):
    return Normal(mu, (log_var / 2).exp()).rsample()


def penalty_with_own_alpha(critic, real, fake, alpha):
    return penalty_by_backward(critic, real, fake, torch.rand(len(real)))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("langevin_step", langevin_step_with_own_noise),
        ("reparameterise", draw_with_own_noise),
        ("gradient_penalty", penalty_with_own_alpha),
    ],
)
def test_noise_of_ones_own_is_noticed(name, answer):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert "random numbers" in verdict.message


def log_sum_exp_from(shift):
    """Of −f, with something else than each row's largest term taken out before exp."""
    return lambda f: (shift(f) - f).exp().sum(-1).log() - shift(f).squeeze(-1)


def cross_entropy_from(shift):
    return lambda a, y: ((a - shift(a)).exp().sum(1).log() + shift(a).squeeze(-1) - a[range(len(y)), y]).mean()


def shares_from(shift):
    return lambda e, T: normalised_naively((-(e - shift(e)) / T).exp())


def responsibilities_from(shift):
    def shares(x, weights, mu, sigma):
        log_joint = weights.log() + Normal(mu, sigma).log_prob(x[:, None])
        return normalised_naively((log_joint - shift(log_joint)).exp())

    return shares


SHIFTS = [torch.max, torch.mean, torch.min, lambda a: a.mean(-1, keepdim=True), lambda a: a[..., :1]]


SHIFTED = [
    ("log_partition", log_sum_exp_from, lambda f: f.amax(-1, keepdim=True)),
    ("cross_entropy", cross_entropy_from, lambda a: a.amin(-1, keepdim=True)),
    ("boltzmann_probabilities", shares_from, lambda e: e.amax(-1, keepdim=True)),
    ("responsibilities", responsibilities_from, lambda a: a.amin(-1, keepdim=True)),
]


@pytest.mark.parametrize(("name", "written", "opposite"), SHIFTED)
def test_a_shift_by_another_maximum_than_the_rows_own_is_refused(name, written, opposite):
    for shift in [*SHIFTS, opposite]:
        assert judge(name, written(shift)).status == "wrong"
    with_its_own = {"log_partition": torch.amin, "boltzmann_probabilities": torch.amin}.get(name, torch.amax)
    assert judge(name, written(lambda a: with_its_own(a, -1, keepdim=True))).status == "right"


def hmm_with(table):
    return lambda x, *tables: find("hmm_log_prob").reference(x, *map(table, tables))


def markov_with(table):
    return lambda x, *tables: find("markov_log_prob").reference(x, *map(table, tables))


@pytest.mark.parametrize("small", [1e-6, 1e-8, 1e-10, 1e-12, 1e-20])
def test_a_small_constant_or_a_clamp_in_a_logarithm_is_refused(small):
    for name, written in (("hmm_log_prob", hmm_with), ("markov_log_prob", markov_with)):
        assert judge(name, written(lambda table: table + small)).status == "wrong"
        assert judge(name, written(lambda table: table.clamp(min=small))).status == "wrong"
    for answer in (
        lambda a, y: -(a.softmax(1) + small)[range(len(y)), y].log().mean(),
        lambda a, y: -a.softmax(1).clamp(min=small)[range(len(y)), y].log().mean(),
    ):
        assert judge("cross_entropy", answer).status == "wrong"
    assert judge("kl_divergence", lambda p, q: (p * ((p + small) / (q + small)).log()).sum(-1)).status == "wrong"
    nce = lambda p, q, pn, qn: -((p - q).sigmoid() + small).log().mean() + F.softplus(pn - qn).mean()  # noqa: E731
    assert judge("nce_loss", nce).status == "wrong"
    assert judge("log_partition", lambda f: ((-f).exp() + small).sum(-1).log()).status == "wrong"


def test_gradients_are_compared_where_the_notebook_has_switched_them_off():
    with torch.no_grad():
        assert judge("straight_through", find("straight_through").reference).status == "right"
        assert judge("straight_through", lambda z, code: code).status == "wrong"


def test_the_gradient_shown_is_that_of_the_argument_named():
    message = plain(judge("straight_through", lambda z, code: z + code - z.detach()).message)
    assert "the gradient of their sum by code at [0, 0] is 1, the reference's 0." in message
    message = plain(judge("reparameterise", draw_with_new_tensors).message)
    assert "by log_var at [0, 0] is 0, the reference's 1.359." in message  # ½ e of log_var = 2, eps = 1
    message = plain(judge("contrastive_loss", lambda data, model: data.mean() - model.data.mean()).message)
    assert "the value is right, but on input 1 of 8" in message
    assert "its gradient by energy_model at [0] is 0, the reference's -0.5." in message


def test_with_gradients_puts_value_and_gradients_in_a_row_in_the_order_asked():
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    row = with_gradients(lambda x, y: x.square() * y, [1, 0])(x, y)
    torch.testing.assert_close(row.float(), torch.cat([x.square() * y, x.square(), 2 * x * y]))
    assert not x.requires_grad
    torch.testing.assert_close(with_gradients(lambda x, y: 2 * y, [0])(x, y).float(), torch.cat([2 * y, 0 * x]))
    of_unlike_shapes = with_gradients(lambda x, y: x.mean() * y.sum(), [0, 1])(x, torch.ones(1, 3))
    torch.testing.assert_close(of_unlike_shapes.float(), torch.tensor([4.5, 1.5, 1.5, 1.5, 1.5, 1.5]))


def test_a_parameter_is_fresh_at_every_call_and_its_first_error_is_told():
    assert all(theta.requires_grad and theta.grad is None for theta, *_ in find("loss_gradient").draw_inputs())

    def loss_not_reduced(theta, x, chains, step_size, eps):
        (theta * x**2 / 2).backward()
        return theta.grad

    verdict = judge("loss_gradient", loss_not_reduced)
    assert verdict.status == "error"
    assert "only for scalar outputs" in plain(verdict.message)


def only_dots(logits, labels):
    """What the exercise's cell holds."""
    ...


def only_pass(logits, labels):
    pass


def not_implemented(logits, labels):
    raise NotImplementedError


def dots_returned(logits, labels):
    log_p = ...
    return log_p


def dots_computed_with(logits, labels):
    log_p = ...
    return -log_p.mean()


def dots_multiplied(logits, labels):
    return logits * ...


UNTOUCHED = [None, ..., only_dots, only_pass, not_implemented, dots_returned, dots_computed_with, dots_multiplied]


@pytest.mark.parametrize("answer", UNTOUCHED)
def test_untouched_is_neither_right_nor_wrong(answer, capsys):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "not attempted"
    assert verdict.message == "· cross_entropy: not attempted yet. Replace the ... in the cell above."
    assert check("cross_entropy", answer) is None
    assert capsys.readouterr().out == verdict.message + "\n"


def test_forgotten_return_is_named():
    def without_return(logits, labels):
        F.cross_entropy(logits, labels)

    verdict = judge("cross_entropy", without_return)
    assert verdict.status == "not attempted"
    assert "`return`" in verdict.message


def helper(log_p):
    return log_p[99]


def raises_in_helper(logits, labels):
    log_p = logits.log_softmax(1)
    return helper(log_p)


def raises_in_torch(logits, labels):
    return F.cross_entropy(logits, labels + 100)


RAISING = [(raises_in_helper, helper), (raises_in_torch, raises_in_torch), (partial(raises_in_helper), helper)]


@pytest.mark.parametrize(("answer", "place"), RAISING)
def test_exception_is_named_with_the_learners_own_line(answer, place):
    source, first = inspect.getsourcelines(place)
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "error"
    assert f"IndexError in line {first + 1}, inside `{place.__name__}`: `{source[1].strip()}`" in verdict.message
    assert "logits = [[2, 0, -1], [0, 1, 3]], labels = [0, 1]" in verdict.message
    assert "Traceback" not in verdict.message
    assert "/" not in verdict.message


def test_exception_after_a_known_mistake_does_not_hide_it():
    def minus_forgotten_and_too_short(logits, labels):
        return -F.cross_entropy(logits[:8], labels.reshape(8 if len(labels) > 8 else -1))

    verdict = judge("cross_entropy", minus_forgotten_and_too_short)
    assert verdict.status == "wrong"
    assert "the wrong sign. Look for the minus" in plain(verdict.message)
    assert "On input 7 it gives no value" in plain(verdict.message)


def changes_argument(logits, labels):
    logits -= logits.amax(1, keepdim=True)
    return F.cross_entropy(logits, labels)


CANNOT = [
    (changes_argument, "wrong", "changes its argument `logits` in place"),
    (lambda logits: logits, "error", "called with (logits, labels), but your function takes (logits)"),
    (lambda logits, labels: "1.17", "wrong", "returns a str"),
    (lambda logits, labels: {"loss": 1.0}, "wrong", "returns a dict"),
    (lambda logits, labels: (logits, labels), "wrong", "the shapes (2, 3), (2,)"),
    (lambda logits, labels: 1j * logits, "wrong", "returns a Tensor that cannot be compared: its numbers are complex"),
    (torch.tensor(1.17), "error", 'check("cross_entropy", my_cross_entropy)'),
    (3.0, "error", "not the float that it returns"),
    (lambda logits, labels: logits.nope, "error", "AttributeError"),
    (lambda logits, labels: 1 / 0, "error", "ZeroDivisionError"),
    (nn.Linear(3, 3), "error", "TypeError"),
]


@pytest.mark.parametrize(("answer", "status", "words"), CANNOT)
def test_what_cannot_be_compared_is_explained(answer, status, words):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == status
    assert words in plain(verdict.message)
    assert is_readable(verdict)


def softmax_of_integers(logits, labels):
    return -logits.log_softmax(1)[range(len(labels)), labels.softmax(0)].mean()


def draw_of_booleans(logits, labels):
    return torch.bernoulli(logits > 0).mean()


@pytest.mark.parametrize("answer", [softmax_of_integers, draw_of_booleans])
def test_torchs_own_not_implemented_error_is_an_error_and_says_what_to_do(answer):
    verdict = judge("cross_entropy", answer)
    assert verdict.status == "error"
    assert "NotImplementedError in line" in plain(verdict.message)
    assert "takes no whole numbers and no booleans" in plain(verdict.message)


def exchanged_arguments(logits, labels):
    return F.cross_entropy(labels, logits)


def module_without_forward(logits, labels):
    return nn.Module()(logits)


def raised_in_a_helper_of_the_library(logits, labels):
    return torch.utils.data.Dataset()[0]


@pytest.mark.parametrize("answer", [exchanged_arguments, module_without_forward, raised_in_a_helper_of_the_library])
def test_only_the_learners_own_raise_is_not_attempted(answer):
    assert judge("cross_entropy", answer).status == "error"


@pytest.mark.parametrize(
    "value", [1j, np.complex64(1), torch.tensor([1.0 + 0j]), np.zeros(2, dtype=complex), (1j, 2.0), [torch.tensor(1j)]]
)
def test_complex_numbers_are_called_complex(value):
    message = plain(judge("cross_entropy", lambda logits, labels: value).message)
    assert "its numbers are complex" in message
    assert "is not a tensor" not in message


def moments(x):
    return x.square().mean(1) + 0.5


def some_matrices(generator):
    sizes = [(2, 3), (4, 4), (5, 2), (1, 3), (7, 6)]
    return [(torch.rand(size, generator=generator),) for size in sizes]


def exercise_of(reference) -> Exercise:
    return Exercise(reference, "Statement.", "Nudge.", "all of them.", wrong=[], inputs=some_matrices)


@pytest.mark.parametrize("noise", [1e-4, 5e-4])
@pytest.mark.parametrize("wrong_inputs", [1, 2, 5])
def test_rounding_is_not_called_a_constant_term(noise, wrong_inputs):
    def rounded(x):
        return moments(x) + noise * torch.linspace(-1, 1, len(x)) * (len(x) in (7, 5, 4, 2, 1)[:wrong_inputs])

    message = plain(engine.judge(exercise_of(moments), rounded).message)
    assert "constant term" not in message
    assert "constant factor" not in message


def test_all_inputs_are_counted_and_a_later_exception_is_told():
    def breaks_on_the_last(x):
        if len(x) == 7:
            raise ValueError("too long")
        return moments(x) + (len(x) == 5) * x[:, 0]

    message = plain(engine.judge(exercise_of(moments), breaks_on_the_last).message)
    assert "3 of 5 inputs agree already: what is special about this one?" in message
    assert "On input 5 it gives no value: ValueError in line" in message


def test_a_branch_without_return_is_an_error_of_that_input():
    verdict = engine.judge(exercise_of(moments), lambda x: moments(x) if len(x) < 5 else None)
    assert verdict.status == "error"
    assert "This was on input 3 of 5" in verdict.message


def sum_of_exponentials(x):
    return x.logsumexp(1)


def test_the_numbers_in_a_hint_are_those_of_an_input_on_which_it_is_true():
    """The first input differs as well: by rounding, which the known mistake may have and does not cause."""
    naive = (lambda x: x.exp().sum(1).log(), "exp overflows and you get {yours}.")
    inputs = lambda generator: [(torch.tensor([[60.0, 59.0]]),), (torch.tensor([[900.0, 0.0]]),)]  # noqa: E731
    exercise = Exercise(sum_of_exponentials, "", "", "", [naive], inputs, rtol=1e-9, atol=1e-9)
    verdict = engine.judge(exercise, lambda x: x.exp().sum(1).log() + 3e-5 * (x.amax(1) < 100))
    assert "exp overflows and you get [inf]" in verdict.message
    assert "on input 2 of 2" in verdict.message


def test_exchanged_parameters_are_noticed():
    verdict = judge("kl_divergence", lambda q, p: find("kl_divergence").reference(p, q))
    assert verdict.status == "error"
    assert "called with (p, q), but your function takes (q, p)" in verdict.message


def gradient_left_behind(logits, labels):
    F.cross_entropy(logits.requires_grad_(), labels).backward()
    return logits.grad


def growing(logits, labels, *, seen=[]):  # noqa: B006
    seen.append(len(labels))
    return find("cross_entropy_gradient").reference(logits, labels) * (1 if len(seen) <= 12 else 2)


def noisy(logits, labels):
    return gradient_by_autograd(logits, labels) + 1e-3 * torch.randn(())


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("cross_entropy_gradient", gradient_left_behind, "`backward()` adds to the `grad` that is there"),
        ("loss_gradient", loss_gradient_by_backward, "`backward()` adds to the `grad` that is there"),
        ("cross_entropy_gradient", growing, "a variable outside?"),
        ("cross_entropy_gradient", noisy, "random numbers"),
    ],
)
def test_an_answer_that_changes_at_the_second_call_is_wrong(name, answer, words):
    verdict = judge(name, answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)


def test_long_and_addressed_messages_are_cut():
    def raises(logits, labels):
        raise ValueError(f"{object()} " + "very " * 200 + "\nsecond line")

    message = judge("cross_entropy", raises).message
    assert "0x" not in message
    assert "second line" not in message
    assert len(message) < 500


def test_value_exercises_explain_too():
    assert "for a value" in judge("binary_table_size", math.log10).message
    assert judge("binary_table_size", [1, 2]).status == "error"
    assert judge("binary_table_size", "many").status == "error"
    assert "too small" in judge("binary_table_size", 50).message
    assert "too large" in judge("binary_table_size", torch.tensor([900.0])).message
    assert "nan" in judge("binary_table_size", math.nan).message
    assert judge("binary_table_size", 2**7840).status == "wrong"
    assert "the sign is wrong" in judge("binary_table_size", -784 * math.log10(2)).message
    assert '"chains", "data", "noise"' in judge("persistent_start", "d").message
    assert judge("persistent_start", 3).status == "error"


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match="'cros_entropy'; did you mean 'cross_entropy'"):
        check("cros_entropy", None)
    with pytest.raises(ValueError, match=r"there are: .*cross_entropy"):
        solution("xyz")
    with pytest.raises(ValueError, match="name comes first"):
        check(F.cross_entropy, "cross_entropy")


def softmaxed(x):
    return x.softmax(1)


def surprisal(x):
    return -8 * x.log()


calls = []


DETECTED = [
    (moments, lambda x: -moments(x), "wrong sign"),
    (moments, lambda x: moments(x) / math.log(2), "log2 in place of the natural"),
    (moments, lambda x: moments(x) / math.log(10), "log10 in place of the natural"),
    (moments, lambda x: moments(x) * math.log(2), "factor log 2 too many"),
    (moments, lambda x: moments(x) * len(x), "a sum where the mean is asked"),
    (moments, lambda x: moments(x) / len(x), "a mean where the sum is asked"),
    (moments, lambda x: 100 * moments(x), "percent"),
    (moments, lambda x: 1 - moments(x), "one minus the reference"),
    (moments, lambda x: moments(x).exp(), "a logarithm, is missing"),
    (moments, lambda x: (-moments(x)).exp(), "and then its negative"),
    (moments, lambda x: moments(x).log(), "one logarithm too many"),
    (moments, lambda x: moments(x).square(), "Is a square root missing"),
    (moments, lambda x: moments(x).sqrt(), "`sqrt` too many"),
    (moments, lambda x: 1 / moments(x), "upside down"),
    (moments, lambda x: moments(x).flip(0), "order along the last dimension is reversed"),
    (moments, lambda x: moments(x)[:, None], "dimension of length 1 should not be there"),
    (moments, lambda x: moments(x)[None], "first dimension of length 1"),
    (moments, lambda x: moments(x).mean(), "mean over all of them"),
    (moments, lambda x: moments(x).sum(), "sum over all of them"),
    (moments, lambda x: x.square() + 0.5, "their mean over the last dimension"),
    (moments, lambda x: (x.square() + 0.5) / x.shape[1], "their sum over the last dimension"),
    (moments, lambda x: moments(x.T), "Over which dimension do you reduce"),
    (moments, lambda x: torch.zeros(len(x) + 1), "Over which dimension do you reduce"),
    (moments, lambda x: 1.0005 * moments(x), "within 1 %"),
    (moments, lambda x: moments(x) * 3, "3 times the reference"),
    (moments, lambda x: moments(x) + math.log(2 * math.pi) / 2, "½ log 2π"),
    (moments, lambda x: moments(x) - 0.25, "the reference -0.25"),
    (surprisal, lambda x: -(x.pow(8) + 1e-8).log(), "such a ceiling"),
    (surprisal, lambda x: -x.pow(8).clamp(min=1e-5).log(), "such a ceiling"),
    (moments, lambda x: moments(x) // 1, "whole numbers"),
    (moments, lambda x: moments(x).bfloat16(), "16-bit numbers"),
    (moments, lambda x: moments(x) + 1e-3 * x[:, 0], "small constant"),
    (moments, lambda x: moments(x) + torch.rand(len(x)), "random numbers"),
    (moments, lambda x: moments(x) + (0.1 * x[:, 0] if len(x) < 5 else torch.rand(len(x))), "random numbers"),
    (moments, lambda x: moments(x) + len(calls) + (calls.append(x) or 0), "a variable outside"),
    (moments, lambda x: moments(x) / (x[:, 0] > 0.2), "infinite"),
    (moments, lambda x: (x - x).mean(1) / 0, "is nan there"),
    (moments, lambda x: moments(x) + (len(x) == 5) * x[:, 0], "4 of 5 inputs agree already: what is special"),
    (moments, lambda x: moments(x) + (len(x) > 4) * x[:, 0], "what do inputs 3 and 5 have in common"),
    (moments, lambda x: moments(x) + (len(x) != 5) * x[:, 0], "Only input 3 of 5 agrees, perhaps by accident. Work"),
    (moments, lambda x: moments(x) + (len(x) in (2, 4, 5)) * x[:, 0], "Only inputs 4 and 5 agree, perhaps by accident"),
    (moments, lambda x: moments(x) + (len(x) != 2) * x[:, 0], "Work input 2 out by hand"),
    (moments, lambda x: x.sin().mean(1), "No input agrees yet"),
    (softmaxed, lambda x: x.softmax(1).T, "rows and columns are exchanged"),
    (softmaxed, lambda x: x.softmax(1).mean(0), "one value per example"),
    (softmaxed, lambda x: x.softmax(1).sum(0), "one value per example"),
    (softmaxed, lambda x: x.softmax(1).mean(1), "asks you to keep"),
    (total, lambda x: x, "one number, their sum"),
    (total, lambda x: x.mean(1, keepdim=True) * x.shape[1], "one number, their sum"),
    (total, lambda x: x * x.numel(), "one number, their mean"),
    (total, lambda x: 1.5, "same for every input"),
]


@pytest.mark.parametrize(("reference", "answer", "words"), DETECTED)
def test_detectors_serve_every_exercise(reference, answer, words):
    verdict = engine.judge(exercise_of(reference), answer)
    assert verdict.status == "wrong"
    assert words in plain(verdict.message)


def markov_by_the_mean(x, initial, transition):
    steps = transition[x[:-1], x[1:]].log()
    return initial[x[0]].log() + steps.mean() * len(steps)  # one symbol: the mean of no steps


BREAKING = [
    ("cross_entropy", lambda a, y: a.log().sum(1).mean() + y.sum(), "is nan there"),
    ("cross_entropy", lambda a, y: -a.sigmoid().log()[range(len(y)), y].mean(), "No input agrees yet"),
    ("log_partition", lambda f: f.sqrt().sum(-1), "is nan there"),
    ("log_partition", lambda f: (-f).exp().mean(-1).log(), "mean of exp(−f)"),
    ("responsibilities", lambda x, w, mu, sigma: (x[:, None] - mu).sqrt() * w, "is nan there"),
    ("responsibilities", lambda x, w, mu, sigma: (x[:, None] - mu).log() * w, "is not finite there"),
    ("markov_log_prob", markov_by_the_mean, "is nan there"),
    ("kl_divergence", lambda p, q: (p * p / q).log().sum(-1), "Only input 10 of 10 agrees"),
]


@pytest.mark.parametrize(("name", "answer", "words"), BREAKING)
def test_the_input_shown_is_the_one_that_is_spoken_of(name, answer, words):
    message = plain(judge(name, answer).message)
    assert words in message
    returned = re.search("you return (.*?), the reference", message).group(1)
    shown = int(re.search(r"on input (\d+) of", message).group(1))
    arguments = find(name).draw_inputs()[shown - 1]
    broken = not answer(*arguments).isfinite().all()
    assert broken is ("there" in words)
    assert "nan" in returned or "nan" not in words
    assert "inf" in returned or "infinite" not in words


def test_the_shape_shown_is_the_one_that_is_spoken_of():
    message = engine.judge(exercise_of(moments), lambda x: moments(x) + x[0, 0] if len(x) < 5 else x.sum(0)).message
    assert "on input 3 of 5" in message
    assert "Over which dimension" in message


def test_infinite_truth_replaced_by_a_number_is_noticed():
    def log_share(x):
        return torch.where(x > 0.5, x.log(), -math.inf)

    verdict = engine.judge(exercise_of(log_share), lambda x: log_share(x).clamp(min=-20))
    assert "The true value is infinite there" in verdict.message


def test_detectors_stay_silent_about_right_answers_and_tolerance_counts():
    assert engine.judge(exercise_of(moments), lambda x: moments(x) + 1e-7).status == "right"
    assert engine.judge(exercise_of(moments), lambda x: moments(x) + 1e-3).status == "wrong"


@pytest.mark.parametrize(
    "kind",
    [
        lambda value: value.double(),
        lambda value: value.numpy(),
        lambda value: value.numpy().astype(np.float64),
        lambda value: value.tolist(),
        lambda value: tuple(value),
        lambda value: [entry.numpy() for entry in value],
        lambda value: nn.Parameter(value),
        lambda value: value.to(runtime.device()),
    ],
)
def test_every_kind_of_number_is_read(kind):
    assert engine.judge(exercise_of(moments), lambda x: kind(moments(x))).status == "right"


def test_as_tensor_reads_and_refuses():
    assert as_tensor(True) == 1
    assert as_tensor(17**640).isinf()
    assert as_tensor([[1, 2], (3, np.float32(4))]).tolist() == [[1, 2], [3, 4]]
    assert as_tensor([]).shape == (0,)
    assert as_tensor(np.array([True, False])).tolist() == [1, 0]
    for refused in ("1", 1j, None, np.array(["a"]), {1}, torch.tensor(1j)):
        with pytest.raises(TypeError):
            as_tensor(refused)
    with pytest.raises(ValueError, match=r"\(1,\), \(2,\)"):
        as_tensor([[1], [1, 2]])


def test_values_are_shown_short():
    assert show(torch.tensor([0.25, -1 / 3, math.inf, math.nan, -0.0])) == "[0.25, -0.3333, inf, nan, 0]"
    assert show(torch.tensor([[1, 2], [3, 4]])) == "[[1, 2], [3, 4]]"
    assert show(torch.zeros(3, 4)) == "a tensor of shape (3, 4)"
    assert show_pair(torch.tensor(1.00001), torch.tensor(1.00002)) == ("1.00001", "1.00002")


def printed_by(capsys, name, answer) -> str:
    check(name, answer)
    return capsys.readouterr().out


def test_prints_and_warnings_of_the_learner_are_left_out(capsys):
    def noisy(logits, labels):
        print("shape", logits.shape)
        torch.tensor([1.0]).std()  # warns
        np.log(np.zeros(1))  # warns
        return -F.cross_entropy(logits, labels)

    text = printed_by(capsys, "cross_entropy", noisy)
    assert "shape torch" not in text
    assert "What your function prints is left out here." in text
    assert capsys.readouterr().err == ""


def test_a_gradient_that_is_nan_is_called_so():
    def by_where(v, W, b, c):
        a = c + v @ W
        return -(v @ b) - torch.where(a > 20, a, (1 + a.exp()).log()).sum(1)

    verdict = judge("free_energy", by_where)
    assert verdict.status == "wrong"
    assert "The gradient is nan there" in plain(verdict.message)
    assert "branch of a `torch.where`" in plain(verdict.message)


def test_a_gradient_is_wrong_beside_a_kink_as_well_where_it_is_cut():
    """A second look beside the inputs forgives a kink, and nothing else."""
    for held in (torch.detach, lambda a: 0.5 * a + 0.5 * a.detach()):
        verdict = judge(
            "critic_loss", lambda r, f, held=held: softplus_by_cases(held(-r)).mean() + F.softplus(f).mean()
        )
        assert verdict.status == "wrong"
