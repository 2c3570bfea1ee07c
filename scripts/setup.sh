#!/usr/bin/env bash
# Create .venv and install the package with the tested set of its dependencies (constraints.txt).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
apt_line="sudo apt-get install -y python3-venv python3-dev g++ make git"

missing() {
    echo "setup: $1" >&2
    echo "setup: on Debian and Ubuntu: $apt_line" >&2
    exit 1
}

command -v "$python" >/dev/null || missing "no $python found"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing "$("$python" --version) is too old: Python 3.11 or newer is needed (PYTHON=python3.12 make setup)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing "the venv module is missing"
command -v git >/dev/null || missing "git is missing"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
if ! command -v g++ >/dev/null || [ ! -f "$header" ]; then
    # The demo needs no compiler; DeepSpeed's CPU operations and torch.compile build with it.
    echo "setup: no g++ or Python headers: DeepSpeed and torch.compile will not work ($apt_line)" >&2
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)

torch=$(sed -n 's/^torch==//p' constraints.txt)
if ! .venv/bin/python -c "import torch" 2>/dev/null; then
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        echo "setup: installing torch $torch for CUDA"
        "${pip[@]}" "torch==$torch"
    else
        echo "setup: no NVIDIA GPU found, installing torch $torch for CPUs"
        "${pip[@]}" "torch==$torch+cpu" 2>/dev/null ||
            "${pip[@]}" "torch==$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
    fi
fi
echo "setup: installing the package and its dependencies"
"${pip[@]}" --editable ".[dev,gguf]"
echo "setup: done"
