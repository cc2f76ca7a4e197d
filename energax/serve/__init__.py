"""A trained model as a service on one machine: JSON over HTTP, limits, a verdict in each answer."""

from energax.serve._base import Limits as Limits
from energax.serve.choose import create_app as create_app
from energax.serve.model import Model as Model
from energax.serve.server import bind as bind
from energax.serve.server import run as run
from energax.serve.server import url_of as url_of
