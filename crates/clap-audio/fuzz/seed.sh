#!/bin/sh
# Fills target/corpus/ with the sound files of the tests, each behind the numbers that a target reads first.
set -e
cd "$(dirname "$0")"
mkdir -p target/corpus/decode target/corpus/segment target/corpus/reader
for file in ../tests/files/*.* ../tests/files/regressions/*; do
    name=$(basename "$file")
    case $name in *.md | *.sh) continue ;; esac
    cp "$file" "target/corpus/decode/$name"
    # From 1/16 s on, 1/16 s long.
    { printf '\000\001\000\001'; cat "$file"; } > "target/corpus/segment/$name"
    # Seek to 2000, read 513, seek to 512, read 257, seek far away, seek to 0, read 4097, read 1.
    { printf '\350\003\001\002\000\001\001\001\376\377\000\000\001\020\001\000'; cat "$file"; } > "target/corpus/reader/$name"
done
