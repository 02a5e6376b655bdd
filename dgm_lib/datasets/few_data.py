"""Learning from little data: draws of few labels or rare classes, remedies for rare classes, batches, distillation.

Nothing here knows a model: indices and tensors go in, and come out. A draw follows from its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dgm_lib import checks
from dgm_lib.checks import NO_LABEL
from dgm_lib.datasets.core import check_sizes, epoch_order, n_batches
from dgm_lib.neighbours import nearest
from dgm_lib.runtime import derive_seed

# ---- which examples ------------------------------------------------------------------------------------------------


def few_labels(y: Tensor, n_per_class: int, n_classes: int, seed: int) -> Tensor:
    """Indices of n_per_class examples of each class, ascending: (n_per_class · K,).

    With one seed, a draw of fewer is part of a draw of more. Raises ValueError for a class that has too few.
    """
    return imbalanced(y, [n_per_class] * n_classes, seed)


def imbalanced(y: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Indices of counts[c] examples of each class c, ascending: (Σ counts,). Raises ValueError as `few_labels` does."""
    y = checks.as_labels(y, len(y), len(counts))
    order = torch.randperm(len(y), generator=_generator(seed)).to(y.device)
    taken = [_first(order[y[order] == c], n, c) for c, n in enumerate(counts)]
    return torch.cat(taken).sort().values


def _first(rows: Tensor, n: int, c: int) -> Tensor:
    if checks.whole("count", n) < 1:
        raise ValueError(f"{n} examples of class {c} are asked for: at least 1, or the class is never seen")
    if n > len(rows):
        raise ValueError(f"class {c} has {len(rows)} examples, and {n} are asked for: ask for fewer")
    return rows[:n]


# ---- rare classes --------------------------------------------------------------------------------------------------


def class_weights(y: Tensor, n_classes: int) -> Tensor:
    """N / (K n_c) for each class, (K,): weighted so, each class counts alike, and an example 1 in the mean.

    cross_entropy(logits, y, weight) divides by the weights of its batch; a weighted mean over N examples does not.
    """
    return len(y) / (n_classes * checks.class_counts(y, n_classes).float())


def oversample(y: Tensor, n_classes: int, *, to: int, seed: int) -> Tensor:
    """Indices in which each class occurs at least `to` times, (N + those repeated,): all of y, then repetitions.

    Repetitions go round a class in random order, so that its examples occur equally often, but for one.
    """
    checks.check_whole(0, to=to)
    y = checks.as_labels(y, len(y), n_classes)
    generator, rows = _generator(seed), [torch.arange(len(y), device=y.device)]
    for c, n in enumerate(checks.class_counts(y, n_classes).tolist()):
        passes = [torch.randperm(n, generator=generator) for _ in range(0, to - n, n)]
        if passes:
            rows.append((y == c).nonzero().squeeze(1)[torch.cat(passes)[: to - n].to(y.device)])
    return torch.cat(rows)


def smote(x: Tensor, y: Tensor, n_classes: int, *, to: int, k: int = 5, seed: int) -> tuple[Tensor, Tensor]:
    """(x, y), followed by points between neighbours of one class, until each class has `to`. Chawla et al. 2002.

    A new point is x_i + u (x_j − x_i): x_i any example of the class, x_j one of its k nearest in the class (all, where
    there are fewer), u uniform on [0, 1]. Classes that have `to` examples get none. x: floats, (N, …).
    Raises ValueError for a class with one example, which has no neighbour.
    """
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}: a point between two others needs floats, as Split.scaled gives them")
    checks.check_whole(0, to=to)
    checks.check_whole(1, k=k)
    y = checks.as_labels(y, len(x), n_classes)
    checks.check_finite(x)
    generator, xs, ys = _generator(seed), [x], [y]
    for c, n in enumerate(checks.class_counts(y, n_classes).tolist()):
        if n >= to:
            continue
        if n == 1:
            raise ValueError(f"class {c} has one example, and nothing lies between it and a neighbour: take it out")
        xs.append(_between_neighbours(x[y == c], to - n, k, generator))
        ys.append(y.new_full((to - n,), c))
    return torch.cat(xs), torch.cat(ys)


def _between_neighbours(x: Tensor, n: int, k: int, generator: torch.Generator) -> Tensor:
    """n new points of one class, (n, …), from its examples (M, …)."""
    rows, k = checks.as_rows(x, "x"), min(k, len(x) - 1)
    _, neighbours = nearest(rows, rows, k, among_themselves=True)  # (M, k)
    neighbours = neighbours.sort(1).values  # so that a draw does not hang on who of them is nearer by a hair
    i = torch.randint(len(x), (n,), generator=generator).to(x.device)
    j = neighbours[i, torch.randint(k, (n,), generator=generator).to(x.device)]
    u = torch.rand(n, generator=generator).to(x).view(-1, *[1] * (x.dim() - 1))
    return x[i] + u * (x[j] - x[i])


def _generator(seed: int) -> torch.Generator:
    checks.check_whole(0, seed=seed)
    return checks.seeded(derive_seed(seed))


# ---- labelled and unlabelled examples together ---------------------------------------------------------------------


class MixedBatches:
    """Batches (x, y) of labelled examples followed by unlabelled ones, whose y is −1; one epoch a loop.

    An epoch is one pass over the unlabelled examples, without a last batch that is too small; the labelled ones go
    round as often as that takes. As with `Batches`, the order follows from (seed, epoch), and processes share the
    examples. transform: what makes a float batch of the resting x, such as a random shift.
    Raises ValueError where there are fewer unlabelled examples than a batch holds.
    """

    def __init__(
        self,
        x_labelled: Tensor,
        y_labelled: Tensor,
        x_unlabelled: Tensor,
        *,
        batch_labelled: int,
        batch_unlabelled: int,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        check_sizes(len(x_labelled), batch_labelled)
        check_sizes(len(x_unlabelled), batch_unlabelled)
        if y_labelled.shape != (len(x_labelled),):
            n_labels = "×".join(map(str, y_labelled.shape))
            raise ValueError(f"{len(x_labelled)} labelled examples have {n_labels} labels: give one an example, (N,)")
        kinds = [(str(x.dtype), tuple(x.shape[1:])) for x in (x_labelled, x_unlabelled)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"labelled examples are {kinds[0]} and unlabelled ones {kinds[1]}: a batch holds one kind")
        self.x_labelled, self.y_labelled, self.x_unlabelled = x_labelled, y_labelled, x_unlabelled
        self.batch_labelled, self.batch_unlabelled = batch_labelled, batch_unlabelled
        self.seed, self.transform, self.epoch = seed, transform, 0
        if len(self) == 0:
            n = f"{len(x_unlabelled)} unlabelled examples"
            raise ValueError(f"{n} do not fill a batch of {batch_unlabelled} for each process: take smaller batches")

    def set_epoch(self, epoch: int) -> None:
        """Makes the next loop the one of this epoch, whatever was walked through before."""
        self.epoch = epoch

    def __len__(self) -> int:
        return n_batches(len(self.x_unlabelled), self.batch_unlabelled, drop_last=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        unlabelled = epoch_order(len(self.x_unlabelled), self.seed, epoch).to(self.x_unlabelled.device)
        labelled = self._labelled_rows(epoch).to(self.x_labelled.device)
        no_label = self.y_labelled.new_full((self.batch_unlabelled,), NO_LABEL)
        for with_y, without_y in zip(labelled.split(self.batch_labelled), unlabelled.split(self.batch_unlabelled)):
            if len(without_y) == self.batch_unlabelled:
                x = torch.cat([self.x_labelled[with_y], self.x_unlabelled[without_y]])
                yield x if self.transform is None else self.transform(x), torch.cat([self.y_labelled[with_y], no_label])

    def _labelled_rows(self, epoch: int) -> Tensor:
        """One permutation after the other, as many as the epoch needs: (len(self) · batch_labelled,)."""
        needed, n, rows = len(self) * self.batch_labelled, 0, []
        while n < needed:
            rows.append(epoch_order(len(self.x_labelled), derive_seed(self.seed, epoch), len(rows)))
            n += len(rows[-1])
        return torch.cat(rows)[:needed]


# ---- from a large network to a small one ---------------------------------------------------------------------------


def distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² KL(p_T ‖ q_T), p_T and q_T the softmax of the teacher's and of the student's logits / T: (B, K) -> (B,) nats.

    T² keeps the gradient, T (q_T − p_T), of one size for every T: for a large T it is the difference of the centred
    logits over K. The teacher is not learnt. Hinton, Vinyals & Dean 2015, section 2.
    """
    checks.check_positive(temperature=temperature)
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        said = f"the student's logits are {tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}"
        raise ValueError(f"{said}: they must speak of the same examples and classes")
    teacher = (teacher_logits.detach() / temperature).log_softmax(1)
    student = (student_logits / temperature).log_softmax(1)
    p = teacher.exp()
    return temperature**2 * torch.where(p > 0, p * (teacher - student), 0).sum(1)  # 0 log 0 = 0
