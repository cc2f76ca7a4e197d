"""Exponential families, p(x) = h(x) exp(⟨η, T(x)⟩ − A(η)), with analytic log-partition A.

Wainwright & Jordan 2008, "Graphical models, exponential families, and variational inference",
chapter 3. The gradient of A is the mean of T (proposition 3.1), so maximum likelihood is moment
matching: ∇A(η) = mean of T over the rows (section 3.6).
"""

from energax.energies.exponential_family._base import AbstractExponentialFamily
from energax.energies.exponential_family.discrete import Bernoulli, CategoricalFamily, Poisson
from energax.energies.exponential_family.normal import MultivariateNormal, Normal
from energax.energies.exponential_family.positive import Beta, Exponential, Gamma

__all__ = [
    "AbstractExponentialFamily",
    "Bernoulli",
    "Beta",
    "CategoricalFamily",
    "Exponential",
    "Gamma",
    "MultivariateNormal",
    "Normal",
    "Poisson",
]
