"""`python -m energax.cli`, where the script `energax` is not on the path."""

from energax.cli.choose import main

if __name__ == "__main__":
    main()
