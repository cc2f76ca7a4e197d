"""Records of mixed parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import gammaln, logsumexp

import energax as ex
from benchmarks._gauntlet import _check, _sums
from benchmarks._gauntlet._base import Target, single, target
from energax import spaces

LOG_2PI = math.log(2 * math.pi)
lgamma = jax.scipy.special.gammaln


def _record(f, log_z, draw, log_p, num=20_000, **parts) -> Target:
    energy = ex.from_log_density(f, spaces.Record(**parts))
    proposal = _check.Proposal(draw, log_p)
    return Target("mixed", energy, float(log_z), _check.importance(proposal, num))


@target
def normal_with_a_switch():
    """b ~ Bernoulli(0.3), a | b ~ N(2b − 1, 0.8²)."""

    def f(x):
        b = x["b"][0]
        return b * math.log(0.3 / 0.7) - 0.5 * jnp.sum((x["a"] - (2 * b - 1)) ** 2) / 0.64

    def draw(rng, num):
        b = (rng.random((num, 1)) < 0.3).astype(float)
        return {"a": 2 * b - 1 + 0.8 * rng.normal(size=(num, 2)), "b": b}

    def log_p(x):
        a = stats.norm(2 * x["b"] - 1, 0.8).logpdf(x["a"]).sum(1)
        return a + stats.bernoulli(0.3).logpmf(x["b"][:, 0].astype(int))

    log_z = -math.log(0.7) + LOG_2PI + 2 * math.log(0.8)
    return _record(f, log_z, draw, log_p, a=spaces.Real((2,)), b=spaces.Binary((1,)))


@target
def poisson_gamma_category():
    """c in {0, 1, 2}, r ~ Gamma(3 + c, 1), n ~ Poisson(r), times 5."""
    prob = np.array([0.5, 0.3, 0.2])
    log_p3 = jnp.asarray(np.log(5 * prob))

    def f(x):
        c, r, n = x["c"][0], x["r"][0], x["n"][0]
        gamma = (2.0 + c) * jnp.log(r) - r - lgamma(3.0 + c)
        return log_p3[c] + gamma + n * jnp.log(r) - r - lgamma(n + 1.0)

    def draw(rng, num):
        c = rng.choice(3, (num, 1), p=prob).astype(np.int32)
        r = rng.gamma(3.0 + c)
        return {"c": c, "r": r, "n": rng.poisson(r).astype(np.int32)}

    def log_p(x):
        c, r, n = (x[k][:, 0] for k in "crn")
        return np.log(prob[c]) + stats.gamma(3.0 + c).logpdf(r) + stats.poisson(r).logpmf(n)

    return _record(
        f, math.log(5), draw, log_p, c=spaces.Categorical((1,), 3), n=spaces.Count((1,)),
        r=spaces.Box(0.0, jnp.inf, (1,)),
    )  # fmt: skip


@target
def ordinal_and_box():
    """u uniform in [0, 1], k | u binomial(4, u)."""

    def f(x):
        u, k = x["u"][0], x["k"][0]
        choose = lgamma(5.0) - lgamma(k + 1) - lgamma(5 - k)
        return choose + k * jnp.log(u) + (4 - k) * jnp.log1p(-u)

    def draw(rng, num):
        u = rng.random((num, 1))
        return {"u": u, "k": rng.binomial(4, u).astype(float)}

    def log_p(x):
        return stats.binom(4, x["u"][:, 0]).logpmf(x["k"][:, 0])

    return _record(f, 0.0, draw, log_p, k=spaces.Ordinal((1,), 5), u=spaces.Box(0.0, 1.0, (1,)))


@target
def one_of_everything():
    """Independent parts of every kind of space."""
    logits = single(np.random.default_rng(1).normal(size=(2, 4)))
    table = jnp.asarray(logits)

    def f(x):
        return (
            -0.5 * jnp.sum((x["real"] - 3) ** 2)
            + jnp.sum(jnp.log(x["box"]) - 2 * x["box"])
            + 0.7 * jnp.sum(x["bits"]) - 0.4 * jnp.sum(x["spins"])
            + jnp.sum(table[jnp.arange(2), x["kind"]]) - 0.3 * jnp.sum((x["grade"] - 2) ** 2)
            + jnp.sum(x["counts"] * math.log(4.0) - lgamma(x["counts"] + 1.0))
        )  # fmt: skip

    grade = -0.3 * (np.arange(6.0) - 2) ** 2
    log_z = (
        1.5 * LOG_2PI - 4 * math.log(2) + 4 * np.logaddexp(0, 0.7)
        + 5 * np.logaddexp(0.4, -0.4) + logsumexp(logits, axis=1).sum()
        + 2 * logsumexp(grade) + 2 * 4.0
    )  # fmt: skip
    prob = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    grades = np.exp(grade - logsumexp(grade))
    up = 1 / (1 + math.exp(0.8))

    def draw(rng, num):
        return {
            "real": 3 + rng.normal(size=(num, 3)), "box": rng.gamma(2.0, 0.5, (num, 2)),
            "bits": (rng.random((num, 4)) < 1 / (1 + math.exp(-0.7))).astype(float),
            "spins": np.where(rng.random((num, 5)) < up, 1.0, -1.0),
            "kind": np.stack([rng.choice(4, num, p=p) for p in prob], 1).astype(np.int32),
            "grade": rng.choice(6, (num, 2), p=grades).astype(float),
            "counts": rng.poisson(4, (num, 2)).astype(np.int32),
        }  # fmt: skip

    def log_p(x):
        bit = stats.bernoulli(1 / (1 + math.exp(-0.7)))
        return (
            stats.norm(3).logpdf(x["real"]).sum(1)
            + stats.gamma(2, scale=0.5).logpdf(x["box"]).sum(1)
            + bit.logpmf(x["bits"].astype(int)).sum(1)
            + stats.bernoulli(up).logpmf((x["spins"] > 0).astype(int)).sum(1)
            + np.log(prob[np.arange(2), x["kind"]]).sum(1)
            + np.log(grades[x["grade"].astype(int)]).sum(1)
            + stats.poisson(4).logpmf(x["counts"]).sum(1)
        )  # fmt: skip

    return _record(
        f, log_z, draw, log_p,
        real=spaces.Real((3,)), box=spaces.Box(0.0, jnp.inf, (2,)), bits=spaces.Binary((4,)),
        spins=spaces.Spin((5,)), kind=spaces.Categorical((2,), 4), grade=spaces.Ordinal((2,), 6),
        counts=spaces.Count((2,)),
    )  # fmt: skip


@target
def gaussian_and_spins():
    """Twenty reals coupled to ten spins, E = ½|x|² − xᵀWs − h·s: a sum over the spins."""
    rng = np.random.default_rng(2)
    weight, field = single(rng.normal(0, 0.25, (20, 10))), single(rng.normal(0, 0.3, 10))
    w, h = jnp.asarray(weight), jnp.asarray(field)

    def f(x):
        return -0.5 * jnp.sum(x["x"] ** 2) + x["x"] @ w @ x["s"] + h @ x["s"]

    s = _sums.states((-1, 1), 10)
    gain = s @ field + 0.5 * ((s @ weight.T) ** 2).sum(1)
    share = np.exp(gain - logsumexp(gain))

    def draw(rng, num):
        chosen = s[rng.choice(len(s), num, p=share)]
        return {"x": chosen @ weight.T + rng.normal(size=(num, 20)), "s": chosen}

    def log_p(x):
        # p(s | x) p(x), with p(x) a mixture of 2^10 Gaussians
        log_x = np.concatenate(
            [
                logsumexp(
                    np.log(share) + stats.norm().logpdf(part[:, None] - s @ weight.T).sum(-1),
                    axis=1,
                )
                for part in np.array_split(x["x"], 8)
            ]
        )
        odds = 2 * (x["x"] @ weight + field)
        return log_x - np.logaddexp(0, -x["s"] * odds).sum(1)

    log_z = 10 * LOG_2PI + logsumexp(gain)
    return _record(f, log_z, draw, log_p, 200, x=spaces.Real((20,)), s=spaces.Spin((10,)))


@target
def bits_shift_reals_400():
    """200 bits, each of which moves its own real by 3: 200 pairs, two modes each."""
    logit = single(np.linspace(-1, 1, 200))
    t = jnp.asarray(logit)

    def f(x):
        return t @ x["b"] - 0.5 * jnp.sum((x["x"] - 3 * x["b"]) ** 2)

    def draw(rng, num):
        b = (rng.random((num, 200)) < 1 / (1 + np.exp(-logit))).astype(float)
        return {"b": b, "x": 3 * b + rng.normal(size=(num, 200))}

    def log_p(x):
        bits = stats.bernoulli(1 / (1 + np.exp(-logit))).logpmf(x["b"].astype(int)).sum(1)
        return bits + stats.norm(3 * x["b"]).logpdf(x["x"]).sum(1)

    log_z = 100 * LOG_2PI + np.logaddexp(0, logit).sum()
    return _record(f, log_z, draw, log_p, 500, b=spaces.Binary((200,)), x=spaces.Real((200,)))


@target
def scale_by_category_6d():
    """Three classes of Gaussians with sds 0.5, 1 and 2, around 0, 1 and −1."""
    sd, mean = np.array([0.5, 1.0, 2.0]), np.array([0.0, 1.0, -1.0])
    prior = single([0.2, 0.5, 0.3])
    s, m = jnp.asarray(sd), jnp.asarray(mean)
    gain = jnp.asarray(np.log(prior) - 6 * np.log(sd))

    def f(x):
        c = x["c"][0]
        return gain[c] - 0.5 * jnp.sum(((x["x"] - m[c]) / s[c]) ** 2) + 2.0

    def draw(rng, num):
        c = rng.choice(3, (num, 1), p=prior / prior.sum())
        return {"c": c.astype(np.int32), "x": mean[c] + sd[c] * rng.normal(size=(num, 6))}

    def log_p(x):
        c = x["c"]
        inner = stats.norm(mean[c], sd[c]).logpdf(x["x"]).sum(1)
        return np.log(prior / prior.sum())[c[:, 0]] + inner

    log_z = 2 + 3 * LOG_2PI + math.log(prior.sum())
    return _record(f, log_z, draw, log_p, c=spaces.Categorical((1,), 3), x=spaces.Real((6,)))


@target
def counts_of_a_log_rate():
    """y ~ N(1, 0.5²), five counts ~ Poisson(e^y), with all constants but √2π."""

    def f(x):
        y, n = x["y"], x["n"]
        return -2.0 * (y - 1) ** 2 + jnp.sum(n * y - jnp.exp(y) - lgamma(n + 1.0))

    def draw(rng, num):
        y = 1 + 0.5 * rng.normal(size=num)
        return {"y": y, "n": rng.poisson(np.exp(y)[:, None], (num, 5)).astype(np.int32)}

    def log_p(x):
        y = x["y"]
        return stats.norm(1, 0.5).logpdf(y) + stats.poisson(np.exp(y)[:, None]).logpmf(x["n"]).sum(
            1
        )

    log_z = 0.5 * LOG_2PI - math.log(2)
    return _record(f, log_z, draw, log_p, n=spaces.Count((5,)), y=spaces.Real(()))


@target
def record_conditional():
    """Given four counts, what is left of the one before: a Gamma on the line, by y = log rate."""
    counts = np.array([3, 0, 7, 2])

    def f(x):
        y, n = x["y"], x["n"]
        return jnp.sum(2.0 * y - jnp.exp(y)) + jnp.sum(n * y - jnp.exp(y) - lgamma(n + 1.0))

    whole = ex.from_log_density(f, spaces.Record(n=spaces.Count((4,)), y=spaces.Real((4,))))
    energy = whole.condition(n=counts)
    # ∫ e^{(2 + n) y − 2 e^y} dy = Γ(2 + n) 2^{−2 − n}
    shape = 2.0 + counts
    log_z = (gammaln(shape) - shape * math.log(2) - gammaln(counts + 1.0)).sum()
    dist = stats.loggamma(shape, loc=-math.log(2))
    proposal = _check.parts(y=_check.scipy(dist, (4,)))
    return Target("mixed", energy, float(log_z), _check.importance(proposal, 20_000))


@target
def box_and_bits_60():
    """Thirty bits with their own probabilities: Beta-Bernoulli pairs, Z = B(2, 3) each."""

    def f(x):
        u, b = x["u"], x["b"]
        return jnp.sum((1 + b) * jnp.log(u) + (3 - b) * jnp.log1p(-u))

    def draw(rng, num):
        u = rng.beta(2, 3, (num, 30))
        return {"u": u, "b": (rng.random((num, 30)) < u).astype(float)}

    def log_p(x):
        u = x["u"]
        bits = np.where(x["b"] > 0, np.log(u), np.log1p(-u)).sum(1)
        return stats.beta(2, 3).logpdf(u).sum(1) + bits

    log_z = 30 * (gammaln(2) + gammaln(3) - gammaln(5))
    return _record(f, log_z, draw, log_p, b=spaces.Binary((30,)), u=spaces.Box(0.0, 1.0, (30,)))
