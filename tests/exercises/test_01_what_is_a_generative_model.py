"""Answers to the exercises of notebook 01, right ones in other forms and wrong ones as learners write them."""

import math
from functools import partial
from itertools import pairwise, product

import answers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import kl_by_torch
from torch.distributions import Categorical, Normal, kl_divergence

from dgm_exercises import find

# ---- ways to write them ---------------------------------------------------------------------------------------------


def kl_in_loops(p, q):
    def one(p, q):
        if any(b == 0 < a for a, b in zip(p, q)):
            return math.inf
        return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)

    rows = [one(a, b) for a, b in zip(p.reshape(-1, p.shape[-1]).tolist(), q.reshape(-1, q.shape[-1]).tolist())]
    return torch.tensor(rows, dtype=torch.float64).reshape(p.shape[:-1])


def fit_by_scipy(x):
    from scipy.stats import norm

    return norm.fit(x.double().numpy())


def responsibilities_by_distributions(x, weights, mu, sigma):
    joint = weights.log() + Normal(mu, sigma).log_prob(x[:, None])
    return Categorical(logits=joint).probs


def responsibilities_by_a_mixture(x, weights, mu, sigma):
    """Categorical keeps a probability from being 0."""
    mixture = torch.distributions.MixtureSameFamily(Categorical(weights), Normal(mu, sigma))
    joint = Categorical(weights).logits + Normal(mu, sigma).log_prob(x[:, None])
    return (joint - mixture.log_prob(x)[:, None]).exp()


def markov_in_a_loop(x, initial, transition):
    total = initial[x[0]].log().item()
    for now, following in pairwise(x):
        probability = transition[now, following].item()
        total += math.log(probability) if probability > 0 else -math.inf
    return total


def hmm_scaled(x, initial, transition, emission):
    initial, transition, emission = initial.double(), transition.double(), emission.double()
    alpha, total = initial * emission[:, x[0]], 0.0
    for symbol in [*x[1:].tolist(), None]:
        scale = alpha.sum()
        total = total + scale.log()
        if symbol is not None:
            alpha = (alpha / scale) @ transition * emission[:, symbol]
    return total


# As a learner would write them, none taken from the lists of the exercises: (name, answer, words of the hint)
def naive_responsibilities_with_equal_weights(x, weights, mu, sigma):
    density = torch.exp(Normal(mu, sigma).log_prob(x.unsqueeze(1)))
    return density / density.sum(1, keepdim=True)


def best_path(x, initial, transition, emission):
    delta = initial * emission[:, x[0]]
    for symbol in x[1:]:
        delta = (delta[:, None] * transition).max(0).values * emission[:, symbol]
    return delta.max().log()


def hmm_with_rows_and_columns_exchanged(x, initial, transition, emission):
    alpha = initial * emission[:, x[0]]
    for symbol in x[1:]:
        alpha = emission[:, symbol] * (transition @ alpha)
    return alpha.sum().log()


def hmm_with_wrong_table(x, initial, transition, emission):
    alpha = initial * emission[x[0]]  # raises as soon as the table is not square
    for symbol in x[1:]:
        alpha = alpha @ transition * emission[symbol]
    return alpha.sum().log()


def hmm_in_logarithms(x, initial, transition, emission, *, step, end, symbols=slice(1, None)):
    a, log_t, log_e = initial.log() + emission[:, x[0]].log(), transition.log(), emission.log()
    for symbol in x[symbols]:
        a = step(a, log_t) + log_e[:, symbol]
    return end(a)


def step_of_logs(a, log_t):
    return torch.logsumexp(a.unsqueeze(1) + log_t, dim=0)


def end_of_logs(a):
    return torch.logsumexp(a, dim=0)


hmm_stopping_early = partial(hmm_in_logarithms, step=step_of_logs, end=end_of_logs, symbols=slice(1, -1))


hmm_from_the_first_symbol = partial(hmm_in_logarithms, step=step_of_logs, end=end_of_logs, symbols=slice(None))


hmm_summing_logs = partial(hmm_in_logarithms, step=step_of_logs, end=torch.sum)


hmm_without_last_sum = partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a)


hmm_leaving_logarithms = partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a.exp().sum().log())


def hmm_along_the_row(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: (a[:, None] + log_t).logsumexp(1), end=end_of_logs)


def hmm_adding_along_the_columns(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: torch.logsumexp(a + log_t, 0), end=end_of_logs)


def hmm_multiplying_logs(*model):
    return hmm_in_logarithms(*model, step=lambda a, log_t: a @ log_t, end=end_of_logs)


def hmm_without_log(x, initial, transition, emission):
    a = initial + emission[:, x[0]].log()
    for symbol in x[1:]:
        a = step_of_logs(a, transition.log()) + emission[:, symbol].log()
    return end_of_logs(a)


def log_partition_without_the_maximum(f):
    m = (-f).max(-1, keepdim=True).values
    return torch.log(torch.exp(-f - m).sum(-1))


def log_partition_of_shifted(f):
    f = f - f.min(-1, keepdim=True).values
    return torch.log(torch.exp(-f).sum(-1))


def log_partition_with_minimum_added(f):
    lowest = f.amin(-1, keepdim=True)
    return (lowest - f).exp().sum(-1).log() + lowest.squeeze(-1)


def responsibilities_in_logarithms(x, weights, mu, sigma, *, dim=1, log_prior):
    return torch.softmax(log_prior(weights) + Normal(mu, sigma).log_prob(x[:, None]), dim)


def kl_masked(p, q):
    terms = torch.where((p > 0) & (q > 0), p * (p / q).log(), torch.zeros(()))
    return terms.sum(-1)


# ---- answers --------------------------------------------------------------------------------------------------------

RIGHT = {
    "kl_divergence": [
        kl_in_loops,
        kl_by_torch,
        lambda p, q: (p.xlogy(p) - p.xlogy(q)).sum(-1),
        lambda p, q: kl_divergence(Categorical(probs=p), Categorical(probs=q)),
    ],
    "fit_gaussian": [
        fit_by_scipy,
        lambda x: torch.stack([x.mean(), x.std(correction=0)]),
        lambda x: (x.numpy().mean(), x.numpy().std()),
        lambda x: np.array([x.mean(), (x.double().square().mean() - x.double().mean() ** 2).clamp(0).sqrt()]),
        lambda x: torch.std_mean(x, correction=0)[::-1],
    ],
    "responsibilities": [
        responsibilities_by_distributions,
        lambda x, w, mu, s: [(w.log() + Normal(mu, s).log_prob(point)).softmax(0) for point in x],
    ],
    "markov_log_prob": [
        markov_in_a_loop,
        lambda x, initial, transition: torch.cat([initial[x[:1]], transition[x[:-1], x[1:]]]).log().sum(),
    ],
    "hmm_log_prob": [hmm_scaled],
    "log_partition": [
        lambda f: torch.log(torch.exp(f.amin(-1, keepdim=True) - f).sum(-1)) - f.amin(-1),
        lambda f: np.logaddexp.reduce(-f.numpy().astype(np.float64), axis=-1),
    ],
    "binary_table_size": [236, torch.tensor([236.01]), math.log10(2**784), 784 * 0.30103],
    "cost_of_noise": [6.9, 6.91, 6.907, -math.log(0.001), np.log(1000), np.float32(math.log(1000))],
}

SEEN = [
    ("hmm_log_prob", hmm_along_the_row, "Each row of the transition sums to 1"),
    ("hmm_log_prob", hmm_adding_along_the_columns, "alpha[:, None]"),
    ("hmm_log_prob", hmm_multiplying_logs, "`@` multiplies and adds"),
    ("hmm_log_prob", hmm_stopping_early, "The last symbol is never looked at"),
    ("hmm_log_prob", hmm_from_the_first_symbol, "The first symbol counts twice"),
    ("hmm_log_prob", hmm_summing_logs, "add up logarithms over the states"),
    ("hmm_log_prob", partial(hmm_in_logarithms, step=step_of_logs, end=torch.max), "most probable last state"),
    ("hmm_log_prob", partial(hmm_in_logarithms, step=step_of_logs, end=lambda a: a[-1]), "not the last time"),
    ("hmm_log_prob", hmm_without_last_sum, "logarithms of the single terms"),
    ("hmm_log_prob", hmm_leaving_logarithms, "underflows to 0"),
    ("hmm_log_prob", hmm_without_log, "`initial` stands among logarithms"),
    ("log_partition", log_partition_without_the_maximum, "never put back"),
    ("log_partition", log_partition_of_shifted, "never put back"),
    ("log_partition", log_partition_with_minimum_added, "wrong sign"),
    ("log_partition", lambda f: -torch.logsumexp(f, -1), "in front of the logarithm"),
    ("fit_gaussian", lambda x: (x.median(), x.std(unbiased=False)), "is the median"),
    ("fit_gaussian", lambda x: (x.mean(), (x - x.mean()).norm()), "distances are summed"),
    ("fit_gaussian", lambda x: (np.median(x.numpy()), x.numpy().std()), "is the median"),
    ("responsibilities", partial(responsibilities_in_logarithms, dim=0, log_prior=torch.log), "Your columns sum to 1"),
    ("responsibilities", partial(responsibilities_in_logarithms, log_prior=lambda w: w), "stand among logarithms"),
    ("markov_log_prob", lambda x, i, t: i[0].log() + t[x[:-1], x[1:]].log().sum(), "begins with x[0]"),
    ("markov_log_prob", lambda x, i, t: i[x[0]] + t[x[:-1], x[1:]].log().sum(), "without a logarithm: initial[x[0]]"),
    ("kl_divergence", kl_masked, "a mask"),
    ("kl_divergence", lambda p, q: (p * (p.log() - q.log())).sum(-1), "0 · (−inf)"),
    ("kl_divergence", lambda p, q: ((p + 1e-9) * ((p + 1e-9) / (q + 1e-9)).log()).sum(-1), "calls impossible"),
    ("kl_divergence", lambda p, q: torch.nan_to_num(p * (p / q).log()).sum(-1), "calls impossible"),
    ("kl_divergence", lambda p, q: (p * (q / p).log()).sum(-1), "the wrong sign. Look for the minus"),
    ("kl_divergence", lambda p, q: kl_in_loops(p, q).mean(), "mean over all of them"),
    ("kl_divergence", lambda p, q: kl_in_loops(p, q).unsqueeze(-1), "keepdim"),
    ("fit_gaussian", lambda x: (np.mean(x.numpy()), np.std(x.numpy(), ddof=1)), "N − 1"),
    ("fit_gaussian", lambda x: torch.tensor([x.mean(), x.var(correction=0)]), "variance"),
    ("responsibilities", naive_responsibilities_with_equal_weights, "weights are missing"),
    ("responsibilities", responsibilities_by_a_mixture, "keeps a weight from being 0"),
    (
        "responsibilities",
        lambda x, w, mu, s: (w.clamp(min=1e-12).log() + Normal(mu, s).log_prob(x[:, None])).softmax(1),
        "keeps a weight from being 0",
    ),
    ("responsibilities", lambda *m: responsibilities_by_distributions(*m).T, "is the transpose"),
    ("markov_log_prob", lambda x, i, t: np.log(np.prod([i[x[0]], *t[x[:-1], x[1:]]])), "underflows"),
    ("hmm_log_prob", best_path, "Viterbi"),
    ("hmm_log_prob", hmm_with_rows_and_columns_exchanged, "wrong side"),
    ("hmm_log_prob", hmm_with_wrong_table, "emission table"),
    ("log_partition", lambda f: torch.exp(-f).mean(-1).log(), "mean of exp(−f)"),
    ("log_partition", lambda f: torch.exp(-f.double()).sum(-1).log(), "log-sum-exp"),
    ("log_partition", lambda f: torch.exp(f).sum(-1).log(), "exp(+f)"),
    ("binary_table_size", 28 * 28, "784 is the number of pixels"),
    ("binary_table_size", 2**784, "the number itself"),
    ("binary_table_size", 10**236, "the number itself"),
    ("binary_table_size", 543, "natural logarithm"),
    ("cost_of_noise", -math.log(0.999), "here most is noise"),
    ("cost_of_noise", 0.001, "here most is noise"),
    ("cost_of_noise", math.log(999), "one over the share of good samples"),
    ("cost_of_noise", torch.tensor(999.0).log(), "one over the share of good samples"),
    ("cost_of_noise", 4.605, "one good sample in 100"),
    ("cost_of_noise", 9.97, "in bits"),
]

REFUSED = [
    ("fit_gaussian", lambda x: (x.mean(), (x.square().mean() - x.mean() ** 2).abs().sqrt())),
    ("fit_gaussian", lambda x: (x.numpy().mean(), np.sqrt((x.numpy() ** 2).mean() - x.numpy().mean() ** 2))),
    ("fit_gaussian", lambda x: (x.mean(), x.std(correction=0) if len(x) > 1 else torch.ones(()))),
    ("markov_log_prob", lambda x, i, t: i[x[0]].log() + t[x[1:-1], x[2:]].log().sum()),
    ("markov_log_prob", lambda x, i, t: i[x[0]].log() + (F.one_hot(x[1:], len(i)) * t[x[:-1]].log()).sum()),
    ("kl_divergence", lambda p, q: F.kl_div((q + 1e-12).log(), p, reduction="none").sum(-1)),
    ("fit_gaussian", lambda x: (x.mean(), (x.var(correction=0) + 1e-6).sqrt())),
    ("fit_gaussian", lambda x: (x.mean(), x.std() if len(x) > 1 else torch.tensor(0.0))),
    ("responsibilities", lambda x, w, mu, s: ((w + 1e-8).log() + Normal(mu, s).log_prob(x[:, None])).softmax(1)),
    ("responsibilities", lambda x, w, mu, s: (Categorical(w).logits + Normal(mu, s).log_prob(x[:, None])).softmax(1)),
    ("responsibilities", lambda x, w, mu, s: (w.log() + Normal(mu, s).log_prob(x[:, None]).clamp(min=-1e4)).softmax(1)),
    ("log_partition", lambda f: (-f).logsumexp(-1).clamp(max=1e3)),
]

test_another_right_answer_is_accepted = answers.accepted(RIGHT)
test_a_mistake_is_recognised = answers.recognised(SEEN)
test_what_is_right_on_easy_inputs_only_is_refused = answers.refused(REFUSED)


# ---- what the references promise ------------------------------------------------------------------------------------


def test_hmm_reference_is_the_sum_over_all_paths():
    for x, initial, transition, emission in find("hmm_log_prob").draw_inputs()[:5]:
        total = 0.0
        for path in product(range(len(initial)), repeat=len(x)):
            first = initial[path[0]]
            steps = math.prod(float(transition[i, j]) for i, j in pairwise(path))
            total += float(first) * steps * math.prod(float(emission[k, s]) for k, s in zip(path, x))
        assert find("hmm_log_prob").reference(x, initial, transition, emission) == pytest.approx(
            math.log(total), abs=1e-5
        )


def test_predictions_hold():
    p, noise = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])  # the worst noise: never where p is
    lost = find("kl_divergence").reference(p, 0.001 * p + 0.999 * noise)
    assert lost.item() == pytest.approx(find("cost_of_noise").reference(), abs=1e-5)
