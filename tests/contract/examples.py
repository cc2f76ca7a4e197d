"""One example of every concrete class, at parameters off the origin, for the contract suite."""

import importlib
import pkgutil
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

import energax
from energax import energies, objectives, random, samplers, spaces, tasks
from energax.energies import _base as base
from energax.energies.boltzmann import AnnealedRBM, TiedRBM, TopicsOfLength
from energax.energies.exponential_family import (
    Bernoulli,
    Beta,
    CategoricalFamily,
    Exponential,
    Gamma,
    MultivariateNormal,
    Normal,
    Poisson,
)
from energax.objectives.chains._base import Held
from energax.objectives.conditional import Marginal
from energax.partition import estimated, exact, quadrature
from energax.partition.choose import Components
from energax.tasks.denoise import Posterior
from energax.tasks.impute import Clamped, ClampedLayers


def concrete_classes(root):
    """Every final subclass of `root` that the library defines, by name."""
    for module in pkgutil.walk_packages(energax.__path__, "energax."):
        importlib.import_module(module.name)
    found, waiting = set(), [root]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if not cls.__abstractmethods__ and cls.__module__.startswith("energax."):
            found.add(cls)
    found = {c for c in found if not c.__name__.startswith("_")}
    return sorted(found, key=lambda cls: cls.__name__)


def normal():
    return energies.from_log_density(lambda x: -0.7 * jnp.sum((x - 0.4) ** 2), spaces.Real((3,)))


def in_a_box():
    box = spaces.Box([0.0, -jnp.inf, 1.0, -jnp.inf], [2.0, 3.0, jnp.inf, jnp.inf])
    return energies.from_log_density(lambda x: -0.7 * jnp.sum((x - 0.4) ** 2), box)


def rbm():
    rng = np.random.default_rng(0)
    return energies.BernoulliRBM(
        rng.normal(0, 0.8, (5, 3)), rng.normal(0.3, 1, 5), rng.normal(-0.2, 1, 3)
    )


def gaussian_rbm():
    rng = np.random.default_rng(2)
    return energies.RBM(
        rng.normal(0, 0.8, (3, 2)),
        energies.GaussianUnits([0.4, -1.2, 0.1], [0.2, -0.3, 0.1]),
        energies.SpinUnits([0.3, -0.6]),
    )


def record_rbm():
    """On the same space as `record`."""
    units = energies.RecordUnits(
        {
            "a": energies.GaussianUnits([0.4, -1.2], 0.3),
            "b": energies.BernoulliUnits([0.2, -0.3, 1]),
        }
    )
    weight = np.random.default_rng(2).normal(0, 0.8, (5, 2))
    return energies.RBM(weight, units, energies.SpinUnits([0.3, -0.6]))


def general_potts():
    rng = np.random.default_rng(7)
    return energies.GeneralPotts(rng.normal(0, 0.5, (6, 3, 3)), rng.normal(0, 0.5, (4, 3)))


def topics():
    rng = np.random.default_rng(3)
    weight, share, bias = rng.normal(0, 0.8, (4, 3)), rng.normal(0, 1, 4), rng.normal(0, 0.5, 3)
    return energies.ReplicatedSoftmax(weight, share, bias, longest=30)


def deep():
    rng = np.random.default_rng(4)
    sizes = (5, 4, 3, 2)
    return energies.DeepBoltzmannMachine(
        [rng.normal(0, 0.8, (a, b)) for a, b in pairwise(sizes)],
        [rng.normal(0.2, 0.5, n) for n in sizes],
    )


def ising():
    return energies.Ising(
        [(0, 1), (1, 2), (2, 3), (0, 3)], [0.4, -0.3, 0.6, 0.2], [0.1, -0.2, 0.3, 0.4], num_sites=4
    )


def machine():
    return energies.BoltzmannMachine(
        [[0.0, 0.4, -0.3], [0.4, 0.0, 0.6], [-0.3, 0.6, 0.0]],
        [0.1, -0.2, 0.3],
        space=spaces.Binary(3),
    )


def potts():
    return energies.Potts(
        [(0, 1), (1, 2), (0, 2)],
        [0.4, -0.3, 0.6],
        [[0.1, -0.2, 0.3], [0.4, 0.0, -0.5], [0.2, 0.7, -0.1]],
        space=spaces.Categorical(3, 3),
    )


def record():
    return energies.from_log_density(
        lambda x: -0.7 * jnp.sum((x["a"] - 0.4 - x["b"][:2]) ** 2) + 0.3 * jnp.sum(x["b"]),
        spaces.Record(a=spaces.Real((2,)), b=spaces.Binary((3,))),
    )


def real_rows():
    """Forty rows of three reals."""
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal([0.3, -1.0, 0.6], [1.0, 0.5, 1.5], (40, 3)), float)


def binary_rows():
    return jnp.asarray((np.random.default_rng(1).random((40, 5)) < 0.4).astype(float), float)


def finite():
    return energies.from_log_density(
        lambda x: 0.8 * x[0] * x[1] - 0.5 * jnp.sum(x), spaces.Binary((6,))
    )


def truth(energy):
    """log Z by a plain float64 sum over all states."""
    f = [-float(energy(x)) for x in energy.space.enumerate()]
    return float(np.logaddexp.reduce(f))


def with_truth(method, make):
    def example():
        energy = make()
        return method(), energy, truth(energy)

    return example


EXAMPLES = {
    spaces.Real: lambda: spaces.Real((2, 3)),
    spaces.Box: lambda: spaces.Box([0.0, -jnp.inf, 1.0, -jnp.inf], [2.0, 3.0, jnp.inf, jnp.inf]),
    spaces.Binary: lambda: spaces.Binary((4,)),
    spaces.Spin: lambda: spaces.Spin((2, 2)),
    spaces.Categorical: lambda: spaces.Categorical((3,), 4, "onehot"),
    spaces.Ordinal: lambda: spaces.Ordinal((3,), 5),
    spaces.Count: lambda: spaces.Count((2,)),
    spaces.Record: lambda: spaces.Record(a=spaces.Real((2,)), b=spaces.Binary((3,))),
    # energies
    energies.FunctionEnergy: normal,
    energies.PositiveEnergy: lambda: energies.from_positive(
        lambda x: jnp.sum(x**2) + 0.1, spaces.Box([-1.0, 0.0], [2.0, 1.0])
    ),
    Marginal: lambda: Marginal(record(), "b"),
    base.Interpolated: lambda: base.Interpolated(
        energies.Gaussian(spaces.Real((3,))), normal(), jnp.asarray(0.3)
    ),
    base.Tempered: lambda: base.Tempered(normal(), 0.6),
    base.Product: lambda: normal() + base.Tempered(normal(), 0.5),
    base.Conditional: lambda: normal().condition(x=[jnp.nan, 0.5, jnp.nan]),
    energies.Unconstrained: lambda: energies.Unconstrained(in_a_box()),
    base.FrozenEnergy: lambda: base.FrozenEnergy(normal()),
    energies.BernoulliRBM: rbm,
    energies.RBM: gaussian_rbm,
    energies.CentredRBM: lambda: energies.CentredRBM.of(
        rbm(), [[1, 0, 0, 1, 0], [0, 0, 1, 1, 0], [1, 0, 1, 1, 1]]
    ),
    energies.DeepBoltzmannMachine: deep,
    energies.CentredDBM: lambda: energies.CentredDBM.of(
        deep(), [[1, 0, 0, 1, 0], [0, 0, 1, 1, 1], [1, 0, 1, 1, 0]]
    ),
    energies.ReplicatedSoftmax: topics,
    TopicsOfLength: lambda: topics().hidden_of_length(7),
    TiedRBM: lambda: TiedRBM(
        jnp.asarray(rbm().weight), jnp.full(5, 0.3), jnp.full(3, -0.4), (2, 2)
    ),
    AnnealedRBM: lambda: rbm().path(energies.default_base(spaces.Binary((5,)))).at(0.4),
    energies.Ising: ising,
    energies.Potts: potts,
    energies.Hopfield: lambda: energies.Hopfield(
        [[1, -1, 1, 1, -1], [-1, -1, 1, -1, 1]], [0.1, -0.2, 0.3, 0.4, -0.3]
    ),
    energies.BoltzmannMachine: machine,
    energies.GeneralPotts: general_potts,
    energies.MLP: lambda: energies.MLP(spaces.Real((2,)), 8, 2, key=random.key(0)),
    energies.ConvNet: lambda: energies.ConvNet(spaces.Binary((8, 8)), key=random.key(0)),
    energies.GradientStepDenoiser: lambda: energies.GradientStepDenoiser(
        spaces.Real((5, 4)), 0.3, 6, 3, key=random.key(0)
    ),
    energies.Smoothed: lambda: energies.Smoothed(normal(), 0.3),
    energies.Mixture: lambda: energies.Mixture(
        [
            energies.Gaussian(spaces.Real((2,)), [0.3, -1.0], [0.5, 2.0]),
            energies.Gaussian(spaces.Real((2,)), [1.3, 1.0], [1.5, 0.4]),
        ],
        [0.3, 0.7],
    ),
    energies.LabelledMixture: lambda: energies.LabelledMixture(
        [
            energies.Gaussian(spaces.Real((2,)), [0.3, -1.0], [0.5, 2.0]),
            energies.Gaussian(spaces.Real((2,)), [1.3, 1.0], [1.5, 0.4]),
        ],
        [0.3, 0.7],
    ),
    energies.KernelMarginals: lambda: energies.KernelMarginals(
        [[0.3, -1.0], [0.9, 0.4], [-1.2, 2.0]], [0.4, 0.7]
    ),
    energies.KernelDensity: lambda: energies.KernelDensity(
        [[0.3, -1.0], [0.9, 0.4], [-1.2, 2.0]], 0.6, [0.2, 0.5, 0.3]
    ),
    energies.Standardised: lambda: energies.Standardised(normal(), [0.3, -1.0, 20.0], [0.5, 2, 3]),
    energies.ModelMixture: lambda: energies.ModelMixture(
        [normal(), base.Tempered(normal(), 0.5)], [0.4, -1.2], [0.3, 0.7]
    ),
    energies.Gaussian: lambda: energies.Gaussian(
        spaces.Real((2,)), [0.3, -1.0], cholesky=[[0.5, 0.0], [0.7, 2.0]]
    ),
    energies.BoxReference: lambda: energies.default_base(
        spaces.Box([0.0, -jnp.inf, 1.0, -jnp.inf], [2.0, 3.0, jnp.inf, jnp.inf])
    ),
    energies.IndependentBernoulli: lambda: energies.IndependentBernoulli(
        spaces.Spin((3,)), [0.5, -0.2, 1.0]
    ),
    energies.IndependentCategorical: lambda: energies.default_base(spaces.Categorical((2,), 3)),
    energies.NegativeBinomial: lambda: energies.NegativeBinomial(spaces.Count((2,)), 3.0, 2.0),
    energies.RecordReference: lambda: energies.default_base(
        spaces.Record(a=spaces.Real((2,)), b=spaces.Binary((3,)))
    ),
    energies.ChowLiuTree: lambda: energies.ChowLiuTree.fit(np.asarray(binary_rows())),
    Bernoulli: lambda: Bernoulli([0.2, 0.7]),
    CategoricalFamily: lambda: CategoricalFamily([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
    Poisson: lambda: Poisson([0.7, 3.0]),
    Exponential: lambda: Exponential([0.7, 3.0]),
    Gamma: lambda: Gamma([2.0, 0.8], [0.7, 3.0]),
    Beta: lambda: Beta([2.0, 1.3], [1.7, 3.0]),
    Normal: lambda: Normal([0.4, -1.0], [0.5, 2.0]),
    MultivariateNormal: lambda: MultivariateNormal([0.4, -1.0], [[1.0, 0.3], [0.3, 0.5]]),
    Posterior: lambda: Posterior(normal(), tasks.GaussianNoise(0.5), jnp.array([0.3, 1.0, -1.0])),
    Clamped: lambda: Clamped(
        normal(),
        energies.default_base(spaces.Real((3,))),
        jnp.array([0.3, 1.0, -1.0]),
        jnp.array([True, False, True]),
    ),
    ClampedLayers: lambda: ClampedLayers(
        gaussian_rbm(), jnp.array([0.3, 1.0, -1.0]), jnp.array([True, False, True])
    ),
    # samplers: (sampler, energy)
    Held: lambda: (Held(), normal()),
    samplers.Metropolis: lambda: (samplers.Metropolis(), normal()),
    samplers.ULA: lambda: (samplers.ULA(0.1), normal()),
    samplers.MALA: lambda: (samplers.MALA(), normal()),
    samplers.HMC: lambda: (samplers.HMC(3), normal()),
    samplers.ChEES: lambda: (samplers.ChEES(), normal()),
    samplers.Transformed: lambda: (samplers.Transformed(samplers.MALA()), in_a_box()),
    samplers.UnderdampedLangevin: lambda: (samplers.UnderdampedLangevin(0.3), normal()),
    samplers.NUTS: lambda: (samplers.NUTS(max_doublings=3), normal()),
    samplers.EllipticalSlice: lambda: (
        samplers.EllipticalSlice(energies.Gaussian(spaces.Real((3,)), 0.2, 1.5)),
        normal(),
    ),
    samplers.BlockGibbs: lambda: (samplers.BlockGibbs(), rbm()),
    samplers.ExchangeGibbs: lambda: (samplers.ExchangeGibbs(), topics()),
    samplers.ColouredGibbs: lambda: (samplers.ColouredGibbs(), ising()),
    samplers.Mixed: lambda: (samplers.Mixed(b=samplers.SiteGibbs(), a=samplers.MALA()), record()),
    samplers.SwendsenWang: lambda: (samplers.SwendsenWang(), ising()),
    samplers.Wolff: lambda: (samplers.Wolff(), potts()),
    samplers.SiteGibbs: lambda: (samplers.SiteGibbs(), finite()),
    samplers.GibbsWithGradients: lambda: (samplers.GibbsWithGradients(max_flips=3), finite()),
    samplers.DiscreteLangevin: lambda: (samplers.DiscreteLangevin(), finite()),
    samplers.ParallelTempering: lambda: (
        samplers.ParallelTempering(samplers.MALA(), num_rungs=3),
        normal(),
    ),
    samplers.TemperedTransitions: lambda: (
        samplers.TemperedTransitions(samplers.MALA(), num_rungs=3),
        normal(),
    ),
    # population methods: (method, energy, log Z)
    samplers.TemperedSMC: with_truth(lambda: samplers.TemperedSMC(samplers.Metropolis()), finite),
    # objectives: (objective, energy, data)
    objectives.MaximumLikelihood: lambda: (objectives.MaximumLikelihood(), rbm(), binary_rows()),
    objectives.ConditionalLikelihood: lambda: (
        objectives.ConditionalLikelihood("b"),
        record_rbm(),
        {
            "a": jnp.asarray(np.random.default_rng(3).normal(size=(40, 2)), float),
            "b": binary_rows()[:, :3],
        },
    ),
    objectives.ContrastiveDivergence: lambda: (
        objectives.ContrastiveDivergence(num_steps=2),
        rbm(),
        binary_rows(),
    ),
    objectives.PersistentCD: lambda: (objectives.PersistentCD(num_steps=2), rbm(), binary_rows()),
    objectives.TemperedPCD: lambda: (
        objectives.TemperedPCD(num_steps=2, num_chains=8, num_rungs=3, slow=0.4),
        rbm(),
        binary_rows(),
    ),
    objectives.MeanFieldPCD: lambda: (
        objectives.MeanFieldPCD(num_steps=2),
        deep(),
        binary_rows(),
    ),
    objectives.PseudoLikelihood: lambda: (objectives.PseudoLikelihood(), rbm(), binary_rows()),
    objectives.MinimumProbabilityFlow: lambda: (
        objectives.MinimumProbabilityFlow(),
        rbm(),
        binary_rows(),
    ),
    objectives.RatioMatching: lambda: (objectives.RatioMatching(), rbm(), binary_rows()),
    objectives.ConcreteScoreMatching: lambda: (
        objectives.ConcreteScoreMatching(),
        rbm(),
        binary_rows(),
    ),
    objectives.ReplayCD: lambda: (
        objectives.ReplayCD(num_steps=2, num_chains=8, size=20, restart=0.3),
        rbm(),
        binary_rows(),
    ),
    objectives.ImprovedCD: lambda: (
        objectives.ImprovedCD(num_steps=2, num_chains=8, size=20),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.RecoveryLikelihood: lambda: (
        objectives.RecoveryLikelihood(0.4, largest=2.0, num_sizes=2, num_steps=3),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.LatentPCD: lambda: (
        objectives.LatentPCD("b", num_steps=2, num_chains=8, num_hidden_steps=3),
        record_rbm(),
        {"a": real_rows()[:, :2]},
    ),
    objectives.JointClassifier: lambda: (
        objectives.JointClassifier(objectives.PersistentCD(num_chains=8), target="b"),
        record_rbm(),
        {"a": real_rows()[:, :2], "b": binary_rows()[:, :3]},
    ),
    objectives.EquilibriumMatching: lambda: (
        objectives.EquilibriumMatching(3.0, 0.6),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.EnergyMatching: lambda: (
        objectives.EnergyMatching(0.4, objectives.PersistentCD(num_chains=8), share=0.3),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.SparseHidden: lambda: (
        objectives.SparseHidden(objectives.PersistentCD(num_chains=8), target=0.2, strength=0.3),
        rbm(),
        binary_rows(),
    ),
    objectives.ScoreMatching: lambda: (objectives.ScoreMatching(), gaussian_rbm(), real_rows()),
    objectives.SlicedScoreMatching: lambda: (
        objectives.SlicedScoreMatching(num_slices=2),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.DenoisingScoreMatching: lambda: (
        objectives.DenoisingScoreMatching(0.3),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.MultiscaleDenoising: lambda: (
        objectives.MultiscaleDenoising(0.3, largest=4.0, num_sizes=3),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.NoiseContrastive: lambda: (
        objectives.NoiseContrastive(Normal([0.0] * 3, [1.5] * 3), num_noise=2, learn_noise=True),
        gaussian_rbm(),
        real_rows(),
    ),
    objectives.ConditionalNCE: lambda: (objectives.ConditionalNCE(), rbm(), binary_rows()),
    objectives.EnergyDiscrepancy: lambda: (
        objectives.EnergyDiscrepancy(num_moves=4),
        rbm(),
        binary_rows(),
    ),
    objectives.Penalised: lambda: (
        objectives.Penalised(objectives.PseudoLikelihood(), l1=0.1, l2=0.2, where=("weight",)),
        rbm(),
        binary_rows(),
    ),
    objectives.EnergyPenalty: lambda: (
        objectives.EnergyPenalty(objectives.PersistentCD(num_chains=8), 0.2),
        gaussian_rbm(),
        real_rows(),
    ),
    # methods of log Z: (method, energy, log Z)
    exact.Known: lambda: (exact.Known(), Normal([0.4], [0.5]), float(Normal([0.4], [0.5]).log_z)),
    exact.ClosedForm: lambda: (
        exact.ClosedForm(),
        base.Tempered(Normal([0.4], [0.5]), 0.3) + Normal([-1.0], [2.0]),  # precisions 1.2 and ¼
        0.5 * float(np.log(2 * np.pi / 1.45) + (0.48 - 0.25) ** 2 / 1.45),
    ),
    exact.Kaufman: with_truth(exact.Kaufman, lambda: energies.Ising.grid((3, 4), 0.4)),
    exact.TransferMatrix: with_truth(
        exact.TransferMatrix, lambda: energies.Ising.grid((3, 3), -0.4, 0.2)
    ),
    exact.Elimination: with_truth(exact.Elimination, ising),
    exact.IndependentParts: lambda: (
        exact.IndependentParts(),
        normal(),
        1.5 * float(np.log(np.pi / 0.7)),
    ),
    exact.SummedSide: with_truth(exact.SummedSide, rbm),
    exact.Enumeration: with_truth(exact.Enumeration, finite),
    quadrature.Quadrature: lambda: (
        quadrature.Quadrature(),
        normal(),
        1.5 * float(np.log(np.pi / 0.7)),
    ),
    Components: lambda: (
        Components(),
        energies.ModelMixture([rbm(), rbm()], [0.4, -1.2], [0.3, 0.7]),
        truth(rbm()) + float(np.log(0.3 * np.exp(-0.4) + 0.7 * np.exp(1.2))),
    ),
    estimated.AIS: with_truth(estimated.AIS, finite),
    estimated.Bridge: with_truth(estimated.Bridge, finite),
    estimated.Tempering: with_truth(estimated.Tempering, finite),
    estimated.SMC: with_truth(estimated.SMC, finite),
}
