"""Models of words, one symbol after the other, whose likelihood is exact.

MarkovChain          p(x) = Π_t p(x_t | x_{t−k}, …, x_{t−1}), k the order
HiddenMarkovModel    p(x) = Σ_s p(s_1) p(x_1|s_1) Π_t p(s_t|s_{t−1}) p(x_t|s_t)

A word is a row of int64 symbols that ends with the symbol 0; what stands behind the first 0 is padding. The end is
predicted like any other symbol, so the probabilities of all words of every length sum to 1. Log-probabilities are in
nats per word. The tables are buffers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import pad

from dgm_lib import checks
from dgm_lib.distributions import drawn
from dgm_lib.models.em import em

LONGEST = 10_000  # symbols: a sampled word that is still longer has no end


class MarkovChain(nn.Module):
    """The next symbol depends on the last `order` symbols. Markov 1913; Shannon 1948.

    A chain that was not fitted gives each symbol, and the end, the same probability.
    """

    def __init__(self, n_symbols: int, order: int):
        super().__init__()
        checks.check_whole(1, n_symbols=n_symbols)
        if order != int(order) or order < 0 or n_symbols ** (order + 1) > 10**8:
            size = f"the {n_symbols}^(order + 1) probabilities"
            raise ValueError(f"order is {order}: it must be at least 0, and so low that {size} are ≤ 100 million")
        self.order = order
        table = torch.zeros([n_symbols] * (order + 1)).log_softmax(-1)
        self.register_buffer("log_p", table)  # (V, …, V), indexed by x_{t−k}, …, x_t

    @classmethod
    def fit(cls, x: Tensor, n_symbols: int, order: int, *, strength: float = 20.0) -> MarkovChain:
        """Counts; each context weighs as much as `strength` symbols against the counts of the next longer one.

        p_j(s|c) = (n(c, s) + strength · p_{j−1}(s|c')) / (n(c) + strength), where c' lacks the oldest symbol of c and
        p_{−1} is uniform: a hierarchy of Dirichlet priors. MacKay & Peto 1995.
        """
        check_words(x, n_symbols)
        checks.check_weight(strength=strength)
        model = cls(n_symbols, order).to(x.device)
        windows = [symbols[until_end(x)] for symbols in model.windows(x)]
        counts = torch.zeros_like(model.log_p).index_put_(windows, model.log_p.new_ones(()), accumulate=True)
        p = torch.full_like(model.log_p[(0,) * order], 1 / n_symbols)
        for older in reversed(range(order + 1)):  # the oldest symbols are summed out, all of them at first
            n = counts.sum(list(range(older)), keepdim=True) if older else counts
            total = n.sum(-1, keepdim=True) + strength
            p = torch.where(total > 0, (n + strength * p) / total, p)
        model.log_p.copy_(p.log())
        return model

    def windows(self, x: Tensor) -> tuple[Tensor, ...]:
        """The last `order` symbols before each symbol, then itself: each (B, T). Before a word there are zeros."""
        return pad(x, (self.order, 0)).unfold(1, self.order + 1, 1).unbind(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, T) -> (B,) nats, the end included."""
        check_words(x, self.log_p.shape[-1])
        return self.log_p[self.windows(x)].masked_fill(~until_end(x), 0).sum(1)

    def conditional(self, context: Tensor) -> Tensor:
        """The probabilities of the next symbol after the beginnings of words: (B, t) symbols -> (B, V)."""
        check_symbols(context, self.log_p.shape[-1])
        last = pad(context, (self.order, 0))[:, context.shape[1] :]  # (B, order)
        return self.log_p[last.unbind(1)].exp().expand(len(context), -1)

    def sample(self, n: int) -> Tensor:
        """(n, T) symbols, T the length of the longest word drawn, its end included."""
        return drawn_words(n, self.log_p, lambda x: Categorical(self.conditional(x)).sample())


class HiddenMarkovModel(nn.Module):
    """Each symbol depends on a hidden state, and each state on the one before. Baum & Petrie 1966; Rabiner 1989.

    The end is a symbol that some state emits; the word stops with it. A model that was not fitted is uniform.
    alpha: what the M-step adds to each count, so that no symbol becomes impossible.
    """

    def __init__(self, n_states: int, n_symbols: int, *, alpha: float = 0.1):
        super().__init__()
        checks.check_whole(1, n_states=n_states, n_symbols=n_symbols)
        checks.check_weight(alpha=alpha)
        self.alpha = alpha
        self.register_buffer("log_initial", torch.zeros(n_states).log_softmax(0))  # (S,), p(s_1)
        self.register_buffer("log_transition", torch.zeros(n_states, n_states).log_softmax(1))  # (S, S), p(s_t|s_{t−1})
        self.register_buffer("log_emission", torch.zeros(n_states, n_symbols).log_softmax(1))  # (S, V), p(x_t|s_t)

    # ---- fitting ----

    @classmethod
    def start(cls, n_states: int, n_symbols: int, *, alpha: float = 0.1, seed: int = 0) -> HiddenMarkovModel:
        """A model with seeded random tables: states that are all alike would stay alike."""
        model = cls(n_states, n_symbols, alpha=alpha)
        generator = checks.seeded(seed)
        for table in model.buffers():
            # exponential weights, whose shares are any table alike; `rand` is the same in every version of torch
            weights = -torch.log1p(-torch.rand(table.shape, generator=generator, device="cpu", dtype=torch.float64))
            table.copy_(weights.log().log_softmax(-1))
        return model

    @classmethod
    def fit(
        cls,
        x: Tensor,
        n_states: int,
        n_symbols: int,
        *,
        alpha: float = 0.1,
        seed: int = 0,
        steps: int = 200,
        tolerance: float = 1e-4,
    ) -> HiddenMarkovModel:
        """`start`, then `em`. Another seed may end in another, better or worse, optimum. Baum et al. 1970."""
        model = cls.start(n_states, n_symbols, alpha=alpha, seed=seed).to(x.device)
        em(model, x, steps=steps, tolerance=tolerance)
        return model

    def e_step(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """log p(x), (N,), and how often each event is expected: starts (S,), transitions (S, S), emissions (S, V)."""
        log_e = self.log_evidence(x)
        log_alpha, log_beta = self.forward_messages(log_e), self.backward_messages(log_e)
        log_prob, observed = log_alpha[:, -1].logsumexp(-1), until_end(x)
        checks.check_possible(log_prob)
        gamma = (log_alpha + log_beta).softmax(-1) * observed[..., None]  # p(s_t|x), (N, T, S)
        emissions = torch.zeros_like(self.log_emission.mT).index_add_(0, x.flatten(), gamma.flatten(0, 1)).mT
        pairs, log_future = torch.zeros_like(self.log_transition), log_e + log_beta
        for t in range(1, x.shape[1]):  # p(s_{t−1}, s_t|x) ∝ alpha_{t−1} · transition · evidence_t beta_t
            now = observed[:, t]
            log_pairs = log_alpha[now, t - 1, :, None] + self.log_transition
            log_pairs += log_future[now, t, None, :]
            pairs += log_pairs.flatten(1).softmax(1).sum(0).view_as(pairs)
        return log_prob, (gamma[:, 0].sum(0), pairs, emissions)

    def m_step(self, x: Tensor, expected: tuple[Tensor, Tensor, Tensor]) -> None:
        """Each table becomes the shares of what is expected. The counts are all that it needs of x."""
        for table, counts in zip((self.log_initial, self.log_transition, self.log_emission), expected):
            counts = counts + self.alpha + torch.finfo(counts.dtype).eps  # a state that nobody visits stays a state
            table.copy_((counts / counts.sum(-1, keepdim=True)).log())

    # ---- inference ----

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_t|s_t): (B, T) -> (B, T, S). After the end nothing is observed: log 1."""
        check_words(x, self.log_emission.shape[1])
        return self.log_emission.mT[x].masked_fill(~until_end(x)[..., None], 0)

    def forward_messages(self, log_e: Tensor) -> Tensor:
        """log p(x_1, …, x_t, s_t) from the evidence: (B, T, S) -> (B, T, S) nats. Rabiner 1989, eq. 19–20.

        Transitions sum to 1: the steps after the end, where nothing is observed, leave the sum over s_t as it is.
        """
        messages = [self.log_initial + log_e[:, 0]]
        for t in range(1, log_e.shape[1]):
            messages.append(log_matmul(messages[-1], self.log_transition) + log_e[:, t])
        return torch.stack(messages, 1)

    def backward_messages(self, log_e: Tensor) -> Tensor:
        """log p(x_{t+1}, …, x_T|s_t) from the evidence: (B, T, S) -> (B, T, S) nats. Rabiner 1989, eq. 24–25."""
        messages = [torch.zeros_like(log_e[:, 0])]
        for t in range(log_e.shape[1] - 1, 0, -1):
            messages.append(log_matmul(log_e[:, t] + messages[-1], self.log_transition.mT))
        return torch.stack(messages[::-1], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, T) -> (B,) nats, the end included."""
        return self.forward_messages(self.log_evidence(x))[:, -1].logsumexp(-1)

    def posterior(self, x: Tensor) -> Tensor:
        """p(s_t|x), given the whole word: (B, T, S), zeros after the end."""
        log_e = self.log_evidence(x)
        log_joint = self.forward_messages(log_e) + self.backward_messages(log_e)  # log p(x, s_t)
        checks.check_possible(log_joint[:, 0].logsumexp(-1))
        return log_joint.softmax(-1) * until_end(x)[..., None]

    def viterbi(self, x: Tensor) -> Tensor:
        """The most probable path of states: (B, T), −1 after the end. Viterbi 1967."""
        log_e, observed = self.log_evidence(x), until_end(x)
        score, stay = self.log_initial + log_e[:, 0], torch.arange(len(self.log_initial), device=x.device)
        pointers = []
        for t in range(1, x.shape[1]):
            best, previous = (score[:, :, None] + self.log_transition).max(1)
            score = torch.where(observed[:, t, None], best + log_e[:, t], score)
            pointers.append(torch.where(observed[:, t, None], previous, stay))
        path = [score.argmax(1, keepdim=True)]
        for previous in reversed(pointers):
            path.append(previous.gather(1, path[-1]))
        return torch.cat(path[::-1], 1).masked_fill(~observed, -1)

    def sample(self, n: int) -> Tensor:
        """(n, T) symbols, T the length of the longest word drawn, its end included."""
        state = drawn(self.log_initial, n)

        def next_symbol(x: Tensor) -> Tensor:
            nonlocal state
            state = Categorical(logits=self.log_transition[state]).sample() if x.shape[1] else state
            return Categorical(logits=self.log_emission[state]).sample()

        return drawn_words(n, self.log_emission, next_symbol)


def log_matmul(log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(exp(log_a) @ exp(log_b)), (B, S) and (S, S) -> (B, S), without underflow."""
    top = log_a.amax(-1, keepdim=True)
    if (log_a - top + log_b.min() > -80).all():  # the smallest product is a float, even beside the largest: be quick
        return ((log_a - top).exp() @ log_b.exp()).log() + top
    return (log_a[..., None] + log_b).logsumexp(-2)


# ---- words ---------------------------------------------------------------------------------------------------------


def until_end(x: Tensor) -> Tensor:
    """Which symbols belong to the word, its end included: (B, T) bool."""
    return (x == 0).cumsum(1) <= (x == 0)


def check_symbols(x: Tensor, n_symbols: int) -> None:
    if x.dim() != 2 or x.dtype != torch.int64:
        raise ValueError(f"expected int64 symbols of shape (B, T), got {x.dtype} of shape {tuple(x.shape)}")
    strange = x[(x < 0) | (x >= n_symbols)]
    if len(strange):
        raise ValueError(f"a symbol is {int(strange[0])}, but the {n_symbols} symbols are 0 … {n_symbols - 1}")


def check_words(x: Tensor, n_symbols: int) -> None:
    check_symbols(x, n_symbols)
    if endless := checks.first((x != 0).all(1)):
        raise ValueError(f"word {endless[0]} has no end: every row must hold the symbol 0 after its last symbol")


def drawn_words(n: int, like: Tensor, next_symbol: Callable[[Tensor], Tensor]) -> Tensor:
    """Words (n, T), by what draws the next symbols (n,) of their beginnings (n, t). Zeros stand behind an end."""
    checks.check_whole(0, n=n)
    x = torch.zeros(n, 0, dtype=torch.int64, device=like.device)
    going = torch.ones(n, dtype=torch.bool, device=like.device)
    while going.any():
        symbol = next_symbol(x) * going
        x, going = torch.cat([x, symbol[:, None]], 1), symbol != 0
        if x.shape[1] > LONGEST:
            raise RuntimeError(f"a word is longer than {LONGEST} symbols: does the model know an end? Fit it to words")
    return x
