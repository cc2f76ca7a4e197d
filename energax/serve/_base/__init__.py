"""What the parts of the service share: its limits, how it refuses, and the messages."""

from energax.serve._base.limits import Deadline as Deadline
from energax.serve._base.limits import Limits as Limits
from energax.serve._base.limits import Refusal as Refusal
from energax.serve._base.messages import DenoiseAnswer as DenoiseAnswer
from energax.serve._base.messages import DenoiseRequest as DenoiseRequest
from energax.serve._base.messages import Health as Health
from energax.serve._base.messages import ModelAnswer as ModelAnswer
from energax.serve._base.messages import Refused as Refused
from energax.serve._base.messages import SampleAnswer as SampleAnswer
from energax.serve._base.messages import SampleRequest as SampleRequest
from energax.serve._base.messages import ScoreAnswer as ScoreAnswer
from energax.serve._base.messages import ScoreRequest as ScoreRequest
from energax.serve._base.messages import read_request as read_request
