#!/usr/bin/env bash
# Runs the package on a GPU: a smoke test of every command, speed, Pong, and VGG16 on CIFAR-10.
#
#   benchmarks/gpu/run.sh OUT [parts=smoke,speed,pong,vgg16] [device=cuda] [profile=full]
#                             [data=FOLDER] [seconds=390]
#
# Writes results and logs to OUT as they are measured. smoke and speed run one after the other
# (about three minutes); pong and vgg16 run in parallel, each within `seconds`. data is the folder of
# CIFAR-10 for vgg16. profile=tiny device=cpu tests the benchmark without a GPU.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

out=${1:?usage: run.sh OUT [key=value ...]}
shift
parts=smoke,speed,pong,vgg16 device=cuda profile=full data='' seconds=390
for setting in "$@"; do
    case $setting in
    parts=* | device=* | profile=* | data=* | seconds=*) declare "$setting" ;;
    *)
        echo "unknown argument $setting" >&2
        exit 2
        ;;
    esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
data=${data:+$(cd "$data" && pwd)}
cd "$root"
export PYTHONPATH="$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
here=benchmarks/gpu

has() { [[ ",$parts," == *",$1,"* ]]; }
stamp() { echo "== $(date +%T) $*"; }

{
    python3 -c 'import platform, torch
print("python", platform.python_version(), "torch", torch.__version__)
if torch.cuda.is_available(): print(torch.cuda.get_device_name())'
    nproc
    nvidia-smi 2>/dev/null
} >"$out/machine.txt" 2>&1

if has smoke; then
    stamp smoke
    timeout -k 5 150 python3 $here/smoke.py "$out" device="$device" profile="$profile"
fi
if has speed; then
    stamp speed
    rounds=(--rounds 5 --steps 320)
    [[ $profile == tiny ]] && rounds=(--rounds 1 --steps 16 --buffer 400)
    for batch in 64 512; do
        [[ $profile == tiny && $batch == 512 ]] && continue
        name=$out/stage_vs_sb3_$batch
        timeout -k 5 80 python3 benchmarks/stage_vs_sb3.py --device "$device" --batch $batch \
            "${rounds[@]}" --json "$name.json" 2>"$name.log" || tail -5 "$name.log"
    done
    timeout -k 5 70 python3 $here/speed.py "$out" device="$device" profile="$profile"
fi
background=()
if has pong; then
    stamp "pong, $seconds s"
    python3 $here/pong.py "$out" device="$device" profile="$profile" seconds="$seconds" &
    background+=($!)
fi
if has vgg16; then
    stamp "vgg16, $seconds s"
    python3 $here/vgg16.py "$out" device="$device" profile="$profile" seconds="$seconds" \
        data="$data" &
    background+=($!)
fi
[[ ${#background[@]} -gt 0 ]] && wait "${background[@]}"
stamp end
