#!/bin/bash
# Part of the image's build: makes /opt/kit and puts the packages of the locks into it.
#
#   install.sh cuda|cpu
#
# /requirements has the locks; /wheelhouse may have the CPU build of torch, which the registry lacks.
set -euo pipefail

case "$1" in
  cuda) locks=(torch-cuda train generate punkt) links=() ;;
  cpu) locks=(torch-cpu train punkt) links=(--find-links /wheelhouse) ;;
  *) echo "install: TORCH is '$1', expected cuda or cpu" >&2 && exit 2 ;;
esac
# Published as source alone; pure Python, built by the locked setuptools without a build environment of their own.
without_wheel=langdetect,rouge-score,sqlitedict,word2number

python3 -m venv /opt/kit
pip=(/opt/kit/bin/pip install --require-hashes --only-binary=:all:)
mkdir /opt/kit/locks
names=()
for lock in "${locks[@]}"; do
  cp "/requirements/$lock.lock" /opt/kit/locks/
  names+=(-r "/requirements/$lock.lock")
done
sed -n '/^setuptools==/,/^ *#/p' /requirements/train.lock >/tmp/setuptools.txt
"${pip[@]}" -r /tmp/setuptools.txt
# The locks are complete: no dependency is looked up that they do not name.
"${pip[@]}" --no-deps --no-binary="$without_wheel" --no-build-isolation "${links[@]}" "${names[@]}"
rm /tmp/setuptools.txt
# The order of installation is the order of the digest.
printf '%s\n' "${locks[@]}" >/opt/kit/locks/order
