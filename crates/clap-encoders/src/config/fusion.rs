//! `fusion_type`: how the views of a long clip are joined.

use serde::{Deserialize, Deserializer, Serialize};

/// How a fused model joins the global and the local views of a long clip (LAION's `fusion_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FusionType {
    /// Attentional feature fusion of the towers' first maps; what every published fused checkpoint uses.
    #[serde(rename = "aff_2d")]
    Aff2d,
    /// Attentional feature fusion of the first maps, twice over.
    #[serde(rename = "iaff_2d")]
    Iaff2d,
    /// The sum of the first maps.
    #[serde(rename = "daf_2d")]
    Daf2d,
    /// Attentional feature fusion of the spectrograms.
    #[serde(rename = "aff_1d")]
    Aff1d,
    /// Attentional feature fusion of the spectrograms, twice over.
    #[serde(rename = "iaff_1d")]
    Iaff1d,
    /// The sum of the spectrograms.
    #[serde(rename = "daf_1d")]
    Daf1d,
    /// The four views as four channels of the first convolution.
    #[serde(rename = "channel_map")]
    ChannelMap,
}

impl FusionType {
    /// Whether spectrograms are joined, mel bins being the channels, rather than the maps of the first layer.
    #[must_use]
    pub fn is_1d(self) -> bool {
        matches!(self, Self::Aff1d | Self::Iaff1d | Self::Daf1d)
    }

    /// Whether the first layer's maps are joined.
    #[must_use]
    pub fn is_2d(self) -> bool {
        matches!(self, Self::Aff2d | Self::Iaff2d | Self::Daf2d)
    }

    /// Whether attention weighs the two, through a bottleneck of `aff_block_r` times fewer channels.
    #[must_use]
    pub fn is_attentional(self) -> bool {
        matches!(self, Self::Aff1d | Self::Aff2d | Self::Iaff1d | Self::Iaff2d)
    }
}

/// LAION writes the string `None` where Hugging Face writes null.
pub(super) fn fusion_type<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<FusionType>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("None") => Ok(None),
        Some(name) => FusionType::deserialize(serde::de::value::StrDeserializer::new(name)).map(Some),
    }
}
