#!/usr/bin/env bash
# Install the system packages that are missing: `install/system.sh build` for the project, `install/system.sh test` for
# its tests as well. As root on Debian or Ubuntu it installs them; elsewhere it says in one line what to type.
# shellcheck disable=SC2317 # functions are called by `need`
set -euo pipefail

what=${1:-build}
missing=()

need() { # need PACKAGE TEST...: note the package when the test fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

header() { # header NAME: is a C or C++ header there?
    for root in /usr/include /usr/include/opencv4 /usr/local/include "${CONDA_PREFIX:-/nowhere}/include" \
        "${CONDA_PREFIX:-/nowhere}/include/opencv4"; do
        [ -e "$root/$1" ] && return 0
    done
    return 1
}

python_header() { "${PYTHON:-python3}" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; }

need g++ command -v g++
need pkg-config command -v pkg-config
need libopencv-imgproc-dev header opencv2/imgproc.hpp
need libturbojpeg0-dev header turbojpeg.h
need python3-dev python_header
need python3-venv "${PYTHON:-python3}" -c 'import ensurepip, venv'
if [ "$what" = test ]; then
    need chromium command -v chromium
    need slurm-wlm command -v slurmctld
    need munge command -v munged
    need shellcheck command -v shellcheck
fi

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null || true # an old list may do; if it does not, the next line says so
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    exit 0
fi
echo "missing: ${missing[*]}. Type: sudo apt-get install -y --no-install-recommends ${missing[*]}" \
    "   (conda: conda install -c conda-forge cxx-compiler pkg-config opencv libjpeg-turbo)" >&2
exit 2
