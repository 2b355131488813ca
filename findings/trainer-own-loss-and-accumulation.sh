#!/usr/bin/env bash
# transformers 5.23.0 Trainer: an overridden compute_loss that returns a mean is multiplied by
# gradient_accumulation_steps, or not, depending on the name of the label column.
#
# Behaviour:  eight rows in one batch give gradient norm g. As four micro-batches of two, the same mean loss
#             gives 4g (and a logged loss four times as large) if the column is called "labels", and g if it
#             is called "targets". The Trainer divides by the steps only if it could not count labels, or if
#             the model's forward takes no **kwargs, whatever compute_loss does.
# Expected:   g in all cases, or one rule that follows from the overridden method.
# Matters:    PRM losses are written this way (cross-entropy at step tags). Halving the micro-batch to save
#             memory then changes the step size; clipping hides it, since max_grad_norm is 1. Divide a sum by
#             num_items_in_batch, or set loss_is_scaled_for_ga = False on the trainer.
# Seen:       ratios of loss and gradient norm to one batch: labels 4.0, targets 1.0, labels with
#             loss_is_scaled_for_ga=False 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install transformers==5.23.0 accelerate==1.15.0
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForTokenClassification, Trainer, TrainingArguments

config = Qwen2Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_labels=2,
)
config.classifier_dropout = 0.0
torch.manual_seed(0)
ids, labels = torch.randint(1, 60, (8, 8)), torch.randint(0, 2, (8, 8))


def train(column: str, num_steps: int, divide: bool = False):
    class OwnLoss(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            logits = model(input_ids=inputs["input_ids"]).logits
            return cross_entropy(logits.flatten(0, 1), inputs[column].flatten())

    torch.manual_seed(0)
    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=8 // num_steps,
        gradient_accumulation_steps=num_steps,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
        max_grad_norm=1e9,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows = [{"input_ids": i, column: label} for i, label in zip(ids, labels, strict=True)]
    trainer = OwnLoss(model=Qwen2ForTokenClassification(config), args=arguments, train_dataset=rows)
    if divide:
        trainer.loss_is_scaled_for_ga = False
    trainer.train()
    log = trainer.state.log_history[0]
    return torch.tensor([log["loss"], float(log["grad_norm"])])


whole = train("labels", 1)
ratios = {
    "labels": train("labels", 4) / whole,
    "targets": train("targets", 4) / whole,
    "divided": train("labels", 4, True) / whole,
}
print(ratios)
for name, ratio in (("labels", 4.0), ("targets", 1.0), ("divided", 1.0)):
    assert torch.allclose(ratios[name], torch.full((2,), ratio), rtol=1e-2), name
PY
