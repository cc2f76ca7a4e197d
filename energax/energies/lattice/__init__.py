"""Models on graphs: sites joined by edges, redrawn colour by colour."""

from energax.energies.lattice._base import PairwisePath as PairwisePath
from energax.energies.lattice._base import pair_matrix as pair_matrix
from energax.energies.lattice.fully_visible import BoltzmannMachine as BoltzmannMachine
from energax.energies.lattice.general_potts import GeneralPotts as GeneralPotts
from energax.energies.lattice.ising import Ising as Ising
from energax.energies.lattice.potts import Potts as Potts
