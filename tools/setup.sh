#!/bin/sh
# Prepares a checkout: .venv with the pinned dependencies, Debian packages the tests need, compiled kernels.
# Safe to run again: it does only what is missing. POSIX sh, because it runs before anything is installed.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

# --- a Python that is new enough
python=
for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found: install one (Debian: apt-get install python3 python3-venv) or set PYTHON=/path/to/python"

# --- Debian packages: a broker for the live tests and the demo, ensurepip for the virtual environment
missing=
command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] || missing="$missing mosquitto"
[ -x $venv/bin/python ] || "$python" -c 'import ensurepip' 2>/dev/null || missing="$missing $(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing Debian packages:$missing"
        # A broker of the system's own must not start: the project starts private ones.
        policy=/usr/sbin/policy-rc.d made_policy=
        if [ ! -e $policy ]; then
            printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made_policy=1
        fi
        status=0
        # shellcheck disable=SC2086  # a list of package names
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 || status=$?
        [ -z "$made_policy" ] || rm -f $policy
        [ "$status" = 0 ] || say "could not install$missing (apt-get: exit $status); tests that need them are skipped and say so"
    else
        say "please install:$missing   (sudo apt-get install$missing)"
    fi
fi

# --- the virtual environment, remade when the lock or the project file changed
stamp=$venv/.offerflow-setup
wanted=$(cat requirements.lock pyproject.toml | cksum)
if [ ! -f $stamp ] || [ "$(cat $stamp)" != "$wanted" ]; then
    [ -x $venv/bin/python ] || { say "creating $venv with $($python --version)"; "$python" -m venv $venv; }
    say "installing $(grep -c '==' requirements.lock) pinned packages (hashes checked)"
    $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    say "installing offerflow itself"
    $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    printf '%s' "$wanted" >$stamp
fi

# --- bytecode, which a container may forbid Python to write: each process of the demo and the tests would compile anew
$venv/bin/python -m compileall -q federation agents policies scenarios offerflow benchmarks

# --- kernels, compiled now and never inside a placement round
$venv/bin/python -m policies.kernels.cache
say "ready: $($venv/bin/offerflow --version)"
