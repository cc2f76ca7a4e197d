"""Models on graphs: sites joined by edges, redrawn colour by colour."""

from energax.energies.lattice.ising import Ising as Ising
from energax.energies.lattice.ising import IsingPath as IsingPath
from energax.energies.lattice.potts import Potts as Potts
