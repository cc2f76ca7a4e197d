"""What was the point before the noise: by Tweedie's formula, or by draws from p(x | y)."""

from energax.tasks.denoise._base import AbstractNoise as AbstractNoise
from energax.tasks.denoise._base import Denoised as Denoised
from energax.tasks.denoise._base import Posterior as Posterior
from energax.tasks.denoise._base import posterior as posterior
from energax.tasks.denoise.choose import denoise as denoise
from energax.tasks.denoise.noise import BitFlip as BitFlip
from energax.tasks.denoise.noise import Blur as Blur
from energax.tasks.denoise.noise import GaussianNoise as GaussianNoise
from energax.tasks.denoise.noise import Mask as Mask
from energax.tasks.denoise.noise import PoissonNoise as PoissonNoise
from energax.tasks.denoise.noise import SaltAndPepper as SaltAndPepper
