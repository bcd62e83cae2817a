//! The keys of a configuration by name: finding unknown ones, naming the nearest, overriding one.
//!
//! `deny_unknown_fields` guards our own sections, but the towers and the front end are Hugging Face's JSON structures, which
//! let unknown fields pass; so every key is compared with those of the fully populated default.

use clap_audio::FeatureConfig;
use clap_audio::augment::SpecAugment;
use clap_encoders::{AudioConfig, TextConfig};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::config::{LoraConfig, TrainConfig};
use crate::error::{Error, Result};

/// Fields of `preprocessor_config.json` that follow from the others; a configuration neither writes nor takes them.
const DERIVED: [&str; 6] = [
    "feature_extractor_type",
    "nb_frequency_bins",
    "nb_max_samples",
    "padding_side",
    "processor_class",
    "return_attention_mask",
];

/// Writes the front end without its derived fields.
pub(crate) fn serialize_features<S: Serializer>(
    features: &Option<FeatureConfig>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let Some(features) = features else { return serializer.serialize_none() };
    let mut fields = serde_json::to_value(features).map_err(serde::ser::Error::custom)?;
    if let Json::Object(fields) = &mut fields {
        // TOML has no null.
        fields.retain(|name, value| !DERIVED.contains(&name.as_str()) && !value.is_null());
    }
    fields.serialize(serializer)
}

/// Reads a configuration from TOML text; `origin` names it in errors.
pub(crate) fn parse(text: &str, origin: &str) -> Result<TrainConfig> {
    let refused = |e: toml::de::Error| Error::Toml { origin: origin.to_owned(), message: e.to_string() };
    let table: Table = toml::from_str(text).map_err(refused)?;
    check(&table, &known(&table), "", origin)?;
    // From the text again rather than the table: its errors show the line.
    toml::from_str(text).map_err(refused)
}

/// `config` with one key overridden by `KEY=VALUE`.
pub(crate) fn set(config: &TrainConfig, assignment: &str) -> Result<TrainConfig> {
    let Some((key, value)) = assignment.split_once('=') else {
        return Err(Error::config(assignment, "has no value; write KEY=VALUE, as in optim.lr=1e-4"));
    };
    let (key, value) = (key.trim(), value.trim());
    let text = config.to_toml()?;
    let mut table: Table = toml::from_str(&text).map_err(|e| Error::config(key, e.to_string()))?;
    if key == TOWER {
        // Another tower has other keys.
        remove(&mut table, "model.audio");
    }
    if value.is_empty() {
        remove(&mut table, key);
    } else {
        insert(&mut table, key, value_of(value));
    }
    let known = known(&table);
    if lookup(&known, key).is_none() {
        return Err(unknown(key, &known, "the override"));
    }
    // A table given whole (`model.audio.spec_augment={…}`) may hold unknown keys of its own.
    check(&table, &known, "", "the override")?;
    Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| Error::config(key, format!("cannot be {value}: {}", e.message())))
}

/// TOML where it is, a string otherwise, so that paths and words need no quotes.
fn value_of(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The key that says which audio tower the others of its table are of.
const TOWER: &str = "model.audio.model_type";

/// Every key there is: the default configuration with its optional tables present, and the audio tower that `table` names.
fn known(table: &Table) -> Json {
    let mut config = TrainConfig { features: Some(FeatureConfig::default()), ..TrainConfig::default() };
    let kind = TOWER.split('.').try_fold(&Value::Table(table.clone()), |at, part| at.get(part)).cloned();
    // An unknown tower is refused where the configuration is read, with the names of those that there are.
    let named = kind.map(|kind| Table::from_iter([("model_type".to_owned(), kind)]));
    let mut audio: AudioConfig = named.and_then(|audio| audio.try_into().ok()).unwrap_or_default();
    // Keys that are written where they say something.
    let (enable_tagging, spec_augment) = match &mut audio {
        AudioConfig::HtsAt(audio) => (&mut audio.enable_tagging, &mut audio.spec_augment),
        AudioConfig::Pann(audio) => (&mut audio.enable_tagging, &mut audio.spec_augment),
    };
    (*enable_tagging, *spec_augment) = (true, Some(SpecAugment::default()));
    config.model.audio = Some(audio);
    config.model.text = Some(TextConfig::default());
    config.lora = Some(LoraConfig::default());
    serde_json::to_value(config).expect("a configuration of numbers, strings and tables is JSON")
}

fn lookup<'a>(known: &'a Json, key: &str) -> Option<&'a Json> {
    key.split('.').try_fold(known, |at, part| at.get(part))
}

fn check(table: &Table, known: &Json, prefix: &str, origin: &str) -> Result<()> {
    check_below(table, known, known, prefix, origin)
}

fn check_below(table: &Table, known: &Json, all: &Json, prefix: &str, origin: &str) -> Result<()> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (known.get(name), value) {
            (None, _) => return Err(unknown(&key, all, origin)),
            (Some(below @ Json::Object(_)), Value::Table(table)) => check_below(table, below, all, &key, origin)?,
            _ => {}
        }
    }
    Ok(())
}

fn unknown(key: &str, known: &Json, origin: &str) -> Error {
    let mut keys = Vec::new();
    collect(known, "", &mut keys);
    // A misspelt leaf belongs to its own section: compare there first.
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let siblings: Vec<&String> =
        keys.iter().filter(|k| k.rsplit_once('.').map_or("", |(section, _)| section) == section).collect();
    let candidates = if siblings.is_empty() { keys.iter().collect() } else { siblings };
    let nearest = candidates.into_iter().min_by_key(|candidate| distance(key, candidate)).cloned();
    Error::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), nearest: nearest.unwrap_or_default() }
}

fn collect(known: &Json, prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in known.as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        collect(value, &key, keys);
        keys.push(key);
    }
}

/// Levenshtein's distance, halved for a prefix: `hop` means `hop_length` rather than `top_db`.
fn distance(a: &str, b: &str) -> usize {
    let (short, long): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=long.len()).collect();
    for (i, x) in short.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in long.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    let distance = 2 * row[long.len()];
    if b.starts_with(a) { distance / 4 } else { distance }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    let mut parts = key.split('.').peekable();
    let mut at = table;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            return;
        }
        let below = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(below) = below else { return };
        at = below;
    }
}

fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => {
            table.remove(key);
        }
        Some((part, rest)) => {
            if let Some(Value::Table(below)) = table.get_mut(part) {
                remove(below, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("lr", "lr"), 0);
        assert_eq!(distance("lrr", "lr"), 2);
        assert_eq!(distance("kitten", "sitting"), 6);
        assert!(distance("hop", "hop_length") < distance("hop", "top_db"));
    }

    #[test]
    fn values_are_toml_or_strings() {
        assert_eq!(value_of("1e-4"), Value::Float(1e-4));
        assert_eq!(value_of("true"), Value::Boolean(true));
        assert_eq!(value_of("a/b c"), Value::String("a/b c".to_owned()));
        assert_eq!(value_of("\"1\""), Value::String("1".to_owned()));
    }

    #[test]
    fn the_default_knows_its_optional_keys() {
        let known = known(&Table::new());
        for key in ["optim.grad_clip_norm", "data.valid", "model.audio.depths"] {
            assert!(lookup(&known, key).is_some(), "{key}");
        }
        assert!(lookup(&known, "optim.lr.x").is_none());
    }

    #[test]
    fn the_tower_has_stripes_of_its_own() {
        for tower in ["clap_audio_model", "pann"] {
            let recipe = format!(
                "[model.audio]\nmodel_type = \"{tower}\"\nenable_tagging = true\n[model.audio.spec_augment]\ntime_drop_width = 24"
            );
            let config = parse(&recipe, "recipe.toml").unwrap();
            let audio = config.model.audio.as_ref().unwrap();
            assert!(audio.enable_tagging());
            assert_eq!(audio.spec_augment(), Some(SpecAugment { time_drop_width: 24, ..SpecAugment::default() }));
            let again = parse(&config.to_toml().unwrap(), "config.toml").unwrap();
            assert_eq!(again.model.audio.as_ref(), Some(audio));
            let fewer = set(&config, "model.audio.spec_augment.freq_stripes=1").unwrap().model.audio.unwrap();
            assert_eq!(fewer.spec_augment().unwrap().freq_stripes, 1);
            let none = set(&config, "model.audio.spec_augment=").unwrap().model.audio.unwrap();
            assert_eq!(none.spec_augment(), None);

            let error = parse(&format!("{recipe}\ntime_stripe = 1"), "recipe.toml").unwrap_err().to_string();
            let (key, meant) = ("model.audio.spec_augment.time_stripe", "model.audio.spec_augment.time_stripes");
            assert!(error.contains(key) && error.contains(meant), "{error}");
            let error = set(&config, "model.audio.spec_augment={ width = 1 }").unwrap_err().to_string();
            assert!(error.contains("model.audio.spec_augment.width"), "{error}");
        }
    }

    #[test]
    fn the_audio_tower_decides_which_keys_there_are() {
        let pann = "[model.audio]\nmodel_type = \"pann\"\nblock_widths = [8, 12]\npooled_blocks = 2";
        let config = parse(pann, "recipe.toml").unwrap();
        let audio = config.model.audio.as_ref().unwrap();
        assert_eq!(audio.min_frames(), 4);
        let again = parse(&config.to_toml().unwrap(), "config.toml").unwrap();
        assert_eq!(again.model.audio.as_ref(), Some(audio));
        let set_again = set(&config, "model.audio.pooled_blocks=1").unwrap();
        assert_eq!(set_again.model.audio.unwrap().min_frames(), 2);

        let error = parse(&format!("{pann}\ndepths = [2]"), "recipe.toml").unwrap_err().to_string();
        assert!(error.contains("model.audio.depths"), "{error}");
        let error = set(&config, "model.audio.spec_size=64").unwrap_err().to_string();
        assert!(error.contains("model.audio.spec_size"), "{error}");
        let htsat = set(&config, "model.audio.model_type=clap_audio_model").unwrap();
        assert_eq!(htsat.model.audio, Some(clap_encoders::AudioConfig::default()));
        let error = set(&config, "model.audio.model_type=cnn").unwrap_err().to_string();
        assert!(error.contains("cnn") && error.contains("pann"), "{error}");
    }
}
