#!/bin/sh
# A trainer for the tests: it copies a model instead of making one.
# usage: fake.sh MODE TRAINED MODEL PAIRS OUTPUT METRICS SEED ITERATION
mode=$1 trained=$2 model=$3 pairs=$4 output=$5 metrics=$6 seed=$7 iteration=$8

echo "mode $mode, seed $seed, iteration $iteration"
[ -f "$model/config.json" ] && [ -f "$model/tokenizer.json" ] || { echo "no model in $model"; exit 2; }
[ -d "$output" ] || { echo "no output folder"; exit 2; }
ls "$pairs"/iteration=*/microbatch=*.parquet || exit 2

leave() {
    cp "$trained"/*.json "$trained"/*.safetensors "$output"/ || exit 3
    mkdir -p "$output/checkpoint-1"
    echo optimizer > "$output/checkpoint-1/optimizer.pt"
    for step in 1 2; do
        echo "{\"step\": $step, \"loss\": 0.$step, \"rewards/margins\": 0.5, \"logits/chosen\": 1.0, \"pairs\": $((step * 2)), \"world_size\": 1}"
    done >> "$metrics"
}

# The first start leaves a file, and goes on as $1 says; the second finds it.
once() {
    if [ -f "$output/half-done" ]; then
        echo "goes on"
        leave
    else
        echo 1 > "$output/half-done"
        "$@"
    fi
}

die() { kill -KILL $$; }
hang() { sleep 1000 & wait; }

case $mode in
    success) leave ;;
    variables) echo "variables: $PLAIN, $TOKEN"; exit 1 ;;
    fails) echo "some progress"; echo "CUDA out of memory" >&2; exit 1 ;;
    bad-input) echo "a pair has no tokens" >&2; exit 2 ;;
    hangs) hang ;;
    hangs-once) once hang ;;
    dies) die ;;
    dies-once) once die ;;
    no-model) ;;
    only-checkpoint) mkdir "$output/checkpoint-1"; cp "$trained"/* "$output/checkpoint-1" ;;
    broken-model) leave; head -c 1000 "$trained/model.safetensors" > "$output/model.safetensors" ;;
    other-vocabulary) leave; sed 's/"politely"/"rudely"/' "$trained/tokenizer.json" > "$output/tokenizer.json" ;;
    half) leave; echo '{"step": 3, "loss": 0.3, "pairs": 3}' > "$metrics" ;;
    links-out) leave; mv "$output/model.safetensors" "$output/../away"; ln -s ../away "$output/model.safetensors" ;;
    pipe) leave; rm "$output/model.safetensors"; mkfifo "$output/model.safetensors" ;;
    output-link) leave; mv "$output" "$output.real"; ln -s "$output.real" "$output" ;;
    output-file) rm -rf "$output"; echo x > "$output" ;;
    not-a-number) leave; printf '\377\377\377\377' | dd of="$output/model.safetensors" bs=1 conv=notrunc 2>/dev/null \
        seek=$(($(wc -c < "$output/model.safetensors") - 4)) ;;
    other-shape) leave; sed -i 's/"num_attention_heads": *4/"num_attention_heads": 2/; s/"num_key_value_heads": *2/"num_key_value_heads": 1/
        s/"head_dim": *32/"head_dim": 64/' "$output/config.json" ;;
    writes-pairs) leave; for file in "$pairs"/iteration=*/*.parquet; do printf x >> "$file"; done ;;
    writes-model) leave; printf ' ' >> "$model/config.json" ;;
    closes-streams) exec >&- 2>&-; leave ;;
    ignores-signals) trap "" TERM INT HUP; sleep 1000; sleep 1000; sleep 1000 ;;
    silent) leave; rm "$metrics" ;;
    # Two children that go on: one in the group, one in a session of its own that ignores SIGTERM.
    leaves-children)
        sleep 1000 & echo $! > "$output/child"
        setsid sh -c 'trap "" TERM; echo $$ > "$0/session"; sleep 1000; sleep 1000' "$output" &
        while [ ! -s "$output/session" ]; do sleep 0.1; done
        cat "$output/child" "$output/session" > "$(dirname "$metrics")/../../../children"
        leave ;;
    *) echo "unknown mode"; exit 4 ;;
esac
