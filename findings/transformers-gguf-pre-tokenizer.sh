#!/usr/bin/env bash
# transformers 5.23.0, gguf 0.19.0: AutoTokenizer.from_pretrained(..., gguf_file=...) of a Llama file with a
# byte-level vocabulary does not read the file's pre-tokenizer, and says nothing.
#
# Behaviour:  the key `tokenizer.ggml.pre` says how text is split before the merges. Files that differ in it
#             alone give tokenizers that split alike, as GPT-2 does: with `smollm`, whose digits stand apart,
#             "\n\n1" becomes \n, \n, 1, where the merge of two line ends should apply.
# Expected:   other tokens for `smollm` than for `gpt-2`, or a warning that the key is not read.
# Matters:    SmolLM2 names `smollm`. Its policy then reads prompts with line ends before digits (numbered
#             steps) in tokens that it has not been trained on, and log-probabilities of a file differ between
#             llama.cpp and transformers.
# Seen:       the same pre-tokenizer and the ids of \n, \n, 1 for gpt-2 and smollm, no warning
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install transformers==5.23.0 gguf==0.19.0
"$work/venv/bin/python" - 2>stderr.txt <<'PY'
import numpy as np
from gguf import GGUFWriter
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

tokens = ["<unk>", *bytes_to_unicode().values(), "ĊĊ"]
found = {}
for pre in ("gpt-2", "smollm"):
    writer = GGUFWriter(f"{pre}.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = AutoTokenizer.from_pretrained(".", gguf_file=f"{pre}.gguf")
    found[pre] = tokenizer.convert_ids_to_tokens(tokenizer.encode("\n\n1", add_special_tokens=False))
    print(pre, found[pre], tokenizer.backend_tokenizer.pre_tokenizer)
assert found["gpt-2"] == found["smollm"] == ["Ċ", "Ċ", "1"], "the key is read now"
PY
if grep -i "ggml.pre\|pre-tokenizer" stderr.txt; then
    echo "a warning names the pre-tokenizer now" >&2
    exit 1
fi
echo "as described: the pre-tokenizer of a GGUF file is not read"
