"""Setup for every test: one thread a worker under xdist, shapes checked, float32 left as it was."""

import atexit
import os
import shutil
import signal
import tempfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the suite in the background has it ignore Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; XLA would start as many threads as there are cores in each.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    # What one test compiled the next need not, nor the commands that tests start. A folder for each
    # worker: JAX writes without a lock.
    folder = tempfile.mkdtemp(prefix="energax-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

# Every jaxtyping annotation in energax is checked at each call while the tests run.
install_import_hook("energax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _float32_stays_default():
    """A test that turns on float64 must turn it off again (`with jax.enable_x64(True):`)."""
    yield
    assert not jax.config.jax_enable_x64, "this test left 64-bit floats switched on"


@pytest.fixture(autouse=True, scope="module")
def _caches_end_with_the_module():
    """Compiled functions are kept for ever otherwise: a worker reached 4.6 GB."""
    yield
    jax.clear_caches()
