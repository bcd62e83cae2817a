//! The tagging head in files: asked for where the configuration has it, passed over where not.

use candle_core::{DType, Tensor};

use super::{CPU, Tiny, checkpoint, tiny};
use crate::checkpoint::{Checkpoint, EXTRA, save_laion};
use crate::{AudioConfig, ClapModel, Error, load_folder};

const WEIGHT: &str = "audio_model.audio_encoder.tscam_conv.weight";
const BIAS: &str = "audio_model.audio_encoder.tscam_conv.bias";

/// The model of [`tiny`] with a head of 9 classes in its file, which its configuration has or has not.
fn with_head(enable_tagging: bool) -> Tiny {
    let mut tiny = tiny(None);
    let AudioConfig::HtsAt(config) = &mut tiny.config.audio_config else { panic!("not an HTS-AT") };
    (config.num_classes, config.enable_tagging) = (9, enable_tagging);
    let shape = (9, config.hidden_size, config.strip_rows(), 3);
    tiny.tensors.insert(WEIGHT.to_owned(), Tensor::randn(0f32, 1., shape, &CPU).unwrap());
    tiny.tensors.insert(BIAS.to_owned(), Tensor::randn(0f32, 1., 9, &CPU).unwrap());
    tiny
}

/// Shapes of the outputs that only a head gives, for two clips.
fn tags(model: &ClapModel) -> Option<(Vec<usize>, Vec<usize>)> {
    let xs = Tensor::zeros((2, 1, 60, 16), DType::F32, &CPU).unwrap();
    let tags = model.audio_model().tag(&xs, &[], &mut clap_nn::Mode::eval()).unwrap();
    // 2 strips of 32 frames.
    assert_eq!(tags.fine_grained_embedding.dims(), [2, 64, 12]);
    Some((tags.framewise_output?.dims().to_vec(), tags.clipwise_output?.dims().to_vec()))
}

#[test]
fn a_head_is_built_where_the_configuration_has_it() {
    let tiny = with_head(true);
    let model = tiny.build(&checkpoint(&tiny.tensors)).unwrap();
    assert_eq!(tags(&model), Some((vec![2, 64, 9], vec![2, 9])));

    let mut tensors = tiny.tensors.clone();
    tensors.remove(BIAS);
    let Error::Keys { report, .. } = tiny.build(&checkpoint(&tensors)).unwrap_err() else { panic!("not the keys") };
    assert_eq!(report.missing, [BIAS]);

    let without = with_head(false);
    assert_eq!(tags(&without.build(&checkpoint(&without.tensors)).unwrap()), None);
}

#[test]
fn a_head_of_the_model_is_among_its_weights() {
    for enable_tagging in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        let tiny = with_head(enable_tagging);
        tiny.save(&folder).unwrap();
        let extra = folder.join(EXTRA);
        assert_eq!(extra.is_file(), !enable_tagging);
        let file = if enable_tagging { folder.join("model.safetensors") } else { extra };
        assert!(Checkpoint::open(&file).unwrap().shape(WEIGHT).is_some());
        let json = std::fs::read_to_string(folder.join("config.json")).unwrap();
        assert_eq!(json.contains("enable_tagging"), enable_tagging, "a key of ours is written where it says something");
        let loaded = load_folder(&folder).unwrap();
        assert_eq!(loaded.config, tiny.config);
        assert_eq!(tags(&loaded.model(DType::F32, &CPU).unwrap()).is_some(), enable_tagging);
    }
}

#[test]
fn laions_file_keeps_the_head_and_shows_its_classes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pt");
    let tiny = with_head(true);
    save_laion(&path, &tiny.config, &tiny.features, &tiny.tensors).unwrap();
    let stored = Checkpoint::open(&path).unwrap();
    let Some(AudioConfig::HtsAt(found)) = stored.detect_audio_config() else { panic!("no HTS-AT") };
    // Every file of LAION's has a head; whether it is used, the file does not say.
    assert_eq!((found.num_classes, found.enable_tagging), (9, false));
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(flat(&stored.stored_tensors(&CPU).unwrap()[WEIGHT]), flat(&tiny.tensors[WEIGHT]));
    tiny.build(&stored).unwrap();
}
