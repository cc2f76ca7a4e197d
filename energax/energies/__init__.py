"""How probable is it? Energies E(x), p(x) = exp(−E(x))/Z, and what wraps them."""

from energax.energies._base import Product as Product
from energax.energies._base import Tempered as Tempered
from energax.energies._base import frozen as frozen
from energax.energies.boltzmann import BernoulliRBM as BernoulliRBM
from energax.energies.exponential_family import Bernoulli as Bernoulli
from energax.energies.exponential_family import Beta as Beta
from energax.energies.exponential_family import CategoricalFamily as CategoricalFamily
from energax.energies.exponential_family import Exponential as Exponential
from energax.energies.exponential_family import Gamma as Gamma
from energax.energies.exponential_family import MultivariateNormal as MultivariateNormal
from energax.energies.exponential_family import Normal as Normal
from energax.energies.exponential_family import Poisson as Poisson
from energax.energies.function import from_log_density as from_log_density
from energax.energies.function import from_positive as from_positive
from energax.energies.lattice import Ising as Ising
from energax.energies.neural import MLP as MLP
from energax.energies.neural import ConvNet as ConvNet
from energax.energies.reference import BoxReference as BoxReference
from energax.energies.reference import Gaussian as Gaussian
from energax.energies.reference import IndependentBernoulli as IndependentBernoulli
from energax.energies.reference import IndependentCategorical as IndependentCategorical
from energax.energies.reference import NegativeBinomial as NegativeBinomial
from energax.energies.reference import RecordReference as RecordReference
from energax.energies.reference import default_base as default_base
from energax.energies.reference import fitted_base as fitted_base
from energax.energies.tree import ChowLiuTree as ChowLiuTree
