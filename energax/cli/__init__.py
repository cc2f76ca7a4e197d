"""The command line: `energax demo | fit | sample | logz | score | serve | ... RUN`."""

from energax.cli.choose import main as main
