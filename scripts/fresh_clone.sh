#!/usr/bin/env bash
# Clone the committed state into an empty folder and run the README's two commands there, as on a fresh machine.
#
#   scripts/fresh_clone.sh [--cold] [--keep]
#
# --cold  empty caches for Go, Cargo and pip too (downloads and compiles everything again)
# --keep  leave the folder for inspection
set -euo pipefail

cold=false keep=false
for argument in "$@"; do
  case $argument in
    --cold) cold=true ;;
    --keep) keep=true ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
cleanup() {
  if $keep; then
    echo "fresh_clone: kept $work"
  else
    chmod -R u+w "$work" # Go's module cache is read-only
    rm -rf "$work"
  fi
}
trap cleanup EXIT

git clone --quiet "$root" "$work/bei-runtime"
cd "$work/bei-runtime"

if $cold; then
  mkdir -p "$work/cargo"
  # The machine's own registry settings stay: only what was downloaded is hidden.
  for config in config.toml config; do
    if [ -f "${CARGO_HOME:-$HOME/.cargo}/$config" ]; then
      cp "${CARGO_HOME:-$HOME/.cargo}/$config" "$work/cargo/"
    fi
  done
  export CARGO_HOME=$work/cargo GOPATH=$work/go GOMODCACHE=$work/go/pkg/mod GOCACHE=$work/go-build PIP_CACHE_DIR=$work/pip
fi

stage() {
  local name=$1 begin=$SECONDS
  shift
  echo "=== $name" >&2
  "$@"
  echo "=== $name: $((SECONDS - begin)) s" >&2
}

stage "make run_embed" scripts/try_run_embed.py
stage "make test" make --no-print-directory test
test -z "$(git status --porcelain)" || { git status --short; echo "fresh_clone: the commands changed the tree" >&2; exit 1; }
