"""A policy that runs `generate` of transformers on left-padded batches, with every prefix from its start.

This is what users would write without this project. It is correct, and it reads the evidence that trees need
from the logits that `generate` returns. Every batch waits for its last row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from forkpoint.policies.local import LocalPolicy
from forkpoint.policies.sampling import take
from forkpoint.records import Completion, Request


class GeneratePolicy(LocalPolicy):
    """`LocalPolicy` with another engine.

    It samples from the global generator and ignores the seeds of requests.
    """

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions = [Completion((), (), (), (), (), "stop")] * len(requests)
        order = sorted(
            range(len(requests)), key=lambda idx: (-requests[idx].max_tokens, len(requests[idx].prefix_ids))
        )
        for first in range(0, len(order), self._batch_size):
            idxs = order[first : first + self._batch_size]
            for idx, completion in zip(idxs, self._batch([requests[idx] for idx in idxs]), strict=True):
                completions[idx] = completion
        return completions

    def _batch(self, requests: Sequence[Request]) -> list[Completion]:
        width = max(len(request.prefix_ids) for request in requests)
        pad_id = self.model.config.pad_token_id or 0
        device = self.model.device
        ids_B_T = torch.tensor(
            [[pad_id] * (width - len(r.prefix_ids)) + list(r.prefix_ids) for r in requests], device=device
        )
        mask_B_T = torch.tensor(
            [[0] * (width - len(r.prefix_ids)) + [1] * len(r.prefix_ids) for r in requests], device=device
        )
        temperature = requests[0].temperature
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        output = self.model.generate(  # type: ignore[operator]
            input_ids=ids_B_T,
            attention_mask=mask_B_T,
            max_new_tokens=max(request.max_tokens for request in requests),
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=pad_id,
            **sampling,
        )
        taken_B_T = output.sequences[:, width:]
        evidence = []
        for step, logits_B_V in enumerate(output.logits):
            seen = take(logits_B_V, torch.zeros(len(requests)), None, None)
            ids_B = taken_B_T[:, step]
            logprobs_B = logits_B_V.float().log_softmax(-1).gather(1, ids_B[:, None])[:, 0]
            evidence.append(
                torch.stack(
                    (logprobs_B, seen.entropies_B, seen.runner_up_ids_B.float(), seen.runner_up_logprobs_B)
                )
            )
        floats_B_4_T = torch.stack(evidence, -1).transpose(0, 1).tolist()
        completions = []
        for request, ids, (logprobs, entropies, runner_ups, runner_up_logprobs) in zip(
            requests, taken_B_T.tolist(), floats_B_4_T, strict=True
        ):
            end = next((idx + 1 for idx, token in enumerate(ids) if token in self.eos_ids), len(ids))
            num = min(end, request.max_tokens)
            completions.append(
                Completion(
                    tuple(ids[:num]),
                    tuple(logprobs[:num]),
                    tuple(entropies[:num]),
                    tuple(int(token) for token in runner_ups[:num]),
                    tuple(runner_up_logprobs[:num]),
                    "stop" if ids[num - 1] in self.eos_ids else "length",
                )
            )
        return completions
