"""Does `laion_clap` load a checkpoint of ours, strictly, and compute the same embeddings?

  cargo xtask convert RUN model.pt --to laion
  cargo xtask embed --model RUN --preset laion a.wav b.wav --text "a dog" > ours.jsonl
  check_laion.py RUN/checkpoints/best model.pt ours.jsonl

The folder gives sizes and tokenizer (RoBERTa text towers; HTS-AT of any size and LAION's PANNs), the .pt file the weights, read by
laion_clap's own `load_state_dict`. Prints the least cosine; exits with 1 unless every cosine is at least 0.99999. Sound files have to have the
model's sampling rate and be no longer than its window, so that neither a resampler nor chance has a part in it.
"""
import json, os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clapref as C
import numpy as np, soundfile, torch, torch.nn as nn
from transformers import RobertaTokenizerFast

folder, archive, lines = sys.argv[1], sys.argv[2], [json.loads(line) for line in open(sys.argv[3])]
read = lambda name: json.load(open(os.path.join(folder, name)))
text, L = read("config.json")["text_config"], C.laion()
model, acfg = C.laion_from_folder(folder)
rate, seconds = acfg["sample_rate"], read("preprocessor_config.json")["max_length_s"]
from clap_module import factory
state = factory.load_state_dict(archive)
print(model.load_state_dict(state, strict=True), len(state), "tensors")
model.eval()
tokenizer = RobertaTokenizerFast.from_pretrained(folder)
worst = 1.0
for line in lines:
    with torch.no_grad():
        if line["kind"] == "audio":
            wave, found = soundfile.read(line["id"], dtype="float32", always_2d=True)
            assert found == rate, f"{line['id']} has {found} Hz, the model {rate}"
            wave = torch.from_numpy(L.data.int16_to_float32(L.data.float32_to_int16(wave.mean(1))))
            assert len(wave) <= acfg["clip_samples"], f"{line['id']} is longer than the model's window of {seconds} s"
            sample = L.data.get_audio_features({}, wave, acfg["clip_samples"], "fusion" if model.enable_fusion else "rand_trunc", "repeatpad", acfg)
            if model.enable_fusion:
                theirs = model.audio_projection(model.encode_audio({k: v[None] for k, v in sample.items()}, device="cpu")["embedding"])
            else:
                theirs = model.get_audio_embedding([sample])
        else:
            length = min(77, text["max_position_embeddings"] - text["pad_token_id"] - 1)
            theirs = model.get_text_embedding(dict(tokenizer([line["id"]], padding="max_length", truncation=True, max_length=length, return_tensors="pt")))
    cosine = float(torch.tensor(line["embedding"]) @ nn.functional.normalize(theirs, dim=-1)[0])
    worst = min(worst, cosine)
    print(f"{cosine:.8f}  {line['kind']:5} {line['id']}")
print(f"least cosine {worst:.8f}")
sys.exit(worst < 0.99999)
