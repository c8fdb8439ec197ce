#!/usr/bin/env bash
# Make .venv from locks, with every hash checked, and put this checkout into it.
#
#   scripts/setup.sh base    what `kit` needs to run
#   scripts/setup.sh dev     that, and tests, linters, the lock tool and the data the factors come from
#   scripts/setup.sh train   what `kit` needs to run, and torch, training and evaluation
#   scripts/setup.sh test    all of that, and what the tests compare our training with
#
# A second run finds the stamp of the same locks, project file, Python and folder, touches no network and ends at
# once. A level that another one contains is served by it. Set PYTHON to choose the interpreter.
#
# TORCH chooses the build of torch (the locks and scripts/lock.py say why there are two):
#   auto   (default) the build that is installed; else CUDA where there is an NVIDIA GPU and CPU elsewhere
#   cpu    the CPU build; ends with a remedy where pip sees none, and never fetches the CUDA build instead
#   cuda   the CUDA build, several GB
#   none   no torch: `make test` then skips the tests that need it, with a reason
set -euo pipefail

cd "$(dirname "$0")/.."
level="${1:-base}"
python=.venv/bin/python
log=.venv/setup.log
# Dependencies of lm-eval that are published as source alone.
without_wheel=langdetect,rouge-score,sqlitedict,word2number

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 2
}

apt_command() {
  local root=""
  [ "$(id -u)" = 0 ] || root="sudo "
  printf '%sapt-get update && %sapt-get install -y %s' "$root" "$root" "$*"
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or newer; found: $(${PYTHON:-python3} --version 2>&1 || true)" \
    "fix: $(apt_command python3.11 python3.11-venv)" \
    "or name an interpreter: make demo PYTHON=/path/to/python3.12"
}

has_gpu() { [ -e /dev/nvidiactl ] || nvidia-smi -L >/dev/null 2>&1; }

installed_torch() {
  "$python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true
}

# cpu, cuda, or plain where the registry has only one build of torch.
choose_torch() {
  local pin installed
  case "${TORCH:-auto}" in
    cpu | cuda | none) printf '%s\n' "$TORCH" && return ;;
    auto) ;;
    *) fail "TORCH is '$TORCH'" "expected: auto, cpu, cuda or none" ;;
  esac
  [ "$(uname -s)" = Linux ] || { echo plain && return; }
  pin="$(sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements/torch-cpu.lock)"
  installed="$(installed_torch)"
  if [ "$installed" = "$pin" ]; then
    echo cpu
  elif [ "$installed" = "${pin%+cpu}" ] || has_gpu; then
    echo cuda
  else
    echo cpu
  fi
}

# The locks of a level, in the order in which they are installed.
locks_of() {
  local torch=""
  [ "$build" = plain ] || torch="requirements/torch-$build.lock"
  case "$1" in
    base) echo requirements/base.lock ;;
    dev) echo requirements/dev.lock requirements/factors.lock ;;
    train) echo "$torch requirements/train.lock requirements/punkt.lock" ;;
    test) echo "$torch requirements/train.lock requirements/punkt.lock requirements/dev.lock requirements/peers.lock requirements/factors.lock" ;;
  esac
}

# shellcheck disable=SC2046 # the locks are words
key() {
  { "$python" -c 'import sys; print(sys.version, sys.prefix)' && cat $(locks_of "$1") pyproject.toml; } 2>/dev/null |
    sha256sum | cut -d' ' -f1
}

is_stamped() { [ -f ".venv/.stamp-$1" ] && [ "$(cat ".venv/.stamp-$1")" = "$(key "$1")" ]; }

make_venv() {
  local base version
  base="$(find_python)"
  version="$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  "$base" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "Python $version has no venv module (Debian and Ubuntu ship it apart)" \
      "fix: $(apt_command "python$version-venv")"
  say "creating .venv with Python $version"
  "$base" -m venv --clear .venv
}

# One line a package would bury the news: count them, in place on a terminal, every tenth line elsewhere.
show_progress() {
  local total="$1" count=0 line
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case "$line" in
      Collecting* | Processing* | "Requirement already satisfied"*)
        count=$((count + 1))
        if [ -t 1 ]; then
          printf '\r\033[Ksetup: %d of %d packages fetched' "$count" "$total"
        elif [ $((count % 10)) = 0 ]; then
          say "$count of $total packages fetched"
        fi
        ;;
      "Installing collected packages"*)
        [ ! -t 1 ] || printf '\r\033[K'
        say "writing $count packages"
        ;;
    esac
  done
}

install_locks() {
  local total lock names=()
  for lock in "$@"; do names+=(-r "$lock"); done
  total="$(cat "$@" | grep '^[a-z0-9].*==' | cut -d= -f1 | sort -u | wc -l)"
  say "installing $* (about $total packages, every hash checked; the first time takes a minute or two)"
  # Wheels only, so that nothing is compiled here. The few that have none are pure Python; they are built by the
  # locked setuptools, put in first, and without isolation no build step can reach for a network.
  if [ "$level" = train ] || [ "$level" = test ]; then
    pip_install --require-hashes --only-binary=:all: -r <(block_of setuptools) >>"$log" 2>&1 || install_failed
  fi
  # The locks are complete: no dependency is looked up that they do not name.
  pip_install --require-hashes --no-deps --only-binary=:all: --no-binary="$without_wheel" --no-build-isolation \
    "${names[@]}" 2>&1 | show_progress "$total" || install_failed
}

# One package of train.lock with its hashes.
block_of() { sed -n "/^$1==/,/^ *#/p" requirements/train.lock; }

pip_install() { "$python" -m pip install --disable-pip-version-check --no-input "$@"; }

install_checkout() {
  pip_install --quiet --no-index --no-deps --no-build-isolation --editable . >>"$log" 2>&1 || install_failed
}

# pip takes an installed torch of the other build for the right one: their versions differ only behind the plus.
remove_other_torch() {
  local installed
  installed="$(installed_torch)"
  case "$build:$installed" in
    cpu: | cpu:*+cpu | plain:*) ;;
    cpu:* | cuda:*+*)
      say "removing torch $installed: TORCH=$build asks for the other build"
      "$python" -m pip uninstall --quiet --yes torch >>"$log" 2>&1 || install_failed
      ;;
  esac
}

install_failed() {
  tail -n 15 "$log" >&2
  if grep -qE 'No matching distribution found for torch==.*\+cpu' "$log"; then
    fail "pip sees no CPU build of torch for this Python; the registry's own is the CUDA build" \
      "That one brings several GB of NVIDIA libraries, of no use on a machine without an NVIDIA GPU." \
      "fix: let pip see the CPU build: PIP_FIND_LINKS=<folder with the wheel> or PIP_EXTRA_INDEX_URL=<index>;" \
      "     the install page of pytorch.org names the index (Compute Platform: CPU)" \
      "or take the CUDA build all the same: make <target> TORCH=cuda" \
      "or run the tests without torch: make test TORCH=none"
  fi
  fail "the packages could not be installed (whole log: $log)" \
    "fix: check the network, then run the same command again; it goes on where it stopped"
}

case "$level" in
  base | dev) contained_in="$level dev test" ;;
  train | test) contained_in="$level test" ;;
  *) fail "no such level: $level" "expected: base, dev, train or test" ;;
esac
[ "$level" != base ] || contained_in="base dev train test"
build="$(choose_torch)"
if [ "$build" = none ]; then
  [ "$level" != train ] || fail "training needs torch, and TORCH=none forbids it" "fix: unset TORCH"
  [ "$level" != test ] || level=dev contained_in="dev"
fi
for other in $contained_in; do
  if is_stamped "$other"; then exit 0; fi
done
"$python" -m pip --version >/dev/null 2>&1 || make_venv
for stamp in .venv/.stamp-*; do
  # What still holds stays: the locks agree on every package they share.
  if [ -f "$stamp" ] && ! is_stamped "${stamp##*-}"; then rm -f "$stamp"; fi
done
: >"$log"
case "$level" in train | test) remove_other_torch ;; esac
# shellcheck disable=SC2046
install_locks $(locks_of "$level")
install_checkout
key "$level" >".venv/.stamp-$level"
say "ready: .venv ($level)"
