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
config, features = read("config.json"), read("preprocessor_config.json")
audio, text, L = config["audio_config"], config["text_config"], C.laion()
is_pann, fused = audio.get("model_type") == "pann", audio.get("enable_fusion", False)
fusion_type = (audio.get("fusion_type") or "aff_2d") if fused else "None"
seconds, rate = features["max_length_s"], features["sampling_rate"]
acfg = dict(audio_length=1024, clip_samples=int(seconds * rate), mel_bins=features["feature_size"], sample_rate=rate,
            window_size=features["fft_window_size"], hop_size=features["hop_length"], fmin=features["frequency_min"],
            fmax=features["frequency_max"], class_num=audio["num_classes"], model_type="PANN" if is_pann else "HTSAT",
            model_name={4: "Cnn6", 5: "Cnn10", 6: "Cnn14"}[len(audio["block_widths"])] if is_pann else "tiny")
tcfg = dict(context_length=77, vocab_size=text["vocab_size"], width=text["hidden_size"], heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"], model_type="roberta")
C.TEXT_OVERRIDE["roberta-base"] = {key: text[key] for key in (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id")}

def htsat(audio_cfg, enable_fusion=False, fusion_type="None"):
    return L.HTSAT(spec_size=audio["spec_size"], patch_size=audio["patch_size"], patch_stride=tuple(audio["patch_stride"]),
                   num_classes=audio["num_classes"], embed_dim=audio["patch_embeds_hidden_size"], depths=audio["depths"],
                   num_heads=audio["num_attention_heads"], window_size=audio["window_size"], mlp_ratio=audio["mlp_ratio"],
                   config=audio_cfg, enable_fusion=enable_fusion, fusion_type=fusion_type)

L.model.create_htsat_model = htsat
joint = config["projection_dim"]
model = L.model.CLAP(embed_dim=audio["hidden_size"], audio_cfg=acfg, text_cfg=tcfg, enable_fusion=fused, fusion_type=fusion_type,
                     joint_embed_shape=joint)
model.text_projection[0] = nn.Linear(text["hidden_size"], joint)
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
            sample = L.data.get_audio_features({}, wave, acfg["clip_samples"], "fusion" if fused else "rand_trunc", "repeatpad", acfg)
            if fused:
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
