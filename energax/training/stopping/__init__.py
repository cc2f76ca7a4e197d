"""Early stopping by a held-out log-likelihood whose log Z is carried along through training."""

from energax.training.stopping.choose import Watcher as Watcher
from energax.training.stopping.rule import EarlyStopping as EarlyStopping
