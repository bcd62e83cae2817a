//! Other implementations of the same layers, on the same weights: sizes that no fixture has cost nothing here.

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::xlm_roberta::{Config, XLMRobertaModel};
use clap_encoders::{Taps, TextConfig, text::Bert};
use clap_nn::{Activation, Mode, init::seeded_vars};

/// candle-transformers' XLM-RoBERTa is the encoder without the pooler; padding, positions and epsilon have to agree.
#[test]
fn roberta_equals_the_encoder_of_candle_transformers() {
    let ours = TextConfig {
        vocab_size: 90,
        hidden_size: 30,
        num_hidden_layers: 3,
        num_attention_heads: 5,
        intermediate_size: 44,
        hidden_act: Activation::Gelu,
        max_position_embeddings: 25,
        layer_norm_eps: 1e-5,
        initializer_range: 0.3,
        ..TextConfig::default()
    };
    let theirs = Config {
        hidden_size: ours.hidden_size,
        layer_norm_eps: ours.layer_norm_eps,
        attention_probs_dropout_prob: 0.0,
        hidden_dropout_prob: 0.0,
        num_attention_heads: ours.num_attention_heads,
        position_embedding_type: "absolute".to_owned(),
        intermediate_size: ours.intermediate_size,
        hidden_act: candle_nn::Activation::Gelu,
        num_hidden_layers: ours.num_hidden_layers,
        vocab_size: ours.vocab_size,
        max_position_embeddings: ours.max_position_embeddings,
        type_vocab_size: ours.type_vocab_size,
        pad_token_id: ours.pad_token_id,
    };
    let (_vars, vb) = seeded_vars(11, &Device::Cpu, DType::F32);
    let roberta = Bert::new(&ours, vb.clone()).unwrap();
    let peer = XLMRobertaModel::new(&theirs, vb).unwrap();

    let pad = ours.pad_token_id;
    let ids = Tensor::new(&[[0u32, 17, 88, 4, 2, pad, pad], [0, 5, 9, 60, 33, 21, 2]], &Device::Cpu).unwrap();
    let mask = ids.ne(pad).unwrap().to_dtype(DType::U32).unwrap();
    let mut last = None;
    let mut watch = |name: &str, xs: &Tensor| {
        if name == "layer2" {
            last = Some(xs.clone());
        }
    };
    roberta.forward_with(&ids, &mask, &mut Mode::eval(), &mut Taps::new(&mut watch)).unwrap();
    let found = last.unwrap();
    let expected = peer.forward(&ids, &mask, &ids.zeros_like().unwrap(), None, None, None).unwrap();
    assert_eq!(found.dims(), [2, 7, 30]);
    // What stands at a padded position is read by nobody.
    for (text, tokens) in [(0, 5), (1, 7)] {
        let row = |xs: &Tensor| xs.get(text).unwrap().narrow(0, 0, tokens).unwrap();
        let difference = (row(&found) - row(&expected)).unwrap().abs().unwrap().max_all().unwrap();
        let difference = difference.to_scalar::<f32>().unwrap();
        assert!(difference < 1e-5, "text {text}: {difference}");
    }
}
