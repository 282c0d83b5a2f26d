# goldens: --out {root}/tests/golden/beams.json
"""Records beam searches of transformers on a tiny random Llama, to which `tests/beam_goldens.rs` compares kiln's.

The model is that of `TinyModel::build` in tests/common/synthetic.rs with f32 weights: both draw them from SplitMix64, so no file of weights is
needed. transformers pairs the dimensions of RoPE by halves and the tiny model neighbours, so rows of q and k are reordered. Keys and
values are rounded to f16, as in kiln's cache.

Searches cover 1 to 10 beams, every `early_stopping`, several `length_penalty`, prompts and lengths. A bias on the end's log-probability (transformers'
SequenceBiasLogitsProcessor, kiln's `logit_bias`) makes many hypotheses end early, with different lengths. A case in which a decision was
close is left out: any two neighbours among the candidates of a step, or among the scores of results, nearer than MARGIN.
"""

import argparse
import itertools
import json

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer
from transformers.generation.configuration_utils import GenerationMode

SEED = 11
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2, 64, 4, 2, 16, 96, 331
END = 5
MARGIN = 1e-4

PROMPTS = [(3, 9), (21, 6), (40, 12), (9, 16)]
END_BIASES = [0.5, 1.5, 3.0]
LENGTH_PENALTIES = [-1.0, 0.0, 0.5, 1.0, 2.0]
EARLY_STOPPING = {"first": True, "likely": False, "never": "never"}


class Rng:
    """SplitMix64, many draws at a time."""

    def __init__(self, seed):
        self.state = np.uint64(seed)

    def draws(self, count):
        gamma = np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            z = self.state + gamma * np.arange(1, count + 1, dtype=np.uint64)
            self.state = self.state + gamma * np.uint64(count)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))


def uniform(draws, low, high):
    """In f32, operation by operation as `Rng::uniform`."""
    low, high = np.float32(low), np.float32(high)
    return low + (high - low) * (draws >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def matrix(rng, rows, cols):
    """`Tensors::matrix` in F32: first the bytes of all weights, which the values then replace, two draws each."""
    rng.draws(-(-rows * cols * 4 // 8))
    draws = rng.draws(2 * rows * cols).reshape(-1, 2)
    size = np.float32(1) / np.sqrt(np.float32(cols)) * uniform(draws[:, 0], 0.5, 1.5)
    edge = np.float32(1.7) * size
    unit = (draws[:, 1] >> np.uint64(40)).astype(np.float32)
    values = -edge + (edge - -edge) * unit / np.float32(1 << 24)
    return values.reshape(rows, cols)


def vector(rng, length, centre, spread):
    centre, spread = np.float32(centre), np.float32(spread)
    return uniform(rng.draws(length), centre - spread, centre + spread)


def by_halves(rows, heads):
    """From neighbouring pairs (2i, 2i + 1) of a head to pairs (i, i + half)."""
    return rows.reshape(heads, HEAD_DIM // 2, 2, -1).transpose(0, 2, 1, 3).reshape(rows.shape)


def weights():
    rng, out = Rng(SEED), {}
    # The tiny model scales its embeddings by sqrt(HIDDEN), a power of two.
    out["model.embed_tokens.weight"] = matrix(rng, VOCAB, HIDDEN) * np.float32(HIDDEN**0.5)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        out[f"{name}.input_layernorm.weight"] = vector(rng, HIDDEN, 1.0, 0.2)
        out[f"{name}.self_attn.q_proj.weight"] = by_halves(matrix(rng, q, HIDDEN), HEADS)
        out[f"{name}.self_attn.k_proj.weight"] = by_halves(matrix(rng, kv, HIDDEN), KV_HEADS)
        out[f"{name}.self_attn.v_proj.weight"] = matrix(rng, kv, HIDDEN)
        out[f"{name}.self_attn.q_proj.bias"] = by_halves(vector(rng, q, 0.0, 0.5), HEADS)
        out[f"{name}.self_attn.k_proj.bias"] = by_halves(vector(rng, kv, 0.0, 0.5), KV_HEADS)
        out[f"{name}.self_attn.v_proj.bias"] = np.zeros(kv, np.float32)
        out[f"{name}.self_attn.o_proj.weight"] = matrix(rng, HIDDEN, q)
        out[f"{name}.self_attn.o_proj.bias"] = np.zeros(HIDDEN, np.float32)
        out[f"{name}.post_attention_layernorm.weight"] = vector(rng, HIDDEN, 1.0, 0.2)
        out[f"{name}.mlp.gate_proj.weight"] = matrix(rng, FFN, HIDDEN)
        out[f"{name}.mlp.up_proj.weight"] = matrix(rng, FFN, HIDDEN)
        out[f"{name}.mlp.down_proj.weight"] = matrix(rng, HIDDEN, FFN)
    out["model.norm.weight"] = vector(rng, HIDDEN, 1.0, 0.2)
    out["lm_head.weight"] = matrix(rng, VOCAB, HIDDEN)
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in out.items()}


def model():
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, rms_norm_eps=1e-5, attention_bias=True, tie_word_embeddings=False,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=END, pad_token_id=END,
    )
    llama = LlamaForCausalLM(config).to(torch.float32).eval()
    missing = llama.load_state_dict(weights(), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    return llama


def round_cache_to_f16():
    update = DynamicLayer.update

    def rounded(self, keys, values, *args, **kwargs):
        return update(self, keys.half().float(), values.half().float(), *args, **kwargs)

    DynamicLayer.update = rounded


def search_with_one_beam_too():
    """transformers takes one beam for greedy decoding, which ends at the first end and has no results to rank."""
    GenerationConfig.get_generation_mode = lambda self, assistant_model=None: GenerationMode.BEAM_SEARCH


class Margins:
    """The nearest that two neighbours came, in anything that transformers' search compares."""

    def __init__(self, llama):
        self.least = float("inf")
        get_top_k, update_finished = llama._get_top_k_continuations, llama._update_finished_beams
        check_early_stop = llama._check_early_stop_heuristic

        def watched_top_k(accumulated_log_probs, *args, **kwargs):
            flat = accumulated_log_probs.reshape(-1)
            self.see(torch.topk(flat, min(kwargs["beams_to_keep"] + 1, flat.numel())).values)
            return get_top_k(accumulated_log_probs, *args, **kwargs)

        def watched_update(**kwargs):
            ends = kwargs["next_token_hits_stopping_criteria"] & kwargs["top_num_beam_mask"][None, :]
            length = kwargs["cur_len"] + 1 - kwargs["decoder_prompt_len"]
            new = (kwargs["topk_log_probs"] / length ** kwargs["length_penalty"])[ends]
            self.see(torch.cat((kwargs["beam_scores"].reshape(-1), new)))
            return update_finished(**kwargs)

        def watched_check(**kwargs):
            lengths = [kwargs["cur_len"], kwargs["max_length"]]
            penalty = kwargs["length_penalty"]
            best = [kwargs["running_beam_scores"][0, 0] / (n - kwargs["decoder_prompt_len"]) ** penalty for n in lengths]
            for score in best:
                self.see(torch.stack((score, kwargs["beam_scores"].min())))
            return check_early_stop(**kwargs)

        llama._get_top_k_continuations, llama._update_finished_beams = watched_top_k, watched_update
        llama._check_early_stop_heuristic = watched_check

    def see(self, values):
        # Less than that is not there yet.
        values = torch.sort(values[values > -1e8]).values
        if len(values) > 1:
            self.least = min(self.least, float((values[1:] - values[:-1]).min()))


def prompt(index, length):
    return [(index * 131 + j * 17 + 6) % VOCAB for j in range(length)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    round_cache_to_f16()
    search_with_one_beam_too()
    llama = model()
    margins = Margins(llama)
    cases, dropped = [], 0
    for beams, (stopping, early), penalty in itertools.product(range(1, 11), EARLY_STOPPING.items(), LENGTH_PENALTIES):
        for index in range(2):
            which = len(cases) + dropped
            (length, max_tokens), bias = PROMPTS[which % len(PROMPTS)], END_BIASES[which // len(PROMPTS) % len(END_BIASES)]
            ids = prompt(which, length)
            config = GenerationConfig(
                num_beams=beams, num_return_sequences=beams, early_stopping=early, length_penalty=penalty, do_sample=False,
                max_new_tokens=max_tokens, eos_token_id=END, pad_token_id=END, sequence_bias={(END,): bias},
                return_dict_in_generate=True, output_scores=True,
            )
            margins.least = float("inf")
            found = llama.generate(torch.tensor([ids]), generation_config=config)
            if margins.least < MARGIN:
                dropped += 1
                continue
            hypotheses = []
            for row, score in zip(found.sequences[:, length:].tolist(), found.sequences_scores.tolist()):
                end = row.index(END) + 1 if END in row else max_tokens
                hypotheses.append({"ids": row[:end], "score": round(score, 6)})
            cases.append({
                "prompt_ids": ids, "num_beams": beams, "early_stopping": stopping, "length_penalty": penalty,
                "max_tokens": max_tokens, "end_bias": bias, "hypotheses": hypotheses,
            })
    found = [(case, hypothesis) for case in cases for hypothesis in case["hypotheses"]]
    early = sum(len(hypothesis["ids"]) < case["max_tokens"] for case, hypothesis in found)
    print(f"{len(cases)} searches, {dropped} left out; {early} of {len(found)} hypotheses end early")
    assert early >= 0.3 * len(found)
    golden = {"transformers": transformers.__version__, "seed": SEED, "end": END, "dropped": dropped, "cases": cases}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in golden.pop("cases"))
    head = json.dumps(golden, separators=(",", ":"))
    with open(args.out, "w") as file:
        file.write(f'{head[:-1]},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
