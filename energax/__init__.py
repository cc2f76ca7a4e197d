"""energax: energy-based models whose answers carry an error bar and a verdict.

Any scalar function f(x) of one data point is treated as p(x) = exp(f(x))/Z: draw from it, train it,
compare points, estimate Z and likelihoods, find anomalies, remove noise, fill gaps, read features.
"""

from energax import random as random
