"""Are two sets of rows from one distribution?"""

from energax.tasks.two_samples._base import TwoSamples as TwoSamples
from energax.tasks.two_samples.choose import same_distribution as same_distribution
