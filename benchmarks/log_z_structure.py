"""What does log Z cost where the energy's structure is known, from 2 to 10,000 dimensions?"""

from benchmarks._timing import Options, Report
from benchmarks.log_z_cost import MAX_SECONDS, costs


def run(options: Options) -> Report:
    return costs(
        "log_z_structure",
        "CPU seconds and energy evaluations of one log Z of an Ising chain and of an RBM, which "
        "energax knows as such, compiling apart, by dimension and by the standard error asked for; "
        f"at most {MAX_SECONDS:g} s each.",
        ("ring", "rbm"),
        ("exact", "ais"),
        options,
    )
