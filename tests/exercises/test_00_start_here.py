"""Answers to the exercises of notebook 00, right ones in other forms and wrong ones as learners write them."""

from functools import partial

import answers
import numpy as np
import torch
import torch.nn.functional as F
from answers import gradient_by_autograd
from torch.distributions import Categorical

# ---- ways to write them ---------------------------------------------------------------------------------------------


def cross_entropy_in_numpy(logits, labels):
    logits = logits.numpy().astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float(np.mean([log_z[i] - logits[i, label] for i, label in enumerate(labels.tolist())]))


def cross_entropy_written_in_steps(logits, labels, reduce):
    exponentials = torch.exp(logits)
    return reduce(torch.log(exponentials.sum(1)) - logits[range(len(labels)), labels])


def cross_entropy_without_the_maximum(logits, labels):
    log_z = (logits - logits.max(1, keepdim=True).values).exp().sum(1).log()
    return (log_z - logits[torch.arange(len(labels)), labels]).mean()


def minus_one_hot(logits, labels):
    gradient = logits.clone()
    gradient[torch.arange(len(labels)), labels] -= 1
    return gradient


def accuracy_of_ties(share):
    def accuracy(logits, labels):
        best = logits == logits.amax(1, keepdim=True)
        return share(best, labels).double().mean()

    return accuracy


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "scale_pixels": [
        lambda x, levels: x / (levels - 1),
        lambda x, levels: x.numpy() / (levels - 1),
        lambda x, levels: torch.linspace(0, 1, levels, dtype=torch.float64)[x.long()],
    ],
    "cross_entropy": [
        F.cross_entropy,
        cross_entropy_in_numpy,
        lambda logits, labels: F.nll_loss(logits.log_softmax(1), labels),
        lambda logits, labels: -Categorical(logits=logits.double()).log_prob(labels).mean(),
    ],
    "cross_entropy_gradient": [
        gradient_by_autograd,
        lambda logits, labels: (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).numpy() / len(labels),
    ],
    "accuracy": [
        lambda logits, labels: (logits.max(1).indices == labels).double().mean(),
        lambda logits, labels: np.mean(logits.numpy().argmax(1) == labels.numpy()),
        lambda logits, labels: sum(row.argmax() == label for row, label in zip(logits, labels)) / len(labels),
    ],
}

SEEN = [
    ("cross_entropy", cross_entropy_without_the_maximum, "added back"),
    ("cross_entropy", lambda a, y: -a.log()[range(len(y)), y].mean(), "logarithm of the logits"),
    ("cross_entropy", lambda a, y: -(a.softmax(1) * a.log_softmax(1)).sum(1).mean(), "labels do not appear"),
    ("cross_entropy", lambda a, y: -a.log_softmax(1)[y].mean(), "takes whole rows"),
    ("cross_entropy", lambda a, y: F.nll_loss((a / a.sum(1, keepdim=True)).log(), y), "logarithm of the logits"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a, y, reduction="sum") / a.shape[1], "number of classes"),
    ("cross_entropy_gradient", lambda a, y: minus_one_hot(a, y) / len(y), "from the logits themselves"),
    ("cross_entropy_gradient", minus_one_hot, "from the logits themselves"),
    ("cross_entropy_gradient", lambda a, y: minus_one_hot(a.softmax(1), y) / a.size(1), "number of classes"),
    ("accuracy", lambda a, y: (a.argmax() == y).float().mean(), "one number for the whole table"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).all(), "`all()`"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).sum() / a.size(1), "number of classes"),
    ("cross_entropy", partial(cross_entropy_written_in_steps, reduce=torch.mean), "log-sum-exp"),
    ("cross_entropy", partial(cross_entropy_written_in_steps, reduce=torch.sum), "a sum where the mean is asked"),
    ("cross_entropy", lambda a, y: -torch.log(a.softmax(1)[range(len(y)), y]).mean(), "underflows to 0 before"),
    ("cross_entropy", lambda a, y: -a.softmax(1).clamp(min=1e-8)[range(len(y)), y].log().mean(), "ceiling"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a, y, reduction="none"), "single terms"),
    ("cross_entropy", lambda a, y: F.cross_entropy(a.softmax(1), y).double(), "twice"),
    ("accuracy", lambda a, y: np.sum(a.numpy().argmax(1) == y.numpy()), "a sum where the mean is asked"),
    ("accuracy", lambda a, y: (a.argmax(0) == y).float().mean(), "down the columns"),
    ("accuracy", lambda a, y: (a.argmax(1) == y).float(), "single terms"),
]

REFUSED = [
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y])),
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y] / best.sum(1))),
    ("accuracy", accuracy_of_ties(lambda best, y: best[range(len(y)), y] & (best.sum(1) == 1))),
    ("accuracy", lambda a, y: (a.shape[1] - 1 - a.flip(1).argmax(1) == y).double().mean()),
    ("cross_entropy", lambda a, y: F.cross_entropy(a.detach(), y)),
    ("cross_entropy", lambda a, y: 2 * F.cross_entropy(a, y) - F.cross_entropy(a.detach(), y)),
    ("cross_entropy", lambda a, y: torch.tensor(F.cross_entropy(a, y).item())),
    ("scale_pixels", lambda x, levels: (x.float() - x.min()) / (levels - 1)),
    ("accuracy", lambda a, y: (a.argmax(1, keepdim=True) == y).float().mean()),
    ("accuracy", lambda a, y: (a.flip(1).argmax(1) == a.shape[1] - 1 - y).float().mean()),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)
