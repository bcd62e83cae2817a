//! `cargo xtask convert`: a model in another program's layout.

use std::io::Write as _;

use clap_encoders::checkpoint::save_laion;
use clap_encoders::{ModelFolder, load_folder, locate, save_folder};

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
    let folder = load_folder(&locate(&model_folder(&args.model), args.revision.revision.as_deref())?)?;
    write!(std::io::stdout(), "{}", ModelInfo::of(&name, &folder)?)?;

    let (tensors, report) = folder.checked_tensors(args.allow_missing)?;
    warn(&name, &report);
    let ModelFolder { config, features, tokenizer, .. } = &folder;
    match args.to {
        Preset::Hf => save_folder(&args.out, config, features, &tensors, tokenizer)?,
        Preset::Laion => save_laion(&args.out, config, features, &tensors)?,
    }
    writeln!(std::io::stdout(), "written to {}", args.out.display())?;
    Ok(Exit::Done)
}
