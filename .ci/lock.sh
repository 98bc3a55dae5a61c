#!/usr/bin/env bash
# Writes the lock files anew: every package that the README's commands and tests/hosts.sh install, with the hashes of all
# its builds. Needs uv. What is pinned already stays as it is, unless arguments say otherwise: .ci/lock.sh --upgrade
#
# torch is pinned by its version (.ci/torch.txt) and not by a hash, and with it what only its CUDA build needs: which build
# a machine gets depends on where it installs from.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=(torch triton cuda-bindings cuda-pathfinder cuda-toolkit
    nvidia-{cublas,cuda-cupti,cuda-nvrtc,cuda-runtime,cudnn-cu13,cufft,cufile,curand,cusolver,cusparse}
    nvidia-{cusparselt-cu13,nccl-cu13,nvjitlink,nvshmem-cu13,nvtx})
lock() {  # lock FILE PYTHON CONSTRAINT ...
    local file="$1" python="$2"
    shift 2
    printf '%s\n' "$@" | uv pip compile setup.py .ci/tools.txt --extra dev $python --generate-hashes --no-annotate \
        --no-header --quiet -c .ci/torch.txt -c - "${cuda[@]/#/--no-emit-package=}" -o "$file" "${options[@]}"
}
options=("$@")
lock .ci/requirements.lock '--universal --python-version 3.10' fuxictr==2.3.10
# fuxictr 2.3.7 and 2.3.9 use np.Inf, which numpy 2 no longer has; the others are the last that were built for numpy 1,
# and that ends with Python 3.12.
lock .ci/requirements-numpy1.lock '--python-version 3.11' fuxictr==2.3.7 numpy==1.26.4 pandas==2.2.3 scikit-learn==1.4.2 pyarrow==17.0.0
