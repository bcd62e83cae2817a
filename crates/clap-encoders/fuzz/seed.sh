#!/bin/sh
# Fills target/corpus/ with the files of the tests.
set -e
cd "$(dirname "$0")"
mkdir -p target/corpus/torch_file
cp ../tests/files/torch/*.pt target/corpus/torch_file/
