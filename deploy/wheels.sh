#!/bin/sh
# Builds a compiled wheel in dist/ for each version of Python that is named and found here, and has criproxy run answer
# from each in a new environment: deploy/wheels.sh UV 3.11 3.12 3.13. No interpreter is downloaded. Exit status 1: a wheel
# could not be built or does not answer, or there is none of the interpreters.
set -eu

uv=$1
shift
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_PYTHON_DOWNLOADS=never CRIPROXY_COMPILE="${CRIPROXY_COMPILE:-1}" UV_CACHE_DIR="$work/cache"
built=
for version in "$@"; do
    if ! python=$("$uv" python find --no-project --system "$version" 2>/dev/null); then
        echo "Python $version: not found here, so no wheel"
        continue
    fi
    "$uv" build --quiet --wheel --no-sources --python "$python" --out-dir "$work/$version" "$root"
    wheel=$(echo "$work/$version"/*.whl)
    "$uv" venv --quiet --python "$python" "$work/venv"
    "$uv" pip install --quiet --python "$work/venv/bin/python" --constraint "$root/constraints.txt" "$wheel"
    PATH="$work/venv/bin:$PATH" "$root/deploy/answers.sh"
    rm -rf "$work/venv"
    mkdir -p "$root/dist"
    mv "$wheel" "$root/dist/"
    built="$built $(basename "$wheel")"
done
[ -n "$built" ] || { echo "none of these interpreters is here: $*" >&2; exit 1; }
echo "OK:$built"
