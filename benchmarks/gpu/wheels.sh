#!/usr/bin/env bash
# Downloads the packages that a machine with PyTorch for CUDA may lack, as wheels for Python 3.12 on
# Linux x86-64.
#
#   benchmarks/gpu/wheels.sh [FOLDER]      default: .whl
#
# To install them on that machine without a network:
#   python3 -m pip install --no-index --no-deps --target /tmp/site FOLDER/*.whl
#   export PYTHONPATH=/tmp/site
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:-.whl}
mkdir -p "$folder"
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
# with the versions of constraints.txt
version() { grep -i "^$1==" constraints.txt; }
for name in ale-py gymnasium stable_baselines3 hydra-core omegaconf Farama-Notifications; do
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" --dest "$folder" "$(version $name)"
done
# published as source only
python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(version antlr4-python3-runtime)"
