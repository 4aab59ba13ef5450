#!/usr/bin/env bash
# Pin what pyproject.toml asks for, for every platform: exact versions, no addresses.
# Usage: requirements/lock.sh path/to/uv [--upgrade]
# Pins that still fit stay as they are, unless --upgrade is given.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1 upgrade=${2:-}

all=$(mktemp)
trap 'rm -f "$all"' EXIT
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"
}

# All three files agree, because each is cut out of one resolution.  uv keeps the versions that the
# output file names already.
sort -u requirements/*.txt | grep '==' > "$all" || true
compile --refresh $upgrade --all-extras pyproject.toml -o "$all"
# torch pins its own CUDA parts, exactly, and which of them it needs depends on the build that is
# chosen (TORCH_BACKEND): they are left to it.
cuda=$(sed -nE 's/^((nvidia|cuda)-[a-z0-9-]+|triton)==.*/--no-emit-package \1/p' "$all" | sort -u)

write() {
    local file=$1 what=$2
    shift 2
    {
        echo "# $what"
        echo "# Written by \`make lock\`; do not edit."
        compile --offline -c "$all" pyproject.toml "$@"
    } > "$file.new"
    mv "$file.new" "$file"
}
write requirements/serving.txt "Serving: the worker, archive, statistics and the demo.  No torch."
write requirements/dev.txt "Tests and checks, on top of either environment." --extra dev
# shellcheck disable=SC2086 # one option per word
write requirements/training.txt "Training and export: serving plus torch." --extra training $cuda
