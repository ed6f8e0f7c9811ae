#!/usr/bin/env bash
# Every command of docs/commands.md, on the demonstration, in a new folder; each one's exit code is printed.
# About half an hour. Usage: examples/every_command.sh FOLDER, with mfscsn on the PATH.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && cd "$1" || exit 2
demo=$here/experiments/federations/demo.toml

run() { # CODE COMMAND...: run it, keep what it prints, and compare its exit code
  local expected=$1; shift
  "$@" > "$((++count))-$(basename "$1")-$2.txt" 2>&1
  local code=$?
  [ $code -eq "$expected" ] && verdict=ok || verdict="WRONG, expected $expected"
  echo "$code $verdict: $*"
}
count=0

python -P - <<'PYTHON' # two subjects of the demonstration's clinic, as BIDS
import mne_bids
from data.simulated import simulated_dataset

dataset = simulated_dataset("clinic", {"n_subjects": 2})
for subject in (1, 2):
    for name, raw in dataset.get_data([subject])[subject]["0"].items():
        raw.info["line_freq"] = 50
        path = mne_bids.BIDSPath(subject=f"0{subject}", run=name, task="mi", root="bids", datatype="eeg")
        mne_bids.write_raw_bids(raw, path, allow_preload=True, format="EDF", verbose="ERROR")
PYTHON

run 0 mfscsn doctor "$demo"
run 0 mfscsn new mine.toml --site clinic=bids
run 0 mfscsn to-bids bids again
run 0 mfscsn prepare "$demo"
run 0 mfscsn simulate "$demo" --rounds 30 --seed 0 --out run
run 0 mfscsn simulate "$demo" --resume run
run 0 mfscsn demo --out demo --rounds 3
run 0 mfscsn evaluate run
run 0 mfscsn compare run --csv compared.csv
run 0 mfscsn control run
run 0 mfscsn report run
run 0 mfscsn track run --to tensorboard:logs
run 0 mfscsn export run --to exported
run 0 mfscsn adopt exported --data bids:bids --tasks right_hand,rest --out adopted
run 0 mfscsn predict run --site clinic --data bids:bids --cues right_hand,rest
run 0 mfscsn predict exported --tasks right_hand,rest --data bids:bids --cues right_hand,rest --out unseen.csv
run 2 mfscsn decode exported --tasks right_hand,rest --stream nobody # without an amplifier; with one, 0
cp -r "$here/experiments/benchmark/results" kept
run 0 mfscsn benchmark "$here/experiments/benchmark/openmi.toml" --out kept/openmi.csv
run 0 mfscsn audit run --parts labels --seeds 1 # without --parts all that the run allows, which takes longer
run 0 mfscsn privacy plan --trials 300 --noise-multiplier 1 --rounds 50
run 0 mfscsn beetl simulate competition
run 0 mfscsn beetl check competition
run 0 mfscsn beetl run --data competition --sources simulated --method baseline --rounds 1 --out beetl
run 0 mfscsn score beetl/answer.txt competition/final_MI_label.txt
run 2 mfscsn beetl tune --data competition --try lr=3 # a candidate is five whole runs: here, how it refuses
run 2 mfscsn beetl fetch --to fetched # without a network; with one, 0
run 0 mfscsn speed --parts bytes
run 0 mfscsn server init server --host 127.0.0.1 --from "$demo"
run 0 mfscsn site init site --invitation server/invitation.toml --name clinic
run 0 mfscsn server add-site server site/clinic.pub
run 1 mfscsn server status server # it does not run
