#!/usr/bin/env bash
# One command for any GPU host, without network: bash benchmarks/gpu_check.sh [OUT [PART...]]
# Builds from source, runs the GPU tests and the benchmark tables, and writes everything into OUT (default:
# benchmarks/results/gpu), the most telling first. A part that fails, or that takes longer than its limit, does not stop
# the others; the exit status tells. All together take at most FASTRCN_GPU_LIMIT seconds (default: 1740). With PARTs
# (names as below) only these run, after machine and build. In the folder FASTRCN_GPU_BUILD, if there is one, the build
# stays, and serves a later call with the same sources.
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
out="${1:-$root/benchmarks/results/gpu}"
mkdir -p "$out" && out="$(cd "$out" && pwd)" && : >"$out/summary.txt" && cd "$root" || exit 1
if [[ -n "${FASTRCN_GPU_BUILD:-}" ]]; then
  mkdir -p "$FASTRCN_GPU_BUILD" && site="$(cd "$FASTRCN_GPU_BUILD" && pwd)" || exit 1
  rm -f "$site/gpu"
else
  site="$(mktemp -d)" || exit 1
  trap 'rm -rf "$site"' EXIT
fi
status=0
lines=()
wanted=("${@:2}")
known=" "
last=$((SECONDS + ${FASTRCN_GPU_LIMIT:-1740}))
job=""

tell() { # tell FORMAT VALUE...: a line of the summary; kept, too, for a disk that is full
  local line
  printf -v line "$@"
  lines+=("$line")
  echo "$line" >>"$out/summary.txt" || status=1
}

finish() {
  printf '%s\n' "${lines[@]}"
  exit "$1"
}

# As Ctrl-C does it: pytest then still tells what failed. In the foreground: in the process group of its part.
within() { timeout --foreground -s INT -k 10 $((deadline > SECONDS ? deadline - SECONDS : 1)) "$@"; }

stop() { # stop STATUS: a signal ends the part that is running, and then the script
  trap '' INT TERM HUP
  if [[ -n "$job" ]]; then
    kill -INT -- "-$job"
    for _ in {1..10}; do
      kill -0 -- "-$job" 2>/dev/null || break
      sleep 1
    done
    kill -KILL -- "-$job" "-$guard" 2>/dev/null
    wait "$guard" 2>/dev/null
    tell '%-21s STOPPED by a signal' "$running"
  fi
  finish "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP

# In a process group of its own: what a part that was stopped has started, such as compilers, would go on beside the
# next one. A process that not even `within` can end is not waited for.
run_alone() { # run_alone LOG COMMAND...
  local code log="$1"
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  (sleep $((deadline - SECONDS + 20)) && kill -KILL -- "-$job") >/dev/null 2>&1 &
  guard=$!
  set +m
  wait "$job" 2>/dev/null
  code=$?
  kill -KILL -- "-$job" "-$guard" 2>/dev/null
  wait "$guard" 2>/dev/null
  job=""
  return $code
}

part() { # part NAME SECONDS COMMAND...: run it, for so long at most, keep its log, note how it ended
  local name="$1" begin=$SECONDS ended tests
  running="$name"
  deadline=$((begin + $2 < last ? begin + $2 : last))
  shift 2
  known+="$name "
  [[ ${#wanted[@]} -eq 0 || " machine build ${wanted[*]} " == *" $name "* ]] || return 0
  if ((deadline <= begin)); then
    tell '%-21s NOT RUN: no time was left' "$name"
    status=1
    return
  fi
  run_alone "$out/$name.log" "$@" && ended=ok || ended=FAILED
  tests="$(sed -nE 's/^=+ (.*(passed|failed|skipped|errors?)\b.* in [0-9.]+s.*) =+$/\1/p' "$out/$name.log" | tail -n 1)"
  [[ -z "$tests" || "$tests" == *" passed"* ]] || ended=FAILED # all skipped is no success
  [[ $ended == ok ]] || status=1
  [[ $ended == ok ]] || ((SECONDS < deadline)) || tests+=" stopped at its limit"
  tell '%-21s %-7s %4d s  %s' "$name" $ended $((SECONDS - begin)) "$tests"
}

machine() {
  within git describe --always --dirty --abbrev=12 --exclude='*' || true
  within nvidia-smi
  within python -c 'import torch, sys; print("Python", sys.version); print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)'
  within python -c 'import triton; print("Triton", triton.__version__)' || echo "Triton is not installed"
  within nvcc --version || echo "nvcc is not on PATH"
  within python -m pip list
  has_gpu
}

has_gpu() { # without one the GPU tests would all be skipped, which is no success
  [[ -e "$site/gpu" ]] || within python -c 'import torch, sys
sys.exit(None if torch.cuda.is_available() else "PyTorch finds no CUDA device")' && touch "$site/gpu"
}

# The build goes to a folder of its own; the sources are copied, so that the checkout stays as it is.
build() {
  local copy="$site/source" sources
  rm -rf "$copy"
  mkdir -p "$copy"
  tar -C "$root" --exclude=.git --exclude=.venv --exclude=build --exclude='*.so' --exclude=__pycache__ -cf - . \
    | tar -C "$copy" -xf - || return 1
  sources="$(cd "$copy" && find CMakeLists.txt csrc fastrcn pyproject.toml setup.py -type f -print0 | sort -z \
    | xargs -0 sha256sum | sha256sum)"
  if [[ "$(cat "$site/built" 2>/dev/null)" == "$sources" ]]; then
    echo "built before, from the same sources"
  else
    rm -rf "$site/lib" "$site/built"
    within python -m pip install --no-build-isolation --no-deps --target "$site/lib" "$copy" || return 1
    echo "$sources" >"$site/built"
  fi
  rm -rf "$copy/fastrcn"
  ln -s "$site/lib/fastrcn" "$copy/fastrcn" # for the host tests, which emit kernels from it
}

# From the copy: in the checkout, Python would find the sources there, which were not built.
info() { (cd "$site/source" && within python -m fastrcn info) && has_kernels; }

has_kernels() {
  [[ -L "$site/source/fastrcn" ]] || { echo "the package was not built (build.log)"; return 1; }
  (cd "$site/source" && within python -c 'import sys; from fastrcn import native
sys.exit(native.cuda_problem("cuda_stage", None, "cuda") if not hasattr(native.module(), "cuda_stage") else None)')
}

pytest_options=(-p no:cacheprovider -p tests.helpers.failures_at_once)

run_tests() {
  within python -c 'import pytest' || { echo "pytest is not installed: the tests did not run"; return 1; }
  # Most of the time goes into compiling kernels.
  local side_by_side=()
  within python -c 'import xdist' && side_by_side=(-n auto --maxprocesses 12 --dist worksteal)
  (cd "$site/source" && within python -m pytest -v "${pytest_options[@]}" ${side_by_side[@]+"${side_by_side[@]}"} "$@")
}

# All of them are there; other tests want packages that such a host may lack.
tests() { has_gpu && run_tests -m gpu tests/ops; }

# What this host's nvcc, perhaps another one than the kernels were written with, made of them; and the same kernels by
# its C++ compiler, on the CPU.
host_tests() {
  has_kernels || return
  run_tests tests/ops/test_*_machine_code.py tests/ops/test_cuda_stages_on_host.py \
    tests/ops/test_relu_maxpool3d_on_host.py tests/test_compile_cell_cuda.py
}

bench() { has_gpu && (cd "$site/source" && within python -m benchmarks --device cuda "$@" --out "$out"); }

bench_models() { has_gpu && (cd "$site/source" && within python -m benchmarks models --device cuda --out "$out"); }

dispatch() { has_gpu && (cd "$site/source" && within python -m benchmarks dispatch --out "$out"); }

sanitize() { # sanitize TOOL MARKS: the tests with these marks under one of compute-sanitizer's tools
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 1; }
  has_gpu || return 1
  # PyTorch's own memory would hide what reads beyond a tensor.
  (cd "$site/source" && PYTORCH_NO_CUDA_MEMORY_CACHING=1 within compute-sanitizer --tool "$1" --error-exitcode 1 \
    python -m pytest -v -m "$2" "${pytest_options[@]}" tests/ops)
}

export PYTHONUNBUFFERED=1 # a part that is stopped leaves what it printed
export PYTHONPATH="$site/lib${PYTHONPATH:+:$PYTHONPATH}"
part machine 60 machine
part build 480 build
part info 120 info
part tests 480 tests
part bench-bf16 360 bench --dtype bfloat16 --baselines a,b,d,nn --name cuda-bfloat16 \
  --cases 'small-*,first-*,gru-*,k1-*,nowcast-*,moving-mnist*,radar,openstl-s,rvm-*,raft-*,hurricane,volume-*,tiny,dense-*'
part bench-conv3d 240 bench --dtype bfloat16 --baselines a,b,d --cases 'c3d-*,i3d-*' --name cuda-bfloat16-conv3d
part memcheck 300 sanitize memcheck sanitizer
part racecheck 180 sanitize racecheck sanitizer
part synccheck 120 sanitize synccheck 'sanitizer and walk'
part bench-fp32 180 bench --dtype float32 --quick
# Without Triton: the cuda backend in its place.
part bench-cuda 180 bench --dtype bfloat16 --backend cuda --cases 'small-*,gru-*,k1-*,openstl-s,radar,tiny' --baselines b,d \
  --name cuda-bfloat16-backend-cuda
part bench-conv3d-cuda 180 bench --dtype bfloat16 --backend cuda --baselines b --cases 'c3d-*,i3d-*' \
  --name cuda-bfloat16-conv3d-backend-cuda
# Which way is the faster one: what the rule in fastrcn/ops/conv_recurrent/cuda_method.py estimates.
for method in fused persistent library; do
  part "bench-cuda-$method" 120 bench --dtype bfloat16 --backend cuda \
    --cases 'small-*,gru-*,openstl-s,moving-mnist*,radar,tiny' --baselines b --cuda-method "$method" \
    --name "cuda-bfloat16-$method"
done
# The same of the rule in fastrcn/ops/conv_recurrent/triton_time_loop.py.
for loop in launched captured persistent; do
  part "bench-loop-$loop" 120 bench --dtype bfloat16 --backend triton --cases 'small-*,gru-*,moving-mnist*,tiny' \
    --baselines b --time-loop "$loop" --name "cuda-bfloat16-$loop"
done
part host-tests 600 host_tests
# What the automatic choice between backends reads, once the file is in benchmarks/results.
part dispatch 300 dispatch
part bench-own 180 bench --dtype bfloat16 --baselines own --cases 'own-*' --name cuda-bfloat16-own
# Compiling the loops takes minutes: the quick cases only.
part bench-compile 300 bench --dtype bfloat16 --quick --baselines a,b,c --name cuda-bfloat16-compile
part bench-models 600 bench_models
for name in "${wanted[@]}"; do
  [[ $known == *" $name "* ]] || { tell '%s' "$name is no part; there are:$known"; status=1; }
done
finish $status
