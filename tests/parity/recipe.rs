//! The recipe of weights, waveforms and tokens against `recipe_vectors` (numpy, `clapref.py` of the fixture generator), bit
//! for bit: every other parity test stands on it.

use clap_tests::{Fixture, is_recipe_tensor, name_seed, recipe_values, scale_offset, synth_i16, token_ids, unit_fill};
use serde_json::Value;

/// The seed that `recipe_vectors` uses beside the set's own, in the set of any seed.
const OTHER_SEED: u64 = 7;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn names(fixture: &Fixture) -> Vec<String> {
    let names = fixture.config()["names"].as_array().unwrap();
    names.iter().map(|n| n.as_str().unwrap().to_owned()).collect()
}

#[test]
fn name_seeds() {
    let fixture = Fixture::load("recipe_vectors");
    for (key, seed) in [("name_seed_hex", fixture.seed()), ("name_seed_hex_seed7", OTHER_SEED)] {
        let theirs: Vec<&str> = fixture.config()[key].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
        let ours: Vec<String> = names(&fixture).iter().map(|n| format!("{:#x}", name_seed(n, seed))).collect();
        assert_eq!(ours, theirs, "{key}");
    }
}

#[test]
fn unit_values() {
    let fixture = Fixture::load("recipe_vectors");
    for (i, name) in names(&fixture).iter().enumerate() {
        for (key, seed) in [(format!("out/unit{i}"), fixture.seed()), (format!("out/unit{i}_seed7"), OTHER_SEED)] {
            let (theirs, shape) = fixture.f32(&key);
            assert_eq!(bits(&unit_fill(name, shape[0], seed)), bits(&theirs), "{key} ({name})");
        }
    }
}

#[test]
fn weights_of_every_kind() {
    let fixture = Fixture::load("recipe_vectors");
    let recipe = fixture.config()["recipe"].as_object().unwrap();
    assert!(!recipe.is_empty());
    for (name, entry) in recipe {
        let shape: Vec<usize> =
            entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let (offset, scale) = scale_offset(name, &shape);
        assert_eq!(Some(f64::from(offset)), entry["offset"].as_f64(), "offset of {name}");
        assert_eq!(Some(f64::from(scale)), entry["scale"].as_f64(), "scale of {name}");
        let (theirs, _) = fixture.f32(&format!("out/recipe/{name}"));
        let ours = recipe_values(name, &shape, fixture.seed());
        assert_eq!(bits(&ours[..theirs.len()]), bits(&theirs), "{name}");
    }
}

#[test]
fn waveforms() {
    let fixture = Fixture::load("recipe_vectors");
    let head = fixture.i16("out/synth_i16_48000_seed0").0;
    assert_eq!(synth_i16(48_000, 0)[..head.len()], head);
    let tail = fixture.i16("out/synth_i16_48000_seed1_tail").0;
    assert_eq!(synth_i16(48_000, 1)[48_000 - tail.len()..], tail);
    let long = synth_i16(480_000, 0);
    let sum: i64 = long.iter().map(|&v| i64::from(v)).sum();
    let squares: i64 = long.iter().map(|&v| i64::from(v).pow(2)).sum();
    let config = fixture.config();
    assert_eq!(Some(sum), config["synth_i16_480000_seed0_sum"].as_i64());
    assert_eq!(Some(squares), config["synth_i16_480000_seed0_sumsq"].as_i64());
}

#[test]
fn tokens() {
    let fixture = Fixture::load("recipe_vectors");
    let (ids, mask) = token_ids(3, 20, 200, fixture.seed(), Some(&[20, 7, 12]));
    assert_eq!(ids, fixture.i64("out/token_ids").0);
    assert_eq!(mask, fixture.i64("out/token_mask").0);
}

/// Small cases store their weights: those must be the recipe's as well, so that the cases without stored weights
/// (`config.params`) stand on a recipe that was held to real `state_dict`s of every tower.
#[test]
fn stored_weights_are_the_recipe() {
    for case in [
        "htsat_small_unfused",
        "htsat_small_fused_aff_2d",
        "text_small_roberta",
        "text_small_bert",
        "text_small_bart",
        "text_small_transformer",
    ] {
        let fixture = Fixture::load(case);
        let mut checked = 0;
        for key in fixture.keys().filter(|k| k.starts_with("w/")) {
            let name = &key[2..];
            assert!(is_recipe_tensor(name), "{case}: {name}");
            let (theirs, shape) = fixture.f32(key);
            // Tied to `shared.weight`, whose name the reference fills first.
            let source = name
                .replace("encoder.embed_tokens.weight", "shared.weight")
                .replace("decoder.embed_tokens.weight", "shared.weight");
            let ours = recipe_values(&source, &shape, fixture.seed());
            assert_eq!(bits(&ours), bits(&theirs), "{case}: {name}");
            checked += 1;
        }
        assert!(checked > 30, "{case}: only {checked} weights");
    }
}

/// A case without stored weights gives every name of `config.params` but the constructed buffers.
#[test]
fn listed_weights_are_made() {
    let fixture = Fixture::load("text_full_bart");
    let params = fixture.config()["params"].as_object().unwrap();
    let weights = fixture.weights();
    let expected = params.keys().filter(|k| is_recipe_tensor(k)).count();
    assert_eq!(weights.len(), expected);
    for (name, tensor) in &weights {
        let shape: Vec<u64> = params[name].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        let ours: Vec<u64> = tensor.dims().iter().map(|&d| d as u64).collect();
        assert_eq!(ours, shape, "{name}");
    }
    let row = |name: &str| weights[name].get(0).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(row("text_branch.shared.weight"), row("text_branch.encoder.embed_tokens.weight"));
}
