"""What latents hold: how much of x they keep, which factors of it, how plainly, and which neighbourhoods.

Every function takes tensors of N examples, at best of ones that the model has not seen, and counts in float64 on the
CPU. Information is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dgm_lib import checks
from dgm_lib.distributions import StandardNormal
from dgm_lib.neighbours import blocks, distances, neighbour_shares

NUMBERS = 2**22  # of the differences of latents that are held at a time: 32 MB


# ---- how much of x -------------------------------------------------------------------------------------------------


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """(D,) True for each latent that the data move: Var_x E_q[z_d | x] > threshold. mu: (N, D), means of q(z|x).

    A collapsed latent has the same posterior for every x. Burda et al. 2016, section 5.2, where the prior is N(0, I):
    the threshold is in the unit of z squared.
    """
    mu = _rows("mu", mu)
    if len(mu) < 2:
        raise ValueError(f"mu has {len(mu)} row: a variance over the data needs at least 2")
    return mu.var(0) > threshold


class RateParts(NamedTuple):
    """What the rate of each example is made of, (N,) nats each: rate = mutual_information + marginal_kl."""

    mutual_information: Tensor  # log q(z|x) − log q(z); its mean is I(x; z), at most log N
    marginal_kl: Tensor  # log q(z) − log p(z); its mean is KL(q(z) ‖ p(z))


def split_rate(
    mu: Tensor, log_var: Tensor, log_prior: Callable[[Tensor], Tensor] | None = None, *, samples: int = 1, seed: int = 0
) -> RateParts:
    """KL(q(z|x) ‖ p(z)) = I(x; z) + KL(q(z) ‖ p(z)), in the mean over x. Hoffman & Johnson 2016.

    mu, log_var: (N, D), of the Gaussian q(z|x_n), which are q.mean and q.variance.log(); q(z) = 1/N Σ_n q(z|x_n).
    log_prior: log p(z), (N, D) -> (N,), by default that of N(0, I). samples: draws of z for each x.
    The N examples are taken for all there is: I(x; z) is what z tells about which of them it came from. In the mean,
    it is a lower bound of the same for all x that the N were drawn from (Poole et al. 2019, section 2.5), and a bad
    one when it comes near log N.
    """
    means, log_vars = _gaussians(mu, log_var)
    checks.check_whole(1, samples=samples)
    generator = checks.seeded(seed)
    like = checks.at_least_float32(checks.as_tensor(mu, "mu"))
    log_prior = log_prior or StandardNormal(means.shape[1]).to(like).log_prob
    parts = means.new_zeros(2, len(means))
    for _ in range(samples):
        eps = torch.randn(means.shape, generator=generator, device="cpu", dtype=means.dtype)
        noise = (log_vars / 2).exp() * eps
        log_conditional = -0.5 * (eps.square() + log_vars + math.log(2 * math.pi)).sum(1)  # log q(z|x)
        log_marginal = _log_aggregate(means, noise, means, log_vars)  # log q(z), z = means + noise
        with torch.no_grad():
            prior = log_prior((means + noise).to(like)).cpu().double()  # log p(z)
        parts += torch.stack([log_conditional - log_marginal, log_marginal - prior]) / samples
    return RateParts(*parts)


def log_aggregate(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) = log 1/N Σ_n N(z; mu_n, diag exp log_var_n): (M, D), (N, D), (N, D) -> (M,) nats."""
    mu, log_var = _gaussians(mu, log_var)
    z = _rows("z", z)
    if z.shape[1] != mu.shape[1]:
        raise ValueError(f"z has {z.shape[1]} latents and mu has {mu.shape[1]}: they must be as many")
    return _log_aggregate(z, torch.zeros_like(z), mu, log_var)


def _log_aggregate(centre: Tensor, noise: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log q(centre + noise). Their sum would round a far smaller noise away: it is added to differences only."""
    narrowness, constant = (-log_var / 2).exp(), (log_var + math.log(2 * math.pi)).sum(1)

    def log_q(rows: Tensor, noise: Tensor) -> Tensor:
        units = (rows[:, None] - mu + noise[:, None]) * narrowness  # (m, N, D), (z − μ)/σ
        return (-0.5 * (units.square().sum(2) + constant)).logsumexp(1) - math.log(len(mu))

    part = max(1, NUMBERS // mu.numel())
    return torch.cat([log_q(*rows) for rows in zip(centre.split(part), noise.split(part))])


# ---- which factors -------------------------------------------------------------------------------------------------


def factor_information(
    z: Tensor, factors: Mapping[str, Tensor], *, bins: int = 20, shuffles: int = 10, seed: int = 0
) -> dict[str, Tensor]:
    """What each latent alone tells of each factor, as a share of the factor's entropy: name -> (D,), 1 all, 0 nothing.

    (I(z_d; v) − C) / (H(v) − C). Counts of few examples show information where there is none; C is what they show when
    the examples are shuffled: the adjustment for chance of Vinh, Epps & Bailey 2010. With many examples C is 0.
    z: (N, D), cut into `bins` of as many examples each. factors: name -> (N,). One of an integer type, or with at most
    `bins` values, is taken by its values, any other is cut like z.
    Raises ValueError for a factor that is constant, and for so few examples that C is above half of H(v).
    """
    z = _rows("z", z)
    checks.check_whole(0, bins=bins, shuffles=shuffles)
    if bins < 2 or shuffles < 1:
        raise ValueError(f"bins is {bins} and shuffles {shuffles}: they must be at least 2 and 1")
    codes = torch.stack([_equal_bins(latent, bins) for latent in z.T.contiguous()], 1)
    shares = {}
    for name, values in factors.items():
        v = _factor_codes(name, values, len(z), bins)
        generator = checks.seeded(seed)
        shuffled = [v[torch.randperm(len(v), generator=generator, device="cpu")] for _ in range(shuffles)]
        chance = torch.stack([_information(codes, w) for w in shuffled]).mean(0)
        entropy = torch.special.entr(v.bincount().double() / len(v)).sum()
        if chance.max() > entropy / 2:
            seems = f"shuffled, a latent still seems to tell {chance.max():.2f} of its {entropy:.2f} nats"
            raise ValueError(f"{len(z)} examples are too few for {bins} bins and factor {name!r}: {seems}; use fewer")
        shares[name] = (_information(codes, v) - chance) / (entropy - chance)
    return shares


def mutual_information_gap(
    z: Tensor, factors: Mapping[str, Tensor], *, bins: int = 20, shuffles: int = 10, seed: int = 0
) -> tuple[float, dict[str, float]]:
    """Is each factor held by one latent? The mean over the factors, and the gap of each: 1 by one alone, 0 by several.

    (I(z_1; v) − I(z_2; v)) / H(v), where z_1 and z_2 tell most of factor v. Chen et al. 2018, eq. 6; adjusted for
    chance and estimated as in `factor_information`. It is 0, too, for a factor that no latent holds.
    """
    z = checks.as_tensor(z, "z")
    if z.dim() == 2 and z.shape[1] < 2:
        raise ValueError(f"z has {z.shape[1]} latent: a gap between the best two needs at least 2")
    if not factors:
        raise ValueError("there is no factor: this data set does not say how its examples were made")
    shares = factor_information(z, factors, bins=bins, shuffles=shuffles, seed=seed)
    best_two = {name: share.topk(2).values.tolist() for name, share in shares.items()}
    gaps = {name: first - second for name, (first, second) in best_two.items()}
    return math.fsum(gaps.values()) / len(gaps), gaps


def _equal_bins(values: Tensor, bins: int) -> Tensor:
    """(N,) numbers -> (N,) bins of as many examples each, as far as equal numbers in one bin allow; by middle ranks."""
    values, ranked = values.contiguous(), values.sort().values
    below, not_above = (torch.searchsorted(ranked, values, right=right) for right in (False, True))
    twice_rank = below + not_above
    return twice_rank * bins // (2 * len(values))


def _factor_codes(name: str, values: Tensor, n: int, bins: int) -> Tensor:
    values = checks.as_tensor(values, f"factor {name!r}").detach().cpu()
    if values.shape != (n,) or values.isnan().any():
        raise ValueError(f"factor {name!r} has the shape {tuple(values.shape)}: it must be {n} numbers without NaN")
    distinct, codes = values.unique(return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(f"factor {name!r} is {distinct.tolist()} in every example: nothing can be told of a constant")
    return _equal_bins(values, bins) if values.is_floating_point() and len(distinct) > bins else codes


def _information(codes: Tensor, v: Tensor) -> Tensor:
    """I(z_d; v) in nats of the counts: H(z_d) + H(v) − H(z_d, v). Codes (N, D) and (N,) -> (D,)."""
    n, n_latents = codes.shape
    shape = (n_latents, int(codes.max()) + 1, int(v.max()) + 1)
    cells = (torch.arange(n_latents, device=codes.device) * shape[1] + codes) * shape[2] + v[:, None]
    joint = cells.flatten().bincount(minlength=math.prod(shape)).view(shape).double() / n  # p(z_d, v)
    marginals = torch.special.entr(joint.sum(2)).sum(1) + torch.special.entr(joint.sum(1)).sum(1)
    return marginals - torch.special.entr(joint).sum((1, 2))


# ---- how plainly: linear probes ------------------------------------------------------------------------------------


def probe_r2(
    z_train: Tensor, targets_train: Tensor, z_test: Tensor, targets_test: Tensor, *, ridge: float = 1e-3
) -> float:
    """R² on test data of a linear map from z to a number: 1 exact, 0 no better than the mean of the test targets.

    It minimises the mean of (t − w·z − b)² plus ridge · ‖w‖², each z_d in units of its standard deviation in training.
    (N, D), (N,), (M, D), (M,). Hoerl & Kennard 1970, in closed form.
    """
    z, t, x, t_test = _probe_inputs(z_train, targets_train, z_test, targets_test, ridge)
    t, t_test = t.double(), t_test.double()
    total = (t_test - t_test.mean()).square().sum()
    if (t_test == t_test[0]).all():
        raise ValueError(f"every test target is {t_test[0].item():g}: R² compares with their variance, which is 0")
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    w = torch.linalg.solve(z.T @ z / len(z) + ridge * eye, z.T @ (t - t.mean()) / len(z))
    return (1 - (t_test - t.mean() - x @ w).square().sum() / total).item()


def probe_accuracy(z_train: Tensor, y_train: Tensor, z_test: Tensor, y_test: Tensor, *, ridge: float = 1e-3) -> float:
    """Share of test labels that a linear classifier of z meets: multinomial logistic regression.

    It minimises the mean of −log p(y|z) plus ridge/2 · ‖W‖², each z_d in units of its standard deviation in training.
    (N, D), (N,), (M, D), (M,). A label that is not in y_train is never met. With few labels, choose `ridge` on
    validation data. Raises RuntimeError if the minimum is not reached.
    """
    z, y_train, x, y_test = _probe_inputs(z_train, y_train, z_test, y_test, ridge)
    classes, y = y_train.unique(return_inverse=True)
    if y_train.is_floating_point() or len(classes) < 2:
        raise ValueError(f"y_train holds {len(classes)} classes of type {y_train.dtype}: give integers of at least 2")
    weight, bias = _logistic_regression(z, y, len(classes), ridge)
    return (classes[(x @ weight + bias).argmax(1)] == y_test).double().mean().item()


def _logistic_regression(z: Tensor, y: Tensor, n_classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    weight = z.new_zeros(z.shape[1], n_classes, requires_grad=True)
    bias = z.new_zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=2000, tolerance_grad=1e-5, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(z @ weight + bias, y) + ridge / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
        loss()
    steepest = max(weight.grad.abs().max(), bias.grad.abs().max())
    if not steepest < 1e-4:
        raise RuntimeError(f"the probe did not reach its minimum, its gradient is still {steepest:.1e}: raise ridge")
    return weight.detach(), bias.detach()


def _probe_inputs(z_train: Tensor, t_train: Tensor, z_test: Tensor, t_test: Tensor, ridge: float) -> list[Tensor]:
    """z, (N, D) and (M, D), in units of the standard deviation in training, from the mean there; and targets."""
    t_train, t_test = (checks.as_tensor(t, "what is to be told").detach().cpu() for t in (t_train, t_test))
    z, x = _rows("z_train", z_train), _rows("z_test", z_test)
    if z.shape[1] != x.shape[1]:
        raise ValueError(f"z_train has {z.shape[1]} latents and z_test has {x.shape[1]}: they must be as many")
    for name, rows, t in (("train", z, t_train), ("test", x, t_test)):
        if t.shape != (len(rows),) or not t.isfinite().all():
            what = f"what is to be told from {len(rows)} rows of z_{name}"
            raise ValueError(f"{what} has the shape {tuple(t.shape)}: it must be {len(rows)} finite numbers")
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}: it must be above 0, or the weights may have no minimum")
    mean, deviation = z.mean(0), z.std(0, correction=0)
    deviation[(z == z[0]).all(0)] = 1  # a constant latent has no unit
    return [(z - mean) / deviation, t_train, (x - mean) / deviation, t_test]


# ---- which neighbourhoods ------------------------------------------------------------------------------------------


def trustworthiness(x: Tensor, z: Tensor, k: int = 10) -> float:
    """Are neighbours in z also neighbours in x? 1 if the k nearest always are; near 0.5 if z has nothing to do with x.

    T = 1 − 2 / (N k (2N − 3k − 1)) Σ_i Σ_j (r(i, j) − k), where j runs over the k nearest of i in z that are not so in
    x, and j is the r-th nearest of i in x. Venna & Kaski 2001. x: (N, …), z: (N, D). Swapped, it asks for
    neighbours in x that z has torn apart: their continuity. Equal distances share the lowest rank in x, and in z the
    places among the k that are left.
    """
    x, z = _rows("x", checks.as_rows(x, "x")), _rows("z", z)
    n = len(x)
    if len(z) != n:
        raise ValueError(f"x has {n} rows and z has {len(z)}: they must be the same examples")
    if not 1 <= checks.whole("k", k) < n / 2:
        raise ValueError(f"k is {k}: it must be at least 1 and below half of the {n} examples")
    excess = 0.0
    for i in blocks(torch.arange(n, device=x.device), x):
        share, far = neighbour_shares(_from_others(z, i), k), _from_others(x, i)
        rank = 1 + torch.searchsorted(far.sort(1).values, far)  # of each example in x, as seen from those in i
        excess += (share * (rank - k).clamp(min=0)).sum().item()
    return 1 - 2 * excess / (n * k * (2 * n - 3 * k - 1))


def _from_others(points: Tensor, i: Tensor) -> Tensor:
    """Distances (len(i), N), nobody near to itself."""
    far = distances(points[i], points)
    far[torch.arange(len(i), device=i.device), i] = torch.inf
    return far


# ---- what is let in ------------------------------------------------------------------------------------------------


def _rows(name: str, values: Tensor) -> Tensor:
    """(N, D) in float64 on the CPU. Raises ValueError for another shape and for what is not finite."""
    values = checks.as_tensor(values, name)
    if values.dim() != 2 or not values.numel():
        raise ValueError(f"{name} has the shape {tuple(values.shape)}: it must be (N, D), at least one row")
    checks.check_finite(values, name)
    return values.detach().cpu().double()


def _gaussians(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    mu, log_var = checks.as_tensor(mu, "mu"), checks.as_tensor(log_var, "log_var")
    if mu.shape != log_var.shape:
        raise ValueError(f"mu has the shape {tuple(mu.shape)} and log_var {tuple(log_var.shape)}: they must agree")
    return _rows("mu", mu), _rows("log_var", log_var)
