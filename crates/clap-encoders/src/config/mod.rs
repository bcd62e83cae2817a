//! `config.json` of a CLAP model folder, field by field as `transformers` 4.57.6 writes it
//! (`models/clap/configuration_clap.py`). A field that the file leaves out takes Hugging Face's default, one that this
//! model does not use is ignored.

mod audio;
mod display;
mod fusion;
mod htsat;
mod pann;
mod text;

use std::path::Path;

use clap_audio::augment::SpecAugment;
use clap_nn::Activation;
use serde::{Deserialize, Serialize};

pub use audio::AudioConfig;
pub(crate) use audio::FUSED_VIEWS;
pub use fusion::FusionType;
pub use htsat::HtsAtConfig;
pub use pann::PannConfig;
pub use text::{TextConfig, TextModelType};

use crate::error::{Error, Result};

/// A whole CLAP model: two towers and the joint space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClapConfig {
    /// The text tower.
    pub text_config: TextConfig,
    /// The audio tower.
    pub audio_config: AudioConfig,
    /// Width of the joint space.
    pub projection_dim: usize,
    /// Activation between the two layers of each projection.
    pub projection_hidden_act: Activation,
    /// Initial temperature: both logit scales start at its logarithm.
    pub logit_scale_init_value: f64,
    /// The model has the second head of LAION's MLP loss, [`crate::Transform`]. A key of ours: `transformers` has no such head.
    #[serde(skip_serializing_if = "is_false")]
    pub mlp_loss: bool,
    /// Dropout inside that head, in training.
    #[serde(skip_serializing_if = "is_mlp_dropout")]
    pub mlp_dropout: f64,
    /// Initial bias of the logits of the sigmoid loss (SigLIP); the model has a `logit_bias` where this is set. A key of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_bias_init_value: Option<f64>,
}

impl Default for ClapConfig {
    fn default() -> Self {
        Self {
            text_config: TextConfig::default(),
            audio_config: AudioConfig::default(),
            projection_dim: 512,
            projection_hidden_act: Activation::Relu,
            logit_scale_init_value: 1.0 / 0.07,
            mlp_loss: false,
            mlp_dropout: MLP_DROPOUT,
            logit_bias_init_value: None,
        }
    }
}

impl ClapConfig {
    /// Reads and validates `config.json`.
    ///
    /// # Errors
    /// Where the file cannot be read, is not such JSON, or describes no model; the message names the key.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let config: Self = serde_json::from_str(&text).map_err(Error::json(path))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    /// Naming the first key at fault.
    pub fn validate(&self) -> Result<()> {
        size("projection_dim", self.projection_dim, WIDEST)?;
        if !(self.logit_scale_init_value.is_finite() && self.logit_scale_init_value > 0.0) {
            return Err(Error::config(
                "logit_scale_init_value",
                format!("{} is no temperature; give a positive number", self.logit_scale_init_value),
            ));
        }
        rate("mlp_dropout", self.mlp_dropout)?;
        if let Some(bias) = self.logit_bias_init_value.filter(|bias| !bias.is_finite()) {
            return Err(Error::config("logit_bias_init_value", format!("{bias} is no number")));
        }
        self.text_config.validate()?;
        self.audio_config.validate()
    }
}

/// LAION's dropout of the second head.
const MLP_DROPOUT: f64 = 0.1;

// `skip_serializing_if` hands over references. Keys of ours are left out of a `config.json` that has no use for them.

fn is_false(value: &bool) -> bool {
    !value
}

fn is_mlp_dropout(value: &f64) -> bool {
    *value == MLP_DROPOUT
}

// No published tower comes near these; a larger number is a slip of the pen, and allocating for it would end the process.

/// Channels of a layer.
pub(crate) const WIDEST: usize = 1 << 16;
/// Layers of a tower, or blocks of a stage.
pub(crate) const DEEPEST: usize = 1000;
/// Rows of an embedding.
pub(crate) const LONGEST: usize = 1 << 22;
/// Stripes that SpecAugment drops.
const MOST_STRIPES: usize = 1000;

/// `value` is a usable size.
pub(crate) fn size(key: &str, value: usize, limit: usize) -> Result<()> {
    if (1..=limit).contains(&value) {
        Ok(())
    } else {
        Err(Error::config(key, format!("{value} is not a size between 1 and {limit}")))
    }
}

/// `value` is a probability of dropping something.
fn rate(key: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::config(key, format!("{value} is not a rate from 0 up to, not including, 1")))
    }
}

/// `value` is an epsilon of a layer norm.
pub(crate) fn epsilon(key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(Error::config(key, format!("{value} is no layer-norm epsilon; 1e-5 and 1e-12 are usual")))
    }
}

/// `value` is a standard deviation that weights can begin with.
fn spread(key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(Error::config(key, format!("{value} is no standard deviation to begin with; 0.02 is usual, 1 the most")))
    }
}

/// `stripes` can be dropped of spectrograms of `bins` mel bins. Clips may have fewer frames than a stripe, so time has no such bound.
fn stripes(stripes: Option<&SpecAugment>, bins: usize) -> Result<()> {
    let Some(stripes) = stripes else { return Ok(()) };
    let key = |name: &str| format!("audio_config.spec_augment.{name}");
    size(&key("time_drop_width"), stripes.time_drop_width, LONGEST)?;
    size(&key("freq_drop_width"), stripes.freq_drop_width, bins)?;
    for (name, count) in [("time_stripes", stripes.time_stripes), ("freq_stripes", stripes.freq_stripes)] {
        if count > MOST_STRIPES {
            return Err(Error::config(key(name), format!("{count} stripes; {MOST_STRIPES} are the most, 2 are usual")));
        }
    }
    Ok(())
}

/// `heads` divide `width`.
fn heads(key: &str, heads: usize, width: usize) -> Result<()> {
    if heads > 0 && width.is_multiple_of(heads) {
        Ok(())
    } else {
        Err(Error::config(key, format!("{heads} heads do not divide a width of {width}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `json` is refused with a message that names `key`.
    #[track_caller]
    fn refuses(json: &str, key: &str) {
        let config: ClapConfig = serde_json::from_str(json).unwrap();
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}`")), "expected `{key}` in: {message}");
    }

    #[track_caller]
    fn accepts(json: &str) -> ClapConfig {
        let config: ClapConfig = serde_json::from_str(json).unwrap();
        config.validate().unwrap();
        config
    }

    #[test]
    fn an_empty_file_is_hugging_faces_default() {
        let config = accepts("{}");
        assert_eq!(config, ClapConfig::default());
        assert_eq!((config.audio_config.hidden_size(), config.text_config.max_position_embeddings), (768, 514));
        assert_eq!(config.text_config.layer_norm_eps, 1e-12);
    }

    #[test]
    fn unknown_and_legacy_fields_are_ignored() {
        let config = accepts(
            r#"{"model_type":"clap","text_config":{"torch_dtype":"float32"},
                "audio_config":{"enable_fusion":true,"fusion_type":null,"patch_stride":4,"amodel":"HTSAT"}}"#,
        );
        assert_eq!(config.audio_config.fusion(), Some(FusionType::Aff2d));
        let AudioConfig::HtsAt(audio) = config.audio_config else { panic!("not an HTS-AT") };
        assert_eq!(audio.patch_stride, [4, 4]);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut config = ClapConfig::default();
        let htsat = HtsAtConfig {
            depths: vec![1, 2, 3, 1],
            enable_fusion: true,
            fusion_type: Some(FusionType::Iaff2d),
            ..HtsAtConfig::default()
        };
        let pann = PannConfig { enable_fusion: true, fusion_type: Some(FusionType::Daf1d), ..PannConfig::cnn6() };
        for audio in [AudioConfig::from(htsat), AudioConfig::from(pann)] {
            config.audio_config = audio;
            let again: ClapConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            assert_eq!(again, config);
        }
    }

    #[test]
    fn odd_sizes_are_a_model() {
        accepts(
            r#"{"projection_dim":40,"text_config":{"hidden_size":60,"num_attention_heads":5,"num_hidden_layers":1},
                "audio_config":{"patch_embeds_hidden_size":12,"hidden_size":96,"depths":[1,2,3,1],
                "num_attention_heads":[2,2,4,8],"spec_size":64,"num_mel_bins":16,"patch_size":2,"patch_stride":[2,2],
                "mlp_ratio":1.5,"window_size":4}}"#,
        );
        accepts(
            r#"{"audio_config":{"depths":[2,2,6],"num_attention_heads":[4,8,16],"hidden_size":384,"spec_size":128}}"#,
        );
    }

    #[test]
    fn each_impossible_size_is_named() {
        refuses(r#"{"projection_dim":0}"#, "projection_dim");
        refuses(r#"{"text_config":{"num_attention_heads":7}}"#, "text_config.num_attention_heads");
        refuses(r#"{"text_config":{"hidden_size":99999999999}}"#, "text_config.hidden_size");
        refuses(r#"{"text_config":{"max_position_embeddings":2}}"#, "text_config.max_position_embeddings");
        refuses(r#"{"text_config":{"hidden_dropout_prob":1.0}}"#, "text_config.hidden_dropout_prob");
        refuses(r#"{"text_config":{"layer_norm_eps":0}}"#, "text_config.layer_norm_eps");
        refuses(r#"{"text_config":{"vocab_size":1}}"#, "text_config.vocab_size");
        for value in ["0.0", "-0.02", "1.5"] {
            for tower in ["text_config", "audio_config"] {
                let json = format!(r#"{{"{tower}":{{"initializer_range":{value}}}}}"#);
                refuses(&json, &format!("{tower}.initializer_range"));
                let config: ClapConfig = serde_json::from_str(&json).unwrap();
                assert!(config.validate().unwrap_err().to_string().contains("standard deviation"));
            }
        }
        accepts(r#"{"text_config":{"initializer_range":1.0},"audio_config":{"initializer_range":0.06}}"#);
        refuses(r#"{"audio_config":{"num_mel_bins":60}}"#, "audio_config.spec_size");
        refuses(r#"{"audio_config":{"patch_size":7,"patch_stride":7}}"#, "audio_config.spec_size");
        refuses(r#"{"audio_config":{"patch_size":8}}"#, "audio_config.patch_stride");
        refuses(r#"{"audio_config":{"enable_tagging":true,"num_classes":0}}"#, "audio_config.num_classes");
        accepts(r#"{"audio_config":{"enable_tagging":true}}"#);
        // The last of five stages is 4 x 4 tokens, of 8 strips.
        let five = r#""depths":[1,1,1,1,1],"num_attention_heads":[4,4,4,4,4],"hidden_size":1536,"num_mel_bins":32"#;
        accepts(&format!(r#"{{"audio_config":{{{five}}}}}"#));
        refuses(&format!(r#"{{"audio_config":{{"enable_tagging":true,{five}}}}}"#), "audio_config.enable_tagging");
        refuses(r#"{"audio_config":{"depths":[]}}"#, "audio_config.depths");
        refuses(r#"{"audio_config":{"depths":[2,2,2]}}"#, "audio_config.num_attention_heads");
        refuses(r#"{"audio_config":{"num_attention_heads":[4,8,16,31]}}"#, "audio_config.num_attention_heads");
        refuses(r#"{"audio_config":{"hidden_size":512}}"#, "audio_config.hidden_size");
        refuses(r#"{"audio_config":{"window_size":7}}"#, "audio_config.window_size");
        refuses(r#"{"audio_config":{"mlp_ratio":0.0}}"#, "audio_config.mlp_ratio");
        refuses(r#"{"audio_config":{"drop_path_rate":-0.1}}"#, "audio_config.drop_path_rate");
        refuses(r#"{"audio_config":{"patch_embed_input_channels":2}}"#, "audio_config.patch_embed_input_channels");
        refuses(r#"{"audio_config":{"enable_fusion":true,"aff_block_r":200}}"#, "audio_config.aff_block_r");
        refuses(
            r#"{"audio_config":{"depths":[1,1,1,1,1,1,1,1,1],"num_attention_heads":[1,1,1,1,1,1,1,1,1]}}"#,
            "audio_config.depths",
        );
    }

    /// Each would ask for more memory than there is, or for a layer of no width.
    #[test]
    fn each_absurd_size_is_named() {
        refuses(r#"{"projection_dim":65537}"#, "projection_dim");
        refuses(r#"{"text_config":{"hidden_size":65540}}"#, "text_config.hidden_size");
        refuses(r#"{"text_config":{"intermediate_size":65537}}"#, "text_config.intermediate_size");
        refuses(r#"{"text_config":{"num_hidden_layers":1001}}"#, "text_config.num_hidden_layers");
        refuses(r#"{"text_config":{"vocab_size":4194305}}"#, "text_config.vocab_size");
        refuses(r#"{"audio_config":{"window_size":65}}"#, "audio_config.window_size");
        refuses(r#"{"audio_config":{"spec_size":16384}}"#, "audio_config.spec_size");
        refuses(r#"{"audio_config":{"patch_embeds_hidden_size":65540}}"#, "audio_config.patch_embeds_hidden_size");
        refuses(r#"{"audio_config":{"depths":[2,2,1001,2]}}"#, "audio_config.depths");
        refuses(r#"{"audio_config":{"mlp_ratio":0.01}}"#, "audio_config.mlp_ratio");
        accepts(r#"{"audio_config":{"mlp_ratio":0.0105}}"#);
    }

    #[test]
    fn model_type_names_the_audio_tower() {
        for json in [r#"{"audio_config":{}}"#, r#"{"audio_config":{"model_type":"clap_audio_model"}}"#] {
            assert_eq!(accepts(json), ClapConfig::default());
        }
        let config = accepts(r#"{"audio_config":{"model_type":"pann","block_widths":[3,5],"pooled_blocks":2}}"#);
        assert_eq!((config.audio_config.num_mel_bins(), config.audio_config.hidden_size()), (64, 2048));
        assert_eq!((config.audio_config.min_frames(), config.audio_config.max_frames()), (4, None));
        for (json, part) in [(r#""cnn""#, "\"pann\""), ("7", "`model_type` is 7")] {
            let json = format!(r#"{{"audio_config":{{"model_type":{json}}}}}"#);
            let e = serde_json::from_str::<ClapConfig>(&json).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }

    #[test]
    fn each_impossible_pann_is_named() {
        for (fields, key) in [
            (r#""num_mel_bins":0"#, "num_mel_bins"),
            (r#""block_widths":[]"#, "block_widths"),
            (r#""block_widths":[4,65537]"#, "block_widths"),
            (r#""kernel_size":4"#, "kernel_size"),
            (r#""kernel_size":17"#, "kernel_size"),
            (r#""convolutions_per_block":0"#, "convolutions_per_block"),
            (r#""pooled_blocks":7"#, "pooled_blocks"),
            (r#""num_mel_bins":16"#, "pooled_blocks"),
            (r#""dropout":1.0"#, "dropout"),
            (r#""output_dropout":-0.5"#, "output_dropout"),
            (r#""enable_fusion":true,"num_mel_bins":65"#, "fusion_type"),
            (r#""enable_fusion":true,"pooled_blocks":0"#, "fusion_type"),
            (r#""enable_fusion":true,"aff_block_r":65"#, "aff_block_r"),
            (r#""enable_fusion":true,"fusion_type":"iaff_1d","num_mel_bins":65,"aff_block_r":66"#, "aff_block_r"),
        ] {
            let json = format!(r#"{{"audio_config":{{"model_type":"pann",{fields}}}}}"#);
            refuses(&json, &format!("audio_config.{key}"));
        }
        accepts(
            r#"{"audio_config":{"model_type":"pann","num_mel_bins":33,"enable_fusion":true,"fusion_type":"aff_1d"}}"#,
        );
    }

    #[test]
    fn stripes_are_an_option_of_every_tower() {
        for tower in ["clap_audio_model", "pann"] {
            let json =
                |fields: &str| format!(r#"{{"audio_config":{{"model_type":"{tower}","spec_augment":{fields}}}}}"#);
            assert_eq!(accepts(&json("null")).audio_config.spec_augment(), None);
            assert_eq!(accepts(&json("{}")).audio_config.spec_augment(), Some(SpecAugment::default()));
            let config = accepts(&json(r#"{"time_drop_width":500,"freq_drop_width":64,"freq_stripes":0}"#));
            let again: ClapConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            assert_eq!(again, config);
            for (field, value) in
                [("time_drop_width", 0), ("freq_drop_width", 0), ("freq_drop_width", 65), ("time_stripes", 1001)]
            {
                refuses(&json(&format!(r#"{{"{field}":{value}}}"#)), &format!("audio_config.spec_augment.{field}"));
            }
            let e = serde_json::from_str::<ClapConfig>(&json(r#"{"width":3}"#)).unwrap_err().to_string();
            assert!(e.contains("width") && e.contains("time_drop_width"), "{e}");
        }
        let plain = serde_json::to_string(&ClapConfig::default()).unwrap();
        assert!(!plain.contains("spec_augment") && !plain.contains("enable_tagging"), "{plain}");
    }

    #[test]
    fn an_unknown_fusion_type_is_named() {
        let e = serde_json::from_str::<ClapConfig>(r#"{"audio_config":{"fusion_type":"sum_3d"}}"#).unwrap_err();
        assert!(e.to_string().contains("sum_3d") && e.to_string().contains("aff_2d"), "{e}");
    }
}
