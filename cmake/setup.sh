#!/bin/sh
# SPDX-License-Identifier: MIT
# Usage: sh cmake/setup.sh [PACKAGE...]
# Installs what building diffeo with its tests, examples and benchmarks needs and this system lacks, and the packages
# named on the command line besides. It knows Debian's package names; elsewhere it says what is needed and stops.
set -eu

# package:command, where having the command is enough, however it came here.
needed="g++:g++ cmake:cmake make:make ninja-build:ninja gnuplot-nox:gnuplot
        libeigen3-dev: catch2: libbenchmark-dev: libcli11-dev: nlohmann-json3-dev:"

for package in "$@"; do
  needed="$needed $package:"
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  {
    echo "setup: this system has no apt. Install these with its own package manager (here by their Debian names):"
    for item in $needed; do echo "  ${item%%:*}"; done
    echo "and go on with: cmake --workflow --preset test"
  } >&2
  exit 1
fi

missing=""
for item in $needed; do
  package=${item%%:*}
  command=${item#*:}
  if [ -n "$command" ] && command -v "$command" >/dev/null; then continue; fi
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$status" != installed ]; then missing="$missing $package"; fi
done

if [ -z "$missing" ]; then
  echo "setup: everything needed is installed"
else
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: no sudo here; as root, run: apt-get update && apt-get install --no-install-recommends$missing" >&2
      exit 1
    fi
    as_root=sudo
  fi
  echo "setup: installing by apt:$missing"
  $as_root apt-get update
  # shellcheck disable=SC2086 # the words of $missing are the packages
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
  echo "setup: installed$missing"
fi

# Older releases of Debian and its kin have a cmake that cannot read the presets.
version=$(cmake --version | sed -n '1s/.* //p')
major=${version%%.*}
minor=${version#*.}
minor=${minor%%.*}
if [ "$major" -lt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -lt 25 ]; }; then
  echo "setup: diffeo needs cmake 3.25 or newer, this is $version" >&2
  exit 1
fi
