#!/usr/bin/env bash
# Make .venv from a lock, with every hash checked, and put this checkout into it.
#
#   scripts/setup.sh base   what `kit` needs to run
#   scripts/setup.sh dev    that, and tests, linters and the lock tool
#
# A second run finds the stamp of the same lock, project file, Python and folder, touches no network and ends at once.
# Set PYTHON to choose the interpreter.
set -euo pipefail

cd "$(dirname "$0")/.."
level="${1:-base}"
lock="requirements/$level.lock"
python=.venv/bin/python
log=.venv/setup.log

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

key() {
  { "$python" -c 'import sys; print(sys.version, sys.prefix)' && cat "$lock" pyproject.toml; } 2>/dev/null |
    sha256sum | cut -d' ' -f1
}

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

install_lock() {
  local total
  total="$(grep -c '^[a-z0-9].*==' "$lock")"
  say "installing $lock (about $total packages, every hash checked; the first time takes a minute or two)"
  : >"$log"
  # Wheels only: nothing is compiled here and no build step can reach for a network.
  "$python" -m pip install --disable-pip-version-check --no-input --require-hashes --only-binary=:all: \
    -r "$lock" 2>&1 | show_progress "$total" || install_failed
  "$python" -m pip install --disable-pip-version-check --no-input --quiet --no-index --no-deps \
    --no-build-isolation --editable . >>"$log" 2>&1 || install_failed
}

install_failed() {
  tail -n 15 "$log" >&2
  fail "the packages could not be installed (whole log: $log)" \
    "fix: check the network, then run the same command again; it goes on where it stopped"
}

[ -f "$lock" ] || fail "no such lock: $lock" "expected: base or dev"
for stamp in ".venv/.stamp-$level" ".venv/.stamp-dev"; do
  # dev.lock holds every pin of base.lock, so a valid dev environment serves both.
  [ "$stamp" != .venv/.stamp-dev ] || lock=requirements/dev.lock
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(key)" ]; then exit 0; fi
done
lock="requirements/$level.lock"
"$python" -m pip --version >/dev/null 2>&1 || make_venv
rm -f .venv/.stamp-*
install_lock
key >".venv/.stamp-$level"
say "ready: .venv ($level)"
