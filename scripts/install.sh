#!/bin/sh
# install.sh VENV PIP-ARGUMENTS...: make the virtual environment VENV where there is none, and
# `pip install` into it. Says plainly what this machine lacks, and exits 1 then.
set -u
venv=$1
shift

fail() {
    printf '\nenergax: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" && { echo "$PYTHON"; return; }
        fail "PYTHON=$PYTHON is not a Python 3.11 or newer."
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        is_new_enough "$name" && { echo "$name"; return; }
    done
    found=$(python3 --version 2>/dev/null || echo "no python3 at all")
    fail "Python 3.11 or newer is needed; found: $found." \
        "Debian 12 / Ubuntu 24.04 or newer:  apt-get install python3 python3-venv" \
        "elsewhere: https://www.python.org/downloads/" \
        "installed in an unusual place?      make PYTHON=/path/to/python3 ..."
}

# A half-made environment (interrupted, or its Python since removed) is made anew.
if ! is_new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 1
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        fail "$python (Python $version) cannot make virtual environments: it lacks venv or ensurepip." \
            "Debian, Ubuntu:  apt-get install python$version-venv   (or python3-venv)"
    echo "energax: making $venv with $python (Python $version)"
    "$python" -m venv --clear "$venv" ||
        fail "\`$python -m venv $venv\` failed; its message is above." \
            "Is the disk full, or the folder not writable?"
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        fail "$venv was made, but without pip." \
            "Debian, Ubuntu:  apt-get install python$version-venv python3-pip"
fi

echo "energax: installing into $venv (a few minutes the first time): $*"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
    fail "pip could not install what energax needs; its message is above." \
        "'Could not find a version', 'connection' or 'timed out': the package index was not reached;" \
        "    check the network, or set PIP_INDEX_URL or HTTPS_PROXY for yours." \
        "'No space left': about 2 GB are needed." \
        "Then run the same command again: what is already there is kept."
