#!/usr/bin/env python
"""Tiny random T5s as `transformers` saves them, and what `generate` writes with them.

  make_t5.py --out crates/clap-encoders/tests/files/t5

`relu` is a T5 of 2019: the embedding is the output layer, `pytorch_model.bin` holds every copy of it. `gated` is T5 1.1: gated GELU,
an output layer of its own, safetensors, a `generation_config.json` with a search of its own. Each folder gets `expected.json`: the
token ids of some prompts, in one padded batch, and for each case of options the ids that `generate` returns.

No case may hang on rounding: each is computed in f32, in f64 and with weights moved by 1e-6 of themselves, and has to come out alike.
"""
import argparse, json, os
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration, T5TokenizerFast

TEXT = ["a dog barks while rain falls on a roof", "a person is speaking and a child laughs", "the sound of a train horn",
        "birds sing in the wind", "an engine starts and a bell rings", "water runs, footsteps and a door", "music is playing",
        "a cat meows", "people are talking in a crowd", "keywords | text </s> speech"]

PROMPTS = ["dog| rain </s>", "speech </s>", "train| bell| water| footsteps| door| music| crowd| wind| birds| cat| horn </s>",
           "engine| child </s>", "a person is speaking and a child laughs while rain falls on a roof and a train horn rings </s>"]

CASES = {
    "greedy": dict(max_length=24),
    "greedy_short": dict(max_length=5),
    "greedy_no_repeat": dict(max_length=30, no_repeat_ngram_size=2),
    "greedy_penalty": dict(max_length=30, repetition_penalty=1.4, min_length=12),
    "greedy_forced": dict(max_length=12, forced_bos_token_id=9, forced_eos_token_id=1),
    "greedy_two_ends": dict(max_length=24, eos_token_id=[1, 7, 11]),
    "beam_4": dict(max_length=24, num_beams=4),
    "beam_4_keytotext": dict(max_length=40, num_beams=4, length_penalty=1.5, no_repeat_ngram_size=3, early_stopping=True),
    "beam_4_never": dict(max_length=20, num_beams=4, early_stopping="never", length_penalty=0.6),
    "beam_4_short": dict(max_length=20, num_beams=4, length_penalty=-1.0),
    "beam_4_penalty": dict(max_length=30, num_beams=4, repetition_penalty=1.3, no_repeat_ngram_size=2, min_length=9),
    "beam_4_forced": dict(max_length=9, num_beams=4, forced_bos_token_id=9, forced_eos_token_id=1),
    "beam_4_two_ends": dict(max_length=24, num_beams=4, eos_token_id=[1, 7, 11], early_stopping=True),
    "beam_3": dict(max_length=16, num_beams=3, length_penalty=0.0),
}

def tokenizer():
    """Every letter and some words. Given, not learnt: the trainer of `tokenizers` does not always learn the same."""
    text = " ".join(TEXT + PROMPTS).replace("</s>", " ")
    letters = sorted(set(text) - {" "})
    words = sorted({"\u2581" + word for word in text.replace(",", " ").replace("|", " ").split() if len(word) > 3})
    pieces = [(special, 0.0) for special in ["<pad>", "</s>", "<unk>"]] + [("\u2581", -4.0)]
    pieces += [(letter, -6.0 - at / 64) for at, letter in enumerate(letters)]
    pieces += [(word, -8.0 - at / 64) for at, word in enumerate(words)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=inner, extra_ids=0)

def model(config, seed, spread, sharp):
    """Weights several times those of a new T5, so that texts differ with their prompts and do not repeat one token; `sharp` is the
    factor of the last hidden states."""
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "relative_attention_bias" in name:
                weight.normal_(0, 1.0)
            elif "shared" in name or "lm_head" in name:
                weight.normal_(0, spread)
            elif "layer_norm" in name:
                weight.uniform_(0.7, 1.3)
            else:
                weight.normal_(0, 1.3 * weight.shape[1] ** -0.5)
        model.decoder.final_layer_norm.weight.mul_(sharp)
    return model

def generate(model, batch, options):
    with torch.no_grad():
        # `None` leaves everything to the model's own generation_config.json.
        options = {} if options is None else {"num_beams": 1} | options
        return model.generate(**batch, **options).tolist()

def moved(model, seed):
    torch.manual_seed(seed)
    other = T5ForConditionalGeneration(model.config).eval()
    other.load_state_dict(model.state_dict())
    other.generation_config = model.generation_config
    with torch.no_grad():
        for weight in set(other.parameters()):
            weight.mul_(1 + 1e-6 * torch.randn_like(weight))
    return other

def write(folder, model, tokens, safe, own):
    os.makedirs(folder, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=safe)
    tokens.save_pretrained(folder)
    for name in ["special_tokens_map.json", "tokenizer_config.json", "added_tokens.json"]:
        if os.path.exists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
    again = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokens(PROMPTS, return_tensors="pt", padding=True)
    batch = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    ids = [[i for i, m in zip(*row) if m] for row in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist())]
    cases = {}
    for name, options in (CASES | ({"own": None} if own else {})).items():
        expected = generate(again, batch, options)
        double = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
        for other in [double] + [moved(again, seed) for seed in range(3)]:
            assert generate(other, batch, options) == expected, f"{folder} {name} hangs on rounding: take another seed"
        # One prompt at a time as well: padding and company change nothing, but for what fills a row behind its text, which is the
        # padding token or (beam search, where that is 0) the first that ends a text.
        texts = [generate(again, {"input_ids": torch.tensor([one])}, options)[0] for one in ids]
        for row, text in zip(expected, texts):
            assert row[:len(text)] == text and set(row[len(text):]) <= {0, 1}, f"{folder} {name}"
        cases[name] = dict(options=options, ids=texts)
    texts = tokens.batch_decode(cases["beam_4_keytotext"]["ids"], skip_special_tokens=True)
    with torch.no_grad():
        logits = again(**batch, decoder_input_ids=torch.tensor([[0, 5, 9, 14]] * len(PROMPTS))).logits[:, -1]
    expected = dict(prompts=PROMPTS, prompt_ids=ids, cases=cases, texts=texts,
                    logits=[[round(x, 6) for x in row] for row in logits.tolist()])
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump(expected, file, separators=(",", ":"))
        file.write("\n")
    for name in cases:
        print(folder, name, [len([i for i in row if i]) for row in cases[name]["ids"]], cases[name]["ids"][0])
    print(texts)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=[15, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokens = tokenizer()
    size = len(tokens) + 3
    common = dict(vocab_size=size, d_model=16, d_kv=5, d_ff=24, num_heads=2, decoder_start_token_id=0)
    relu = T5Config(num_layers=3, num_decoder_layers=2, relative_attention_num_buckets=8, relative_attention_max_distance=20, **common)
    write(os.path.join(args.out, "relu"), model(relu, args.seeds[0], 0.05, 50.0), tokens, False, False)
    gated = T5Config(num_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **common)
    network = model(gated, args.seeds[1], 1.0, 0.6)
    network.generation_config.update(num_beams=4, max_length=18, length_penalty=1.2, no_repeat_ngram_size=3, early_stopping=True)
    write(os.path.join(args.out, "gated"), network, tokens, True, True)
