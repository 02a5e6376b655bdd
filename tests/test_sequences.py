"""Chains and hidden Markov models of words: sums over every word and every hidden path, and EM against the gradient."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product
from math import log

import pytest
import torch
from helpers import close

from dgm_lib import datasets
from dgm_lib.models.sequences import HiddenMarkovModel, MarkovChain, log_matmul

V = 3  # the end, and two letters


def word_rows(words, width=None):
    """Tuples of letters as rows that end with 0: (N, T) int64."""
    width = width or max(map(len, words)) + 1
    return torch.tensor([[*word, *[0] * (width - len(word))] for word in words])


def all_words(longest):
    """Every word over the letters 1 and 2, the empty one included, up to a length."""
    return [word for length in range(longest + 1) for word in product((1, 2), repeat=length)]


@pytest.fixture(scope="module")
def corpus():
    """300 words of 0 to 5 letters in which 1 and 2 tend to alternate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 3, (300, 6), generator=generator)
    for t in range(1, 6):
        x[:, t] = torch.where(torch.rand(300, generator=generator) < 0.7, 3 - x[:, t - 1], x[:, t])
    return x.masked_fill(torch.arange(6) >= torch.randint(0, 6, (300, 1), generator=generator), 0)


def random_hmm(n_states=3, n_symbols=V, seed=0):
    return HiddenMarkovModel.start(n_states, n_symbols, alpha=0, seed=seed).double()


def cyclic_hmm():
    """Three states that mostly follow each other in one direction, and speak differently."""
    model = HiddenMarkovModel(3, V).double()
    model.log_initial.copy_(torch.tensor([7, 2, 1]).double().log())
    model.log_transition.copy_(torch.tensor([[1, 8, 1], [1, 1, 8], [8, 1, 1]]).double().log())
    model.log_emission.copy_(torch.tensor([[1, 8, 1], [1, 1, 8], [6, 2, 2]]).double().log())
    for table in model.buffers():
        table.sub_(log(10))
    return model


# ---- what both models promise --------------------------------------------------------------------------------------


def chain_models(corpus):
    return {f"order {order}": MarkovChain.fit(corpus, V, order, strength=2).double() for order in range(4)}


def models(corpus):
    return {**chain_models(corpus), "hidden": cyclic_hmm(), "uniform": MarkovChain(V, 2).double()}


NAMES = ("order 0", "order 1", "order 2", "order 3", "hidden", "uniform")
every_model = pytest.mark.parametrize("name", NAMES)


@every_model
def test_probabilities_of_all_words_sum_to_1(name, corpus):
    """Words up to 9 letters by enumeration; 10 and more have the probability that 10 letters come first."""
    model, longest = models(corpus)[name], 9
    short = model.log_prob(word_rows(all_words(longest))).exp().sum()
    if name == "hidden":
        start, transition, emission = (table.exp() for table in model.buffers())
        letters = emission[:, 1:].sum(1)  # each state's probability of not ending
        long = (start * letters) @ torch.linalg.matrix_power(transition * letters, longest) @ torch.ones(3).double()
    else:
        prefixes = torch.tensor(list(product((1, 2), repeat=longest + 1)))
        step = [model.conditional(prefixes[:, :t]).gather(1, prefixes[:, t : t + 1]) for t in range(longest + 1)]
        long = torch.cat(step, 1).prod(1).sum()
    assert 0 < long < 0.5
    close(short + long, 1.0)


@every_model
def test_samples_come_as_often_as_their_probability_says(name, corpus):
    torch.manual_seed(0)
    model, n, words = models(corpus)[name], 20_000, all_words(4)
    x = model.sample(n)
    assert (x == 0).any(1).all()
    assert (x[:, -1] == 0).all()
    assert (x[:, -2] != 0).any()  # not longer than it needs to be
    drawn = Counter(tuple(letter for letter in row if letter) for row in x.tolist())
    p = model.log_prob(word_rows(words)).exp()
    share = torch.tensor([drawn[word] / n for word in words])
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()


@every_model
def test_what_follows_the_end_does_not_count(name, corpus):
    model = models(corpus)[name]
    x = torch.tensor([[1, 2, 0], [2, 0, 0]])
    close(model.log_prob(torch.tensor([[1, 2, 0, 0, 0], [2, 0, 1, 2, 1]])), model.log_prob(x))


@every_model
def test_tables_are_saved_and_loaded(name, corpus, tmp_path):
    model = models(corpus)[name]
    assert not list(model.parameters())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = HiddenMarkovModel(3, V) if name == "hidden" else MarkovChain(V, model.order)
    again.double().load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again.log_prob(corpus), model.log_prob(corpus))
    close(model.float().log_prob(corpus), again.log_prob(corpus), atol=1e-4, rtol=1e-4)


@every_model
def test_wrong_words_are_refused(name, corpus):
    model = models(corpus)[name]
    with pytest.raises(ValueError, match="a symbol is 3, but the 3 symbols are 0 … 2"):
        model.log_prob(torch.tensor([[1, 3, 0]]))
    with pytest.raises(ValueError, match="a symbol is -1"):
        model.log_prob(torch.tensor([[1, -1, 0]]))
    with pytest.raises(ValueError, match="word 1 has no end"):
        model.log_prob(torch.tensor([[1, 0], [1, 2]]))
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(300, 6\)"):
        model.log_prob(corpus.float())
    with pytest.raises(ValueError, match=r"got torch.int64 of shape \(6,\)"):
        model.log_prob(corpus[0])


def test_a_model_without_an_end_does_not_run_for_ever():
    endless = MarkovChain(V, 0)
    endless.log_p.copy_(torch.tensor([0.0, 0.5, 0.5]).log())
    with pytest.raises(RuntimeError, match="longer than 10000 symbols"):
        endless.sample(2)


# ---- Markov chain --------------------------------------------------------------------------------------------------


def slow_conditional(words, context, symbol, strength):
    """p(symbol|context) by the definition, on dictionaries; a context is a tuple, with zeros before the word."""
    counts = Counter()
    for word in words:
        padded = [*[0] * len(context), *word, 0]
        for t in range(len(word) + 1):
            counts[tuple(padded[t : t + len(context)]), padded[t + len(context)]] += 1
    seen = sum(counts[context, s] for s in range(V))
    base = slow_conditional(words, context[1:], symbol, strength) if context else 1 / V
    return (counts[context, symbol] + strength * base) / (seen + strength)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_chain_equals_its_definition(order, corpus):
    words = [tuple(letter for letter in row if letter) for row in corpus[:60].tolist()]
    model = MarkovChain.fit(corpus[:60], V, order, strength=2)
    for beginning in all_words(4):
        context = (*[0] * order, *beginning)[len(beginning) :]
        expected = [slow_conditional(words, context, symbol, 2) for symbol in range(V)]
        close(model.conditional(torch.tensor([beginning], dtype=torch.int64).view(1, -1))[0], expected)


def test_almost_no_smoothing_gives_the_counted_shares():
    x = word_rows([(1, 2), (1, 2), (1, 1), (2,)])
    after_1 = MarkovChain.fit(x, V, 1, strength=1e-9).conditional(torch.tensor([[1]]))
    close(after_1, [[1 / 4, 1 / 4, 2 / 4]], atol=1e-6, rtol=0)
    unseen = MarkovChain.fit(x, V, 2, strength=0).conditional(torch.tensor([[2, 2]]))  # backs off to what follows a 2
    close(unseen, [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_word_is_the_product_of_its_conditionals(order, corpus):
    model, word = chain_models(corpus)[f"order {order}"], [1, 2, 2, 1, 0]
    steps = [
        model.conditional(torch.tensor([word[:t]], dtype=torch.int64).view(1, t))[0, s] for t, s in enumerate(word)
    ]
    close(model.log_prob(torch.tensor([word])).exp()[0], torch.stack(steps).prod())


def test_impossible_words_have_probability_0_not_nan():
    model = MarkovChain.fit(word_rows([(1,), (1, 1)]), V, 1, strength=0)
    assert model.log_prob(torch.tensor([[1, 2, 0], [1, 0, 2]])).tolist() == pytest.approx([-torch.inf, log(2 / 3)])


@pytest.mark.parametrize("order", [-1, 9])
def test_impossible_orders_are_refused(order):
    with pytest.raises(ValueError, match=f"order is {order}: it must be at least 0, and so low that the 27"):
        MarkovChain(27, order)


# ---- hidden Markov model: inference --------------------------------------------------------------------------------


def paths(model, word):
    """Every hidden path of a word, its end included, with p(word, path)."""
    start, transition, emission = (table.exp() for table in model.buffers())
    observed = [*word, 0]
    for path in product(range(len(start)), repeat=len(observed)):
        p = start[path[0]]
        for t, (state, symbol) in enumerate(zip(path, observed)):
            p = p * emission[state, symbol] * (transition[path[t - 1], state] if t else 1)
        yield path, p


WORDS = [(1, 2, 2, 1), (2,), (), (1, 1, 2)]  # several lengths in one batch


def test_probability_posterior_and_best_path_by_enumeration():
    model, x = random_hmm(), word_rows(WORDS)
    log_prob, posterior, best = model.log_prob(x), model.posterior(x), model.viterbi(x)
    for row, word in enumerate(WORDS):
        joint = dict(paths(model, word))
        total, length = sum(joint.values()), len(word) + 1
        close(log_prob[row].exp(), total)
        for t, state in product(range(length), range(3)):
            close(posterior[row, t, state], sum(p for path, p in joint.items() if path[t] == state) / total)
        close(joint[tuple(best[row, :length].tolist())], max(joint.values()))
        assert (posterior[row, length:] == 0).all()
        assert (best[row, length:] == -1).all()


def test_no_path_beats_the_one_found_on_many_random_models():
    for seed in range(20):
        model = random_hmm(2, seed=seed)
        for word in WORDS:
            joint = dict(paths(model, word))
            found = tuple(model.viterbi(word_rows([word]))[0].tolist())
            close(joint[found], max(joint.values()))  # several paths may be the best


def test_long_words_do_not_underflow():
    model = random_hmm().float()
    x = torch.cat([torch.randint(1, 3, (2, 3000), generator=torch.Generator().manual_seed(0)), torch.zeros(2, 1)], 1)
    log_prob, (starts, pairs, emissions) = model.e_step(x.long())
    assert (log_prob < -2000).all()  # far below the smallest float
    close(log_prob, model.double().log_prob(x.long()), atol=0.05, rtol=0)
    close(starts.sum(), 2.0, atol=1e-3, rtol=0)
    close(pairs.sum(), 6000.0, atol=1.0, rtol=0)
    close(emissions.sum(), 6002.0, atol=1.0, rtol=0)


def never_changes_state():
    """Two states that stay what they are, so that every word has two paths, one of them usually hopeless; float32."""
    model = HiddenMarkovModel(2, V)
    model.log_transition.copy_(torch.eye(2).log())
    model.log_emission.copy_(torch.tensor([[0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]).log())
    return model


def test_a_path_that_falls_far_behind_may_still_win():
    """After 25 times 1 the second state is e^115 times less probable; 60 times 2 make it the only one that counts."""
    model = never_changes_state()
    word = [1] * 25 + [2] * 60
    paths = [log(0.5) + n * log(0.98) + (len(word) - n + 1) * log(0.01) for n in (25, 60)]
    x = word_rows([word, []])  # the second has the length 1: no word disturbs another
    log_prob, (starts, pairs, emissions) = model.e_step(x)
    close(log_prob, [torch.tensor(paths).logsumexp(0), log(0.01)], atol=1e-4, rtol=0)
    close(starts, [0.5, 1.5])
    close(pairs, [[0.0, 0.0], [0.0, 85.0]])
    close(emissions, [[0.5, 0, 0], [1.5, 25, 60]])
    close(model.posterior(x)[0], [[0.0, 1.0]] * 86)


def test_quick_and_careful_sums_agree():
    """log_matmul takes the matrix product where nothing can underflow: one very improbable term makes it careful."""
    generator = torch.Generator().manual_seed(0)
    log_a, log_b = (torch.randn(shape, generator=generator).double() for shape in ((5, 3), (3, 3)))
    careful = torch.cat([log_a, torch.tensor([[0.0, -200.0, -torch.inf]])])
    expected = (careful[..., None] + log_b).logsumexp(-2)
    close(log_matmul(log_a, log_b), expected[:5])
    close(log_matmul(careful, log_b), expected)
    assert log_matmul(log_a[:0], log_b).shape == (0, 3)
    assert (log_matmul(torch.full((1, 3), -torch.inf), log_b.float()) == -torch.inf).all()


def test_impossible_words_have_probability_0_under_hidden_states():
    model = random_hmm()
    model.log_emission.copy_(torch.tensor([0.5, 0.5, 0.0]).log().expand(3, 3))
    x = word_rows([(1,), (1, 2, 1)])
    close(model.log_prob(x).exp(), [0.25, 0.0])
    for use in (model.e_step, model.posterior):  # nothing can be expected of them: no NaN among the counts
        use(x[:1])
        with pytest.raises(ValueError, match="example 1 has probability 0 under the model"):
            use(x)


# ---- hidden Markov model: learning ---------------------------------------------------------------------------------


def test_expected_counts_are_the_gradient_of_the_likelihood():
    """∂ log p(x) / ∂ log θ is how often θ is expected to be used. Each word stands alone, without padding."""
    model = random_hmm()
    _, expected = model.e_step(word_rows(WORDS))
    tables = list(model.buffers())
    for table in tables:
        table.requires_grad_()
    total = sum(model.log_prob(word_rows([word])).sum() for word in WORDS)
    for counts, gradient in zip(expected, torch.autograd.grad(total, tables)):
        close(counts, gradient)


def test_em_never_lowers_the_likelihood(corpus):
    model, history = random_hmm(), []
    for _ in range(100):
        log_prob, expected = model.e_step(corpus)
        history.append(log_prob.mean().item())
        model.m_step(corpus, expected)
        for table in model.buffers():
            close(table.exp().sum(-1), torch.ones(table.shape[:-1]))
    assert min(b - a for a, b in pairwise(history)) > -1e-12
    assert history[-1] > history[0] + 0.1


def test_where_em_stops_the_gradient_vanishes(corpus):
    model = random_hmm(2)
    for _ in range(3000):
        model.m_step(corpus, model.e_step(corpus)[1])
    logits = [table.clone().requires_grad_() for table in model.buffers()]
    model.log_initial, model.log_transition, model.log_emission = (table.log_softmax(-1) for table in logits)
    for gradient in torch.autograd.grad(model.log_prob(corpus).mean(), logits):
        assert gradient.abs().max() < 1e-6


def test_one_state_is_a_chain_of_order_0(corpus):
    model = HiddenMarkovModel.fit(corpus, 1, V, alpha=0)
    close(model.log_prob(corpus), MarkovChain.fit(corpus, V, 0, strength=1e-6).log_prob(corpus), atol=1e-4, rtol=1e-4)


def test_pseudo_counts_keep_unseen_symbols_possible(corpus):
    x = corpus.where(corpus != 2, 1)
    word = word_rows([(2,)])
    assert HiddenMarkovModel.fit(x, 2, V, alpha=0.1).log_prob(word).exp() > 1e-5
    assert HiddenMarkovModel.fit(x, 2, V, alpha=0).log_prob(word).exp() < 1e-5


def test_seeds_repeat_and_leave_the_global_stream_alone(corpus):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fits = [HiddenMarkovModel.fit(corpus, 2, V, seed=seed, steps=3) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(fits[0].log_emission, fits[1].log_emission)
    assert not torch.equal(fits[0].log_emission, fits[2].log_emission)


def test_starts_are_alike_in_every_version_of_torch(monkeypatch):
    """Seeded `rand` gives the same numbers in all of them; the streams of other distributions have changed."""
    for name in ("exponential_", "normal_", "uniform_", "multinomial"):
        monkeypatch.setattr(torch.Tensor, name, None)
    monkeypatch.setattr(torch, "multinomial", None)
    close(HiddenMarkovModel.start(3, V).log_initial, [-0.4227, -1.4705, -2.1639], atol=1e-4, rtol=0)


# ---- English words -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def english():
    return datasets.load("words")


def test_each_order_predicts_new_words_better_up_to_3(english):
    x = english.validation.x
    symbols = (x != 0).sum() + len(x)
    nats = [-MarkovChain.fit(english.train.x, 27, k).log_prob(x).sum().item() / symbols.item() for k in range(5)]
    assert min(a - b for a, b in pairwise(nats[:4])) > 0.03
    assert nats[0] < log(27) - 0.3
    assert abs(nats[4] - nats[3]) < 0.02  # too few words for more


def test_two_states_separate_vowels_from_consonants(english):
    """The likeliest of four starts. Cave & Neuwirth 1980 found it on running text."""
    x = english.train.x
    fits = [HiddenMarkovModel.fit(x, 2, 27, seed=seed) for seed in range(4)]
    model = max(fits, key=lambda model: model.log_prob(x).sum())
    emissions = model.e_step(x)[1][2]
    share = emissions / emissions.sum(0)  # of each letter's occurrences, how many come from which state
    vowels, consonants = ([english.symbols.index(c) for c in letters] for letters in ("aeiou", "bcdfgjlmnpqrstvwxz"))
    vowel_state = share[:, vowels].sum(1).argmax()
    assert share[vowel_state, vowels].min() > 0.95
    assert share[vowel_state, consonants].max() < 0.2


# ---- nothing asked for, and counts that are none -------------------------------------------------------------------


@every_model
def test_no_words_are_drawn_where_none_are_asked_for(name, corpus):
    model = models(corpus)[name]
    assert len(model.sample(0)) == 0
    assert model.sample(0).dtype == torch.int64
    for n in (-1, 2.5):
        with pytest.raises(ValueError, match=f"n is {n}: it must be a whole number ≥ 0"):
            model.sample(n)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_counts_below_0_are_refused(value, corpus):
    with pytest.raises(ValueError, match=f"strength is {value:g}"):
        MarkovChain.fit(corpus, V, 1, strength=value)
    with pytest.raises(ValueError, match=f"alpha is {value:g}"):
        HiddenMarkovModel.fit(corpus, 2, V, alpha=value)


def test_no_words_teach_nothing(corpus):
    with pytest.raises(ValueError, match=r"x has the shape \(0, 6\): a model is fitted to at least one example"):
        HiddenMarkovModel.fit(corpus[:0], 2, V)
    for n in (0, 1.5):
        with pytest.raises(ValueError, match=f"n_states is {n}"):
            HiddenMarkovModel(n, V)
