"""What training leaves behind: `Fit`, and the checkpoints that a run goes on from."""

from energax.training._base.checkpoints import BEST as BEST
from energax.training._base.checkpoints import CHECKPOINTS as CHECKPOINTS
from energax.training._base.checkpoints import Answer as Answer
from energax.training._base.checkpoints import Checkpoint as Checkpoint
from energax.training._base.checkpoints import DamagedCheckpoint as DamagedCheckpoint
from energax.training._base.checkpoints import best_archive as best_archive
from energax.training._base.checkpoints import best_steps as best_steps
from energax.training._base.checkpoints import checkpoint_paths as checkpoint_paths
from energax.training._base.checkpoints import fill_state as fill_state
from energax.training._base.checkpoints import keep_best as keep_best
from energax.training._base.checkpoints import newest_archive as newest_archive
from energax.training._base.checkpoints import open_checkpoint as open_checkpoint
from energax.training._base.checkpoints import remove_leftovers as remove_leftovers
from energax.training._base.checkpoints import step_to_go_on_from as step_to_go_on_from
from energax.training._base.checkpoints import write_best as write_best
from energax.training._base.checkpoints import write_checkpoint as write_checkpoint
from energax.training._base.known import registry as registry
from energax.training._base.result import Best as Best
from energax.training._base.result import Fit as Fit
from energax.training._base.result import History as History
from energax.training._base.result import Recovery as Recovery
from energax.training._base.result import Stopping as Stopping
from energax.training._base.result import best_of as best_of
from energax.training._base.result import recoveries_of as recoveries_of
from energax.training._base.result import whole as whole
from energax.training._base.saved import load as load
