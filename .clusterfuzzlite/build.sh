#!/bin/bash -eu
# Builds every target for ClusterFuzzLite, and packs its seeds beside it.
cd "$SRC/instar"
cargo run --release -p instar-fuzz --bin seeds -- "$WORK/seeds"
cargo fuzz build -O
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename -s .rs "$target")
    cp "fuzz/target/x86_64-unknown-linux-gnu/release/$name" "$OUT/"
    if [ -d "$WORK/seeds/$name" ]; then (cd "$WORK/seeds/$name" && zip -q "$OUT/${name}_seed_corpus.zip" ./*); fi
done
