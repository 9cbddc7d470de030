#!/usr/bin/env bash
# One command for any GPU host, without network: bash benchmarks/gpu_check.sh [OUT [PART...]]
# Builds from source, runs the GPU tests and the benchmark tables, and writes everything into OUT (default:
# benchmarks/results/gpu). A part that fails, or that takes more than FASTRCN_GPU_LIMIT seconds (default: 1200), does not
# stop the others; the exit status tells. With PARTs (names as below) only these run, after machine and build.
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
out="${1:-$root/benchmarks/results/gpu}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
cd "$root"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
summary="$out/summary.txt"
: >"$summary"
status=0
wanted=("${@:2}")
known=" "
# In the foreground: so that Ctrl-C reaches the part, and ends the script.
within=(timeout --foreground -k 10 "${FASTRCN_GPU_LIMIT:-1200}")
trap 'exit 130' INT

part() { # part NAME COMMAND...: run it, keep its log, note how it ended
  local name="$1" begin=$SECONDS
  shift
  known+="$name "
  [[ ${#wanted[@]} -eq 0 || " machine build ${wanted[*]} " == *" $name "* ]] || return 0
  if "$@" >"$out/$name.log" 2>&1; then
    printf '%-14s ok      %4d s\n' "$name" $((SECONDS - begin)) >>"$summary"
  else
    printf '%-14s FAILED  %4d s  (%s)\n' "$name" $((SECONDS - begin)) "$name.log" >>"$summary"
    status=1
  fi
}

machine() {
  git describe --always --dirty --abbrev=12 --exclude='*' || true
  "${within[@]}" nvidia-smi
  python -c 'import torch, sys; print("Python", sys.version); print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)'
  python -c 'import triton; print("Triton", triton.__version__)' || echo "Triton is not installed"
  nvcc --version || echo "nvcc is not on PATH"
  has_gpu
}

has_gpu() { # without one the GPU tests would all be skipped, which is no success
  "${within[@]}" python -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "PyTorch finds no CUDA device")'
}

# The build goes to a folder of its own; the sources are copied, so that the checkout stays as it is.
build() {
  local copy="$site/source"
  mkdir -p "$copy"
  tar -C "$root" --exclude=.git --exclude=.venv --exclude=build --exclude='*.so' -cf - . | tar -C "$copy" -xf - || return 1
  "${within[@]}" python -m pip install --no-build-isolation --no-deps --target "$site/lib" "$copy" && rm -rf "$copy/fastrcn"
}

# From the copy: in the checkout, Python would find the sources there, which were not built.
info() { (cd "$site/source" && "${within[@]}" python -m fastrcn info); }

tests() {
  has_gpu || return 1
  python -c 'import pytest' || { echo "pytest is not installed: the GPU tests did not run"; return 1; }
  # Most of the time goes into compiling Triton's kernels.
  local side_by_side=()
  python -c 'import xdist' && side_by_side=(-n auto --maxprocesses 12 --dist worksteal)
  # All of them are there; other tests want packages that such a host may lack.
  (cd "$site/source" && "${within[@]}" python -m pytest -m gpu -p no:cacheprovider ${side_by_side[@]+"${side_by_side[@]}"} tests/ops)
}

bench() { (cd "$site/source" && "${within[@]}" python -m benchmarks --device cuda "$@" --out "$out"); }

bench_models() { (cd "$site/source" && "${within[@]}" python -m benchmarks models --device cuda --out "$out"); }

sanitize() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 1; }
  (cd "$site/source" && "${within[@]}" compute-sanitizer --error-exitcode 1 python -m pytest -x -p no:cacheprovider \
    tests/ops/test_conv_recurrent_cuda.py tests/ops/test_triton_gpu.py tests/ops/test_relu_maxpool3d_cuda.py \
    -k "stage_on or normalize_on or step_on and bfloat16 or many_steps and lstm and bfloat16 or every_case and (plain or lengths) or test_on_the_gpu and (float32 or bfloat16)")
}

export PYTHONUNBUFFERED=1 # a part that is stopped leaves what it printed
export PYTHONPATH="$site/lib${PYTHONPATH:+:$PYTHONPATH}"
part machine machine
part build build
part info info
part tests tests
part bench-bf16 bench --dtype bfloat16 --baselines a,b,d,nn
part bench-fp32 bench --dtype float32 --quick
# Without Triton: the cuda backend in its place.
part bench-cuda bench --dtype bfloat16 --backend cuda --cases 'small-*,gru-*,k1-*,openstl-s,radar,tiny' --baselines b,d \
  --name cuda-bfloat16-backend-cuda
# Which way is the faster one: what the rule in fastrcn/ops/conv_recurrent/cuda_method.py estimates.
for method in fused persistent library; do
  part "bench-$method" bench --dtype bfloat16 --backend cuda --cases 'small-*,gru-*,openstl-s,moving-mnist*,radar,tiny' \
    --baselines b --cuda-method "$method" --name "cuda-bfloat16-$method"
done
# The same of the rule in fastrcn/ops/conv_recurrent/triton_time_loop.py.
for loop in launched captured persistent; do
  part "bench-$loop" bench --dtype bfloat16 --backend triton --cases 'small-*,gru-*,moving-mnist*,tiny' \
    --baselines b --time-loop "$loop" --name "cuda-bfloat16-$loop"
done
# Compiling the loops takes minutes: the quick cases only.
part bench-compile bench --dtype bfloat16 --quick --baselines a,b,c --name cuda-bfloat16-compile
part bench-models bench_models
part sanitizer sanitize
for name in "${wanted[@]}"; do
  [[ $known == *" $name "* ]] || { echo "$name is no part; there are:$known" >>"$summary"; status=1; }
done
cat "$summary"
exit $status
