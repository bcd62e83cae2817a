//! `cargo xtask convert`: a model in another program's layout.

use std::io::Write as _;

use clap_encoders::checkpoint::save_laion;
use clap_encoders::{locate, open_model, save_folder};

use crate::args::{self, Preset};
use crate::exit::{Exit, failure};
use crate::model::{model_folder, warn};
use crate::model_info::ModelInfo;

pub(crate) fn run(args: &args::Convert) -> anyhow::Result<Exit> {
    let is_file = args.out.extension().is_some_and(|ending| ending == "pt");
    if (args.to == Preset::Laion) != is_file || (is_file && args.out.is_dir()) {
        let text = format!(
            "{}: laion_clap's layout is one .pt file, transformers' a folder; name OUT accordingly",
            args.out.display()
        );
        return Err(failure(Exit::Usage, text));
    }
    let name = args.model.display().to_string();
    let model = open_model(&locate(&model_folder(&args.model), args.revision.revision.as_deref())?)?;
    write!(std::io::stdout(), "{}", ModelInfo::of(&name, &model)?)?;
    match args.to {
        Preset::Hf => {
            // Before the weights are read, which takes longer.
            let model = model.with_tokenizer(args.tokenizer.as_deref())?;
            let (tensors, report) = model.checked_tensors(args.allow_missing)?;
            warn(&name, &report);
            save_folder(&args.out, &model.config, &model.features, &tensors, &model.tokenizer)?;
        }
        Preset::Laion => {
            let (tensors, report) = model.checked_tensors(args.allow_missing)?;
            warn(&name, &report);
            save_laion(&args.out, &model.config, &model.features, &tensors)?;
        }
    }
    writeln!(std::io::stdout(), "written to {}", args.out.display())?;
    Ok(Exit::Done)
}
