#!/usr/bin/env bash
# Everything that must hold before a change lands: lint, format, types, tests.
# Sets itself up in .venv (Python 3.11 or newer); arguments go to pytest. With R1PIPE_ENGINES=1 it
# installs vLLM, DeepSpeed and Ray too, and their tests run; without, those are skipped.
# Test files are shared by as many processes as there are cores and memory for; -n 0 takes one.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
[ -x .venv/bin/python ] || "$python" -m venv .venv
if [ "${R1PIPE_ENGINES:-}" = 1 ]; then
    .venv/bin/python -m pip install --quiet uv
    # wheels that pip is pointed to serve uv as well; without any, torch comes from PyTorch's index
    wheels="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links || true)}}"
    if [ -n "$wheels" ]; then export UV_FIND_LINKS="$wheels"; else export UV_TORCH_BACKEND=cpu; fi
    .venv/bin/uv pip install --quiet --python .venv/bin/python \
        --override constraints/engines-cpu.txt --editable '.[cpu,dev,docs,plot,ray]'
else
    .venv/bin/python -m pip install --quiet --editable '.[dev,docs,plot]'
fi
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
unset PYTHONDONTWRITEBYTECODE
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# a file stays with one worker: its tests share what takes long to make
workers=(-n auto --dist loadfile --no-loadscope-reorder)
case " $* " in *no:xdist*) workers=() ;; esac
.venv/bin/python -m pytest ${workers[@]+"${workers[@]}"} "$@"
